//! What stands beside each other in a row: one container, and before it Plane, nginx and haproxy. A row has a stand of
//! its own, so that none finds what another left in memory.

use super::{
    client::{Door, PATIENCE, get},
    peers::{Peer, Pem},
    watch::{self, Processes},
};
use crate::{
    bench::process,
    harness::{self, Cluster, Settings, self_signed},
};
use anyhow::{Context, Result};
use clap::ValueEnum;
use plane_core::{id::BackendId, message::backend::BackendState};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::process::Command;

/// What the folders of peers are called, by which a later run knows what an earlier one left.
const FOLDER: &str = "plane-bench-proxy-";
/// What tells drones apart.
const LABEL: &str = "contender";
/// Where the demo listens.
const PORT: u16 = 8080;
/// Seconds for which backends are left alone.
const IDLE_SECS: u64 = 3600;
/// What is asked for where answers are to be small.
pub(super) const SMALL: &str = "/status?code=200";

/// Who speaks HTTP/1.1 to clients (`proxy.http1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Http1 {
    /// Plane's own loop
    Plane,
    /// The hyper library
    Hyper,
    /// Each on a drone of its own
    Both,
}

impl Http1 {
    /// Contenders, each with its keys of `[proxy]`.
    fn drones(choice: Option<Self>) -> Vec<(&'static str, &'static str)> {
        let (own, hyper) = (("plane (own)", "http1 = \"plane\"\n"), ("plane (hyper)", "http1 = \"hyper\"\n"));
        match choice {
            None => vec![("plane", "")],
            Some(Self::Plane) => vec![own],
            Some(Self::Hyper) => vec![hyper],
            Some(Self::Both) => vec![own, hyper],
        }
    }
}

/// One of those who stand beside each other.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) door: Door,
    pub(super) processes: Processes,
}

/// All of them. Everything ends with this value.
pub(super) struct Stand {
    pub(super) contenders: Vec<Contender>,
    /// The container itself.
    pub(super) direct: Door,
    // Dropped in this order: proxies first.
    _peers: Vec<Peer>,
    _cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl Stand {
    /// Starts it and waits until everyone serves. With TLS, all show the same certificate (ECDSA P-256).
    ///
    /// Where Plane takes part twice, each of its drones has a container of its own, of the same image; nginx and haproxy
    /// share the first one's.
    ///
    /// # Errors
    /// Where a part does not come up.
    pub(super) async fn start(http1: Option<Http1>, secure: bool) -> Result<Self> {
        watch::nothing_left(FOLDER)?;
        let settings = Settings { drones: 0, https: secure, ..Settings::default() };
        let mut cluster = Cluster::start_as(settings).await?;
        let pair = secure.then(|| self_signed(&cluster.name)).transpose()?;
        let mut ours = Vec::new();
        for (number, (name, keys)) in Http1::drones(http1).into_iter().enumerate() {
            let number = number.to_string();
            cluster.proxy = keys.to_owned();
            cluster.add_drone(&format!("[agent.labels]\n{LABEL} = {number:?}\n")).await?;
            let drone = cluster.drones.last_mut().context("no drone")?;
            drone.daemon.logged(" registered").await?;
            if let Some(pair) = &pair {
                drone.install(pair)?;
            }
            ours.push((name, backend_on(&cluster, number).await?));
        }
        let backends = &ours;
        let (_, first) = backends.first().context("no backend")?;
        let container = SocketAddr::new(address_of(first).await?, PORT);
        let host = |backend: &BackendId| format!("{backend}.{}", cluster.name);
        let door = |address, backend| match secure {
            true => Door::tls(address, &host(backend)),
            false => Ok(Door::open(address, &host(backend))),
        };

        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir()?;
        let pem = match (&pair, &cluster.drones.first().context("no drone")?.files) {
            (Some(_), Some(files)) => Some(Pem {
                key: std::fs::read_to_string(files.key_path())?,
                chain: std::fs::read_to_string(files.cert_path())?,
            }),
            _ => None,
        };
        let nginx = Peer::nginx(folder.path(), container, pem.as_ref())?;
        let haproxy = Peer::haproxy(folder.path(), container, pem.as_ref())?;
        let peers = vec![nginx, haproxy];

        let mut contenders = Vec::new();
        for peer in &peers {
            let door = door(peer.address, first)?;
            serves(&door).await.with_context(|| format!("{}:\n{}", peer.name, peer.log()))?;
            contenders.push(Contender { name: peer.name, door, processes: peer.processes()? });
        }
        for ((name, backend), drone) in backends.iter().zip(&cluster.drones) {
            let door = door(if secure { drone.https()? } else { drone.proxy }, backend)?;
            serves(&door).await.with_context(|| format!("{name}:\n{}", drone.daemon.log()))?;
            let processes = Processes::of_group(process(&drone.daemon)?.pid())?;
            contenders.push(Contender { name, door, processes });
        }
        let direct = Door::open(container, &host(first));
        Ok(Self { contenders, direct, _peers: peers, _cluster: cluster, _folder: folder })
    }
}

/// A backend on the drone of that label, once it is Ready.
async fn backend_on(cluster: &Cluster, label: String) -> Result<BackendId> {
    let mut request = cluster.request(IDLE_SECS, &[]);
    request.require_labels.insert(LABEL.to_owned(), label);
    let began = Instant::now();
    let backend = loop {
        // A drone is chosen from its first sign of life on.
        match cluster.schedule(&request).await {
            Ok((backend, _)) => break backend,
            Err(error) if began.elapsed() > harness::PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    cluster.wait_for(&backend, BackendState::Ready).await?;
    Ok(backend)
}

/// The address of a backend's container.
async fn address_of(backend: &BackendId) -> Result<IpAddr> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let inspect = Command::new("docker").args(["inspect", "--format", format, &format!("plane-{backend}")]).output();
    let told = inspect.await.context("docker does not start")?;
    let told = String::from_utf8_lossy(&told.stdout);
    told.trim().parse().with_context(|| format!("the container's address is {told:?}"))
}

/// Waits until a door is answered from behind.
async fn serves(door: &Door) -> Result<()> {
    let began = Instant::now();
    loop {
        let asked = async {
            let mut connection = door.connect().await?;
            get(&mut connection, &door.head("GET", SMALL, "")).await
        };
        match asked.await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
