//! The drone: it runs session backends in containers, carries people's requests to them, and ends them.
//!
//! What people are connected to depends on neither NATS nor a controller: the proxy listens and the backends of an
//! earlier run are taken up before a connection to NATS is sought. `backend::machine` and `route::target` decide
//! without input or clock; the other modules act.

pub mod agent;
mod announce;
pub mod backend;
pub mod cert;
pub mod config;
pub mod engine;
pub mod host;
pub mod lease;
mod outbox;
pub mod proxy;
pub mod route;
pub mod store;

use agent::{Agent, AgentError, Identity};
use backend::{BootClock, Drivers, Parts, machine::Limits};
use cert::Served;
use config::{AgentConfig, AgentIp, CertConfig, DroneConfig};
use engine::DockerEngine;
use host::HostError;
use jiff::{SignedDuration, Timestamp};
use lease::Fence;
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::DroneId,
    message::log::Component,
    nats::{Nats, NatsError},
    task::Tasks,
    telemetry::LogTap,
};
use proxy::{Proxy, ProxyError, Tls};
use route::Routes;
use std::{net::IpAddr, sync::Arc, time::Duration};
use store::{Store, StoreError};
use tokio::sync::watch;

/// The prefix of a drone's inboxes, behind `cluster.C.`.
const INBOX: &str = "inbox";
/// How long a stopping drone waits for what is under way.
pub const STOP_DEADLINE: Duration = Duration::from_secs(9);
/// How long the proxy tells ended backends from unknown ones after a restart.
const ENDED_REMEMBERED: SignedDuration = SignedDuration::from_hours(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a drone ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum DroneError {
    /// Its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its connection cannot be configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Its proxy cannot listen, or write its access log.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

impl From<AgentError> for DroneError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Nats(error) => Self::Nats(error),
            AgentError::Host(HostError(error)) => Self::Store(StoreError::Database(error)),
        }
    }
}

/// Runs a drone until its tasks are told to stop.
///
/// # Errors
/// Where waiting cannot mend it: its database, its proxy's address or access log, unreadable credentials.
pub async fn run(config: &DroneConfig, tasks: &Tasks, log: LogTap) -> Result<(), DroneError> {
    let stop = tasks.stop_token();
    let store = Store::open(&config.db_path)?;
    let drone = store.drone_id(config.drone_id.clone()).await?;
    tracing::info!(%drone, cluster = %config.cluster_domain, "drone");
    let (routes, clock) = (Routes::default(), Clock::machine());
    let patience = config.agent.as_ref().map_or(Duration::ZERO, |agent| agent.timing().fence);
    let fence = Arc::new(Fence::closed(clock.clone(), patience));
    let ways = Ways { routes: routes.clone(), fence: fence.clone() };
    prepare_routes(&store, &ways).await?;
    let served = Served::default();
    let files = config.cert.as_ref().map(CertConfig::files);
    if let Some(files) = &files {
        cert::watch::start(files.clone(), served.clone(), config.cluster_domain.clone(), tasks).await;
    }
    if let Some(proxy) = &config.proxy {
        let cluster = config.cluster_domain.clone();
        let tls = config.https_port().map(|port| Tls { port, served: served.clone() });
        Proxy::start(proxy, tls, cluster, routes.clone(), tasks)?;
    }
    let (connection, nats) = watch::channel(None);
    if let (Some(cert), Some(acme), Some(files)) = (&config.cert, &config.acme, files) {
        let parts = cert::refresh::Parts {
            cluster: config.cluster_domain.clone(),
            drone: drone.clone(),
            files,
            served: served.clone(),
            acme: acme.clone(),
            account_key_path: cert.account_file(),
            key_type: cert.key_type,
            shared: cert.shared(),
            nats: nats.clone(),
            clock: clock.clone(),
            chance: Chance::system(),
        };
        cert::refresh::start(parts, tasks);
    }
    let serving = async {
        let drivers = match &config.agent {
            Some(agent) => {
                let drivers = Arc::new(take_up(config, agent, &drone, &store, ways, nats, tasks).await?);
                lease::watch(drivers.clone(), fence.clone(), tasks);
                Some(drivers)
            }
            None => None,
        };
        let prefix = format!("cluster.{}.{INBOX}", config.cluster_domain.subject_token());
        let nats = Nats::connect(&config.nats, "plane-drone", &prefix).await?;
        connection.send_replace(Some(nats.clone()));
        tell_log(log, &drone, &nats, tasks);
        let mut is_the_drone = true;
        if let (Some(agent), Some(drivers)) = (&config.agent, drivers) {
            let ip = own_address(&agent.ip).await;
            let cluster = config.cluster_domain.clone();
            let (labels, capacity) = (agent.labels.clone(), agent.capacity.told());
            let identity = Identity { cluster, drone: drone.clone(), ip, labels, capacity };
            let (nats, host, timing, chance) = (nats.clone(), drivers, agent.timing(), Chance::system());
            let certificate = config.https_port().map(|_| served);
            let parts = agent::Parts { identity, nats, host, fence, certificate, timing, clock, chance };
            is_the_drone = Agent::start(parts, tasks).await?.is_some();
        }
        // What waits there is told in the drone's name, so not before this process is the drone.
        if is_the_drone {
            outbox::start(&nats, &store, tasks);
        }
        stop.cancelled().await;
        Ok(())
    };
    stop.run_until_cancelled(serving).await.unwrap_or(Ok(()))
}

/// What requests pass on their way to a backend.
struct Ways {
    routes: Routes,
    fence: Arc<Fence>,
}

/// What is known of backends before the engine has been asked: requests for those that ran wait, ended ones are told.
async fn prepare_routes(store: &Store, Ways { routes, fence }: &Ways) -> Result<(), StoreError> {
    let since = Timestamp::now().saturating_sub(ENDED_REMEMBERED).unwrap_or(Timestamp::MIN);
    for backend in store.ended_since(since).await? {
        routes.close(&backend);
    }
    for known in store.unfinished().await? {
        let fence = known.request.lock.is_some().then(|| fence.clone());
        routes.wait_for(&known.request.backend_id, known.request.bearer_token, fence);
    }
    Ok(())
}

async fn take_up(
    config: &DroneConfig,
    agent: &AgentConfig,
    drone: &DroneId,
    store: &Store,
    Ways { routes, fence }: Ways,
    nats: watch::Receiver<Option<Nats>>,
    tasks: &Tasks,
) -> Result<Drivers, StoreError> {
    let connect = || DockerEngine::connect(&agent.docker, config.cluster_domain.clone(), drone.clone());
    let engine = Arc::new(patiently("waiting for the container engine", connect).await);
    Drivers::resume(Parts {
        cluster: config.cluster_domain.clone(),
        drone: drone.clone(),
        engine,
        store: store.clone(),
        routes,
        limits: Limits { load: agent.load_timeout(), ready: agent.ready_timeout() },
        nats,
        tasks: tasks.clone(),
        fence,
        clock: BootClock::of_machine(Clock::machine()),
    })
    .await
}

fn tell_log(log: LogTap, drone: &DroneId, nats: &Nats, tasks: &Tasks) {
    let (component, nats, stop) = (Component::Drone { drone_id: drone.clone() }, nats.clone(), tasks.stop_token());
    tasks.spawn("publish the log", async move {
        stop.run_until_cancelled(log.forward(component, nats)).await;
    });
}

/// The address that the drone is reached at.
async fn own_address(ip: &AgentIp) -> IpAddr {
    match ip {
        AgentIp::Fixed(ip) => *ip,
        AgentIp::Api { api } => {
            let ask = || async {
                let text = proxy::get_text(api).await?;
                let text = text.trim();
                text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no IP address"))
            };
            patiently(&format!("waiting for {api} to tell this drone's address"), ask).await
        }
    }
}

/// Tries until it succeeds, saying so while it does not.
async fn patiently<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, "{what}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
