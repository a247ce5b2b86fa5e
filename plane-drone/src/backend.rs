//! Session backends on this drone: each has one task that drives it (`driver`) through the states that [`machine`]
//! decides. This module keeps the list of them: it admits new ones, takes old ones up again, and removes containers
//! that belong to none.

mod driver;
pub mod machine;
mod probe;
mod watch;

use crate::{
    engine::Engine,
    route::Routes,
    store::{Inserted, Known, Store, StoreError},
};
use driver::{Driver, Origin, Signal};
use jiff::Timestamp;
use machine::{Limits, State, What};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::schedule::SpawnRequest,
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
    id: BackendId,
    signals: mpsc::Sender<Signal>,
    /// Cancelled once the final state is persisted.
    ended: CancellationToken,
}

impl BackendHandle {
    /// Its id.
    pub(crate) fn id(&self) -> &BackendId {
        &self.id
    }

    /// Lets it begin.
    pub(crate) async fn begin(&self) {
        self.tell(What::Accepted).await;
    }

    /// Ends it; returns once that is persisted.
    pub(crate) async fn terminate(&self) {
        self.tell(What::TerminateRequested).await;
    }

    /// Resolves once its final state is persisted.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn tell(&self, what: What) {
        let (done, heard) = oneshot::channel();
        // A driver that is gone has nothing left to do.
        if self.signals.send(Signal { what, done: Some(done) }).await.is_ok() {
            let _ = heard.await;
        }
    }
}

impl Drivers {
    /// Takes up the backends of an earlier run, and begins to look for containers without a backend.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn resume(parts: Parts) -> Result<Self, StoreError> {
        let drivers = Self { parts: Arc::new(parts), known: Arc::default() };
        for Known { request, state } in drivers.parts.store.unfinished().await? {
            let backend = request.backend_id.clone();
            tracing::info!(%backend, ?state, "taking a backend up again");
            let handle = drivers.drive(request, state, Origin::EarlierRun);
            drivers.known().insert(backend, handle);
        }
        drivers.parts.tasks.spawn("reap", drivers.clone().reap());
        Ok(drivers)
    }

    /// Those that have not ended.
    pub(crate) fn live(&self) -> Vec<BackendHandle> {
        self.known().values().filter(|handle| !handle.ended.is_cancelled()).cloned().collect()
    }

    /// Adds a backend, unless its id is known already. It waits for the word to begin.
    ///
    /// # Errors
    /// Where the database refuses; then nothing has happened.
    pub(crate) async fn accept(&self, request: SpawnRequest) -> Result<Option<BackendHandle>, StoreError> {
        let state = State::New { since: Timestamp::now() };
        match self.parts.store.insert(&request, &state).await? {
            Inserted::Known => Ok(None),
            Inserted::New => {
                let backend = request.backend_id.clone();
                let handle = self.drive(request, state, Origin::Request);
                self.known().insert(backend, handle.clone());
                Ok(Some(handle))
            }
        }
    }

    fn without_driver(&self, found: Vec<BackendId>) -> HashSet<BackendId> {
        let known = self.known();
        found.into_iter().filter(|id| !known.contains_key(id)).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<BackendId, BackendHandle>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drive(&self, request: SpawnRequest, state: State, origin: Origin) -> BackendHandle {
        let (signals, waiting) = mpsc::channel(SIGNALS);
        let id = request.backend_id.clone();
        let ended = CancellationToken::new();
        if state.is_final() {
            self.parts.routes.close(&id);
            ended.cancel();
        } else {
            self.parts.routes.wait_for(&id, request.bearer_token.clone());
        }
        let handle = BackendHandle { id: id.clone(), signals: signals.clone(), ended: ended.clone() };
        let driver = Driver::new(self.parts.clone(), request, state, signals, waiting, ended);
        let known = self.known.clone();
        self.parts.tasks.spawn(format!("drive {id}"), async move {
            driver.run(origin).await;
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        handle
    }

    /// Removes containers that carry this drone's labels and belong to no backend: an engine that was asked to create
    /// one may do so after nobody waits for it any more.
    async fn reap(self) {
        let stop = self.parts.tasks.stop_token();
        let mut suspects = HashSet::new();
        loop {
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
                    if all_new && stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(2))).await.is_some() {
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
