//! Locks, with real controllers, drones and containers: one holder, whoever races, refuses, dies or stands still.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::future::join_all;
use plane_core::{
    id::{BackendId, DroneId, LockName},
    message::{
        Fault, FaultCode,
        backend::BackendState,
        schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse, SpawnRequest},
        state::{Assignment, BackendMessage, HeldLock, Holder, LockEntry, StateEntry, assignment_subject},
    },
    nats::{NatsError, StreamName},
    task::Tasks,
};
use plane_dev::harness::{Cluster, PATIENCE, QUICK_AGENT, QUICK_SCHEDULER, Settings, get, played, websocket};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const RACERS: usize = 100;

fn quick(controllers: usize, drones: usize) -> Settings {
    let (agent, scheduler) = (QUICK_AGENT.to_owned(), QUICK_SCHEDULER.to_owned());
    Settings { controllers, drones, agent, scheduler, ..Settings::default() }
}

fn locked(cluster: &Cluster, lock: &str) -> ScheduleRequest {
    ScheduleRequest { lock: Some(lock.parse().unwrap()), ..cluster.request(300, &[]) }
}

async fn ask(cluster: &Cluster, request: &ScheduleRequest) -> Result<(BackendId, DroneId, bool), NatsError> {
    match cluster.client.request(request, Duration::from_secs(10)).await? {
        ScheduleResponse::Scheduled { drone, backend_id, spawned, .. } => Ok((backend_id, drone, spawned)),
        ScheduleResponse::NoDroneAvailable => Err(Fault::new(FaultCode::Internal, "no drone").into()),
    }
}

/// As a program does: where the answer says that asking again is safe, or none came, it asks again.
async fn insist(cluster: &Cluster, request: &ScheduleRequest) -> (BackendId, DroneId, bool) {
    let began = Instant::now();
    loop {
        match ask(cluster, request).await {
            Ok(scheduled) => return scheduled,
            Err(error) if began.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn fetch(cluster: &Cluster, lock: &str) -> Option<BackendId> {
    let request = FetchRequest { cluster: cluster.name.clone(), lock: lock.parse().unwrap() };
    match cluster.client.request(&request, Duration::from_secs(10)).await.unwrap() {
        FetchResponse::Scheduled { backend_id, .. } => Some(backend_id),
        FetchResponse::NoBackendForLock => None,
    }
}

/// All ask at once: one spawns, the others get the same.
async fn race(cluster: &Cluster, lock: &str) -> BackendId {
    let request = locked(cluster, lock);
    let answers = join_all((0..RACERS).map(|_| ask(cluster, &request))).await;
    one_of(answers.into_iter().map(Result::unwrap).collect())
}

fn one_of(answers: Vec<(BackendId, DroneId, bool)>) -> BackendId {
    let backends: HashSet<_> = answers.iter().map(|(backend, ..)| backend.clone()).collect();
    assert_eq!(backends.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|(.., spawned)| *spawned).count(), 1, "{answers:?}");
    answers[0].0.clone()
}

#[tokio::test]
async fn of_many_that_ask_for_a_lock_one_spawns() {
    let cluster = Cluster::start_as(quick(3, 3)).await.unwrap();
    assert_eq!(fetch(&cluster, "document-1").await, None);
    let backend = race(&cluster, "document-1").await;
    cluster.wait_for(&backend, BackendState::Ready).await.unwrap();
    assert_eq!(cluster.containers("{{.Names}}"), [format!("plane-{backend}")]);
    assert_eq!(fetch(&cluster, "document-1").await, Some(backend.clone()));
    let drone = cluster
        .drones
        .iter()
        .find(|drone| cluster.containers("{{.Label \"dev.plane.drone\"}}").contains(&drone.id.to_string()));
    let proxy = drone.unwrap().proxy;
    let env = get(proxy, &cluster.name, &backend, "/env").await.unwrap().body;
    let env: BTreeMap<String, String> = serde_json::from_str(&env).unwrap();
    let first: u64 = env["PLANE_FENCING_TOKEN"].parse().unwrap();
    cluster.end(&backend).await.unwrap();
    let (next, _, spawned) = insist(&cluster, &locked(&cluster, "document-1")).await;
    assert!(spawned && next != backend);
    cluster.wait_for(&next, BackendState::Ready).await.unwrap();
    let served = join_all(cluster.drones.iter().map(|drone| get(drone.proxy, &cluster.name, &next, "/env"))).await;
    let env = served.into_iter().flatten().find(|answer| answer.status.is_success()).unwrap().body;
    let env: BTreeMap<String, String> = serde_json::from_str(&env).unwrap();
    assert!(env["PLANE_FENCING_TOKEN"].parse::<u64>().unwrap() > first);
}

/// Puts into the log that a backend holds a lock whose drone never said whether it took it: it is being decided for ever.
async fn undecided(cluster: &Cluster, lock: &str) {
    let held = HeldLock { name: lock.parse().unwrap(), token: 1 };
    let backend = BackendId::random();
    let assignment = Assignment { lock: Some(held.clone()), ..Assignment::to(DroneId::random(), None) };
    let assigned = StateEntry::backend(cluster.name.clone(), backend.clone(), BackendMessage::Assignment(assignment));
    let holder = Some(Holder { backend, token: held.token });
    let entry = LockEntry { lock: held.name, holder, last_token: None };
    for entry in [assigned, StateEntry::lock(cluster.name.clone(), entry)] {
        cluster.client.publish_expecting(entry.subject(), &entry, 0).await.unwrap();
    }
}

#[tokio::test]
async fn however_many_wait_for_a_lock_all_are_answered_in_time() {
    const MANY: usize = 1500;
    let cluster = Cluster::start_as(quick(1, 0)).await.unwrap();
    undecided(&cluster, "l").await;
    let request = locked(&cluster, "l");
    let asked = FetchRequest { cluster: cluster.name.clone(), lock: "l".parse().unwrap() };
    let spawns = join_all((0..MANY).map(|_| ask(&cluster, &request)));
    let fetches = join_all((0..MANY).map(|_| cluster.client.request(&asked, Duration::from_secs(10))));
    let (spawns, fetches) = tokio::join!(spawns, fetches);
    let errors = spawns.into_iter().filter_map(Result::err).chain(fetches.into_iter().filter_map(Result::err));
    let mut codes: HashMap<String, usize> = HashMap::new();
    for error in errors {
        let NatsError::Fault(fault) = error else { panic!("{error}") };
        *codes.entry(format!("{:?}", fault.code)).or_default() += 1;
    }
    // Those for which there was a place waited for the lock; the others learned in time that there was none.
    assert_eq!(codes.values().sum::<usize>(), 2 * MANY, "{codes:?}");
    assert!(
        codes["LockBusy"] >= 2000 && codes.keys().all(|code| code == "LockBusy" || code == "Unavailable"),
        "{codes:?}"
    );
}

#[tokio::test]
async fn any_text_is_a_lock_and_each_cluster_has_its_own() {
    let cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    for lock in ["a.b*c>d", " ", "ünï/💡\n\0", &"x".repeat(2048)] {
        let (backend, _, spawned) = ask(&cluster, &locked(&cluster, lock)).await.unwrap();
        assert!(spawned);
        assert_eq!(ask(&cluster, &locked(&cluster, lock)).await.unwrap().0, backend, "{lock:?}");
    }
    let elsewhere = FetchRequest { cluster: "nowhere.test".parse().unwrap(), lock: " ".parse().unwrap() };
    let answer = cluster.client.request(&elsewhere, PATIENCE).await.unwrap();
    assert_eq!(answer, FetchResponse::NoBackendForLock);
}

#[tokio::test]
async fn a_refusing_drone_does_not_make_two_winners() {
    let cluster = Cluster::start_as(quick(3, 1)).await.unwrap();
    let tasks = Tasks::new();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let (_refusing, _serving) = played::play(&cluster.client, &tasks, &cluster.name, None, move |_| {
        *count.lock().unwrap() += 1;
        async { Ok(false) }
    })
    .await
    .unwrap();
    for round in 0..6 {
        let backend = race(&cluster, &format!("round {round}")).await;
        cluster.wait_for(&backend, BackendState::Ready).await.unwrap();
    }
    assert!(*asked.lock().unwrap() >= 1);
    assert_eq!(cluster.containers("{{.ID}}").len(), 6);
}

#[tokio::test]
async fn the_winners_controller_may_die_while_it_decides() {
    let mut cluster = Cluster::start_as(quick(3, 1)).await.unwrap();
    let request = locked(&cluster, "l");
    // Every controller has to have heard of the drone: it is given one more backend by each.
    let first = cluster.ready_many(12).await.unwrap();
    join_all(first.iter().map(|backend| cluster.end(backend))).await;
    // The drone that is asked stands still: whoever asks it waits.
    cluster.drones[0].daemon.pause().unwrap();
    let asking: Vec<_> = (0..RACERS)
        .map(|_| {
            let (client, request) = (cluster.client.clone(), request.clone());
            tokio::spawn(async move { client.request(&request, Duration::from_secs(10)).await })
        })
        .collect();
    let winner = tokio::time::timeout(PATIENCE, async {
        loop {
            let decides = |controller: &plane_dev::harness::Daemon| controller.log().contains("asking the drone");
            if let Some(winner) = cluster.controllers.iter().position(decides) {
                return winner;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    cluster.controllers[winner].kill();
    cluster.drones[0].daemon.resume().unwrap();
    let mut answers = Vec::new();
    for asked in asking {
        match asked.await.unwrap() {
            Ok(ScheduleResponse::Scheduled { drone, backend_id, spawned, .. }) => {
                answers.push((backend_id, drone, spawned));
            }
            Ok(ScheduleResponse::NoDroneAvailable) => {}
            // Those that NATS had handed to the controller that died, and those that waited too long.
            Err(NatsError::TimedOut(_) | NatsError::Fault(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    // Whoever asks again gets what there is.
    let again = join_all((0..RACERS).map(|_| insist(&cluster, &request))).await;
    answers.extend(again);
    let backends: HashSet<_> = answers.iter().map(|(backend, ..)| backend).collect();
    assert_eq!(backends.len(), 1, "{answers:?}");
    assert!(answers.iter().filter(|(.., spawned)| *spawned).count() <= 1);
    let backend = answers[0].0.clone();
    cluster.wait_for(&backend, BackendState::Ready).await.unwrap();
    assert_eq!(cluster.containers("{{.Names}}"), [format!("plane-{backend}")]);
}

#[tokio::test]
async fn a_stopped_drone_loses_its_lock_and_serves_its_holder_no_more() {
    let cluster = Cluster::start_as(quick(2, 2)).await.unwrap();
    let request = locked(&cluster, "l");
    let (old, drone, _) = ask(&cluster, &request).await.unwrap();
    cluster.wait_for(&old, BackendState::Ready).await.unwrap();
    let drone = cluster.drones.iter().find(|known| known.id == drone).unwrap();
    let mut socket = websocket(drone.proxy, &cluster.name, &old, "/ws").await.unwrap();
    drone.daemon.pause().unwrap();
    let lost = cluster.wait_for(&old, BackendState::Lost).await.unwrap();
    let (new, elsewhere, spawned) = insist(&cluster, &request).await;
    assert!(spawned && new != old && elsewhere != drone.id);
    assert!(lost.reason.is_some());
    cluster.wait_for(&new, BackendState::Ready).await.unwrap();
    // What clients had sent meanwhile waits in the stopped process's sockets.
    let (proxy, name, asked) = (drone.proxy, cluster.name.clone(), old.clone());
    let late = tokio::spawn(async move { get(proxy, &name, &asked, "/").await });
    use futures_util::{SinkExt, StreamExt};
    let _ = socket.send(tokio_tungstenite::tungstenite::Message::text("still there?")).await;
    let resumed = Instant::now();
    drone.daemon.resume().unwrap();
    let answer = late.await.unwrap();
    assert!(!answer.is_ok_and(|answer| answer.status.is_success()), "the old holder was served");
    let echoed = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(!matches!(echoed, Some(Ok(message)) if message.is_text()), "the old holder was reached");
    cluster.container_gone(&old).await.unwrap();
    assert!(resumed.elapsed() < Duration::from_secs(5), "{:?}", resumed.elapsed());
    assert_eq!(ask(&cluster, &request).await.unwrap().0, new);
    // The drone is back: it takes backends again.
    let began = Instant::now();
    while cluster.schedule(&cluster.request(300, &[])).await.unwrap().1 != drone.id {
        assert!(began.elapsed() < PATIENCE, "the drone gets no backends");
    }
    // Whatever it has told since.
    assert_eq!(cluster.newest(&old).await.unwrap().state, BackendState::Lost);
}

/// NATS is there again: the lock's holder is told as Lost, and somebody else gets the lock.
async fn comes_back(cluster: &mut Cluster, request: &ScheduleRequest, held: &BackendId) {
    cluster.nats.restart().await.unwrap();
    cluster.client = cluster.nats.connect().await.unwrap();
    let last = cluster.wait_for(held, BackendState::Lost).await.unwrap();
    assert!(last.reason.unwrap().contains("no contact"));
    let (next, _, spawned) = insist(cluster, request).await;
    assert!(spawned && next != *held);
}

#[tokio::test]
async fn an_outage_of_nats_ends_locked_backends_only() {
    let mut cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let free = cluster.ready().await.unwrap();
    let request = locked(&cluster, "l");
    let (held, ..) = ask(&cluster, &request).await.unwrap();
    cluster.wait_for(&held, BackendState::Ready).await.unwrap();
    let proxy = cluster.drones[0].proxy;
    cluster.nats.kill();
    cluster.container_gone(&held).await.unwrap();
    assert!(get(proxy, &cluster.name, &free, "/").await.unwrap().status.is_success());
    assert!(!get(proxy, &cluster.name, &held, "/").await.unwrap().status.is_success());
    comes_back(&mut cluster, &request, &held).await;
    let subject = assignment_subject(&cluster.name, &free);
    assert!(cluster.client.last(StreamName::State, &subject).await.unwrap().is_some());
    assert!(get(proxy, &cluster.name, &free, "/").await.unwrap().status.is_success());
}

#[tokio::test]
async fn a_drone_that_restarts_while_nats_is_down_ends_locked_backends_only() {
    let mut cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let free = cluster.ready().await.unwrap();
    let request = locked(&cluster, "l");
    let (held, ..) = ask(&cluster, &request).await.unwrap();
    cluster.wait_for(&held, BackendState::Ready).await.unwrap();
    cluster.nats.kill();
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    cluster.container_gone(&held).await.unwrap();
    let proxy = cluster.drones[0].proxy;
    assert!(get(proxy, &cluster.name, &free, "/").await.unwrap().status.is_success());
    assert!(!get(proxy, &cluster.name, &held, "/").await.unwrap().status.is_success());
    comes_back(&mut cluster, &request, &held).await;
}

#[tokio::test]
async fn a_restarted_drone_keeps_its_locks() {
    let mut cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let request = locked(&cluster, "l");
    let (held, ..) = ask(&cluster, &request).await.unwrap();
    cluster.wait_for(&held, BackendState::Ready).await.unwrap();
    for _ in 0..2 {
        cluster.drones[0].daemon.kill();
        cluster.drones[0].restart().await.unwrap();
        cluster.drones[0].daemon.logged("announced").await.unwrap();
        let answer = get(cluster.drones[0].proxy, &cluster.name, &held, "/").await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        assert_eq!(ask(&cluster, &request).await.unwrap(), (held.clone(), cluster.drones[0].id.clone(), false));
    }
}

#[tokio::test]
async fn clusters_on_one_controller_do_not_see_each_other() {
    let cluster = Cluster::start_as(quick(1, 1)).await.unwrap();
    let tasks = Tasks::new();
    let other: plane_core::id::ClusterName = format!("other.{}", cluster.name).parse().unwrap();
    let client = cluster.client.clone();
    let (drone, _serving) = played::play(&cluster.client, &tasks, &other, None, move |request: SpawnRequest| {
        let client = client.clone();
        async move { Ok(played::accept(&client, &request).await.unwrap()) }
    })
    .await
    .unwrap();
    let here = locked(&cluster, "l");
    let there = ScheduleRequest { cluster: other.clone(), ..here.clone() };
    let first = ask(&cluster, &here).await.unwrap();
    let second = insist(&cluster, &there).await;
    assert!(first.2 && second.2 && first.0 != second.0);
    assert_eq!((first.1, second.1), (cluster.drones[0].id.clone(), drone));
    let lock: LockName = "l".parse().unwrap();
    let held = cluster.client.request(&FetchRequest { cluster: other, lock }, PATIENCE).await.unwrap();
    assert!(matches!(held, FetchResponse::Scheduled { backend_id, .. } if backend_id == second.0));
    assert_eq!(fetch(&cluster, "l").await, Some(first.0));
}
