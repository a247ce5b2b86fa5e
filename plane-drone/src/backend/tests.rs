//! Backends on an engine that does what it is asked.

use super::*;
use crate::{
    engine::{EngineError, Line, Usage},
    lease::Fence,
    route::Found,
};
use async_trait::async_trait;
use futures_util::{StreamExt, stream, stream::BoxStream};
use machine::{Container, End};
use plane_core::{
    clock::{Clock, TimeSource},
    message::schedule::Executable,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An engine with room for one container.
#[derive(Default)]
struct OneContainer {
    container: Mutex<Option<Container>>,
    /// Cancelled once somebody waits for the container's end.
    watched: CancellationToken,
    /// It ends by SIGKILL only.
    is_stubborn: bool,
    /// Cancelled once it has been asked to end.
    asked: CancellationToken,
}

impl OneContainer {
    fn container(&self) -> MutexGuard<'_, Option<Container>> {
        self.container.lock().unwrap()
    }
}

#[async_trait]
impl Engine for OneContainer {
    async fn pull(&self, _: &Executable) -> Result<(), EngineError> {
        Ok(())
    }
    async fn create(&self, _: &BackendId, _: &Executable) -> Result<(), EngineError> {
        *self.container() = Some(Container { running: false, started: false, ..running() });
        Ok(())
    }
    async fn start(&self, _: &BackendId) -> Result<Option<IpAddr>, EngineError> {
        if let Some(container) = &mut *self.container() {
            (container.running, container.started) = (true, true);
        }
        Ok(Some(IP))
    }
    async fn look(&self, _: &BackendId) -> Result<Option<Container>, EngineError> {
        Ok(self.container().clone())
    }
    async fn wait(&self, _: &BackendId) -> Result<End, EngineError> {
        self.watched.cancel();
        std::future::pending().await
    }
    async fn stop(&self, _: &BackendId, grace: Duration) -> Result<Option<i64>, EngineError> {
        self.asked.cancel();
        if self.is_stubborn && !grace.is_zero() {
            std::future::pending::<()>().await;
        }
        if let Some(container) = &mut *self.container() {
            container.running = false;
        }
        Ok(Some(143))
    }
    async fn remove(&self, _: &BackendId) -> Result<(), EngineError> {
        *self.container() = None;
        Ok(())
    }
    async fn list(&self) -> Result<Vec<BackendId>, EngineError> {
        Ok(Vec::new())
    }
    fn lines(&self, _: &BackendId, _: i32) -> BoxStream<'static, Result<Line, EngineError>> {
        stream::pending().boxed()
    }
    async fn usage(&self, _: &BackendId) -> Result<Option<Usage>, EngineError> {
        Ok(None)
    }
}

/// The machine's clock, which breaks once.
struct Breaking(Arc<AtomicBool>);

impl TimeSource for Breaking {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
    fn boot(&self) -> Duration {
        assert!(!self.0.swap(false, Ordering::Relaxed), "on purpose");
        Clock::machine().boot()
    }
}

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("drone.sqlite3")).unwrap()
}

/// A drone with a fence that is closed.
fn parts(engine: &Arc<OneContainer>, store: &Store, clock: Clock) -> Parts {
    Parts {
        cluster: "plane.test".parse().unwrap(),
        drone: "d".parse().unwrap(),
        engine: engine.clone(),
        store: store.clone(),
        routes: Routes::default(),
        limits: Limits { load: Duration::from_secs(900), ready: Duration::from_secs(900) },
        nats: value::channel(None).1,
        tasks: Tasks::new(),
        fence: Arc::new(Fence::closed(Clock::machine(), Duration::from_secs(45))),
        clock: BootClock::of_machine(clock),
    }
}

fn request() -> SpawnRequest {
    serde_json::from_value(serde_json::json!({
        "cluster": "plane.test", "drone_id": "d", "max_idle_secs": 1, "backend_id": "b", "metadata": {},
        "executable": {"image": "i", "env": {}, "port": 1, "resource_limits": {}},
    }))
    .unwrap()
}

async fn reported(store: &Store, backend: &BackendId) -> Option<BackendState> {
    store.find(backend).await.unwrap()?.state.reported().map(|(state, _)| state)
}

fn running() -> Container {
    let end = End::Exited { code: 143, oom_killed: false };
    Container { running: true, started: true, ip: Some(IP), end }
}

#[tokio::test]
async fn a_locked_backend_that_outlived_its_drones_process_ends_once_nobody_comes_though_they_could() {
    let folder = tempfile::tempdir().unwrap();
    let (store, engine) = (store(&folder), Arc::new(OneContainer::default()));
    let parts = parts(&engine, &store, Clock::machine());
    let (fence, routes) = (parts.fence.clone(), parts.routes.clone());
    let request = SpawnRequest { lock: Some("l".parse().unwrap()), ..request() };
    let (backend, state) = (request.backend_id.clone(), State::Ready { since: Timestamp::now(), ip: IP });
    store.insert(&request, &state).await.unwrap();
    store.persist(&backend, &state, &parts.clock.now(), &[]).await.unwrap();
    *engine.container() = Some(running());
    let drivers = Drivers::resume(parts).await.unwrap();
    engine.watched.cancelled().await;
    // What watches the container began together with what waits for idleness.
    tokio::task::yield_now().await;
    assert!(matches!(routes.find("b"), Found::Fenced));
    fence.extend(Clock::machine().boot(), Duration::from_secs(45));
    tokio::time::timeout(Duration::from_secs(10), drivers.ended(&backend)).await.expect("it goes on");
    assert_eq!(reported(&store, &backend).await, Some(BackendState::Swept));
}

#[tokio::test]
async fn requests_for_an_earlier_offer_wait_until_that_is_decided_about() {
    let folder = tempfile::tempdir().unwrap();
    let (store, engine) = (store(&folder), Arc::new(OneContainer::default()));
    let parts = parts(&engine, &store, Clock::machine());
    let routes = parts.routes.clone();
    let offered = SpawnRequest { assignment_seq: Some(1), ..request() };
    store.insert(&offered, &State::New { since: Timestamp::now() }).await.unwrap();
    let ways = crate::Ways { routes: routes.clone(), fence: parts.fence.clone() };
    crate::prepare_routes(&store, &ways).await.unwrap();
    let drivers = Drivers::resume(parts).await.unwrap();
    let Found::Waiting(waiting) = routes.find("b") else { panic!("not waiting") };
    drivers.discard(&offered.backend_id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), waiting.settled()).await.expect("it is held on");
    assert!(matches!(routes.find("b"), Found::Unknown));
}

#[tokio::test]
async fn what_is_lost_is_killed_at_once_though_it_is_being_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (store, engine) = (store(&folder), Arc::new(OneContainer { is_stubborn: true, ..OneContainer::default() }));
    let drivers = Drivers::resume(parts(&engine, &store, Clock::machine())).await.unwrap();
    let backend = request().backend_id;
    assert_eq!(drivers.offer(&request()).await.unwrap(), Offered::New);
    drivers.begin(request()).await.unwrap();
    engine.watched.cancelled().await;
    drivers.terminate(&backend).await;
    engine.asked.cancelled().await;
    drivers.give_up(&backend, "on purpose").await;
    tokio::time::timeout(Duration::from_secs(5), drivers.ended(&backend)).await.expect("it runs on");
    assert_eq!(reported(&store, &backend).await, Some(BackendState::Terminated));
}

#[tokio::test]
async fn a_backend_whose_driver_panics_is_taken_up_again_and_can_be_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (store, engine, breaks) = (store(&folder), Arc::new(OneContainer::default()), Arc::new(AtomicBool::new(false)));
    let parts = parts(&engine, &store, Clock::from_source(Breaking(breaks.clone())));
    let routes = parts.routes.clone();
    let drivers = Drivers::resume(parts).await.unwrap();
    let request = request();
    let backend = request.backend_id.clone();
    assert_eq!(drivers.offer(&request).await.unwrap(), Offered::New);
    drivers.begin(request).await.unwrap();
    while drivers.live()[0].announced.state != BackendState::Starting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(routes.find("b"), Found::Waiting(_)));
    breaks.store(true, Ordering::Relaxed);
    drivers.terminate(&backend).await;
    assert!(!breaks.load(Ordering::Relaxed), "nothing panicked");
    assert!(matches!(routes.find("b"), Found::Ended));
    tokio::time::timeout(Duration::from_secs(10), drivers.ended(&backend)).await.expect("it goes on");
    while drivers.handle(&backend).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*engine.container(), None);
    assert_eq!(reported(&store, &backend).await, Some(BackendState::Terminated));
}
