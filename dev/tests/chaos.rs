//! Three controllers, three drones and three NATS servers, each part killed, stopped or cut off in turn and together,
//! while many ask for few locks. What must always hold is read afterwards from the log and from the public history.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::future::join_all;
use plane_core::{
    id::BackendId,
    message::{
        backend::{BackendState, PublicStatus},
        schedule::{ScheduleRequest, ScheduleResponse},
        state::{EntryBody, StateEntry},
    },
    nats::{Event, Nats, NatsError, StreamName},
    world::{Entry, World},
};
use plane_dev::harness::{Cluster, PATIENCE, QUICK_AGENT, QUICK_SCHEDULER, Settings};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const LOCKS: usize = 4;
const ASKERS: usize = 100;

/// What one asker was told.
#[derive(Debug, Clone)]
struct Told {
    lock: String,
    backend: BackendId,
    spawned: bool,
}

#[derive(Debug, Default)]
struct Book {
    told: Vec<Told>,
    unanswered: usize,
}

/// Asks for one lock after the other for as long as `on` says so.
async fn keep_asking(
    client: Nats,
    request: ScheduleRequest,
    number: usize,
    on: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
) {
    for turn in number.. {
        if !on.load(Ordering::Relaxed) {
            return;
        }
        let lock = format!("lock {}", turn % LOCKS);
        let request = ScheduleRequest { lock: Some(lock.parse().unwrap()), ..request.clone() };
        match client.request(&request, Duration::from_secs(10)).await {
            Ok(ScheduleResponse::Scheduled { backend_id, spawned, .. }) => {
                book.lock().unwrap().told.push(Told { lock, backend: backend_id, spawned });
            }
            Ok(ScheduleResponse::NoDroneAvailable) | Err(NatsError::Fault(_)) => {}
            Err(NatsError::TimedOut(_)) => book.lock().unwrap().unanswered += 1,
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All entries of the log as they come, with those that are superseded.
async fn note_entries(client: Nats, entries: Arc<Mutex<Vec<Entry>>>) {
    let mut replay = client.replay(StreamName::State, "state.>").await.unwrap();
    loop {
        if let Event::Entry(entry) = replay.next().await {
            entries.lock().unwrap().push(entry);
        }
    }
}

async fn histories(client: &Nats) -> HashMap<BackendId, Vec<(PublicStatus, jiff::Timestamp)>> {
    let mut replay = client.replay(StreamName::Status, "backend.*.status").await.unwrap();
    let mut histories: HashMap<BackendId, Vec<_>> = HashMap::new();
    while let Event::Entry(entry) = replay.next().await {
        let status: PublicStatus = serde_json::from_slice(&entry.payload).unwrap();
        histories.entry(status.backend.clone()).or_default().push((status, entry.time));
    }
    histories
}

/// Histories go forward and end once; a lock goes on only after its holder's end is public, with a higher token. Of
/// entries that were superseded while the reader's own server was down nothing is known; `whole` says that none were.
async fn check(client: &Nats, entries: &[Entry], book: &Book, whole: bool) {
    let histories = histories(client).await;
    for (backend, history) in &histories {
        for pair in history.windows(2) {
            assert!(pair[0].0.state.may_precede(pair[1].0.state), "{backend}: {history:?}");
        }
    }
    let mut holders: BTreeMap<String, Vec<(BackendId, u64, jiff::Timestamp)>> = BTreeMap::new();
    let mut withdrawn: BTreeSet<BackendId> = BTreeSet::new();
    for entry in entries {
        let Ok(StateEntry { body, .. }) = serde_json::from_slice::<StateEntry>(&entry.payload) else { continue };
        match body {
            EntryBody::LockMessage(lock) => {
                if let Some(holder) = lock.holder {
                    holders.entry(lock.lock.to_string()).or_default().push((holder.backend, holder.token, entry.time));
                }
            }
            EntryBody::BackendMessage(entry) => {
                if let plane_core::message::state::BackendMessage::Assignment(assignment) = entry.message
                    && assignment.withdrawn
                {
                    withdrawn.insert(entry.backend);
                }
            }
            EntryBody::DroneMessage(_) | EntryBody::AcmeMessage(_) => {}
        }
    }
    for (lock, held) in &holders {
        for pair in held.windows(2) {
            let ((before, token, _), (after, next, since)) = (&pair[0], &pair[1]);
            assert!(token < next, "{lock}: the token of {after} is not above that of {before}");
            let ended = histories.get(before).and_then(|history| history.last());
            let ended = ended.is_some_and(|(status, time)| status.state.is_final() && time <= since);
            assert!(ended || withdrawn.contains(before), "{lock}: {after} holds it, {before} had not ended");
        }
    }
    let mut spawned: BTreeMap<&BackendId, usize> = BTreeMap::new();
    for told in &book.told {
        let held =
            holders.get(&told.lock).is_some_and(|held| held.iter().any(|(backend, ..)| *backend == told.backend));
        assert!(held || !whole, "{told:?} never held the lock");
        *spawned.entry(&told.backend).or_default() += usize::from(told.spawned);
    }
    assert!(spawned.values().all(|count| *count <= 1), "one backend, two that spawned it: {spawned:?}");
    assert!(spawned.len() >= LOCKS, "hardly anything was scheduled");
}

async fn world(client: &Nats) -> World {
    let mut replay = client.replay(StreamName::State, "state.>").await.unwrap();
    let mut world = World::default();
    while let Event::Entry(entry) = replay.next().await {
        world.apply(&entry).unwrap();
    }
    world
}

/// What runs is what the log says, and nothing else.
async fn settled(cluster: &Cluster) {
    let began = Instant::now();
    loop {
        let world = world(&cluster.client).await;
        let live: BTreeSet<String> = world
            .cluster(&cluster.name)
            .into_iter()
            .flat_map(|known| known.backends())
            .filter(|(_, backend)| backend.is_live())
            .map(|(id, _)| format!("plane-{id}"))
            .collect();
        let found: BTreeSet<String> = cluster.containers("{{.Names}}").into_iter().collect();
        if live == found {
            return;
        }
        assert!(began.elapsed() < patience() * 2, "the log has {live:?}, there are {found:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// With deadlines of seconds, or with `PLANE_DEFAULT_DEADLINES` the defaults.
async fn start(nodes: usize) -> Cluster {
    let replicas = if nodes > 1 { "stream_replicas = 3\n" } else { "" };
    let (agent, scheduler) = if defaults() { ("", "") } else { (QUICK_AGENT, QUICK_SCHEDULER) };
    let settings = Settings {
        controllers: 3,
        drones: 3,
        agent: agent.to_owned(),
        scheduler: format!("{scheduler}{replicas}"),
        nats_nodes: nodes,
        proxied: true,
        ..Settings::default()
    };
    Cluster::start_as(settings).await.unwrap()
}

fn defaults() -> bool {
    std::env::var_os("PLANE_DEFAULT_DEADLINES").is_some()
}

/// How long things may take that have to come about: longer than a drone takes to be lost.
fn patience() -> Duration {
    if defaults() { PATIENCE * 4 } else { PATIENCE }
}

struct Run {
    on: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
    entries: Arc<Mutex<Vec<Entry>>>,
    askers: Vec<tokio::task::JoinHandle<()>>,
}

impl Run {
    /// Begins to ask. Backends are swept soon, so that locks change hands without anybody's doing.
    fn begin(cluster: &Cluster) -> Self {
        let (on, book, entries) = (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::default());
        let request = cluster.request(2, &[]);
        let askers = (0..ASKERS).map(|number| {
            let asking = keep_asking(cluster.client.clone(), request.clone(), number, on.clone(), Arc::clone(&book));
            tokio::spawn(asking)
        });
        let askers = askers.collect();
        tokio::spawn(note_entries(cluster.client.clone(), Arc::clone(&entries)));
        Self { on, book, entries, askers }
    }

    /// Waits until so many more requests were answered with a backend: whatever is broken, things go on.
    async fn goes_on(&self, what: &str) {
        let (began, before) = (Instant::now(), self.book.lock().unwrap().told.len());
        while self.book.lock().unwrap().told.len() < before + ASKERS {
            assert!(began.elapsed() < patience(), "nothing goes on: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn unanswered(&self) -> usize {
        self.book.lock().unwrap().unanswered
    }

    async fn end(self, cluster: &Cluster, whole: bool) {
        self.on.store(false, Ordering::Relaxed);
        join_all(self.askers).await;
        let request = cluster.request(300, &[]);
        for number in 0..LOCKS {
            let request = ScheduleRequest { lock: Some(format!("lock {number}").parse().unwrap()), ..request.clone() };
            let began = Instant::now();
            let backends: BTreeSet<BackendId> = join_all((0..20).map(|_| async {
                loop {
                    match cluster.schedule(&request).await {
                        Ok((backend, _)) => return backend,
                        Err(error) => assert!(began.elapsed() < patience(), "{error}"),
                    }
                }
            }))
            .await
            .into_iter()
            .collect();
            // One may be swept while the others ask; it was spawned to be.
            assert!(backends.len() <= 2, "{backends:?}");
        }
        settled(cluster).await;
        let entries = self.entries.lock().unwrap().clone();
        let book = std::mem::take(&mut *self.book.lock().unwrap());
        check(&cluster.client, &entries, &book, whole).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_and_drones_are_killed_stopped_and_cut_off() {
    let mut cluster = start(1).await;
    let run = Run::begin(&cluster);
    run.goes_on("at first").await;
    // What befalls drones leaves no request without an answer.
    cluster.drones[0].daemon.pause().unwrap();
    run.goes_on("with a drone that stands still").await;
    cluster.drones[1].daemon.kill();
    run.goes_on("with one drone of three").await;
    cluster.drones[0].daemon.resume().unwrap();
    cluster.drones[1].restart().await.unwrap();
    cluster.drones[2].daemon.link.as_ref().unwrap().freeze();
    run.goes_on("with a drone that is cut off").await;
    cluster.drones[2].daemon.link.as_ref().unwrap().mend();
    assert_eq!(run.unanswered(), 0);
    cluster.controllers[0].kill();
    run.goes_on("with two controllers").await;
    cluster.controllers[1].pause().unwrap();
    run.goes_on("with one controller, and one that stands still").await;
    cluster.controllers[0].start().unwrap();
    cluster.controllers[1].resume().unwrap();
    cluster.controllers[2].link.as_ref().unwrap().cut();
    run.goes_on("with a controller that is cut off").await;
    cluster.controllers[2].link.as_ref().unwrap().mend();
    // All at once.
    cluster.controllers[0].kill();
    cluster.drones[0].daemon.kill();
    cluster.drones[1].daemon.pause().unwrap();
    cluster.controllers[1].link.as_ref().unwrap().freeze();
    run.goes_on("with one of each").await;
    cluster.controllers[0].start().unwrap();
    cluster.drones[0].restart().await.unwrap();
    cluster.drones[1].daemon.resume().unwrap();
    cluster.controllers[1].link.as_ref().unwrap().mend();
    run.goes_on("at last").await;
    run.end(&cluster, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_nats_are_lost_one_at_a_time() {
    let mut cluster = start(3).await;
    let run = Run::begin(&cluster);
    run.goes_on("at first").await;
    for node in 0..3 {
        cluster.nats.cluster().unwrap().kill(node);
        cluster.drones[node].daemon.kill();
        run.goes_on("without a server and a drone").await;
        cluster.nats.cluster().unwrap().restart(node).await.unwrap();
        cluster.drones[node].restart().await.unwrap();
        cluster.nats.cluster().unwrap().wait_until_current().await.unwrap();
    }
    run.goes_on("at last").await;
    run.end(&cluster, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_nats_that_is_longer_than_a_lease_ends_no_unlocked_backend() {
    let mut cluster = start(1).await;
    let backends = cluster.ready_many(6).await.unwrap();
    let containers = cluster.containers("{{.ID}}").into_iter().collect::<BTreeSet<_>>();
    cluster.nats.kill();
    // Longer than it takes until a drone is lost, with the defaults two minutes.
    tokio::time::sleep(Duration::from_secs(if defaults() { 120 } else { 10 })).await;
    cluster.nats.restart().await.unwrap();
    cluster.client = cluster.nats.connect().await.unwrap();
    let request = ScheduleRequest { lock: Some("l".parse().unwrap()), ..cluster.request(300, &[]) };
    let began = Instant::now();
    while let Err(error) = cluster.schedule(&request).await {
        assert!(began.elapsed() < patience(), "{error}");
    }
    // The drones have told what they run: a lock was granted.
    settled(&cluster).await;
    let now = cluster.containers("{{.ID}}").into_iter().collect::<BTreeSet<_>>();
    assert!(now.is_superset(&containers));
    for backend in &backends {
        assert_eq!(cluster.newest(backend).await.unwrap().state, BackendState::Ready);
    }
}
