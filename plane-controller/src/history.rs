//! Writes the public history, `backend.B.status`, from the log as read back: forward only, each message expecting the
//! one before it, so that of several controllers one writes and the others find it written. A lock is freed here, once
//! nothing more is to be told of its holder.
//!
//! The controller that entered a state tells it at once; the others look a little later whether that was done.

use crate::{
    Rules,
    log::{self, Written},
    steady::Grants,
    view::View,
};
use futures_util::FutureExt;
use jiff::Timestamp;
use plane_core::{
    id::{BackendId, ClusterName, LockName},
    message::{
        backend::{BackendState, PublicStatus},
        state::{LockEntry, ReachedState},
    },
    nats::{Event, Nats, NatsError, StreamName},
    task::Tasks,
    world::StateSeen,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Backends whose histories are written at once; one backend always has the same writer, so its order is kept.
const WRITERS: usize = 8;
/// How long the others leave the telling of a state to the controller that entered it.
const REPAIR_AFTER: Duration = Duration::from_millis(300);
/// So many backends wait at most to be looked at, for each writer, and to be told later. Beyond that all histories are
/// compared with the world once there is room, and locks that stay held are looked at again (`caretaker.rs`).
const WAITING: usize = 100_000;

/// How long until it is looked again whether the world is that of the server that this controller is connected to.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// Whoever waits for an answer goes first when a controller has read the log.
const COMPARE_AFTER: Duration = Duration::from_secs(1);

type Key = (ClusterName, BackendId);

/// Takes note of changed backends.
#[derive(Debug)]
pub(crate) struct Historian {
    writers: Vec<mpsc::Sender<Key>>,
    later: mpsc::Sender<(Instant, Key)>,
    /// States that this controller entered and has not read back yet.
    own: Mutex<HashSet<Key>>,
    /// What is to be told later, and what writers have to look at, each once.
    waiting: Mutex<HashSet<Key>>,
    queued: Arc<Mutex<HashSet<Key>>>,
    compare: Notify,
    /// How often the streams were doubted: what was told before that may be lost.
    doubts: Arc<AtomicU64>,
}

impl Historian {
    /// Enters a state that a backend reached. It is told as soon as it has been read back.
    pub(crate) async fn enter(
        &self,
        nats: &Nats,
        cluster: &ClusterName,
        backend: &BackendId,
        reached: ReachedState,
    ) -> Result<Written, NatsError> {
        let key = (cluster.clone(), backend.clone());
        lock(&self.own).insert(key.clone());
        let written = log::reach(nats, cluster, backend, reached).await;
        if !matches!(written, Ok(Written::Won(_))) {
            lock(&self.own).remove(&key);
        }
        written
    }

    /// A backend has changed in the world: its public history, or the lock that it held, may lag.
    pub(crate) fn changed(&self, cluster: ClusterName, backend: BackendId) {
        if self.writers.is_empty() {
            return;
        }
        let key = (cluster, backend);
        if lock(&self.own).remove(&key) {
            self.now(key);
        } else if lock(&self.waiting).insert(key.clone()) {
            let later = self.later.try_send((Instant::now() + REPAIR_AFTER, key.clone()));
            self.waits(later.is_ok(), &self.waiting, &key);
        }
    }

    fn now(&self, key: Key) {
        if !lock(&self.queued).insert(key.clone()) {
            return;
        }
        let writer = usize::from(key.1.as_str().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31) ^ byte));
        if let Some(writer) = self.writers.get(writer % WRITERS) {
            let sent = writer.try_send(key.clone());
            self.waits(sent.is_ok(), &self.queued, &key);
        }
    }

    /// What has found no room does not wait. It is found when all are compared.
    fn waits(&self, has_room: bool, waiting: &Mutex<HashSet<Key>>, key: &Key) {
        if !has_room {
            lock(waiting).remove(key);
            self.compare_all();
        }
    }

    /// What was told may be lost: it is looked at again.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
        self.compare_all();
    }

    /// Compares the histories of all backends with the world.
    pub(crate) fn compare_all(&self) {
        self.compare.notify_one();
    }
}

fn lock<T>(set: &Mutex<T>) -> MutexGuard<'_, T> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the public history says of a backend last.
pub(crate) async fn told(nats: &Nats, backend: &BackendId) -> Result<Option<PublicStatus>, NatsError> {
    let stored = nats.last(StreamName::Status, &PublicStatus::subject_of(backend)).await?;
    Ok(stored.and_then(|stored| serde_json::from_slice(&stored.payload).ok()))
}

/// A historian that writes nothing.
pub(crate) fn none() -> Arc<Historian> {
    let (later, _) = mpsc::channel(1);
    Arc::new(Historian {
        writers: Vec::new(),
        later,
        own: Mutex::default(),
        waiting: Mutex::default(),
        queued: Arc::default(),
        compare: Notify::new(),
        doubts: Arc::default(),
    })
}

/// Starts the writers, which go on until `stop`.
pub(crate) fn start(
    nats: &Nats,
    view: &Arc<View>,
    grants: &Arc<Grants>,
    rules: Rules,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Arc<Historian> {
    let (doubts, queued) = (Arc::new(AtomicU64::new(0)), Arc::default());
    let writers = (0..WRITERS).map(|number| {
        let (sender, mut receiver) = mpsc::channel::<Key>(WAITING);
        let mut writer = Writer::new(nats, view, grants, rules, &doubts, &queued);
        let stop = stop.clone();
        tasks.spawn_essential(format!("public history {number}"), async move {
            while let Some(Some(key)) = stop.run_until_cancelled(receiver.recv()).await {
                // From here on it may come again: what is looked at now may be old by then.
                lock(&writer.queued).remove(&key);
                if stop.run_until_cancelled(writer.bring_up_to_date(&key)).await.is_none() {
                    return;
                }
            }
        });
        sender
    });
    let writers = writers.collect();
    let (later, mut delayed) = mpsc::channel::<(Instant, Key)>(WAITING);
    let (own, waiting) = (Mutex::default(), Mutex::default());
    let historian = Arc::new(Historian { writers, later, own, waiting, queued, compare: Notify::new(), doubts });
    let (due, halt) = (historian.clone(), stop.clone());
    tasks.spawn_essential("public history, a little later", async move {
        while let Some(Some((at, key))) = halt.run_until_cancelled(delayed.recv()).await {
            if halt.run_until_cancelled(tokio::time::sleep_until(at)).await.is_none() {
                return;
            }
            lock(&due.waiting).remove(&key);
            due.now(key);
        }
    });
    let (comparer, nats, view, stop) = (historian.clone(), nats.clone(), view.clone(), stop.clone());
    tasks.spawn_essential("compare public histories", async move {
        while stop.run_until_cancelled(comparer.compare.notified()).await.is_some() {
            let comparing = async {
                tokio::time::sleep(COMPARE_AFTER).await;
                compare(&nats, &view, &comparer).await;
            };
            if stop.run_until_cancelled(comparing).await.is_none() {
                return;
            }
        }
    });
    historian
}

/// Finds the backends whose public history lags behind the world: one reading of the newest messages tells all.
async fn compare(nats: &Nats, view: &View, historian: &Historian) {
    let mut replay = loop {
        match nats.replay_newest(StreamName::Status, "backend.*.status").await {
            Ok(replay) => break replay,
            Err(error) => tracing::warn!(%error, "public histories cannot be read"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let mut told: HashMap<BackendId, (ClusterName, BackendState)> = HashMap::new();
    while let Event::Entry(entry) = replay.next().await {
        if let Ok(status) = serde_json::from_slice::<PublicStatus>(&entry.payload) {
            told.insert(status.backend, (status.cluster, status.state));
        }
    }
    let mut behind: VecDeque<Key> = view.read(|world| {
        let all = world.clusters().flat_map(|(name, cluster)| {
            let is_told = |id, state| told.get(id).is_some_and(|(of, told)| (of, *told) == (name, state));
            let lagging = cluster
                .backends()
                .filter(move |(id, backend)| backend.state().is_some_and(|state| !is_told(*id, state)));
            lagging.map(|(id, _)| (name.clone(), id.clone()))
        });
        all.collect()
    });
    behind.make_contiguous().sort();
    for (cluster, backend) in behind {
        historian.changed(cluster, backend);
    }
}

/// Writes the histories of some backends.
struct Writer {
    nats: Nats,
    view: Arc<View>,
    grants: Arc<Grants>,
    rules: Rules,
    /// What was told last of backends that have not ended, under which sequence.
    told: HashMap<Key, (u64, BackendState)>,
    queued: Arc<Mutex<HashSet<Key>>>,
    /// The doubts that `told` knows of, and those that there are.
    doubted: u64,
    doubts: Arc<AtomicU64>,
}

impl Writer {
    fn new(
        nats: &Nats,
        view: &Arc<View>,
        grants: &Arc<Grants>,
        rules: Rules,
        doubts: &Arc<AtomicU64>,
        queued: &Arc<Mutex<HashSet<Key>>>,
    ) -> Self {
        let (nats, view, grants) = (nats.clone(), view.clone(), grants.clone());
        let (doubts, queued) = (doubts.clone(), queued.clone());
        Self { nats, view, grants, rules, told: HashMap::new(), queued, doubted: 0, doubts }
    }

    async fn bring_up_to_date(&mut self, key: &Key) {
        let (cluster, backend) = key;
        let mut pause = Duration::from_millis(20);
        loop {
            let server = self.known_server().await;
            let doubts = self.doubts.load(Ordering::Acquire);
            if std::mem::replace(&mut self.doubted, doubts) != doubts {
                self.told.clear();
            }
            let outcome = match self.write_missing(key, &server).await {
                Ok(told) => self.free_lock(cluster, backend, told, &server).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return,
                Err(NatsError::WrongSequence(_)) => {
                    self.told.remove(key);
                }
                Err(error) => {
                    tracing::warn!(%backend, %error, "the public history waits");
                    self.told.remove(key);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// Waits until the world is what the server has that this controller is connected to, and gives that server. After
    /// a restart it may have lost what is in the world that was read before: to tell that would tell what is no longer
    /// decided, and the sequences that were noted before may be those of other messages.
    async fn known_server(&self) -> String {
        loop {
            let server = self.nats.server();
            // In this order: the world is to be read again before its server is known.
            if self.grants.know(&server) && self.view.is_caught_up() {
                return server;
            }
            tokio::time::sleep(UNKNOWN_PAUSE).await;
        }
    }

    /// Whether this controller is still connected to the server that something was decided on; where it is not, an error
    /// after which all is looked at again.
    fn is_still(&self, server: &str, subject: &str) -> Result<(), NatsError> {
        match self.nats.server() == server {
            true => Ok(()),
            false => Err(NatsError::WrongSequence(subject.to_owned())),
        }
    }

    /// Writes what the public history lacks, and gives the state that it then ends with.
    async fn write_missing(&mut self, key: &Key, server: &str) -> Result<Option<BackendState>, NatsError> {
        let (cluster, backend) = key;
        let history: Vec<StateSeen> = self.view.read(|world| {
            let known = world.backend(cluster, backend);
            known.map(|found| found.history().into_iter().cloned().collect()).unwrap_or_default()
        });
        let Some(newest) = history.last() else { return Ok(None) };
        let ended = newest.state.is_final();
        let subject = PublicStatus::subject_of(backend);
        let (mut sequence, mut told) = match self.told.get(key) {
            Some((sequence, state)) => (*sequence, Some(*state)),
            None => match self.nats.last(StreamName::Status, &subject).await? {
                Some(stored) => {
                    let last = serde_json::from_slice::<PublicStatus>(&stored.payload).ok();
                    (stored.sequence, last.map(|last| last.state))
                }
                None => (0, None),
            },
        };
        for seen in &history {
            if told.is_some_and(|told| !told.may_precede(seen.state)) {
                continue;
            }
            let message = PublicStatus {
                cluster: cluster.clone(),
                state: seen.state,
                backend: backend.clone(),
                time: Timestamp::from_millisecond(seen.timestamp).unwrap_or(Timestamp::UNIX_EPOCH),
                reason: seen.reason().map(str::to_owned),
                exit_code: seen.exit_code(),
            };
            self.is_still(server, &subject)?;
            sequence = self.nats.publish_expecting(subject.clone(), &message, sequence).await?;
            told = Some(seen.state);
            self.told.insert(key.clone(), (sequence, seen.state));
        }
        if ended {
            self.told.remove(key);
        } else if let Some(state) = told {
            self.told.insert(key.clone(), (sequence, state));
        }
        Ok(told)
    }

    /// Frees the lock that a backend held, where nothing stands against it. Its public history ends with `told`: where
    /// the world has gone on since that was looked at, the next change frees it.
    async fn free_lock(
        &self,
        cluster: &ClusterName,
        backend: &BackendId,
        told: Option<BackendState>,
        server: &str,
    ) -> Result<(), NatsError> {
        let free: Vec<(LockName, u64, u64)> = self.view.read(|world| {
            let Some(known) = world.cluster(cluster) else { return Vec::new() };
            let Some(found) = known.backend(backend) else { return Vec::new() };
            if found.has_ended() && !told.is_some_and(BackendState::is_final) {
                return Vec::new();
            }
            let assigned = found.assignment.as_ref().and_then(|assigned| assigned.lock());
            let names = assigned.map(|held| held.name.clone()).into_iter();
            let held = names.filter_map(|name| {
                let lock = known.locks.get(&name)?;
                let holder = lock.holder.as_ref().filter(|holder| holder.backend == *backend)?;
                (self.rules.may_free)(found, &name, holder).then_some((name, lock.sequence, holder.token))
            });
            held.collect()
        });
        for (name, sequence, token) in free {
            self.is_still(server, backend.as_str())?;
            let entry = LockEntry { lock: name, holder: None, last_token: Some(token) };
            if let Written::Won(_) = log::hold(&self.nats, cluster, entry, sequence).boxed().await? {
                tracing::debug!(%cluster, %backend, "its lock is free");
            }
        }
        Ok(())
    }
}
