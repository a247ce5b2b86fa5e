//! The agent: makes the drone known, takes spawn requests, and hands each backend to its host.
//!
//! What runs goes on without NATS and without controllers: backends are taken up again before a connection is
//! sought, and reports wait in the outbox. Only backends that hold a lock end where there is no contact for long.

use crate::{
    announce,
    host::{Host, HostError, LiveBackend, Offered},
    lease::{self, Fence},
};
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::{BackendId, ClusterName, DroneId},
    message::{
        Answer, Fault, FaultCode,
        backend::TerminateRequest,
        drone::{Capacity, DrainRequest, DroneState, DroneStatus},
        schedule::SpawnRequest,
        state::{Assignment, BackendMessage, EntryBody, HeldLock, StateEntry},
        subject,
    },
    nats::{Nats, NatsError, Serving, StreamName},
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
/// The pause before what came of an acceptance is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What a drone is, for all that it says of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its id.
    pub drone: DroneId,
    /// The address that its proxy is reached at.
    pub ip: IpAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it has room for.
    pub capacity: Option<Capacity>,
}

/// The deadlines of a drone's lease.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often the lease is renewed.
    pub lease: Duration,
    /// How long locked backends go on without contact.
    pub fence: Duration,
}

/// What an agent is made of.
#[allow(missing_debug_implementations, reason = "a host has no Debug")]
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// Its connection.
    pub nats: Nats,
    /// Its backends and its memory.
    pub host: Arc<dyn Host>,
    /// Its fence, which the proxy knows too.
    pub fence: Arc<Fence>,
    /// Its deadlines.
    pub timing: Timing,
    /// Where time comes from.
    pub clock: Clock,
    /// Where random numbers come from.
    pub chance: Chance,
}

/// The agent of a drone.
pub struct Agent {
    pub(crate) identity: Identity,
    pub(crate) nats: Nats,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) timing: Timing,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    pub(crate) tasks: Tasks,
    life: Mutex<Life>,
    /// Something of what signs of life tell is new.
    pub(crate) changed: Notify,
    /// The lease is to be written now.
    pub(crate) lease_now: Notify,
    /// The drone is to register and announce itself.
    pub(crate) report: Notify,
}

#[derive(Default)]
struct Life {
    draining: bool,
    stopping: bool,
    terminate: HashMap<BackendId, Serving>,
    /// Backends whose acceptance is being decided, with what they take.
    deciding: HashMap<BackendId, Room>,
    calls: Vec<String>,
    answers: Vec<String>,
    /// How often what runs here was gathered to answer a call.
    announced: u64,
}

/// When a backend was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// To this process, while it was connected to this server. Another one may have lost who was given it since.
    Now {
        /// The server.
        server: String,
    },
    /// To an earlier one.
    Earlier,
}

/// What backends take of a drone.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    backends: u64,
    memory_bytes: u64,
    cpu_percent: u64,
}

impl Room {
    fn of(request: &SpawnRequest) -> Self {
        let limits = &request.executable.resource_limits;
        Self {
            backends: 1,
            memory_bytes: limits.memory_limit_bytes.map_or(0, std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map_or(0, |percent| percent.get().into()),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            backends: self.backends + other.backends,
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_percent: self.cpu_percent + other.cpu_percent,
        }
    }

    fn fits(self, capacity: &Capacity) -> bool {
        capacity.max_backends.is_none_or(|most| self.backends <= most.into())
            && capacity.memory_bytes.is_none_or(|most| self.memory_bytes <= most)
            && capacity.cpus.is_none_or(|cpus| self.cpu_percent <= (cpus * 100.0) as u64)
    }
}

impl Agent {
    /// Starts serving. Everything stops with the tasks.
    ///
    /// # Errors
    /// Where NATS refuses a subscription or the host cannot remember.
    pub async fn start(parts: Parts, tasks: &Tasks) -> Result<Arc<Self>, AgentError> {
        let Parts { identity, nats, host, fence, timing, clock, chance } = parts;
        let life = Life { draining: host.draining().await?, ..Life::default() };
        let agent = Arc::new(Self {
            identity,
            nats,
            host,
            fence,
            timing,
            clock,
            chance,
            tasks: tasks.clone(),
            life: Mutex::new(life),
            changed: Notify::new(),
            lease_now: Notify::new(),
            report: Notify::new(),
        });
        for live in agent.host.live() {
            agent.listen_for_terminate(&live.request.backend_id).await?;
            agent.note_end(&live.request.backend_id);
        }
        // Before there can be another term: what was accepted in an earlier one does not count.
        let (undecided, term) = (agent.host.undecided().await?, agent.fence.term());
        tasks.spawn_essential("lease", lease::keep(agent.clone()));
        tasks.spawn_essential("fence", lease::watch(agent.clone()));
        for request in undecided {
            let (agent, stop) = (agent.clone(), tasks.stop_token());
            tasks.spawn(format!("what came of {}", request.backend_id), async move {
                let deciding = async {
                    if request.lock.is_some() {
                        agent.fence.settled().await;
                    }
                    agent.clone().decide(request, term, Asked::Earlier).await
                };
                if let Some(Err(error)) = stop.run_until_cancelled(deciding).await {
                    tracing::error!(%error, "it is decided at the next start");
                }
            });
        }
        announce::listen(agent.clone()).await?;
        let spawn = agent.clone().serve_spawn().await?;
        let drain = agent.clone().serve_drain().await?;
        let stop = tasks.stop_token();
        tasks.spawn("agent", async move {
            stop.cancelled().await;
            drop((spawn, drain));
        });
        tasks.spawn_essential("register and announce", announce::keep(agent.clone()));
        tasks.spawn_essential("signs of life", agent.clone().give_signs_of_life());
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
        if let Some(why) = self.objection(&request) {
            let known = self.host.is_live(&backend);
            if !known {
                tracing::info!(%backend, why, "refused a backend");
                return Ok(false);
            }
        }
        let (term, asked) = (self.fence.term(), Asked::Now { server: self.nats.server() });
        match self.host.offer(&request).await {
            Ok(Offered::New) => self.decide(request, term, asked).await.map_err(|e| internal(&e)),
            Ok(Offered::Known(known)) => {
                let same = *known == request;
                self.life().deciding.remove(&backend);
                tracing::info!(%backend, same, "asked for a backend that is known here");
                Ok(same)
            }
            Ok(Offered::Refused) => {
                self.life().deciding.remove(&backend);
                Ok(false)
            }
            Err(error) => {
                self.life().deciding.remove(&backend);
                Err(internal(&error))
            }
        }
    }

    /// Why a backend cannot be taken. Where it can, its room is kept for it until it is decided about.
    fn objection(&self, request: &SpawnRequest) -> Option<&'static str> {
        let used = self.host.live().iter().fold(Room::default(), |room, live| room.and(Room::of(&live.request)));
        let mut life = self.life();
        if life.draining || life.stopping {
            return Some("draining");
        }
        if request.lock.is_some() && !self.fence.is_open() {
            return Some("no lease");
        }
        if life.deciding.contains_key(&request.backend_id) {
            return Some("it is being decided about");
        }
        let wanted = life.deciding.values().fold(used, |room, other| room.and(*other)).and(Room::of(request));
        if self.identity.capacity.is_some_and(|capacity| !wanted.fits(&capacity)) {
            return Some("full");
        }
        life.deciding.insert(request.backend_id.clone(), Room::of(request));
        None
    }

    /// Accepts a backend that is remembered, and begins with it; or finds that somebody else decided otherwise, and
    /// forgets it. A backend with a lock is accepted for the term of the lease in which that began. What the log may have
    /// lost since it was accepted, and no announcement told, is not begun.
    async fn decide(self: Arc<Self>, request: SpawnRequest, term: u64, asked: Asked) -> Result<bool, HostError> {
        let backend = request.backend_id.clone();
        let announced = self.life().announced;
        let accepted = match asked {
            Asked::Now { server } => self.accept(&request, server).await,
            Asked::Earlier => self.was_accepted(&request).await,
        };
        if accepted.is_some()
            && let Err(error) = self.listen_for_terminate(&backend).await
        {
            tracing::warn!(%backend, %error, "it cannot be terminated through NATS");
        }
        let locked = request.lock.is_some();
        let missed = || self.life().announced != announced;
        let stale = || {
            let elsewhere = accepted.as_ref().is_some_and(|server| *server != self.nats.server());
            elsewhere || locked && (self.fence.term() != term || !self.fence.is_open() || missed())
        };
        let begins = accepted.is_some() && !stale();
        let done = if begins {
            let begun = self.host.begin(request).await;
            self.note_end(&backend);
            begun
        } else if accepted.is_some() {
            tracing::warn!(%backend, "not begun: the drone was given up, or NATS restarted, while it was being accepted");
            self.life().terminate.remove(&backend);
            match self.host.discard(&backend).await {
                Ok(()) => self.host.disown(&backend).await,
                Err(error) => Err(error),
            }
        } else {
            tracing::info!(%backend, "not accepted: somebody else was given it, or nobody");
            self.host.discard(&backend).await
        };
        self.life().deciding.remove(&backend);
        done?;
        if begins {
            self.changed.notify_one();
            if locked && stale() {
                self.host.give_up(&backend, "its drone was given up while it was being accepted").await;
            } else if stale() || missed() {
                self.report_anew();
            }
        }
        Ok(begins)
    }

    /// Writes that this drone has taken a backend, where the log still gives it to the drone. An outcome that is not
    /// known is found out, however long that takes. Gives the server in whose log it stands.
    async fn accept(&self, request: &SpawnRequest, server: String) -> Option<String> {
        // A controller of 0.3 does not say what stands in the log.
        let Some(expected) = request.assignment_seq else { return Some(server) };
        let entry = self.acceptance(request);
        let subject = entry.subject();
        loop {
            if self.nats.server() != server {
                return self.was_accepted(request).await;
            }
            match self.nats.publish_expecting(subject.clone(), &entry, expected).await {
                Ok(_) => return Some(server),
                Err(NatsError::WrongSequence(_)) => match self.nats.last(StreamName::State, &subject).await {
                    Ok(found) => return found.filter(|found| is_own(&found.payload, &entry)).map(|_| server),
                    Err(error) => tracing::debug!(%error, "what came of an acceptance is not known yet"),
                },
                Err(error) => tracing::debug!(%error, "an acceptance is not written yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// What came of an acceptance of an earlier process, which is not repeated: the log may have changed since. Waits
    /// until somebody has decided; controllers take back what nobody accepts.
    async fn was_accepted(&self, request: &SpawnRequest) -> Option<String> {
        let entry = self.acceptance(request);
        let subject = entry.subject();
        loop {
            let server = self.nats.server();
            match self.nats.last(StreamName::State, &subject).await {
                Ok(Some(found)) if Some(found.sequence) == request.assignment_seq => {}
                Ok(found) => return found.filter(|found| is_own(&found.payload, &entry)).map(|_| server),
                Err(error) => tracing::debug!(%error, "what came of an acceptance is not known yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn acceptance(&self, request: &SpawnRequest) -> StateEntry {
        let limits = &request.executable.resource_limits;
        let lock = request.lock.clone().zip(request.fencing_token).map(|(name, token)| HeldLock { name, token });
        let assignment = Assignment {
            lock,
            accepted: true,
            memory_bytes: limits.memory_limit_bytes.map(std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map(|percent| percent.get().into()),
            ..Assignment::to(self.identity.drone.clone(), request.bearer_token.clone())
        };
        let message = BackendMessage::Assignment(assignment);
        StateEntry::backend(request.cluster.clone(), request.backend_id.clone(), message)
    }

    /// Gives all backends up that hold a lock.
    pub(crate) async fn give_up_locked(&self, reason: &str) {
        let live = self.host.live();
        let locked = live.iter().filter(|live| live.request.lock.is_some());
        let given_up = locked.map(|live| self.host.give_up(&live.request.backend_id, reason));
        futures_util::future::join_all(given_up).await;
    }

    /// Has the drone register and announce itself again.
    pub(crate) fn report_anew(&self) {
        self.report.notify_one();
    }

    pub(crate) fn note_call(&self, call: Option<String>) {
        let mut life = self.life();
        if let Some(call) = call {
            if life.answers.contains(&call) || life.calls.contains(&call) {
                return;
            }
            life.calls.push(call);
        }
        drop(life);
        self.report_anew();
    }

    /// What runs here, to be announced. What is begun later is not told by that: where it answers a call, locks may be
    /// granted on it.
    pub(crate) fn gather(&self, answers: bool) -> Vec<LiveBackend> {
        if answers {
            self.life().announced += 1;
        }
        self.host.live()
    }

    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.life().calls)
    }

    pub(crate) fn add_answers(&self, calls: Vec<String>, most: usize) {
        let mut life = self.life();
        life.answers.extend(calls);
        let old = life.answers.len().saturating_sub(most);
        life.answers.drain(..old);
    }

    pub(crate) fn answers(&self) -> Vec<String> {
        self.life().answers.clone()
    }

    async fn drain(&self, drain: bool) -> Answer<()> {
        self.host.set_draining(drain).await.map_err(|e| internal(&e))?;
        self.life().draining = drain;
        tracing::info!(drain, "drain");
        // Whoever asked may ask for a backend next: controllers hear of it before the answer.
        self.say().await;
        if let Err(error) = self.nats.flush().await {
            tracing::debug!(%error, "controllers hear of it later");
        }
        Ok(())
    }

    /// Serves `terminate` for one backend, until that has ended.
    async fn listen_for_terminate(self: &Arc<Self>, backend: &BackendId) -> Result<(), NatsError> {
        let backend = backend.clone();
        let subject = subject::backend(&self.identity.cluster, &backend, "terminate");
        let (agent, asked) = (self.clone(), backend.clone());
        let handler = move |_: TerminateRequest| {
            let (agent, backend) = (agent.clone(), asked.clone());
            async move {
                agent.host.terminate(&backend).await;
                Ok(())
            }
        };
        let serving = self.nats.serve(&self.tasks, &subject, None, handler).await?;
        self.life().terminate.insert(backend, serving);
        Ok(())
    }

    /// Takes note when a backend has ended.
    fn note_end(self: &Arc<Self>, backend: &BackendId) {
        let (agent, backend, stop) = (self.clone(), backend.clone(), self.tasks.stop_token());
        self.tasks.spawn(format!("end of {backend}"), async move {
            stop.run_until_cancelled(agent.host.ended(&backend)).await;
            agent.life().terminate.remove(&backend);
            agent.changed.notify_one();
        });
    }

    fn state(&self, running: usize) -> DroneState {
        let life = self.life();
        match (life.stopping, life.draining, running + life.deciding.len()) {
            (true, _, _) => DroneState::Stopped,
            (false, true, 0) => DroneState::Drained,
            (false, true, _) => DroneState::Draining,
            (false, false, _) => DroneState::Ready,
        }
    }

    async fn say(&self) {
        let running = self.host.live().len();
        let state = self.state(running);
        let status = DroneStatus {
            drone_id: self.identity.drone.clone(),
            cluster: self.identity.cluster.clone(),
            drone_version: version::VERSION.to_owned(),
            ready: state == DroneState::Ready,
            state,
            running_backends: u32::try_from(running).ok(),
            capacity: self.identity.capacity,
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
                biased;
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(STATUS_EVERY) => {}
            }
        }
        self.life().stopping = true;
        self.say().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.nats.flush()).await;
    }

    /// The backends that have begun and not ended.
    pub fn live(&self) -> Vec<LiveBackend> {
        self.host.live()
    }
}

/// Whether what stands in the log says the same as what this drone wrote: nobody else writes acceptances for it.
fn is_own(found: &[u8], written: &StateEntry) -> bool {
    let assignment = |entry: &StateEntry| match &entry.body {
        EntryBody::BackendMessage(entry) => match &entry.message {
            BackendMessage::Assignment(assignment) => Some(assignment.clone()),
            BackendMessage::State(_) => None,
        },
        EntryBody::DroneMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
    };
    let found = serde_json::from_slice::<StateEntry>(found).ok().and_then(|entry| assignment(&entry));
    found.zip(assignment(written)).is_some_and(|(found, written)| {
        found.accepted && !found.withdrawn && found.drone == written.drone && found.lock == written.lock
    })
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
    /// The host cannot remember.
    #[error(transparent)]
    Host(#[from] HostError),
}
