//! Messages that no well-behaved program sends, on every subject that a drone serves, and what must come of them:
//! an error where a reply is due, and no harm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    message::{
        drone::{DrainRequest, DroneState},
        schedule::{ScheduleResponse, SpawnRequest},
    },
    nats::NatsError,
};
use plane_dev::harness::{Cluster, PATIENCE, get, wire};
use serde_json::{Value, json};

fn spawn(cluster: &Cluster, backend: &str) -> Value {
    json!({
        "cluster": cluster.name, "drone_id": cluster.drones[0].id, "max_idle_secs": 30, "backend_id": backend,
        "metadata": {}, "bearer_token": null,
        "executable": {"image": cluster.image(), "env": {}, "port": 8080, "credentials": null, "pull_policy": null,
            "resource_limits": {}, "volume_mounts": []},
    })
}

#[tokio::test]
async fn malformed_messages_get_an_error_and_harm_nothing() {
    let cluster = Cluster::start().await.unwrap();
    let (url, token) = (cluster.nats.url(), cluster.name.subject_token());
    let backend = cluster.ready().await.unwrap();
    let drone = &cluster.drones[0].id;
    let subjects = [
        format!("cluster.{token}.drone.{drone}.spawn"),
        format!("cluster.{token}.drone.{drone}.drain"),
        format!("cluster.{token}.backend.{backend}.terminate"),
    ];
    for subject in &subjects {
        wire::refuses_malformed(&url, subject).await.unwrap();
    }
    for (pointer, value, names) in [
        ("/backend_id", json!("Not_A_Label"), "backend id"),
        ("/drone_id", json!("another"), "another"),
        ("/cluster", json!("other.test"), "other_test"),
        ("/max_idle_secs", json!(-1), "-1"),
        ("/executable/env", json!({"PORT": "1"}), "env.PORT"),
        ("/executable/env", json!({"A=B": "1"}), "executable.env"),
        ("/executable/port", json!("8080"), "8080"),
        ("/executable/pull_policy", json!("Sometimes"), "Sometimes"),
    ] {
        let mut request = spawn(&cluster, "malformed");
        *request.pointer_mut(pointer).unwrap() = value;
        let answer = wire::request(&url, &subjects[0], request.to_string().as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest") && answer.contains(names), "{pointer}: {answer}");
    }
    assert_eq!(cluster.containers("{{.Names}}"), [format!("plane-{backend}")]);
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert!(answer.status.is_success());
    cluster.ready().await.unwrap();
}

#[tokio::test]
async fn unreadable_announcements_and_statuses_are_skipped() {
    let mut cluster = Cluster::start().await.unwrap();
    let (url, token) = (cluster.nats.url(), cluster.name.subject_token());
    let drone = cluster.drones[0].id.clone();
    for subject in [format!("cluster.{token}.drone.{drone}.status"), format!("cluster.{token}.announce")] {
        for payload in [&b"{"[..], b"null", b"{\"drone_id\": 7}", b"\xff"] {
            wire::publish(&url, &subject, payload).await.unwrap();
        }
    }
    cluster.ready().await.unwrap();
    for daemon in cluster.controllers.iter_mut().chain(cluster.drones.iter_mut().map(|drone| &mut drone.daemon)) {
        assert_eq!(daemon.stop(PATIENCE).await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn a_live_id_is_refused_and_the_same_request_is_accepted_again() {
    let cluster = Cluster::start().await.unwrap();
    let id = plane_core::id::BackendId::random().to_string();
    let request: SpawnRequest = serde_json::from_value(spawn(&cluster, &id)).unwrap();
    assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
    let host = format!("{id}.{}", cluster.name);
    let page = plane_dev::harness::get_with(cluster.drones[0].proxy, &host, "/", &[]).await.unwrap();
    assert!(page.status.is_success());
    let containers = cluster.containers("{{.ID}}");
    assert!(cluster.client.request(&request, PATIENCE).await.unwrap(), "a repeated request is no other one");
    let mut other = request.clone();
    other.executable.env.insert("A".into(), "b".into());
    assert!(!cluster.client.request(&other, PATIENCE).await.unwrap());
    assert_eq!(cluster.containers("{{.ID}}"), containers);
}

async fn in_state(cluster: &Cluster, state: DroneState) {
    let subject = format!("state.cluster.*.drone.{}.status.{state}", cluster.drones[0].id);
    let mut replay = cluster.client.replay(plane_core::nats::StreamName::State, &subject).await.unwrap();
    let seen = async { while !matches!(replay.next().await, plane_core::nats::Event::Entry(_)) {} };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test]
async fn a_draining_drone_takes_nothing_new_also_after_a_restart() {
    let mut cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let drain = |drain| DrainRequest { drone: cluster.drones[0].id.clone(), cluster: cluster.name.clone(), drain };
    let (on, off) = (drain(true), drain(false));
    cluster.client.request(&on, PATIENCE).await.unwrap();
    in_state(&cluster, DroneState::Draining).await;
    let refused = cluster.client.request(&cluster.request(30, &[]), PATIENCE).await.unwrap();
    assert_eq!(refused, ScheduleResponse::NoDroneAvailable);
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    cluster.drones[0].daemon.logged(" registered").await.unwrap();
    let request: SpawnRequest = serde_json::from_value(spawn(&cluster, "late")).unwrap();
    assert!(!cluster.client.request(&request, PATIENCE).await.unwrap());
    assert!(get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap().status.is_success());
    cluster.client.request(&off, PATIENCE).await.unwrap();
    let taken = async {
        while cluster.client.request(&cluster.request(30, &[]), PATIENCE).await.unwrap()
            == ScheduleResponse::NoDroneAvailable
        {}
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
}

#[tokio::test]
async fn nobody_listens_for_a_backend_that_nobody_runs() {
    let cluster = Cluster::start().await.unwrap();
    let request = plane_core::message::backend::TerminateRequest {
        cluster_id: cluster.name.clone(),
        backend_id: "nobody".parse().unwrap(),
    };
    assert!(matches!(cluster.client.request(&request, PATIENCE).await, Err(NatsError::NoResponders(_))));
}
