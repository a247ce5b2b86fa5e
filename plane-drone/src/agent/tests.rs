use super::*;
use crate::host::Offered;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream};
use jiff::Timestamp;
use plane_core::{
    message::{
        backend::BackendState,
        drone::{AnnouncedBackend, DroneState},
        state::{Assignment, BackendMessage, StateEntry},
    },
    nats::{Connection, From, Incoming, Stored, StreamConfig, StreamInfo, StreamName, Transport},
    world::Entry,
};
use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

mod lease;

/// A host that remembers whether it drains, slowly where it does, and that panics when it is offered something, where it
/// is not to take it.
#[derive(Default)]
struct OddHost {
    draining: AtomicBool,
    takes: bool,
    undecided: Mutex<Vec<SpawnRequest>>,
    begun: Mutex<Vec<BackendId>>,
    terminated: Mutex<Vec<BackendId>>,
    processes: Mutex<Vec<String>>,
}

#[async_trait]
impl Host for OddHost {
    async fn nonce(&self) -> Result<String, HostError> {
        Ok("nonce".to_owned())
    }
    async fn processes(&self) -> Result<Vec<String>, HostError> {
        Ok(self.processes.lock().unwrap().clone())
    }
    async fn follow(&self, process: &str) -> Result<(), HostError> {
        self.processes.lock().unwrap().push(process.to_owned());
        Ok(())
    }
    async fn draining(&self) -> Result<bool, HostError> {
        Ok(self.draining.load(Ordering::Relaxed))
    }
    async fn set_draining(&self, draining: bool) -> Result<(), HostError> {
        self.draining.store(draining, Ordering::Relaxed);
        if draining {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
    async fn offer(&self, _: &SpawnRequest) -> Result<Offered, HostError> {
        assert!(self.takes, "on purpose");
        Ok(Offered::New)
    }
    async fn discard(&self, backend: &BackendId) -> Result<(), HostError> {
        self.undecided.lock().unwrap().retain(|request| request.backend_id != *backend);
        Ok(())
    }
    async fn begin(&self, request: SpawnRequest) -> Result<(), HostError> {
        self.begun.lock().unwrap().push(request.backend_id);
        Ok(())
    }
    async fn undecided(&self) -> Result<Vec<SpawnRequest>, HostError> {
        Ok(self.undecided.lock().unwrap().clone())
    }
    fn live(&self) -> Vec<LiveBackend> {
        Vec::new()
    }
    fn is_live(&self, backend: &BackendId) -> bool {
        self.begun.lock().unwrap().contains(backend)
    }
    async fn terminate(&self, backend: &BackendId) {
        if self.is_live(backend) {
            self.terminated.lock().unwrap().push(backend.clone());
        }
    }
    async fn give_up(&self, _: &BackendId, _: &str) {}
    async fn ended(&self, _: &BackendId) {}
    async fn ended_since(&self, _: Timestamp) -> Result<Vec<AnnouncedBackend>, HostError> {
        Ok(Vec::new())
    }
    async fn disown(&self, _: &BackendId) -> Result<(), HostError> {
        Ok(())
    }
    async fn all_told(&self) {}
}

/// A connection on which nobody listens, and a log.
#[derive(Debug, Default)]
pub(crate) struct Nobody {
    /// The newest entry of each subject.
    log: Mutex<HashMap<String, Stored>>,
    /// On what was published, asked and listened.
    pub(crate) said: Mutex<Vec<String>>,
    /// It panics where something is to be stored.
    broken: bool,
    /// What is published or asked waits, as in a client's full queue.
    full: AtomicBool,
    /// Whether there is a connection.
    up: bool,
}

impl Nobody {
    pub(crate) fn broken() -> Self {
        Self { broken: true, ..Self::default() }
    }

    pub(crate) fn full() -> Self {
        Self { full: true.into(), ..Self::default() }
    }

    pub(crate) fn connected(up: bool) -> Self {
        Self { up, ..Self::default() }
    }

    fn put(&self, subject: String, payload: Bytes) -> u64 {
        let mut log = self.log.lock().unwrap();
        let sequence = log.values().map(|stored| stored.sequence).max().unwrap_or(0) + 1;
        log.insert(subject.clone(), Stored { subject, sequence, time: Timestamp::now(), payload });
        sequence
    }

    fn note(&self, subject: &str) {
        self.said.lock().unwrap().push(subject.to_owned());
    }

    async fn pass(&self) {
        if self.full.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn has_said(&self, end: &str) -> bool {
        self.said.lock().unwrap().iter().any(|subject| subject.ends_with(end))
    }
}

#[async_trait]
impl Transport for Nobody {
    async fn publish(&self, subject: String, _: Bytes) -> Result<(), NatsError> {
        self.note(&subject);
        self.pass().await;
        Ok(())
    }
    async fn request(&self, subject: String, _: Bytes, _: Duration) -> Result<Bytes, NatsError> {
        self.note(&subject);
        self.pass().await;
        Err(NatsError::NoResponders(subject))
    }
    async fn subscribe(
        &self,
        subject: &str,
        _: Option<&str>,
        _: tokio_util::sync::CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError> {
        self.note(subject);
        Ok(stream::pending().boxed())
    }
    async fn flush(&self) -> Result<(), NatsError> {
        Ok(())
    }
    async fn store(&self, subject: String, payload: Bytes, expected: Option<u64>) -> Result<u64, NatsError> {
        assert!(!self.broken, "on purpose");
        let last = self.log.lock().unwrap().get(&subject).map_or(0, |stored| stored.sequence);
        if expected.is_some_and(|expected| expected != last) {
            return Err(NatsError::WrongSequence(subject));
        }
        Ok(self.put(subject, payload))
    }
    async fn last(&self, _: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        Ok(self.log.lock().unwrap().get(subject).cloned())
    }
    async fn get(&self, _: StreamName, _: u64) -> Result<Option<Stored>, NatsError> {
        Ok(None)
    }
    async fn read(
        &self,
        _: StreamName,
        _: &str,
        _: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError> {
        Ok(stream::pending().boxed())
    }
    async fn info(&self, _: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        Ok(None)
    }
    async fn purge(&self, _: StreamName, _: &str, _: u64) -> Result<(), NatsError> {
        Ok(())
    }
    async fn ensure_stream(&self, _: &StreamConfig) -> Result<Option<String>, NatsError> {
        Ok(None)
    }
    fn connection(&self) -> watch::Receiver<Connection> {
        watch::channel(Connection { up: self.up, generation: 0 }).1
    }
    fn server(&self) -> String {
        "server".to_owned()
    }
}

/// What an agent of the drone `d` is made of.
fn parts(host: &Arc<OddHost>, nobody: &Arc<Nobody>, clock: Clock) -> Parts {
    let timing = Timing { lease: Duration::from_secs(10), fence: Duration::from_secs(45) };
    let identity = Identity {
        cluster: "plane.test".parse().unwrap(),
        drone: "d".parse().unwrap(),
        ip: [127, 0, 0, 1].into(),
        labels: BTreeMap::new(),
        capacity: Some(Capacity { max_backends: Some(1), memory_bytes: None, cpus: None }),
    };
    Parts {
        identity,
        nats: Nats::over(nobody.clone()),
        host: host.clone(),
        fence: Arc::new(Fence::closed(clock.clone(), timing.fence)),
        certificate: None,
        timing,
        clock,
        chance: Chance::system(),
    }
}

fn request(id: &str) -> SpawnRequest {
    serde_json::from_value(serde_json::json!({
        "cluster": "plane.test", "drone_id": "d", "max_idle_secs": 1, "backend_id": id, "metadata": {},
        "executable": {"image": "i", "env": {}, "resource_limits": {}},
    }))
    .unwrap()
}

/// An agent that has the drone's lease.
async fn started(parts: Parts, tasks: &Tasks) -> Arc<Agent> {
    Agent::start(parts, tasks).await.unwrap().expect("no lease")
}

async fn agent() -> (Arc<Agent>, Arc<OddHost>) {
    let (host, nobody) = (Arc::default(), Arc::default());
    (started(parts(&host, &nobody, Clock::machine()), &Tasks::new()).await, host)
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_at_once_the_one_that_is_remembered_holds() {
    let (agent, host) = agent().await;
    let (one, other) = tokio::join!(agent.drain(true), agent.drain(false));
    one.and(other).unwrap();
    let remembered = host.draining().await.unwrap();
    assert_eq!(agent.life().draining, remembered);
}

#[tokio::test]
async fn a_host_that_panics_takes_no_room_for_good() {
    let (agent, _) = agent().await;
    for id in ["a", "b"] {
        assert!(AssertUnwindSafe(agent.clone().spawn(request(id))).catch_unwind().await.is_err(), "{id} was refused");
        assert!(agent.life().deciding.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_ends_a_backend_that_is_about_to_begin_is_answered_once_that_is_done() {
    for begins in [true, false] {
        let (agent, host) = agent().await;
        let (one, other) = ("b".parse().unwrap(), "other".parse().unwrap());
        let (place, elsewhere) = (agent.keep_room(&request("b")), agent.keep_room(&request("other")));
        let ending = agent.terminate(&one);
        tokio::pin!(ending);
        drop(elsewhere);
        assert!(ending.as_mut().now_or_never().is_none());
        agent.terminate(&other).await;
        if begins {
            host.begin(request("b")).await.unwrap();
        }
        drop(place);
        ending.await;
        assert_eq!(*host.terminated.lock().unwrap(), if begins { vec![one.clone()] } else { Vec::new() });
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_not_taken_again_while_its_end_is_announced() {
    let (host, nobody) = (Arc::new(OddHost { takes: true, ..OddHost::default() }), Arc::default());
    let agent = started(parts(&host, &nobody, Clock::machine()), &Tasks::new()).await;
    let ended = |id: &str| AnnouncedBackend {
        backend_id: id.parse().unwrap(),
        state: BackendState::Exited,
        time: Timestamp::UNIX_EPOCH,
        bearer_token: None,
        lock: None,
        fencing_token: None,
    };
    let place = agent.keep_room(&request("b"));
    let (told, telling) = agent.tell_ends(vec![ended("a"), ended("b")]);
    assert_eq!(told, [ended("a")], "b has been taken again");
    drop(place);
    assert_eq!(agent.clone().spawn(request("a")).await, Ok(false));
    assert_eq!(agent.clone().spawn(request("b")).await, Ok(true));
    drop(telling);
    assert_eq!(agent.clone().spawn(request("a")).await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_drone_that_drains_is_not_drained_before_earlier_offers_are_decided() {
    let nobody = Arc::new(Nobody::default());
    let offered = SpawnRequest { assignment_seq: Some(1), ..request("offered") };
    let assigned = Assignment::to("d".parse().unwrap(), None);
    let entry = StateEntry::backend(
        "plane.test".parse().unwrap(),
        "offered".parse().unwrap(),
        BackendMessage::Assignment(assigned),
    );
    assert_eq!(nobody.put(entry.subject(), serde_json::to_vec(&entry).unwrap().into()), 1);
    let host = OddHost { undecided: Mutex::new(vec![offered]), draining: AtomicBool::new(true), ..OddHost::default() };
    let agent = started(parts(&Arc::new(host), &nobody, Clock::machine()), &Tasks::new()).await;
    // Nobody has decided about it.
    for _ in 0..10 {
        assert_eq!(agent.state().0, DroneState::Draining);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let withdrawn = Assignment { withdrawn: true, ..Assignment::to("d".parse().unwrap(), None) };
    let entry = StateEntry::backend(entry.cluster, "offered".parse().unwrap(), BackendMessage::Assignment(withdrawn));
    nobody.put(entry.subject(), serde_json::to_vec(&entry).unwrap().into());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(agent.state().0, DroneState::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_drone_whose_signs_of_life_are_stuck_stops() {
    for full_later in [false, true] {
        let (host, nobody, tasks) = (Arc::default(), Arc::new(Nobody::default()), Tasks::new());
        nobody.full.store(!full_later, Ordering::Relaxed);
        let _agent = started(parts(&host, &nobody, Clock::machine()), &tasks).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(nobody.has_said("drone.d.status"));
        nobody.full.store(true, Ordering::Relaxed);
        assert!(tasks.shut_down(Duration::from_secs(5)).await, "{full_later}");
    }
}
