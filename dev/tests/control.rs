//! What controllers decide and write, with drones that the test itself plays over NATS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::future::join_all;
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        Fault,
        backend::{BackendState, PublicStatus, StatusReport},
        drone::{Capacity, DroneState},
        schedule::{ScheduleRequest, ScheduleResponse, SpawnRequest},
        state::{StateEntry, assignment_subject},
        subject,
    },
    nats::{Event, Nats, NatsError, Serving, StreamName},
    task::Tasks,
};
use plane_dev::harness::{Cluster, PATIENCE, played, wire};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A drone as the wire shows one: it registers, is Ready, and answers spawn requests as it is told.
struct PlayedDrone {
    id: DroneId,
    asked: Arc<AtomicUsize>,
    _serving: Serving,
}

async fn play(cluster: &Cluster, tasks: &Tasks, accepts: bool) -> PlayedDrone {
    let id = DroneId::random();
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, nats) = (asked.clone(), cluster.client.clone());
    let subject = subject::drone(&cluster.name, &id, "spawn");
    let handler = move |request: SpawnRequest| {
        let (count, nats) = (count.clone(), nats.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let known = nats.last(StreamName::State, &assignment_subject(&request.cluster, &request.backend_id)).await;
            match known {
                Ok(Some(stored)) if Some(stored.sequence) == request.assignment_seq => Ok(accepts),
                other => Err(Fault::bad_request(format!("asked before the log: {other:?}"))),
            }
        }
    };
    let serving = cluster.client.serve(tasks, &subject, None, handler).await.unwrap();
    let register = played::registration(&cluster.name, &id, &[]);
    while cluster.client.request(&register, PATIENCE).await.is_err() {}
    give_signs_of_life(cluster, &id, DroneState::Ready).await;
    PlayedDrone { id, asked, _serving: serving }
}

/// Says a state again and again, as drones do, until it is in the log.
async fn give_signs_of_life(cluster: &Cluster, id: &DroneId, state: DroneState) {
    let subject = format!("state.cluster.*.drone.{id}.status.{state}");
    let saying = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            cluster.client.publish(&played::sign_of_life(&cluster.name, id, state)).await.unwrap();
        }
    };
    tokio::select! { () = saying => {}, _ = wait_for_entry(&cluster.client, &subject) => {} }
}

async fn wait_for_entry(nats: &Nats, subject: &str) -> StateEntry {
    let mut replay = nats.replay(StreamName::State, subject).await.unwrap();
    let waiting = async {
        loop {
            if let Event::Entry(entry) = replay.next().await {
                return serde_json::from_slice(&entry.payload).unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

async fn schedule(cluster: &Cluster, request: &ScheduleRequest) -> Result<ScheduleResponse, NatsError> {
    cluster.client.request(request, Duration::from_secs(10)).await
}

fn report(cluster: &Cluster, drone: &DroneId, backend: &BackendId, state: BackendState) -> StatusReport {
    StatusReport {
        cluster: cluster.name.clone(),
        state,
        backend: backend.clone(),
        time: jiff::Timestamp::now(),
        drone: drone.clone(),
        reason: state.is_final().then(|| "on purpose".to_owned()),
        exit_code: None,
    }
}

#[tokio::test]
async fn a_refusing_drone_is_passed_over_and_all_refusing_is_no_drone() {
    let cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let tasks = Tasks::new();
    let refusing = play(&cluster, &tasks, false).await;
    let request = cluster.request(30, &[]);
    assert_eq!(schedule(&cluster, &request).await.unwrap(), ScheduleResponse::NoDroneAvailable);
    let accepting = play(&cluster, &tasks, true).await;
    for _ in 0..4 {
        let ScheduleResponse::Scheduled { drone, spawned, .. } = schedule(&cluster, &request).await.unwrap() else {
            panic!("no drone")
        };
        assert_eq!((drone, spawned), (accepting.id.clone(), true));
    }
    assert!(refusing.asked.load(Ordering::Relaxed) >= 1);
    give_signs_of_life(&cluster, &accepting.id, DroneState::Draining).await;
    assert_eq!(schedule(&cluster, &request).await.unwrap(), ScheduleResponse::NoDroneAvailable);
    give_signs_of_life(&cluster, &refusing.id, DroneState::Draining).await;
    assert_eq!(schedule(&cluster, &request).await.unwrap(), ScheduleResponse::NoDroneAvailable);
    // Whoever wonders why finds each drone, and what stood against it.
    let log = cluster.controllers[0].log();
    let last = log.lines().rfind(|line| line.contains("no drone available")).unwrap();
    for drone in [&refusing.id, &accepting.id] {
        assert!(last.contains(drone.as_str()), "{last}");
    }
    assert!(last.contains("drones=2") && last.matches("NotReady").count() == 2, "{last}");
}

#[tokio::test]
async fn a_controller_that_is_stopped_finishes_what_it_has_begun() {
    const MANY: usize = 50;
    let mut cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let (tasks, client, asked) = (Tasks::new(), cluster.client.clone(), Arc::new(AtomicUsize::new(0)));
    let (go, gone) = tokio::sync::watch::channel(false);
    let count = asked.clone();
    let spawn = move |request: SpawnRequest| {
        let (client, mut gone) = (client.clone(), gone.clone());
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            Ok(played::accept(&client, &request).await.unwrap())
        }
    };
    let (_drone, _serving) = played::play(&cluster.client, &tasks, &cluster.name, None, spawn).await.unwrap();
    let request = cluster.request(30, &[]);
    let client = cluster.client.clone();
    let answers = tokio::spawn(async move { join_all((0..MANY).map(|_| client.request(&request, PATIENCE))).await });
    let began = Instant::now();
    while asked.load(Ordering::Relaxed) < MANY {
        assert!(began.elapsed() < PATIENCE, "the drone is not asked");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let controller = &mut cluster.controllers[0];
    controller.process.as_ref().unwrap().signal(libc::SIGTERM);
    controller.logged("stopping").await.unwrap();
    go.send_replace(true);
    assert!(controller.process.take().unwrap().wait(PATIENCE).await.unwrap().success());
    for answer in answers.await.unwrap() {
        assert!(matches!(answer, Ok(ScheduleResponse::Scheduled { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_backend_counts_where_it_is_not_where_it_was_placed_last() {
    let cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let tasks = Tasks::new();
    let mut drones = Vec::new();
    for _ in 0..2 {
        let client = cluster.client.clone();
        let capacity = Some(Capacity { max_backends: Some(1), ..Capacity::default() });
        // It accepts in the log at once, and its answer never comes.
        let silent = move |request: SpawnRequest| {
            let client = client.clone();
            async move {
                played::accept(&client, &request).await.unwrap();
                std::future::pending().await
            }
        };
        drones.push(played::play(&cluster.client, &tasks, &cluster.name, capacity, silent).await.unwrap());
    }
    let mut taken = Vec::new();
    for _ in 0..2 {
        match schedule(&cluster, &cluster.request(30, &[])).await.unwrap() {
            ScheduleResponse::Scheduled { drone, .. } => taken.push(drone),
            ScheduleResponse::NoDroneAvailable => panic!("a drone has room; taken: {taken:?}"),
        }
    }
    assert_ne!(taken[0], taken[1]);
}

#[tokio::test]
async fn three_controllers_write_everything_once() {
    let cluster = Cluster::start_with(3, 0, "").await.unwrap();
    let tasks = Tasks::new();
    let drone = play(&cluster, &tasks, true).await;
    for _ in 0..6 {
        let ScheduleResponse::Scheduled { backend_id, .. } =
            schedule(&cluster, &cluster.request(30, &[])).await.unwrap()
        else {
            panic!("no drone")
        };
        use BackendState::{Exited, Failed, Loading, Ready, Starting};
        for state in [Loading, Starting, Starting, Ready, Exited, Failed] {
            cluster.client.request(&report(&cluster, &drone.id, &backend_id, state), PATIENCE).await.unwrap();
        }
        let history = cluster.history_until(&backend_id, Exited).await.unwrap();
        let states: Vec<_> = history.iter().map(|status| status.state).collect();
        assert_eq!(states, [Loading, Starting, Ready, Exited]);
        assert_eq!(history.last().unwrap().reason.as_deref(), Some("on purpose"));
        let last = cluster.client.last(StreamName::Status, &PublicStatus::subject_of(&backend_id)).await.unwrap();
        assert_eq!(serde_json::from_slice::<PublicStatus>(&last.unwrap().payload).unwrap().state, Exited);
    }
    assert_eq!(drone.asked.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn a_restarted_controller_knows_what_was_decided() {
    let mut cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let tasks = Tasks::new();
    let drone = play(&cluster, &tasks, true).await;
    let mut request = cluster.request(30, &[]);
    request.backend_id = Some("chosen".parse().unwrap());
    assert!(matches!(schedule(&cluster, &request).await, Ok(ScheduleResponse::Scheduled { .. })));
    cluster.controllers[0].kill();
    cluster.controllers[0].start().unwrap();
    cluster.controllers[0].logged("controller is ready").await.unwrap();
    let sign = played::sign_of_life(&cluster.name, &drone.id, DroneState::Ready);
    cluster.client.publish(&sign).await.unwrap();
    let Err(NatsError::Fault(fault)) = schedule(&cluster, &request).await else { panic!("the id is in use") };
    assert_eq!(fault.code, plane_core::message::FaultCode::BackendIdInUse);
    request.backend_id = None;
    assert!(matches!(schedule(&cluster, &request).await, Ok(ScheduleResponse::Scheduled { .. })));
}

#[tokio::test]
async fn bad_requests_get_an_error_that_names_the_field() {
    let cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let tasks = Tasks::new();
    let drone = play(&cluster, &tasks, true).await;
    let url = cluster.nats.url();
    let token = cluster.name.subject_token();
    let subjects = [
        format!("cluster.{token}.schedule"),
        format!("cluster.{token}.fetch"),
        format!("cluster.{token}.drone.register"),
        format!("cluster.{token}.backend.b.status"),
    ];
    for subject in &subjects {
        wire::refuses_malformed(&url, subject).await.unwrap();
    }
    let good = serde_json::to_value(cluster.request(30, &[])).unwrap();
    let changes = [
        ("/cluster", serde_json::json!("No_Such"), "cluster"),
        ("/cluster", serde_json::json!("other.test"), "cluster"),
        ("/backend_id", serde_json::json!("a.b"), "backend id"),
        ("/backend_id", serde_json::json!("ns1"), "backend_id"),
        ("/max_idle_secs", serde_json::json!(0), "nonzero"),
        ("/max_idle_secs", serde_json::json!(1.5), "1.5"),
        ("/executable/image", serde_json::json!(""), "executable.image"),
        ("/executable/port", serde_json::json!(65536), "65536"),
        ("/executable/env", serde_json::json!({"PORT": "1"}), "env.PORT"),
        ("/executable/resource_limits/cpu_period_percent", serde_json::json!(256), "256"),
        ("/lock", serde_json::json!(""), "lock"),
        ("/lock", serde_json::json!("é".repeat(1025)), "lock"),
    ];
    for (pointer, value, names) in changes {
        let mut request = good.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        let answer = wire::request(&url, &subjects[0], request.to_string().as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest") && answer.contains(names), "{pointer}: {answer}");
    }
    assert_eq!(drone.asked.load(Ordering::Relaxed), 0);
    assert!(matches!(schedule(&cluster, &cluster.request(30, &[])).await, Ok(ScheduleResponse::Scheduled { .. })));
}

#[tokio::test]
async fn without_any_drone_the_answer_comes_in_time() {
    let cluster = Cluster::start_with(1, 0, "").await.unwrap();
    let request = cluster.request(30, &[]);
    let answer = loop {
        match schedule(&cluster, &request).await {
            Err(NatsError::NoResponders(_)) => {}
            other => break other.unwrap(),
        }
    };
    assert_eq!(answer, ScheduleResponse::NoDroneAvailable);
}
