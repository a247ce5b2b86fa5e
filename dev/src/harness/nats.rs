//! A `nats-server` with JetStream on loopback.

use super::Process;
use anyhow::{Context, Result, bail};
use plane_core::{config::NatsConfig, nats::Nats};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};
use tokio::net::TcpSocket;

/// How long one may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running server. Its store lives as long as this value.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    folder: tempfile::TempDir,
    process: Option<Process>,
    port: u16,
    /// Where other servers of its cluster find it.
    route: Option<u16>,
    monitor: Option<SocketAddr>,
    /// Its ports, while it does not run: one that is free for a moment is given to some connection.
    held: Vec<TcpSocket>,
}

impl NatsServer {
    /// Starts one on a port that the system picks. The program is `PLANE_NATS_SERVER`, or `nats-server` of the path.
    ///
    /// # Errors
    /// Where the program is missing or does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts one on a port of the caller's; 0: any.
    ///
    /// # Errors
    /// Where the program is missing or does not come up.
    pub async fn start_on(port: u16) -> Result<Self> {
        let mut server = Self::not_started(program())?;
        server.launch(&if port == 0 { "-1".to_owned() } else { port.to_string() }).await?;
        Ok(server)
    }

    /// Starts one with a configuration of its own, in the server's format.
    ///
    /// # Errors
    /// Where the program is missing or does not come up.
    pub async fn start_configured(config: &str) -> Result<Self> {
        Self::not_started(program())?.start_with(config).await
    }

    /// Starts one as a member of a cluster, which the configuration says, of a version that can be. Other members find it
    /// at the port that is held.
    pub(super) async fn start_member(config: &str, route: TcpSocket) -> Result<Self> {
        let mut server = Self::not_started(cluster_program())?;
        server.route = Some(route.local_addr()?.port());
        server.held.push(route);
        server.start_with(config).await
    }

    async fn start_with(mut self, config: &str) -> Result<Self> {
        std::fs::write(self.config_file(), config)?;
        self.launch("-1").await?;
        Ok(self)
    }

    fn not_started(program: PathBuf) -> Result<Self> {
        Ok(Self {
            program,
            folder: tempfile::tempdir()?,
            process: None,
            port: 0,
            route: None,
            monitor: None,
            held: Vec::new(),
        })
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("nats.conf")
    }

    async fn launch(&mut self, port: &str) -> Result<()> {
        let ports = self.folder.path().join("ports");
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir_all(&ports)?;
        let mut command = Command::new(&self.program);
        if self.config_file().exists() {
            command.arg("-c").arg(self.config_file());
        }
        command.args(["-a", "127.0.0.1", "-p", port, "-m", "-1", "-js", "-sd"]).arg(self.folder.path().join("store"));
        command.arg("--ports_file_dir").arg(&ports);
        let mut process = Process::start("nats-server", command, &self.folder.path().join("log"))?;
        let ports = tokio::select! {
            ports = wait_for_ports(ports) => ports,
            outcome = process.wait(START_LIMIT) => match outcome {
                Ok(status) => bail!("nats-server does not start: {status}, {}", process.log()),
                Err(_) => bail!("nats-server does not start: {}", process.log()),
            },
        };
        self.process = Some(process);
        self.held.clear();
        self.port = ports.client;
        self.monitor = ports.monitor.map(on_loopback);
        Ok(())
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Where it listens, as an address.
    pub fn address(&self) -> SocketAddr {
        on_loopback(self.port)
    }

    /// Where its monitoring listens, once it was started. A restart may change the port.
    pub fn monitor(&self) -> Option<SocketAddr> {
        self.monitor
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it was started and not killed since. A paused one counts as running.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Stops it without ending it: its connections stay open, and nothing moves on them.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("nats-server does not run")?.pause();
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("nats-server does not run")?.resume();
        Ok(())
    }

    /// A configuration that reaches it.
    pub fn config(&self) -> NatsConfig {
        NatsConfig { hosts: vec![self.url()], auth: None, creds_path: None, nkey_seed_path: None, tls: None }
    }

    /// A connection to it, as a client has one.
    ///
    /// # Errors
    /// Where the connection cannot be configured.
    pub async fn connect(&self) -> Result<Nats> {
        Ok(Nats::connect(&self.config(), "test", "cli.inbox").await?)
    }

    /// Ends it as a crash would; its folder is kept.
    pub fn kill(&mut self) {
        if self.process.take().is_some() {
            self.held =
                [Some(self.port), self.route].into_iter().flatten().filter_map(|port| hold(port).ok()).collect();
        }
    }

    /// Starts it again on the same port and folder.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch(&self.port.to_string()).await
    }
}

/// The program of servers that form a cluster, where an old one would take two writes of which one may win: what
/// `dev/setup` has put beside the build, else `PLANE_NATS_SERVER`.
fn cluster_program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let found = own.ancestors().map(|folder| folder.join("tools/bin/nats-server")).find(|file| file.is_file());
    found.unwrap_or_else(program)
}

/// The server's program. Debian keeps daemons where users do not look.
fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("PLANE_NATS_SERVER") {
        return given.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file()).unwrap_or_else(|| "nats-server".into())
}

fn on_loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Keeps a port (0: any) for a server that is to listen there: it may take it at any time, nobody else is given it.
pub(super) fn hold(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(on_loopback(port))?;
    Ok(socket)
}

/// The ports that a server has taken.
struct Ports {
    client: u16,
    monitor: Option<u16>,
}

async fn wait_for_ports(folder: PathBuf) -> Ports {
    loop {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for file in files {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let parsed: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let port = |kind: &str| parsed.as_ref()?[kind][0].as_str()?.rsplit(':').next()?.parse().ok();
            if let Some(client) = port("nats") {
                return Ports { client, monitor: port("monitoring") };
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
