//! Asking name servers: raw packets, and a recursive resolver between.

use super::{PATIENCE, Process};
use anyhow::{Context, Result};
use plane_core::id::ClusterName;
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// The type of an IPv4 address.
pub const A: u16 = 1;

/// A question without extensions, recursion desired.
pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// The code of an answer and how many records answer it.
pub fn outcome(answer: &[u8]) -> Option<(u8, u16)> {
    Some((answer.get(3)? & 0xf, u16::from_be_bytes(*answer.get(6..)?.first_chunk()?)))
}

/// Asks once over UDP; `None` where no answer comes in `patience`.
///
/// # Errors
/// Where the machine has no socket for it.
pub async fn ask(server: SocketAddr, packet: &[u8], patience: Duration) -> Result<Option<Vec<u8>>> {
    let unspecified = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(unspecified).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut answer = vec![0; 65_535];
    match tokio::time::timeout(patience, socket.recv(&mut answer)).await {
        Ok(received) => {
            answer.truncate(received?);
            Ok(Some(answer))
        }
        Err(_) => Ok(None),
    }
}

/// Sends a message over TCP, its length before it.
///
/// # Errors
/// Where the connection is gone.
pub async fn send_over_tcp(stream: &mut TcpStream, packet: &[u8]) -> Result<()> {
    let mut framed = u16::try_from(packet.len())?.to_be_bytes().to_vec();
    framed.extend(packet);
    Ok(stream.write_all(&framed).await?)
}

/// Reads the next message over TCP.
///
/// # Errors
/// Where the connection ends first, or nothing comes.
pub async fn read_over_tcp(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let reading = async {
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, reading).await.context("no answer over TCP")?
}

/// A recursive resolver, unbound, that asks one name server for a cluster: with mixed case in its questions, and asking
/// for no more of a name than it has to.
#[derive(Debug)]
pub struct Resolver {
    _process: Process,
    /// Where it is asked.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Resolver {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn start(cluster: &ClusterName, server: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // It takes no port 0. On an address of its own nobody else looks for a port.
        let [a, b, c, ..] = plane_core::chance::Chance::system().number().to_ne_bytes();
        let own = Ipv4Addr::new(127, a, b, c.clamp(1, 254));
        let address = UdpSocket::bind((own, 0)).await?.local_addr()?;
        let (ip, port, path) = (address.ip(), address.port(), folder.path().display());
        let config = format!(
            "server:\n directory: \"{path}\"\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n do-daemonize: no\n \
             use-syslog: no\n logfile: \"\"\n interface: {ip}@{port}\n access-control: 127.0.0.0/8 allow\n \
             do-not-query-localhost: no\n module-config: \"iterator\"\n local-zone: \"test.\" nodefault\n \
             use-caps-for-id: yes\n qname-minimisation: yes\n qname-minimisation-strict: yes\n harden-below-nxdomain: yes\n \
             num-threads: 1\n\
             remote-control:\n control-enable: no\n\
             stub-zone:\n name: \"{cluster}\"\n stub-addr: {}@{}\n",
            server.ip(),
            server.port(),
        );
        let file = folder.path().join("unbound.conf");
        std::fs::write(&file, config)?;
        // Debian keeps it where users do not look.
        let found =
            ["/usr/sbin/unbound", "/usr/local/sbin/unbound"].iter().find(|path| std::path::Path::new(path).exists());
        let mut command = Command::new(found.unwrap_or(&"unbound"));
        command.args(["-d", "-c"]).arg(&file);
        let process = Process::start("unbound", command, &folder.path().join("log"))?;
        let began = Instant::now();
        let packet = question(1, cluster.as_str(), A);
        loop {
            // Nobody listens at first.
            if let Ok(Some(_)) = ask(address, &packet, Duration::from_millis(500)).await {
                return Ok(Self { _process: process, address, _folder: folder });
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "unbound does not answer:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
