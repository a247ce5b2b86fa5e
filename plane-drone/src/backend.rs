//! Session backends on this drone: each has one task that drives it (`driver`) through the states that [`machine`]
//! decides. This module keeps the list of them: it admits new ones, takes old ones up again, and removes containers
//! that belong to none.

mod driver;
mod entered;
pub mod machine;
mod probe;
#[cfg(test)]
mod tests;
mod watch;

use crate::{
    engine::Engine,
    host::{Host, HostError, LiveBackend, Offered},
    lease::Fence,
    route::Routes,
    store::{Inserted, Known, Outgoing, Store, StoreError},
};
use async_trait::async_trait;
use driver::{Driver, Origin, Signal};
pub(crate) use entered::BootClock;
pub use entered::Entered;
use jiff::Timestamp;
use machine::{Limits, State, What};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{
        backend::{BackendState, StatusReport},
        drone::AnnouncedBackend,
        schedule::SpawnRequest,
    },
    nats::Nats,
    task::Tasks,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch as value};
use tokio_util::sync::CancellationToken;

/// How often containers are looked for that belong to no backend.
const REAP_EVERY: Duration = Duration::from_secs(60);
/// How soon they are looked for again where something stands out, or nothing may be done yet.
const REAP_PAUSE: Duration = Duration::from_secs(2);
/// What has happened to a backend and was not yet thought about; whoever has more to say waits.
const SIGNALS: usize = 32;

/// What drivers work with.
pub(crate) struct Parts {
    pub(crate) cluster: ClusterName,
    pub(crate) drone: DroneId,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) store: Store,
    pub(crate) routes: Routes,
    pub(crate) limits: Limits,
    /// The connection, once there is one.
    pub(crate) nats: value::Receiver<Option<Nats>>,
    pub(crate) tasks: Tasks,
    pub(crate) fence: Arc<Fence>,
    pub(crate) clock: BootClock,
}

impl Parts {
    /// What stands before requests to a backend: the fence, where it holds a lock.
    fn fence_of(&self, request: &SpawnRequest) -> Option<Arc<Fence>> {
        request.lock.is_some().then(|| self.fence.clone())
    }
}

/// Whether a backend was offered to an earlier process of this drone that neither began with it nor discarded it.
fn is_undecided(request: &SpawnRequest, state: &State) -> bool {
    request.assignment_seq.is_some() && matches!(state, State::New { .. })
}

/// The backends of this drone. Clones speak of the same.
#[derive(Clone)]
pub(crate) struct Drivers {
    parts: Arc<Parts>,
    known: Arc<Mutex<HashMap<BackendId, BackendHandle>>>,
}

/// Speaks to the task that drives a backend.
#[derive(Debug, Clone)]
pub(crate) struct BackendHandle {
    request: Arc<SpawnRequest>,
    /// What was reported of it last, and since when.
    reported: Arc<Mutex<(BackendState, Timestamp)>>,
    signals: mpsc::Sender<Signal>,
    /// Cancelled once the final state is persisted.
    ended: CancellationToken,
}

impl BackendHandle {
    async fn tell(&self, what: What) {
        loop {
            let (done, heard) = oneshot::channel();
            // A driver that is gone has nothing left to do; one that panicked on the way is told again.
            let sent = self.signals.send(Signal { what: what.clone(), done: Some(done) }).await;
            if sent.is_err() || heard.await.is_ok() {
                return;
            }
        }
    }
}

impl Drivers {
    /// Takes up the backends of an earlier run that had begun, and begins to look for containers without a backend.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn resume(parts: Parts) -> Result<Self, StoreError> {
        let drivers = Self { parts: Arc::new(parts), known: Arc::default() };
        for Known { request, state, entered } in drivers.parts.store.unfinished().await? {
            let backend = request.backend_id.clone();
            if is_undecided(&request, &state) {
                continue;
            }
            tracing::info!(%backend, ?state, "taking a backend up again");
            let entered = drivers.parts.clock.taken_up(entered);
            drivers.drive(request, state, entered, Origin::EarlierRun);
        }
        drivers.parts.tasks.spawn_essential("reap", drivers.clone().reap());
        Ok(drivers)
    }

    fn without_driver(&self, found: Vec<BackendId>) -> HashSet<BackendId> {
        let known = self.known();
        found.into_iter().filter(|id| !known.contains_key(id)).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<BackendId, BackendHandle>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to drive a backend, which is in the list from now until its driver has ended.
    fn drive(&self, request: SpawnRequest, state: State, entered: Entered, origin: Origin) -> BackendHandle {
        let (signals, waiting) = mpsc::channel(SIGNALS);
        let id = request.backend_id.clone();
        let ended = CancellationToken::new();
        if state.is_final() {
            self.parts.routes.close(&id);
            ended.cancel();
        } else {
            self.parts.routes.wait_for(&id, request.bearer_token.clone(), self.parts.fence_of(&request));
        }
        let (request, reported) =
            (Arc::new(request), state.reported().unwrap_or((BackendState::Loading, state.since())));
        let reported = Arc::new(Mutex::new(reported));
        let handle = BackendHandle {
            request: request.clone(),
            reported: reported.clone(),
            signals: signals.clone(),
            ended: ended.clone(),
        };
        let driver = Driver::new(self.parts.clone(), request, (state, entered), reported, signals, waiting, ended);
        let known = self.known.clone();
        // Before its task runs, which takes it out of the list: it may have nothing to do.
        self.known().insert(id.clone(), handle.clone());
        self.parts.tasks.spawn(format!("drive {id}"), async move {
            driver.run(origin).await;
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        handle
    }

    /// Removes containers that carry this drone's labels and belong to no backend: an engine that was asked to create
    /// one may do so after nobody waits for it any more. While this drone has no lease the labels may be those of another
    /// process that goes by its id, and what carries them be in use.
    async fn reap(self) {
        let stop = self.parts.tasks.stop_token();
        let mut suspects = HashSet::new();
        loop {
            if !self.parts.fence.is_open() {
                suspects.clear();
                if stop.run_until_cancelled(tokio::time::sleep(REAP_PAUSE)).await.is_none() {
                    return;
                }
                continue;
            }
            match self.parts.engine.list().await {
                Ok(found) => {
                    let strays = self.without_driver(found);
                    // Seen twice: what has just been removed by its driver is not.
                    for backend in strays.intersection(&suspects) {
                        tracing::warn!(%backend, "removing a container that belongs to no backend");
                        if let Err(error) = self.parts.engine.remove(backend).await {
                            tracing::warn!(%backend, %error, "it stays for now");
                        }
                    }
                    let all_new = suspects.is_empty() && !strays.is_empty();
                    suspects = strays;
                    if all_new && stop.run_until_cancelled(tokio::time::sleep(REAP_PAUSE)).await.is_some() {
                        continue;
                    }
                }
                Err(error) => tracing::warn!(%error, "containers cannot be listed"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(REAP_EVERY)).await.is_none() {
                return;
            }
        }
    }
}

impl From<StoreError> for HostError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl Drivers {
    fn handle(&self, backend: &BackendId) -> Option<BackendHandle> {
        self.known().get(backend).cloned()
    }

    fn announced(request: &SpawnRequest, (state, time): (BackendState, Timestamp)) -> AnnouncedBackend {
        AnnouncedBackend {
            backend_id: request.backend_id.clone(),
            state,
            time,
            bearer_token: request.bearer_token.clone(),
            lock: request.lock.clone(),
            fencing_token: request.fencing_token,
        }
    }

    fn report(&self, backend: &BackendId, state: BackendState, reason: String, exit_code: Option<i64>) -> Outgoing {
        Outgoing::Status(StatusReport {
            cluster: self.parts.cluster.clone(),
            state,
            backend: backend.clone(),
            time: Timestamp::now(),
            drone: self.parts.drone.clone(),
            reason: Some(reason),
            exit_code,
        })
    }
}

#[async_trait]
impl Host for Drivers {
    async fn nonce(&self) -> Result<String, HostError> {
        Ok(self.parts.store.nonce().await?)
    }

    async fn processes(&self) -> Result<Vec<String>, HostError> {
        Ok(self.parts.store.processes().await?)
    }

    async fn follow(&self, process: &str) -> Result<(), HostError> {
        Ok(self.parts.store.follow(process).await?)
    }

    async fn draining(&self) -> Result<bool, HostError> {
        Ok(self.parts.store.draining().await?)
    }

    async fn set_draining(&self, draining: bool) -> Result<(), HostError> {
        Ok(self.parts.store.set_draining(draining).await?)
    }

    async fn offer(&self, request: &SpawnRequest) -> Result<Offered, HostError> {
        let state = State::New { since: Timestamp::now() };
        let inserted = match self.handle(&request.backend_id) {
            // Its driver is not through, whatever it has written.
            Some(_) => Inserted::Known,
            None => self.parts.store.insert(request, &state).await?,
        };
        match inserted {
            Inserted::New => Ok(Offered::New),
            Inserted::Refused => Ok(Offered::Refused),
            Inserted::Known => match self.parts.store.find(&request.backend_id).await? {
                Some(known) => Ok(Offered::Known(Box::new(known.request))),
                None => Err(HostError("a backend was forgotten while it was asked for; ask again".to_owned())),
            },
        }
    }

    async fn discard(&self, backend: &BackendId) -> Result<(), HostError> {
        self.parts.store.discard(backend).await?;
        // Requests for what an earlier process was offered have waited since this one began.
        self.parts.routes.forget(backend);
        Ok(())
    }

    async fn begin(&self, request: SpawnRequest) -> Result<(), HostError> {
        if self.handle(&request.backend_id).is_some() {
            return Ok(());
        }
        let state = State::New { since: Timestamp::now() };
        let handle = self.drive(request, state, self.parts.clock.now(), Origin::Request);
        handle.tell(What::Accepted).await;
        Ok(())
    }

    async fn undecided(&self) -> Result<Vec<SpawnRequest>, HostError> {
        let unfinished = self.parts.store.unfinished().await?;
        let undecided = unfinished.into_iter().filter(|known| is_undecided(&known.request, &known.state));
        Ok(undecided.map(|known| known.request).collect())
    }

    fn live(&self) -> Vec<LiveBackend> {
        let known = self.known();
        let live = known.values().filter(|handle| !handle.ended.is_cancelled()).map(|handle| {
            let reported = *handle.reported.lock().unwrap_or_else(PoisonError::into_inner);
            let announced = Self::announced(&handle.request, reported);
            LiveBackend { request: handle.request.clone(), announced }
        });
        live.collect()
    }

    fn is_live(&self, backend: &BackendId) -> bool {
        self.handle(backend).is_some_and(|handle| !handle.ended.is_cancelled())
    }

    async fn terminate(&self, backend: &BackendId) {
        if let Some(handle) = self.handle(backend) {
            handle.tell(What::TerminateRequested).await;
        }
    }

    async fn give_up(&self, backend: &BackendId, reason: &str) {
        if let Some(handle) = self.handle(backend) {
            handle.tell(What::DeclaredLost(reason.to_owned())).await;
        }
    }

    async fn ended(&self, backend: &BackendId) {
        if let Some(handle) = self.handle(backend) {
            handle.ended.cancelled().await;
        }
    }

    async fn ended_since(&self, since: Timestamp) -> Result<Vec<AnnouncedBackend>, HostError> {
        let finals = self.parts.store.finals_since(since).await?;
        let ended = finals.iter().filter_map(|known| Some(Self::announced(&known.request, known.state.reported()?)));
        Ok(ended.collect())
    }

    async fn disown(&self, backend: &BackendId) -> Result<(), HostError> {
        match self.parts.store.find(backend).await? {
            None => {
                tracing::warn!(%backend, "the log has a backend that is not known here; reporting it lost");
                let report = self.report(backend, BackendState::Lost, "its drone does not know it".to_owned(), None);
                Ok(self.parts.store.refuse(backend, &report).await?)
            }
            Some(known) => match &known.state {
                State::Cleaning { ending, .. } | State::Gone { ending, .. } => {
                    let report = self.report(backend, ending.state, ending.reason.clone(), ending.exit_code);
                    Ok(self.parts.store.say_again(&report).await?)
                }
                // It has begun meanwhile, or is being decided about.
                State::New { .. }
                | State::Loading { .. }
                | State::Starting { .. }
                | State::Ready { .. }
                | State::Stopping { .. } => Ok(()),
            },
        }
    }

    async fn all_told(&self) {
        let upto = loop {
            match self.parts.store.outgoing().await {
                Ok(None) => return,
                Ok(Some((_, newest))) => break newest,
                Err(error) => tracing::error!(%error, "the outbox cannot be read"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        loop {
            let told = self.parts.store.told();
            if !matches!(self.parts.store.outgoing().await, Ok(Some((oldest, _))) if oldest <= upto) {
                return;
            }
            // The signal may have come between the two.
            let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        }
    }
}
