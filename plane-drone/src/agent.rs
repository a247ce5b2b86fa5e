//! The agent: makes the drone known, takes spawn requests, and hands each backend to its driver.
//!
//! What runs goes on without NATS and without controllers: backends are taken up again before a connection is
//! sought, and reports wait in the outbox.

use crate::{
    backend::{BackendHandle, Drivers},
    store::{Store, StoreError},
};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{
        Answer, Fault, FaultCode,
        backend::TerminateRequest,
        drone::{DrainRequest, DroneState, DroneStatus, RegisterRequest},
        schedule::SpawnRequest,
        subject,
    },
    nats::{Nats, NatsError, Serving},
    task::Tasks,
    version,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How often a drone gives a sign of life.
const STATUS_EVERY: Duration = Duration::from_secs(4);
/// How long a controller may take to register a drone.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a drone is, for all that it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Its cluster.
    pub(crate) cluster: ClusterName,
    /// Its id.
    pub(crate) drone: DroneId,
    /// The address that its proxy is reached at.
    pub(crate) ip: IpAddr,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
}

/// The agent of a drone.
pub(crate) struct Agent {
    identity: Identity,
    nats: Nats,
    store: Store,
    drivers: Drivers,
    tasks: Tasks,
    life: Mutex<Life>,
    changed: Notify,
}

#[derive(Default)]
struct Life {
    draining: bool,
    stopping: bool,
    terminate: HashMap<BackendId, Serving>,
}

impl Agent {
    /// Starts serving. Everything stops with the tasks.
    pub(crate) async fn start(
        identity: Identity,
        nats: Nats,
        store: Store,
        drivers: Drivers,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, AgentError> {
        let life = Life { draining: store.draining().await?, ..Life::default() };
        let agent = Arc::new(Self {
            identity,
            nats,
            store,
            drivers,
            tasks: tasks.clone(),
            life: Mutex::new(life),
            changed: Notify::new(),
        });
        for handle in agent.drivers.live() {
            agent.clone().listen_for_terminate(&handle).await?;
        }
        let spawn = agent.clone().serve_spawn().await?;
        let drain = agent.clone().serve_drain().await?;
        let stop = tasks.stop_token();
        tasks.spawn("agent", async move {
            stop.cancelled().await;
            drop((spawn, drain));
        });
        tasks.spawn("register", agent.clone().register());
        tasks.spawn("signs of life", agent.clone().give_signs_of_life());
        Ok(agent)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve_spawn(self: Arc<Self>) -> Result<Serving, NatsError> {
        let subject = subject::drone(&self.identity.cluster, &self.identity.drone, "spawn");
        let (nats, tasks) = (self.nats.clone(), self.tasks.clone());
        let handler = move |request| {
            let agent = self.clone();
            async move { agent.spawn(request).await }
        };
        nats.serve(&tasks, &subject, None, handler).await
    }

    async fn serve_drain(self: Arc<Self>) -> Result<Serving, NatsError> {
        let subject = subject::drone(&self.identity.cluster, &self.identity.drone, "drain");
        let (nats, tasks) = (self.nats.clone(), self.tasks.clone());
        let handler = move |request: DrainRequest| {
            let agent = self.clone();
            async move { agent.drain(request.drain).await }
        };
        nats.serve(&tasks, &subject, None, handler).await
    }

    async fn spawn(self: Arc<Self>, request: SpawnRequest) -> Answer<bool> {
        let backend = request.backend_id.clone();
        if let Some(known) = self.store.request(&backend).await.map_err(|e| internal(&e))? {
            let same = known == request;
            tracing::info!(%backend, same, "asked for a backend that is known here");
            return Ok(same);
        }
        {
            let life = self.life();
            if life.draining || life.stopping {
                tracing::info!(%backend, "refused a backend: draining");
                return Ok(false);
            }
        }
        match self.drivers.accept(request).await.map_err(|e| internal(&e))? {
            Some(handle) => {
                self.clone().listen_for_terminate(&handle).await.map_err(|e| internal(&e))?;
                handle.begin().await;
                self.changed.notify_one();
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn drain(&self, drain: bool) -> Answer<()> {
        self.store.set_draining(drain).await.map_err(|e| internal(&e))?;
        self.life().draining = drain;
        tracing::info!(drain, "drain");
        self.changed.notify_one();
        Ok(())
    }

    /// Serves `terminate` for one backend, until that has ended.
    async fn listen_for_terminate(self: Arc<Self>, handle: &BackendHandle) -> Result<(), NatsError> {
        let backend = handle.id().clone();
        let subject = subject::backend(&self.identity.cluster, &backend, "terminate");
        let asked = handle.clone();
        let handler = move |_: TerminateRequest| {
            let handle = asked.clone();
            async move {
                handle.terminate().await;
                Ok(())
            }
        };
        let serving = self.nats.serve(&self.tasks, &subject, None, handler).await?;
        self.life().terminate.insert(backend.clone(), serving);
        let (agent, handle, stop) = (self.clone(), handle.clone(), self.tasks.stop_token());
        self.tasks.spawn(format!("end of {backend}"), async move {
            stop.run_until_cancelled(handle.ended()).await;
            agent.life().terminate.remove(&backend);
            agent.changed.notify_one();
        });
        Ok(())
    }

    async fn register(self: Arc<Self>) {
        let request = RegisterRequest {
            drone_id: self.identity.drone.clone(),
            cluster: self.identity.cluster.clone(),
            ip: self.identity.ip,
            version: Some(version::VERSION.to_owned()),
            git_hash: version::GIT_HASH.map(str::to_owned),
            features: Vec::new(),
        };
        let (stop, mut pause) = (self.tasks.stop_token(), Duration::from_millis(100));
        let registering = async {
            loop {
                match self.nats.request(&request, REGISTER_TIMEOUT).await {
                    Ok(_) => return tracing::info!(drone = %self.identity.drone, "registered"),
                    Err(error) => tracing::info!(%error, "waiting for a controller to register with"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        };
        stop.run_until_cancelled(registering).await;
        self.changed.notify_one();
    }

    fn state(&self, running: usize) -> DroneState {
        let life = self.life();
        match (life.stopping, life.draining, running) {
            (true, _, _) => DroneState::Stopped,
            (false, true, 0) => DroneState::Drained,
            (false, true, _) => DroneState::Draining,
            (false, false, _) => DroneState::Ready,
        }
    }

    async fn say(&self) {
        let running = self.drivers.live().len();
        let state = self.state(running);
        let status = DroneStatus {
            drone_id: self.identity.drone.clone(),
            cluster: self.identity.cluster.clone(),
            drone_version: version::VERSION.to_owned(),
            ready: state == DroneState::Ready,
            state,
            running_backends: u32::try_from(running).ok(),
            capacity: None,
            labels: self.identity.labels.clone(),
        };
        if let Err(error) = self.nats.publish(&status).await {
            tracing::debug!(%error, "no sign of life");
        }
    }

    async fn give_signs_of_life(self: Arc<Self>) {
        let stop = self.tasks.stop_token();
        loop {
            self.say().await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(STATUS_EVERY) => {}
            }
        }
        self.life().stopping = true;
        self.say().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.nats.flush()).await;
    }
}

fn internal(error: &impl std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Internal, error.to_string())
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// NATS refused.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}
