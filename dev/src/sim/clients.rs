//! Clients: they ask for backends with and without locks, look locks up, end backends and drain drones.

use super::{
    Rule,
    check::{CHOSEN, REQUEST},
    machine::{Kind, cluster},
    run::{Sim, lock},
};
use plane_core::{
    id::{BackendId, DroneId, LockName},
    message::{
        backend::TerminateRequest,
        drone::DrainRequest,
        schedule::{Executable, FetchRequest, FetchResponse, ResourceLimits, ScheduleRequest, ScheduleResponse},
    },
    nats::{Nats, NatsError},
};
use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long clients wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// All clients of a run.
pub(super) struct Clients {
    sim: Arc<Sim>,
    nats: Nats,
    requests: AtomicU64,
    known: Mutex<Vec<BackendId>>,
}

/// What a client learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) backend: BackendId,
    pub(super) drone: DroneId,
    pub(super) spawned: bool,
}

impl Clients {
    pub(super) fn new(sim: &Arc<Sim>) -> Arc<Self> {
        let nats = sim.connect(sim.processes.add());
        Arc::new(Self { sim: sim.clone(), nats, requests: AtomicU64::new(0), known: Mutex::default() })
    }

    /// The locks that clients ask for.
    pub(super) fn locks(&self) -> Vec<LockName> {
        (0..self.sim.options.locks).filter_map(|number| format!("lock {number}").parse().ok()).collect()
    }

    fn request(&self, lock: Option<LockName>, backend_id: Option<BackendId>) -> (String, ScheduleRequest) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed).to_string();
        let executable = Executable {
            image: "image".to_owned(),
            env: BTreeMap::new(),
            port: None,
            pull_policy: None,
            credentials: None,
            resource_limits: ResourceLimits::default(),
            volume_mounts: Vec::new(),
        };
        let request = ScheduleRequest {
            cluster: cluster(),
            backend_id,
            max_idle_secs: NonZeroU64::MIN,
            metadata: BTreeMap::from([(REQUEST.to_owned(), number.clone())]),
            executable,
            require_bearer_token: false,
            lock,
            require_labels: BTreeMap::new(),
        };
        (number, request)
    }

    /// Asks for a backend.
    pub(super) async fn schedule(
        &self,
        lock_name: Option<LockName>,
        id: Option<BackendId>,
    ) -> Result<Option<Got>, NatsError> {
        let (number, request) = self.request(lock_name, id);
        lock(&self.sim.checker).count("schedule");
        let answer = self.nats.request(&request, PATIENCE).await;
        self.sim.note(format_args!("request {number} for {:?}: {answer:?}", request.lock));
        match answer? {
            ScheduleResponse::Scheduled { drone, backend_id, spawned, .. } => {
                lock(&self.known).push(backend_id.clone());
                if spawned {
                    let twice = lock(&self.sim.checker).spawned(&backend_id, &number);
                    if let Err(what) = twice {
                        self.sim.violated(Rule::Locks, what);
                    }
                }
                lock(&self.sim.checker).count(if spawned { "spawned" } else { "found" });
                Ok(Some(Got { backend: backend_id, drone, spawned }))
            }
            ScheduleResponse::NoDroneAvailable => Ok(None),
        }
    }

    /// Asks who holds a lock.
    pub(super) async fn fetch(&self, lock_name: &LockName) -> Result<Option<BackendId>, NatsError> {
        lock(&self.sim.checker).count("fetch");
        let answer = self.nats.request(&FetchRequest { cluster: cluster(), lock: lock_name.clone() }, PATIENCE).await;
        self.sim.note(format_args!("fetch of {lock_name}: {answer:?}"));
        Ok(match answer? {
            FetchResponse::Scheduled { backend_id, .. } => Some(backend_id),
            FetchResponse::NoBackendForLock => None,
        })
    }

    /// Ends a backend.
    pub(super) async fn terminate(&self, backend: BackendId) {
        lock(&self.sim.checker).count("terminate");
        let request = TerminateRequest { cluster_id: cluster(), backend_id: backend };
        let answer = self.nats.request(&request, PATIENCE).await;
        self.sim.note(format_args!("terminate {}: {answer:?}", request.backend_id));
    }

    /// Drains a drone, or ends that.
    pub(super) async fn drain(&self, drone: DroneId, drain: bool) -> bool {
        lock(&self.sim.checker).count("drain");
        let answer = self.nats.request(&DrainRequest { drone, cluster: cluster(), drain }, PATIENCE).await;
        answer.is_ok()
    }

    /// Asks for this and that for a while, without waiting for the answers.
    pub(super) async fn ask_around(self: Arc<Self>, until: Duration) {
        let dice = self.sim.dice.clone();
        let locks = self.locks();
        while self.sim.now() < until {
            let own = self.clone();
            match dice.below(100) {
                0..35 => {
                    let Some(lock_name) = dice.one_of(&locks).cloned() else { continue };
                    let racers = if dice.hit(250_000) { 2 + dice.below(8) } else { 1 };
                    for _ in 0..racers {
                        let (own, lock_name) = (self.clone(), lock_name.clone());
                        let id =
                            dice.hit(100_000).then(|| format!("{CHOSEN}{}", dice.below(30)).parse().ok()).flatten();
                        self.sim.spawn(async move { drop(own.schedule(Some(lock_name), id).await) });
                    }
                }
                35..60 => {
                    let id = dice.hit(100_000).then(|| format!("{CHOSEN}{}", dice.below(30)).parse().ok()).flatten();
                    self.sim.spawn(async move { drop(own.schedule(None, id).await) });
                }
                60..70 => {
                    let Some(lock_name) = dice.one_of(&locks).cloned() else { continue };
                    self.sim.spawn(async move { drop(own.fetch(&lock_name).await) });
                }
                70..97 => {
                    let backend = dice.one_of(&lock(&self.known)).cloned();
                    if let Some(backend) = backend {
                        self.sim.spawn(async move { own.terminate(backend).await });
                    }
                }
                _ if self.sim.options.drains => {
                    let drones = self.sim.drones();
                    if let Some((_, drone)) = dice.one_of(&drones).cloned() {
                        let drain = dice.hit(400_000);
                        self.sim.spawn(async move {
                            own.drain(drone, drain).await;
                        });
                    }
                }
                _ => {}
            }
            tokio::time::sleep(dice.millis(1, self.sim.options.pace)).await;
        }
    }
}

impl Sim {
    /// The drones and the numbers of their machines.
    pub(super) fn drones(&self) -> Vec<(usize, DroneId)> {
        let machines = lock(&self.machines);
        let drones = machines.iter().enumerate().filter_map(|(number, machine)| match &machine.kind {
            Kind::Controller => None,
            Kind::Drone { id, .. } => Some((number, id.clone())),
        });
        drones.collect()
    }
}
