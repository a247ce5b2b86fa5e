//! Answers `schedule` and `fetch`. Every decision stands in the log before anybody acts on it: first who may start the
//! backend, then, where there is a lock, that the backend holds it; then a drone is asked.

use crate::{
    Core, QUEUE_GROUP,
    drones::Heard,
    history,
    intake::unavailable,
    lock::{Standing, standing},
    log::{self, Written},
    placement::{Candidate, PassedOver, Use, choose},
};
use plane_core::{
    id::{BackendId, BearerToken, ClusterName, DroneId, LockName},
    message::{
        Answer, Fault, FaultCode,
        schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse, SpawnRequest},
        state::{Assignment, HeldLock, Holder, LockEntry},
    },
    nats::{NatsError, Serving},
    world::Cluster,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

/// A request is decided within this time, and answered within 8 s.
const BUDGET: Duration = Duration::from_millis(7500);
/// When a decision that hangs on a slow log is answered all the same.
const ANSWER_LIMIT: Duration = Duration::from_millis(7900);
/// How long one drone may take to answer.
const DRONE_TIMEOUT: Duration = Duration::from_secs(2);
/// A controller that has just started waits this long for the drones' signs of life before it says that there are none.
const FIRST_SIGNS: Duration = Duration::from_secs(5);
/// A sign of life that was sent before a request may be read after it by this much.
const NEXT_SIGN: Duration = Duration::from_millis(300);
/// The label that the cluster's own name server has by default.
const NAME_SERVER_LABEL: &str = "ns1";
/// The variable that tells a container the fencing token of its lock.
const FENCING_TOKEN: &str = "PLANE_FENCING_TOKEN";
/// Of more than twice as many drones, so many drawn at random are looked at first: the best of some is nearly as little
/// loaded as the best of all (Mitzenmacher 2001, "The power of two choices").
const SAMPLE: u64 = 16;

/// The locks that this controller is deciding now.
#[derive(Debug, Default)]
pub(crate) struct Deciding {
    locks: Mutex<HashSet<(ClusterName, LockName)>>,
}

impl Deciding {
    fn locks(&self) -> MutexGuard<'_, HashSet<(ClusterName, LockName)>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to decide a lock: one request of this controller at a time has it.
struct Turn {
    core: Arc<Core>,
    key: (ClusterName, LockName),
}

impl Turn {
    fn take(core: &Arc<Core>, cluster: &ClusterName, lock: &LockName) -> Option<Self> {
        let key = (cluster.clone(), lock.clone());
        core.deciding.locks().insert(key.clone()).then(|| Self { core: core.clone(), key })
    }

    /// Gives it back once this controller's own world shows what was decided: the next would decide on the past.
    fn end_after(self, sequence: u64) {
        let (core, stop) = (self.core.clone(), self.core.tasks.stop_token());
        core.clone().tasks.spawn("end of a turn", async move {
            let read = tokio::time::timeout(DRONE_TIMEOUT, core.view.has_read(sequence));
            let _ = stop.run_until_cancelled(read).await;
            drop(self);
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.core.deciding.locks().remove(&self.key);
        self.core.view.hub.tell(&self.key.0, &self.key.1);
    }
}

/// Serves clients for as long as the result is kept.
pub(crate) async fn serve(core: &Arc<Core>) -> Result<[Serving; 2], NatsError> {
    let own = core.clone();
    let schedule = core
        .nats
        .serve(&core.tasks, "cluster.*.schedule", Some(QUEUE_GROUP), move |request| {
            let core = own.clone();
            async move { schedule_in_time(&core, request).await }
        })
        .await?;
    let own = core.clone();
    let fetch = core
        .nats
        .serve(&core.tasks, "cluster.*.fetch", Some(QUEUE_GROUP), move |request| {
            let core = own.clone();
            async move { fetch(&core, request).await }
        })
        .await?;
    Ok([schedule, fetch])
}

/// How far a decision came.
enum Outcome {
    /// A drone has it; the sequence of the newest entry that was written for it.
    Scheduled(ScheduleResponse, u64),
    /// Somebody else got the lock; the sequence under which the assignment was taken back.
    LockTaken(u64),
    NoDrone,
}

/// What a drone said to a spawn request.
enum Said {
    Accepted,
    Refused,
    Nothing,
}

/// Decides in a task of its own: what was begun is brought to its end, also where the answer cannot wait for that.
async fn schedule_in_time(core: &Arc<Core>, request: ScheduleRequest) -> Answer<ScheduleResponse> {
    let (sender, answer) = oneshot::channel();
    let own = core.clone();
    core.tasks.spawn("schedule", async move {
        // Nobody may wait for it any more.
        let _ = sender.send(schedule(&own, request).await);
    });
    match tokio::time::timeout(ANSWER_LIMIT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Fault::new(FaultCode::Internal, "a defect in Plane; its log says more")),
        Err(_) => Err(Fault::new(FaultCode::Unavailable, "the state log is slow; ask again")),
    }
}

async fn schedule(core: &Arc<Core>, request: ScheduleRequest) -> Answer<ScheduleResponse> {
    let deadline = Instant::now() + BUDGET;
    let chosen = request.backend_id.clone();
    if chosen.as_ref().is_some_and(|id| id.as_str() == NAME_SERVER_LABEL) {
        return Err(Fault::bad_request("backend_id: expected another name; ns1 is the cluster's own name server"));
    }
    caught_up(core, deadline).await?;
    let Some(lock) = request.lock.clone() else {
        let (backend, sequence) = id_for(core, &request).await?;
        return match decide(core, &request, &backend, sequence, None, deadline).await? {
            Outcome::Scheduled(answer, _) => Ok(answer),
            Outcome::NoDrone | Outcome::LockTaken(_) => Ok(ScheduleResponse::NoDroneAvailable),
        };
    };
    // The sequence of this request's own withdrawn assignment, where it had one for the id that it asks for.
    let mut withdrawn = None;
    loop {
        let mut waiting = Waiting::begin(core, &request.cluster, &lock);
        match core.view.read(|world| standing(world, &request.cluster, &lock)) {
            Standing::Held { backend, drone, bearer_token } => {
                return Ok(ScheduleResponse::Scheduled { drone, backend_id: backend, bearer_token, spawned: false });
            }
            Standing::Free { sequence, next_token } if core.grants.are_open(core) => {
                if let Some(turn) = Turn::take(core, &request.cluster, &lock) {
                    let (backend, expected) = match (withdrawn, &chosen) {
                        (Some(sequence), Some(chosen)) => (chosen.clone(), sequence),
                        _ => id_for(core, &request).await?,
                    };
                    let hold = Some((HeldLock { name: lock.clone(), token: next_token }, sequence));
                    match decide(core, &request, &backend, expected, hold, deadline).await? {
                        Outcome::Scheduled(answer, sequence) => {
                            turn.end_after(sequence);
                            return Ok(answer);
                        }
                        Outcome::NoDrone => return Ok(ScheduleResponse::NoDroneAvailable),
                        Outcome::LockTaken(sequence) => {
                            withdrawn = Some(sequence);
                            // Behind the other's hold in the log: who looks next sees it.
                            let _ = tokio::time::timeout_at(deadline, core.view.has_read(sequence)).await;
                        }
                    }
                }
            }
            Standing::Free { .. } | Standing::Undecided => {}
        }
        waiting.until(deadline).await?;
    }
}

async fn fetch(core: &Arc<Core>, request: FetchRequest) -> Answer<FetchResponse> {
    let deadline = Instant::now() + BUDGET;
    caught_up(core, deadline).await?;
    loop {
        let mut waiting = Waiting::begin(core, &request.cluster, &request.lock);
        match core.view.read(|world| standing(world, &request.cluster, &request.lock)) {
            Standing::Held { backend, drone, bearer_token } => {
                return Ok(FetchResponse::Scheduled { drone, backend_id: backend, bearer_token });
            }
            Standing::Free { .. } if core.grants.are_open(core) => return Ok(FetchResponse::NoBackendForLock),
            Standing::Free { .. } | Standing::Undecided => {}
        }
        waiting.until(deadline).await?;
    }
}

/// Waits for a lock to change, from before it was looked at.
struct Waiting {
    lock: watch::Receiver<u64>,
    grants: watch::Receiver<u64>,
}

impl Waiting {
    fn begin(core: &Core, cluster: &ClusterName, lock: &LockName) -> Self {
        Self { lock: core.view.hub.watch(cluster, lock), grants: core.grants.changes() }
    }

    async fn until(&mut self, deadline: Instant) -> Result<(), Fault> {
        tokio::select! {
            biased;
            _ = self.lock.changed() => Ok(()),
            _ = self.grants.changed() => Ok(()),
            () = tokio::time::sleep_until(deadline) => {
                Err(Fault::new(FaultCode::LockBusy, "lock: it is still being decided for somebody else; ask again"))
            }
        }
    }
}

async fn caught_up(core: &Core, deadline: Instant) -> Result<(), Fault> {
    let caught_up = tokio::time::timeout_at(deadline, core.view.caught_up()).await;
    caught_up.map_err(|_| Fault::new(FaultCode::Unavailable, "the state log is being read; ask again"))
}

/// The id of a new backend, and what its assignment has to expect. One that the client chose may have been used before
/// the log lost something: the public history tells of that.
async fn id_for(core: &Core, request: &ScheduleRequest) -> Answer<(BackendId, u64)> {
    let backend = match &request.backend_id {
        Some(chosen) => chosen.clone(),
        None => BackendId::drawn(&core.chance),
    };
    let expected = free_id(core, &request.cluster, &backend)?;
    if request.backend_id.is_some() {
        let told = history::told(&core.nats, &backend).await.map_err(|e| unavailable(&e))?;
        if told.is_some() {
            return Err(in_use(&backend));
        }
    }
    Ok((backend, expected))
}

/// What a new assignment of this id has to expect: 0, or the sequence under which it was taken back before anything of
/// it came to be.
fn free_id(core: &Core, cluster: &ClusterName, backend: &BackendId) -> Result<u64, Fault> {
    core.view.read(|world| {
        let Some(known) = world.backend(cluster, backend) else { return Ok(0) };
        let Some(assigned) = known.assignment.as_ref().filter(|assigned| assigned.withdrawn) else {
            return Err(in_use(backend));
        };
        let holds = assigned
            .lock
            .as_ref()
            .and_then(|held| world.lock(cluster, &held.name))
            .is_some_and(|lock| lock.holder.as_ref().is_some_and(|holder| holder.backend == *backend));
        if holds || known.current().is_some() { Err(in_use(backend)) } else { Ok(assigned.sequence) }
    })
}

fn in_use(backend: &BackendId) -> Fault {
    let message = format!("backend_id: expected one that is not in use; {backend} is, or was lately");
    Fault::new(FaultCode::BackendIdInUse, message)
}

/// Decides where a backend runs: writes, asks, and goes on to the next drone where one does not take it.
async fn decide(
    core: &Arc<Core>,
    request: &ScheduleRequest,
    backend: &BackendId,
    expected: u64,
    hold: Option<(HeldLock, u64)>,
    deadline: Instant,
) -> Answer<Outcome> {
    let mut decision = Decision {
        core,
        request,
        backend,
        bearer_token: request.require_bearer_token.then(|| BearerToken::drawn(&core.chance)),
        lock: hold.as_ref().map(|(held, _)| held.clone()),
        refused: Vec::new(),
        drone: None,
        sequence: expected,
    };
    let outcome = decision.run(hold.map(|(_, sequence)| sequence), deadline).await;
    if !matches!(outcome, Ok(Outcome::Scheduled(..))) {
        core.view.in_flight.remove(backend);
    }
    outcome
}

struct Decision<'a> {
    core: &'a Arc<Core>,
    request: &'a ScheduleRequest,
    backend: &'a BackendId,
    bearer_token: Option<BearerToken>,
    lock: Option<HeldLock>,
    refused: Vec<DroneId>,
    drone: Option<DroneId>,
    /// The sequence of the newest assignment.
    sequence: u64,
}

impl Decision<'_> {
    async fn run(&mut self, lock_sequence: Option<u64>, deadline: Instant) -> Answer<Outcome> {
        let Some(first) = self.first_drone(deadline).await else { return Ok(Outcome::NoDrone) };
        if !self.assign(Some(first)).await? {
            return Err(in_use(self.backend));
        }
        if let (Some(expected), Some(held)) = (lock_sequence, self.lock.clone()) {
            let holder = Some(Holder { backend: self.backend.clone(), token: held.token });
            let entry = LockEntry { lock: held.name, holder, last_token: None };
            match log::hold(&self.core.nats, &self.request.cluster, entry, expected).await {
                Ok(Written::Won(_)) => {}
                Ok(Written::Lost) => {
                    self.take_back().await?;
                    return Ok(Outcome::LockTaken(self.sequence));
                }
                // Whether it holds the lock is not known: it must not start, and whoever reads that frees the lock.
                Err(error) => {
                    self.take_back().await?;
                    return Err(unavailable(&error));
                }
            }
        }
        loop {
            let Some(drone) = self.drone.clone() else { return Ok(Outcome::NoDrone) };
            let accepts = self.core.view.read(|world| {
                world.drone(&self.request.cluster, &drone).is_some_and(|known| known.has_feature("accept"))
            });
            tracing::debug!(%drone, backend = %self.backend, "asking the drone");
            match self.ask(&drone, accepts, deadline).await {
                Said::Accepted if accepts => return Ok(self.scheduled(drone)),
                Said::Accepted => return self.accept_for(drone).await,
                Said::Refused => {
                    tracing::info!(%drone, backend = %self.backend, "the drone refused; trying the next");
                }
                Said::Nothing if accepts => {
                    tracing::warn!(%drone, backend = %self.backend, "the drone did not answer; trying the next");
                }
                Said::Nothing => {
                    let backend = self.backend;
                    let message =
                        format!("drone {drone} did not say whether it took backend {backend}; its status will tell");
                    return Err(Fault::new(FaultCode::Unavailable, message));
                }
            }
            self.refused.push(drone);
            let time_left = Instant::now() + DRONE_TIMEOUT <= deadline;
            let next = if time_left { self.place().ok() } else { None };
            let Some(next) = next else {
                return Ok(match self.take_back().await? {
                    Some(drone) => self.scheduled(drone),
                    None => Outcome::NoDrone,
                });
            };
            if !self.assign(Some(next)).await? {
                return self.settled().await;
            }
        }
    }

    fn scheduled(&self, drone: DroneId) -> Outcome {
        let (cluster, backend_id) = (&self.request.cluster, self.backend.clone());
        tracing::debug!(%cluster, backend = %backend_id, %drone, "scheduled");
        let bearer_token = self.bearer_token.clone();
        Outcome::Scheduled(
            ScheduleResponse::Scheduled { drone, backend_id, bearer_token, spawned: true },
            self.sequence,
        )
    }

    fn assignment(&self, drone: DroneId) -> Assignment {
        let limits = &self.request.executable.resource_limits;
        Assignment {
            lock: self.lock.clone(),
            memory_bytes: limits.memory_limit_bytes.map(std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map(|percent| percent.get().into()),
            ..Assignment::to(drone, self.bearer_token.clone())
        }
    }

    /// Writes that a drone may start the backend, or with `None` that none may. False where somebody else wrote.
    async fn assign(&mut self, drone: Option<DroneId>) -> Result<bool, Fault> {
        if self.drone.is_some() && !self.core.grants.are_open(self.core) {
            // A drone may have accepted it, and the log have lost that.
            let message = "the state log may lack what was decided last; ask again";
            return Err(Fault::new(FaultCode::Unavailable, message));
        }
        let assignment = match (drone, &self.drone) {
            (Some(drone), _) => {
                self.drone = Some(drone.clone());
                self.assignment(drone)
            }
            (None, Some(drone)) => Assignment { withdrawn: true, ..self.assignment(drone.clone()) },
            (None, None) => return Ok(true),
        };
        self.write(assignment).await
    }

    async fn write(&mut self, assignment: Assignment) -> Result<bool, Fault> {
        let (nats, cluster) = (&self.core.nats, &self.request.cluster);
        match log::assign(nats, cluster, self.backend, assignment, self.sequence).await {
            Ok(Written::Won(sequence)) => {
                self.sequence = sequence;
                Ok(true)
            }
            Ok(Written::Lost) => Ok(false),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Takes the assignment back. Gives the drone that had accepted it already, if one had.
    async fn take_back(&mut self) -> Result<Option<DroneId>, Fault> {
        if self.assign(None).await? {
            return Ok(None);
        }
        match self.settled().await? {
            Outcome::Scheduled(ScheduleResponse::Scheduled { drone, .. }, _) => Ok(Some(drone)),
            Outcome::Scheduled(..) | Outcome::LockTaken(_) | Outcome::NoDrone => Ok(None),
        }
    }

    /// Somebody else wrote the assignment: a drone that accepted it, or a controller that took it back.
    async fn settled(&mut self) -> Answer<Outcome> {
        let found = log::assignment(&self.core.nats, &self.request.cluster, self.backend).await;
        match found.map_err(|e| unavailable(&e))? {
            Some((assignment, sequence)) if assignment.accepted => {
                self.sequence = sequence;
                Ok(self.scheduled(assignment.drone))
            }
            Some((assignment, sequence)) if assignment.withdrawn => {
                self.sequence = sequence;
                Err(Fault::new(FaultCode::Unavailable, "the decision took too long and was taken back; ask again"))
            }
            Some(_) | None => Err(in_use(self.backend)),
        }
    }

    /// Notes for a drone that cannot that it has taken the backend.
    async fn accept_for(&mut self, drone: DroneId) -> Answer<Outcome> {
        let assignment = Assignment { accepted: true, ..self.assignment(drone.clone()) };
        match self.write(assignment).await {
            Ok(true) => Ok(self.scheduled(drone)),
            Ok(false) => self.settled().await,
            Err(fault) => Err(fault),
        }
    }

    /// Asks one drone. One that does not write its acceptance is asked again while it stays silent: it starts a backend
    /// once, however often it is asked, and nobody else may be asked while it might.
    async fn ask(&self, drone: &DroneId, accepts: bool, deadline: Instant) -> Said {
        let mut executable = self.request.executable.clone();
        if let Some(held) = &self.lock {
            executable.env.insert(FENCING_TOKEN.to_owned(), held.token.to_string());
        }
        let spawn = SpawnRequest {
            cluster: self.request.cluster.clone(),
            drone_id: drone.clone(),
            max_idle_secs: self.request.max_idle_secs,
            backend_id: self.backend.clone(),
            metadata: self.request.metadata.clone(),
            executable,
            bearer_token: self.bearer_token.clone(),
            lock: self.lock.as_ref().map(|held| held.name.clone()),
            fencing_token: self.lock.as_ref().map(|held| held.token),
            assignment_seq: Some(self.sequence),
        };
        let mut asked = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(DRONE_TIMEOUT);
            if left.is_zero() {
                return Said::Nothing;
            }
            match self.core.nats.request(&spawn, left).await {
                Ok(true) => return Said::Accepted,
                Ok(false) | Err(NatsError::Fault(_)) => return Said::Refused,
                Err(NatsError::NoResponders(_)) if !asked => return Said::Refused,
                Err(error) => {
                    tracing::debug!(%drone, backend = %self.backend, %error, "the drone did not answer");
                    if accepts {
                        return Said::Nothing;
                    }
                    asked = true;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn first_drone(&mut self, deadline: Instant) -> Option<DroneId> {
        let mut news = self.core.drones.news();
        let patience = (self.core.started + FIRST_SIGNS).max(Instant::now() + NEXT_SIGN).min(deadline);
        loop {
            let passed = match self.place() {
                Ok(drone) => return Some(drone),
                Err(passed) => passed,
            };
            if !matches!(tokio::time::timeout_at(patience, news.changed()).await, Ok(Ok(()))) {
                tracing::warn!(cluster = %self.request.cluster, ?passed, "no drone available");
                return None;
            }
        }
    }

    /// Chooses a drone and counts the backend there at once: whoever chooses next sees it.
    fn place(&self) -> Result<DroneId, Vec<(DroneId, PassedOver)>> {
        let (core, cluster) = (self.core, &self.request.cluster);
        let now = core.clock.boot();
        let since = core.pulse.beat(core).unwrap_or(now);
        let heard = core.drones.heard();
        let drones = heard.get(cluster).map_or(&[][..], Vec::as_slice);
        let mut in_flight = core.view.in_flight.hold();
        in_flight.lift(self.backend);
        let chosen = core.view.read_with_leases(|world, leases| {
            let in_flight = in_flight.of(cluster);
            let (known, leases) = (world.cluster(cluster), leases.get(cluster));
            let fresh = |at: Duration| now.saturating_sub(at.max(since)) < core.timing.silent;
            let view = |heard| candidate(heard, known, leases, in_flight, core.rules.count, fresh);
            let chance = || core.chance.number();
            let count = drones.len() as u64;
            if count > SAMPLE * 2 {
                let draw = |_| drones.get(usize::try_from(core.chance.below(count)).unwrap_or(0));
                if let Ok(drone) =
                    choose((0..SAMPLE).filter_map(draw).filter_map(view), self.request, &self.refused, chance)
                {
                    return Ok(drone);
                }
            }
            choose(drones.iter().filter_map(view), self.request, &self.refused, chance)
        })?;
        in_flight.place(self.backend.clone(), cluster.clone(), chosen.clone(), Use::of(self.request));
        Ok(chosen)
    }
}

/// A drone as placement sees it; `None` where it has not registered.
fn candidate<'a>(
    heard: &'a Heard,
    known: Option<&Cluster>,
    leases: Option<&BTreeMap<DroneId, Duration>>,
    in_flight: Option<&BTreeMap<DroneId, Use>>,
    count: fn(&mut Use, Use),
    fresh: impl Fn(Duration) -> bool,
) -> Option<Candidate<'a>> {
    let id = &heard.status.drone_id;
    let drone = known?.drones.get(id).filter(|drone| drone.meta.is_some())?;
    let mut used = known?.load(id).map_or_else(Use::default, |load| Use {
        backends: load.backends.len() as u64,
        memory_bytes: load.memory_bytes,
        cpu_percent: load.cpu_percent,
    });
    count(&mut used, in_flight.and_then(|in_flight| in_flight.get(id)).copied().unwrap_or_default());
    let leases_itself = drone.has_feature("lease");
    let read = leases.and_then(|leases| leases.get(id)).copied();
    let leased = !leases_itself || (!drone.is_lost() && read.is_some_and(&fresh));
    Some(Candidate { status: &heard.status, used, audible: leased && fresh(heard.at), leases: leases_itself })
}
