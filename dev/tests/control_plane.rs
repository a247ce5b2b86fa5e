//! What operators rely on: draining, drones and controllers that die, a log that is lost, limits that are kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::future::join_all;
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        backend::BackendState,
        drone::{DrainRequest, DroneState},
        schedule::{ScheduleRequest, ScheduleResponse},
        subject,
    },
    nats::{Event, NatsError, StreamName},
    world::World,
};
use plane_dev::harness::{Cluster, PATIENCE, QUICK_AGENT, QUICK_SCHEDULER, Settings, get, websocket, wire};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

fn quick(controllers: usize, drones: usize) -> Settings {
    let (agent, scheduler) = (QUICK_AGENT.to_owned(), QUICK_SCHEDULER.to_owned());
    Settings { controllers, drones, agent, scheduler, ..Settings::default() }
}

async fn world(cluster: &Cluster) -> World {
    let mut replay = cluster.client.replay(StreamName::State, "state.>").await.unwrap();
    let mut world = World::default();
    while let Event::Entry(entry) = replay.next().await {
        world.apply(&entry).unwrap();
    }
    world
}

async fn newest(cluster: &Cluster, backend: &BackendId) -> BackendState {
    cluster.newest(backend).await.unwrap().state
}

async fn drain(cluster: &Cluster, drone: &DroneId, drain: bool) {
    let request = DrainRequest { drone: drone.clone(), cluster: cluster.name.clone(), drain };
    cluster.client.request(&request, PATIENCE).await.unwrap();
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn draining_is_begun_and_cancelled_at_will() {
    let mut cluster = Cluster::start_as(quick(2, 1)).await.unwrap();
    let drone = cluster.drones[0].id.clone();
    let running = cluster.ready().await.unwrap();
    let _socket = websocket(cluster.drones[0].proxy, &cluster.name, &running, "/ws").await.unwrap();
    for round in 0..5 {
        drain(&cluster, &drone, true).await;
        let request = cluster.request(300, &[]);
        let answer = cluster.client.request(&request, PATIENCE).await.unwrap();
        assert_eq!(answer, ScheduleResponse::NoDroneAvailable);
        if round == 2 {
            // Also over a restart of the drone.
            cluster.drones[0].daemon.kill();
            cluster.drones[0].restart().await.unwrap();
            cluster.drones[0].daemon.logged("announced").await.unwrap();
            let answer = cluster.client.request(&request, PATIENCE).await.unwrap();
            assert_eq!(answer, ScheduleResponse::NoDroneAvailable);
        }
        drain(&cluster, &drone, false).await;
        let backend = cluster.ready().await.unwrap();
        cluster.end(&backend).await.unwrap();
    }
    let answer = get(cluster.drones[0].proxy, &cluster.name, &running, "/").await.unwrap();
    assert!(answer.status.is_success());
    drain(&cluster, &drone, true).await;
    cluster.end(&running).await.unwrap();
    until("the drone is drained", async || {
        world(&cluster).await.drone(&cluster.name, &drone).unwrap().state().unwrap().state == DroneState::Drained
    })
    .await;
}

#[tokio::test]
async fn equal_drones_get_equal_shares_and_one_that_dies_is_done_without() {
    let mut cluster = Cluster::start_as(quick(2, 3)).await.unwrap();
    let request = cluster.request(300, &[]);
    let spawned = join_all((0..30).map(|_| cluster.schedule(&request))).await;
    let mut shares: HashMap<DroneId, usize> = HashMap::new();
    for scheduled in spawned {
        *shares.entry(scheduled.unwrap().1).or_default() += 1;
    }
    assert!(shares.len() == 3 && shares.values().all(|share| (8..=12).contains(share)), "{shares:?}");
    cluster.drones[0].daemon.kill();
    let dead = cluster.drones[0].id.clone();
    for _ in 0..10 {
        let began = Instant::now();
        let (_, drone) = cluster.schedule(&request).await.unwrap();
        assert!(drone != dead && began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn two_of_three_controllers_may_die() {
    let mut cluster = Cluster::start_as(quick(3, 2)).await.unwrap();
    let request = cluster.request(300, &[]);
    let spawned = join_all((0..6).map(|_| cluster.schedule(&request))).await;
    for scheduled in spawned {
        cluster.wait_for(&scheduled.unwrap().0, BackendState::Ready).await.unwrap();
    }
    assert_eq!(cluster.containers("{{.ID}}").len(), 6);
    let locked = ScheduleRequest { lock: Some("l".parse().unwrap()), ..request.clone() };
    let (held, drone) = cluster.schedule(&locked).await.unwrap();
    cluster.lose_controllers(0..2).await.unwrap();
    for _ in 0..3 {
        cluster.schedule(&request).await.unwrap();
        assert_eq!(cluster.schedule(&locked).await.unwrap(), (held.clone(), drone.clone()));
    }
    let other = ScheduleRequest { lock: Some("other".parse().unwrap()), ..request };
    assert_ne!(cluster.schedule(&other).await.unwrap().0, held);
}

#[tokio::test]
async fn what_runs_is_known_again_after_the_log_was_deleted() {
    for restart in [false, true] {
        let mut cluster = Cluster::start_as(quick(2, 2)).await.unwrap();
        let free = cluster.ready_many(3).await.unwrap();
        let request = ScheduleRequest { lock: Some("l".parse().unwrap()), ..cluster.request(300, &[]) };
        let (held, drone) = cluster.schedule(&request).await.unwrap();
        cluster.wait_for(&held, BackendState::Ready).await.unwrap();
        if restart {
            cluster.controllers.iter_mut().for_each(plane_dev::harness::Daemon::kill);
        }
        let deleted = wire::request(&cluster.nats.url(), "$JS.API.STREAM.DELETE.plane_state", b"").await.unwrap();
        assert!(deleted.contains("\"success\":true"), "{deleted}");
        for controller in cluster.controllers.iter_mut().filter(|_| restart) {
            controller.start().unwrap();
        }
        let known = async |backend: &BackendId| match cluster.client.info(StreamName::State).await {
            Ok(Some(_)) => world(&cluster).await.backend(&cluster.name, backend).is_some_and(|b| b.is_accepted()),
            _ => false,
        };
        for backend in free.iter().chain([&held]) {
            until("a running backend is known again", async || known(backend).await).await;
        }
        let began = Instant::now();
        let again = loop {
            match cluster.schedule(&request).await {
                Ok(scheduled) => break scheduled,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
        };
        assert_eq!(again, (held.clone(), drone));
        assert_eq!(cluster.containers("{{.ID}}").len(), 4);
        for backend in free.iter().chain([&held]) {
            assert_eq!(newest(&cluster, backend).await, BackendState::Ready);
        }
    }
}

#[tokio::test]
async fn capacity_labels_and_memory_are_kept_to() {
    let mut cluster = Cluster::start_as(Settings { drones: 0, ..quick(1, 0) }).await.unwrap();
    let small = "[agent.capacity]\nmax_backends = 3\nmemory_bytes = 100000000\n[agent.labels]\nzone = \"1\"\n";
    cluster.add_drone(&format!("{QUICK_AGENT}{small}")).await.unwrap();
    cluster.drones[0].daemon.logged(" registered").await.unwrap();
    let elsewhere = ScheduleRequest {
        require_labels: BTreeMap::from([("zone".to_owned(), "2".to_owned())]),
        ..cluster.request(300, &[])
    };
    let asked = async |request: &ScheduleRequest| cluster.client.request(request, PATIENCE).await.unwrap();
    assert_eq!(asked(&elsewhere).await, ScheduleResponse::NoDroneAvailable);
    let mut big = ScheduleRequest {
        require_labels: BTreeMap::from([("zone".to_owned(), "1".to_owned())]),
        ..cluster.request(300, &[])
    };
    big.executable.resource_limits.memory_limit_bytes = std::num::NonZeroU64::new(60_000_000);
    let ScheduleResponse::Scheduled { backend_id: first, .. } = asked(&big).await else { panic!("it fits") };
    assert_eq!(asked(&big).await, ScheduleResponse::NoDroneAvailable);
    let plain = cluster.request(300, &[]);
    let answers = join_all((0..6).map(|_| asked(&plain))).await;
    let taken = answers.iter().filter(|answer| matches!(answer, ScheduleResponse::Scheduled { .. })).count();
    assert_eq!(taken, 2, "{answers:?}");
    cluster.wait_for(&first, BackendState::Ready).await.unwrap();
    // Whoever asks it: a drone that is full says so itself.
    let mut direct = serde_json::to_value(&plain).unwrap();
    direct["drone_id"] = cluster.drones[0].id.as_str().into();
    direct["backend_id"] = BackendId::random().as_str().into();
    let subject = subject::drone(&cluster.name, &cluster.drones[0].id, "spawn");
    let answer = wire::request(&cluster.nats.url(), &subject, direct.to_string().as_bytes()).await.unwrap();
    assert_eq!(answer, "false");
    cluster.end(&first).await.unwrap();
    until("there is room again", async || matches!(asked(&big).await, ScheduleResponse::Scheduled { .. })).await;
}

#[tokio::test]
async fn a_drone_that_is_full_says_so_itself_whoever_asks() {
    let mut cluster = Cluster::start_as(quick(1, 0)).await.unwrap();
    let small = "[agent.capacity]\nmax_backends = 3\nmemory_bytes = 100000000\ncpus = 1\n";
    cluster.add_drone(&format!("{QUICK_AGENT}{small}")).await.unwrap();
    cluster.drones[0].daemon.logged(" registered").await.unwrap();
    let taking = |memory: u64, percent: u8| {
        let mut request = cluster.request(300, &[]);
        request.executable.resource_limits.memory_limit_bytes = std::num::NonZeroU64::new(memory);
        request.executable.resource_limits.cpu_period_percent = std::num::NonZeroU8::new(percent);
        request
    };
    let asked = async |memory, percent| {
        let mut direct = serde_json::to_value(taking(memory, percent)).unwrap();
        direct["drone_id"] = cluster.drones[0].id.as_str().into();
        direct["backend_id"] = BackendId::random().as_str().into();
        let subject = subject::drone(&cluster.name, &cluster.drones[0].id, "spawn");
        wire::request(&cluster.nats.url(), &subject, direct.to_string().as_bytes()).await.unwrap()
    };
    let (first, _) = cluster.schedule(&taking(60_000_000, 60)).await.unwrap();
    cluster.wait_for(&first, BackendState::Ready).await.unwrap();
    assert_eq!(asked(50_000_000, 5).await, "false", "there is no memory for it");
    assert_eq!(asked(20_000_000, 50).await, "false", "there are no processors for it");
    for _ in 0..2 {
        assert_eq!(asked(20_000_000, 20).await, "true");
    }
    assert_eq!(asked(0, 0).await, "false", "it has as many backends as it takes");
}

#[tokio::test]
async fn what_runs_on_a_drone_that_was_stopped_is_kept_and_on_one_that_died_is_not() {
    let scheduler = "silent_secs = 5\nfence_secs = 6\nlost_secs = 7\nabandon_secs = 8\n".to_owned();
    let agent = QUICK_AGENT.to_owned();
    let settings = Settings { drones: 2, agent, scheduler, ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let mut on: HashMap<DroneId, BackendId> = HashMap::new();
    while on.len() < 2 {
        let (backend, drone) = cluster.schedule(&cluster.request(300, &[])).await.unwrap();
        cluster.wait_for(&backend, BackendState::Ready).await.unwrap();
        on.insert(drone, backend);
    }
    let [kept, lost] = [0, 1].map(|number: usize| on[&cluster.drones[number].id].clone());
    assert!(cluster.drones[0].daemon.stop(PATIENCE).await.unwrap().success());
    cluster.drones[1].daemon.kill();
    // The one that was stopped has been silent for longer.
    cluster.history_until(&lost, BackendState::Lost).await.unwrap();
    assert_eq!(newest(&cluster, &lost).await, BackendState::Lost);
    assert_eq!(newest(&cluster, &kept).await, BackendState::Ready);
    assert!(cluster.containers("{{.Names}}").contains(&format!("plane-{kept}")));
    cluster.drones[0].restart().await.unwrap();
    until("it is reached again", async || {
        get(cluster.drones[0].proxy, &cluster.name, &kept, "/").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    cluster.drones[0].daemon.logged("announced").await.unwrap();
    assert_eq!(newest(&cluster, &kept).await, BackendState::Ready);
}

#[tokio::test]
async fn what_ended_is_forgotten_and_purged_after_the_retention_time() {
    let scheduler = format!("{QUICK_SCHEDULER}retention_secs = 3\n");
    let cluster = Cluster::start_as(Settings { scheduler, ..quick(2, 1) }).await.unwrap();
    let kept = cluster.ready().await.unwrap();
    let request = ScheduleRequest {
        lock: Some("l".parse().unwrap()),
        backend_id: Some(format!("again-{}", BackendId::random().as_str()[..8].to_owned()).parse().unwrap()),
        ..cluster.request(300, &[])
    };
    let (ended, _) = cluster.schedule(&request).await.unwrap();
    cluster.wait_for(&ended, BackendState::Ready).await.unwrap();
    let again = cluster.client.request(&ScheduleRequest { lock: None, ..request.clone() }, PATIENCE).await;
    assert!(matches!(again, Err(NatsError::Fault(fault)) if fault.message.contains("in use")));
    cluster.end(&ended).await.unwrap();
    for (stream, subject) in [
        (StreamName::State, format!("state.cluster.*.backend.{ended}.>")),
        (StreamName::State, "state.cluster.*.lock.*".to_owned()),
        (StreamName::Status, format!("backend.{ended}.status")),
        (StreamName::Logs, format!("backend.{ended}.log")),
    ] {
        until("nothing is left", async || cluster.client.last(stream, &subject).await.unwrap().is_none()).await;
    }
    assert!(world(&cluster).await.backend(&cluster.name, &kept).unwrap().is_accepted());
    // The lock and the id are free, on the same drone too.
    let visit = async || get(cluster.drones[0].proxy, &cluster.name, &ended, "/").await.unwrap().status;
    assert_eq!(visit().await, 410);
    cluster.container_gone(&ended).await.unwrap();
    until("the id is given again", async || cluster.schedule(&request).await.is_ok()).await;
    cluster.wait_for(&ended, BackendState::Ready).await.unwrap();
    assert_eq!(visit().await, 200);
}

#[tokio::test]
async fn what_a_cleanup_has_taken_out_can_be_had_again() {
    let cluster = Cluster::start_as(quick(2, 1)).await.unwrap();
    let request = ScheduleRequest { lock: Some("l".parse().unwrap()), ..cluster.request(300, &[]) };
    let (ended, _) = cluster.schedule(&request).await.unwrap();
    let kept = cluster.ready().await.unwrap();
    cluster.end(&ended).await.unwrap();
    let lock = "state.cluster.*.lock.*";
    until("the lock is free", async || {
        let entry = cluster.client.last(StreamName::State, lock).await.unwrap().unwrap();
        String::from_utf8(entry.payload.to_vec()).unwrap().contains("\"holder\":null")
    })
    .await;
    let (mut backends, mut others) = (0, 0);
    until("both are taken out", async || {
        let cleaned = cluster.client.clean_up(jiff::SignedDuration::from_secs(1)).await.unwrap();
        (backends, others) = (backends + cleaned.backends, others + cleaned.drones_and_locks);
        assert!(cleaned.unreadable.is_empty());
        backends + others >= 2
    })
    .await;
    assert_eq!((backends, others), (1, 1));
    assert!(cluster.client.last(StreamName::State, lock).await.unwrap().is_none());
    assert!(cluster.newest(&ended).await.is_err());
    assert_eq!(newest(&cluster, &kept).await, BackendState::Ready);
    // Controllers still know of both. One spawns all the same, and all give the same.
    let answers = join_all((0..10).map(|_| cluster.client.request(&request, PATIENCE))).await;
    let mut spawns = 0;
    let mut holders: Vec<BackendId> = Vec::new();
    for answer in answers {
        let ScheduleResponse::Scheduled { backend_id, spawned, .. } = answer.unwrap() else { panic!("no drone") };
        spawns += usize::from(spawned);
        holders.push(backend_id);
    }
    holders.dedup();
    assert!(spawns == 1 && holders.len() == 1 && holders[0] != ended, "{spawns} {holders:?}");
}

#[tokio::test]
async fn a_second_drone_that_goes_by_the_same_id_ends_and_harms_nothing() {
    let mut cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let container = cluster.containers("{{.ID}}");
    let id = cluster.drones[0].id.clone();
    let spawn = subject::drone(&cluster.name, &id, "spawn");
    let mut asker = wire::Asker::connect(&cluster.nats.url(), &spawn).await.unwrap();
    cluster.ip = [127, 0, 0, 2].into();
    cluster.add_drone_as(id.clone(), QUICK_AGENT).await.unwrap();
    let second = &mut cluster.drones[1].daemon;
    second.logged("the lease is another's").await.unwrap();
    while !second.log().contains("another drone goes by this drone's id") {
        // Whoever answers for the drone answers this too.
        asker.ask(b"{}").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = second.process.take().unwrap().wait(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(asker.too_many_answers().await.unwrap(), 0);
    let told = world(&cluster).await;
    let told = told.drone(&cluster.name, &id).unwrap();
    assert_eq!(told.meta.as_ref().unwrap().ip.to_string(), "127.0.0.1");
    assert_eq!(told.state().unwrap().state, DroneState::Ready);
    assert_eq!(newest(&cluster, &backend).await, BackendState::Ready);
    assert_eq!(cluster.containers("{{.ID}}"), container);
    assert_eq!(get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap().status, 200);
    cluster.ready().await.unwrap();
}

#[tokio::test]
async fn a_drone_whose_database_is_lost_takes_backends_once_its_old_locks_cannot_be_served() {
    let mut cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let before = cluster.ready().await.unwrap();
    let id = cluster.drones[0].id.clone();
    cluster.drones[0].daemon.kill();
    cluster.add_drone_as(id, QUICK_AGENT).await.unwrap();
    cluster.drones[1].daemon.logged("the lease is another's").await.unwrap();
    cluster.drones[1].daemon.logged(" registered").await.unwrap();
    // What nobody remembers is lost, its container goes, and there is room for others.
    cluster.wait_for(&before, BackendState::Lost).await.unwrap();
    cluster.container_gone(&before).await.unwrap();
    cluster.ready().await.unwrap();
}

#[tokio::test]
async fn streams_that_differ_from_the_configuration_are_told() {
    let mut cluster = Cluster::start_as(quick(1, 0)).await.unwrap();
    let differs = "stream_storage = \"memory\"\nlogs_max_bytes = 1048576";
    cluster.add_controller_with(&format!("[scheduler]\n{QUICK_SCHEDULER}{differs}\n")).await.unwrap();
    let other = cluster.controllers.last_mut().unwrap();
    let line = other.logged("stream=\"backend_logs\"").await.unwrap();
    assert!(
        line.contains("the stream differs") && line.contains("not 1048576") && line.contains("File, not Memory"),
        "{line}"
    );
    other.logged("controller is ready").await.unwrap();
}

#[tokio::test]
async fn a_controller_that_starts_waits_for_jetstream() {
    let settings = quick(1, 1);
    let scheduler = format!("{}stream_replicas = 3\n", settings.scheduler);
    let mut cluster = Cluster::start_as(Settings { scheduler, nats_nodes: 3, ..settings }).await.unwrap();
    cluster.controllers[0].kill();
    // One of three takes connections, and no writes.
    for node in [1, 2] {
        cluster.nats.cluster().unwrap().kill(node);
    }
    cluster.controllers[0].start().unwrap();
    cluster.controllers[0].logged("waiting for JetStream").await.unwrap();
    for node in [1, 2] {
        cluster.nats.cluster().unwrap().restart(node).await.unwrap();
    }
    cluster.controllers[0].logged("controller is ready").await.unwrap();
    cluster.client = cluster.nats.connect().await.unwrap();
    until("nothing is scheduled", async || cluster.ready().await.is_ok()).await;
}
