//! Messages that no well-behaved program sends, on every subject that a drone serves, and what must come of them:
//! an error where a reply is due, and no harm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    id::BackendId,
    message::{
        backend::{BackendState, PublicStatus},
        drone::{DrainRequest, DroneState},
        schedule::{ScheduleResponse, SpawnRequest},
    },
    nats::{NatsError, StreamName},
};
use plane_dev::harness::{Cluster, PATIENCE, get, wire};
use serde_json::{Value, json};
use std::time::Duration;

fn spawn(cluster: &Cluster, backend: &str) -> Value {
    json!({
        "cluster": cluster.name, "drone_id": cluster.drones[0].id, "max_idle_secs": 30, "backend_id": backend,
        "metadata": {}, "bearer_token": null,
        "executable": {"image": cluster.image(), "env": {}, "port": 8080, "credentials": null, "pull_policy": null,
            "resource_limits": {}, "volume_mounts": []},
    })
}

/// A backend is as it was: Ready in its public history, its container the only one, its page served.
async fn untouched(cluster: &Cluster, backend: &BackendId, containers: &[String]) {
    let last = cluster.client.last(StreamName::Status, &PublicStatus::subject_of(backend)).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<PublicStatus>(&last.payload).unwrap().state, BackendState::Ready);
    assert_eq!(cluster.containers("{{.ID}}"), containers);
    let page = get(cluster.drones[0].proxy, &cluster.name, backend, "/").await.unwrap();
    assert!(page.status.is_success(), "{page:?}");
}

#[tokio::test]
async fn malformed_messages_get_an_error_and_harm_nothing() {
    let cluster = Cluster::start().await.unwrap();
    let (url, token) = (cluster.nats.url(), cluster.name.subject_token());
    let backend = cluster.ready().await.unwrap();
    let containers = cluster.containers("{{.ID}}");
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
        ("/backend_id", json!("Not_A_Label"), "backend_id: "),
        ("/drone_id", json!("another"), "another"),
        ("/cluster", json!("other.test"), "other_test"),
        ("/max_idle_secs", json!(-1), "max_idle_secs: "),
        ("/executable/env", json!({"PORT": "1"}), "env.PORT"),
        ("/executable/env", json!({"A=B": "1"}), "executable.env"),
        ("/executable/port", json!("8080"), "executable.port: "),
        ("/executable/pull_policy", json!("Sometimes"), "executable.pull_policy: "),
    ] {
        let mut request = spawn(&cluster, "malformed");
        *request.pointer_mut(pointer).unwrap() = value;
        let answer = wire::request(&url, &subjects[0], request.to_string().as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest") && answer.contains(names), "{pointer}: {answer}");
    }
    let drain = json!({"drone": drone, "cluster": cluster.name, "drain": true});
    let terminate = json!({"cluster_id": cluster.name, "backend_id": backend});
    for (subject, request, pointer, value, names) in [
        (&subjects[1], &drain, "/drain", json!("true"), "drain: "),
        (&subjects[1], &drain, "/drain", Value::Null, "drain: "),
        (&subjects[1], &drain, "/drone", json!("another"), "another"),
        (&subjects[1], &drain, "/drone", json!("a.b"), "drone: "),
        (&subjects[1], &drain, "/cluster", json!("other.test"), "other_test"),
        (&subjects[2], &terminate, "/backend_id", json!("another"), "another"),
        (&subjects[2], &terminate, "/backend_id", json!(7), "backend_id: "),
        (&subjects[2], &terminate, "/cluster_id", json!("other.test"), "other_test"),
        (&subjects[2], &terminate, "/cluster_id", json!("one_label"), "cluster_id: "),
    ] {
        let mut request = request.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        let answer = wire::request(&url, subject, request.to_string().as_bytes()).await.unwrap();
        assert!(answer.contains("BadRequest") && answer.contains(names), "{subject} {pointer}: {answer}");
    }
    untouched(&cluster, &backend, &containers).await;
    cluster.ready().await.unwrap();
}

#[tokio::test]
async fn unreadable_announcements_and_statuses_are_skipped() {
    let mut cluster = Cluster::start().await.unwrap();
    let (url, token) = (cluster.nats.url(), cluster.name.subject_token());
    let drone = cluster.drones[0].id.clone();
    let backend = cluster.ready().await.unwrap();
    let containers = cluster.containers("{{.ID}}");
    let status = json!({"drone_id": drone, "cluster": cluster.name, "drone_version": "1", "ready": false,
        "state": "Asleep", "running_backends": 0});
    let status = status.to_string();
    for subject in [format!("cluster.{token}.drone.{drone}.status"), format!("cluster.{token}.announce")] {
        for payload in [&b"{"[..], b"null", b"{\"drone_id\": 7}", b"\xff", b"", status.as_bytes()] {
            wire::publish(&url, &subject, payload).await.unwrap();
        }
    }
    cluster.controllers[0].logged("Asleep").await.unwrap();
    untouched(&cluster, &backend, &containers).await;
    cluster.ready().await.unwrap();
    for daemon in cluster.controllers.iter_mut().chain(cluster.drones.iter_mut().map(|drone| &mut drone.daemon)) {
        assert_eq!(daemon.stop(PATIENCE).await.unwrap().code(), Some(0));
    }
}

/// NATS lets each drone publish under its own id only, so the subject is what says whose status it is.
#[tokio::test]
async fn a_status_on_the_subject_of_another_drone_is_not_believed() {
    let mut cluster = Cluster::start().await.unwrap();
    let (url, token) = (cluster.nats.url(), cluster.name.subject_token());
    let drone = cluster.drones[0].id.clone();
    in_state(&cluster, DroneState::Ready).await;
    let status = json!({"drone_id": drone, "cluster": cluster.name, "drone_version": "1", "ready": false,
        "state": "Draining", "running_backends": null});
    let subject = format!("cluster.{token}.drone.another.status");
    wire::publish(&url, &subject, status.to_string().as_bytes()).await.unwrap();
    // Statuses are read in their order: once this one has been skipped, the one before it has had its effect.
    wire::publish(&url, &format!("cluster.{token}.drone.marker.status"), b"{").await.unwrap();
    cluster.controllers[0].logged("drone.marker.status").await.unwrap();
    let entry = format!("state.cluster.{token}.drone.{drone}.status.Draining");
    let written = cluster.client.last(StreamName::State, &entry).await.unwrap();
    assert!(written.is_none(), "a drone's state came from the subject of another");
}

#[tokio::test]
async fn a_live_id_is_refused_and_the_same_request_is_accepted_again() {
    let cluster = Cluster::start().await.unwrap();
    let id = BackendId::random().to_string();
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
    let backend = request.backend_id.clone();
    cluster.wait_for(&backend, BackendState::Ready).await.unwrap();
    untouched(&cluster, &backend, &containers).await;
}

async fn in_state(cluster: &Cluster, state: DroneState) {
    let subject = format!("state.cluster.*.drone.{}.status.{state}", cluster.drones[0].id);
    let mut replay = cluster.client.replay(StreamName::State, &subject).await.unwrap();
    let seen = async { while !matches!(replay.next().await, plane_core::nats::Event::Entry(_)) {} };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test]
async fn a_draining_drone_takes_nothing_new_also_after_a_restart() {
    let mut cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let containers = cluster.containers("{{.ID}}");
    let drain = |drain| DrainRequest { drone: cluster.drones[0].id.clone(), cluster: cluster.name.clone(), drain };
    let (on, off) = (drain(true), drain(false));
    cluster.client.request(&on, PATIENCE).await.unwrap();
    in_state(&cluster, DroneState::Draining).await;
    let refused = cluster.client.request(&cluster.request(30, &[]), PATIENCE).await.unwrap();
    assert_eq!(refused, ScheduleResponse::NoDroneAvailable);
    untouched(&cluster, &backend, &containers).await;
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    cluster.drones[0].daemon.logged(" registered").await.unwrap();
    let request: SpawnRequest = serde_json::from_value(spawn(&cluster, "late")).unwrap();
    assert!(!cluster.client.request(&request, PATIENCE).await.unwrap());
    untouched(&cluster, &backend, &containers).await;
    cluster.client.request(&off, PATIENCE).await.unwrap();
    let taken = async {
        loop {
            let request = cluster.request(30, &[]);
            if let ScheduleResponse::Scheduled { backend_id, .. } =
                cluster.client.request(&request, PATIENCE).await.unwrap()
            {
                return cluster.wait_for(&backend_id, BackendState::Ready).await.unwrap();
            }
        }
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
    let answer = cluster.client.request(&request, Duration::from_secs(2)).await;
    assert!(matches!(answer, Err(NatsError::NoResponders(_))), "{answer:?}");
}
