//! nginx and haproxy as they are set up for this: two workers each, as many connections to the container kept as are
//! needed, nothing written to disk, the same fields added to requests as Plane adds.

use super::watch::{self, Processes};
use crate::harness::Process;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// How long a peer may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A peer that runs.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    process: Process,
}

/// Key and chain in PEM, for TLS.
#[derive(Debug)]
pub(super) struct Pem {
    pub(super) key: String,
    pub(super) chain: String,
}

impl Peer {
    /// Starts nginx before a container.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn nginx(folder: &Path, backend: SocketAddr, pem: Option<&Pem>) -> Result<Self> {
        let address = free_address()?;
        let (options, tls) = match pem {
            None => ("", String::new()),
            Some(pem) => {
                std::fs::write(folder.join("chain.pem"), &pem.chain)?;
                std::fs::write(folder.join("key.pem"), &pem.key)?;
                let tls = "ssl_certificate chain.pem; ssl_certificate_key key.pem; ssl_ecdh_curve X25519; ssl_protocols TLSv1.2 TLSv1.3;";
                (" ssl http2", tls.to_owned())
            }
        };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {what};\n"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 2; pid nginx.pid; error_log stderr; user root;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; {temporary} {tls}\n\
             keepalive_requests 1000000000; keepalive_timeout 3600; client_max_body_size 0;\n\
             map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
             upstream backend {{ server {backend}; keepalive 2048; keepalive_requests 1000000000; keepalive_timeout 3600; }}\n\
             server {{ listen {address} reuseport{options};\n\
             location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_read_timeout 3600; proxy_send_timeout 3600;\n\
             proxy_max_temp_file_size 0; proxy_request_buffering off;\n\
             proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $connection_upgrade; proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host; }} }} }}\n"
        );
        std::fs::write(folder.join("nginx.conf"), config)?;
        let process = start("nginx", folder, &["-e", "stderr", "-p", "."], &["-c", "nginx.conf"])?;
        Ok(Self { name: "nginx", address, process })
    }

    /// Starts haproxy before a container.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn haproxy(folder: &Path, backend: SocketAddr, pem: Option<&Pem>) -> Result<Self> {
        let address = free_address()?;
        let tls = match pem {
            None => "",
            Some(pem) => {
                std::fs::write(folder.join("both.pem"), format!("{}{}", pem.chain, pem.key))?;
                " ssl crt both.pem alpn h2,http/1.1 curves X25519"
            }
        };
        let config = format!(
            "global\n nbthread 2\n maxconn 8192\n\
             defaults\n mode http\n timeout client 3600s\n timeout server 3600s\n timeout tunnel 3600s\n timeout connect 5s\n \
             timeout http-keep-alive 3600s\n option forwardfor\n http-reuse always\n\
             frontend all\n bind {address}{tls}\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n \
             http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n default_backend container\n\
             backend container\n server container {backend}\n"
        );
        std::fs::write(folder.join("haproxy.cfg"), config)?;
        let process = start("haproxy", folder, &["-db"], &["-f", "haproxy.cfg"])?;
        Ok(Self { name: "haproxy", address, process })
    }

    /// Its processes.
    ///
    /// # Errors
    /// Where it has ended, with what it said.
    pub(super) fn processes(&self) -> Result<Processes> {
        Processes::of_group(self.process.pid()).with_context(|| self.process.log())
    }

    /// What it has printed so far.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's workers outlive a master that is killed, so it ends them itself, in the time that it has for that.
        self.process.signal(libc::SIGTERM);
        let began = Instant::now();
        while !watch::has_ended(self.process.pid()) && began.elapsed() < END_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(leader) = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// In its folder, by which what is left of it is known; ended in good order, with its workers, if this program is killed.
fn start(name: &str, folder: &Path, before: &[&str], config: &[&str]) -> Result<Process> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", name]).args(before).args(config).current_dir(folder);
    Process::start(name, command, &folder.join(format!("{name}.log")))
}

/// An address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
