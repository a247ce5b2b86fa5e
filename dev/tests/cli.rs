//! The command `plane` as people and programs use it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    id::BackendId,
    message::{
        backend::{BackendState, LogKind, LogLine, PublicStatus},
        state::{Assignment, BackendMessage, StateEntry},
    },
    nats::{Nats, StreamConfig, StreamName},
};
use plane_dev::harness::{Cluster, NatsServer, PATIENCE, binary};
use serde_json::Value;
use std::{
    process::Output,
    time::{Duration, Instant},
};

async fn plane(cluster: &Cluster, arguments: &[&str]) -> Output {
    plane_at(&cluster.nats.url(), arguments).await
}

async fn plane_at(nats: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary("plane").unwrap());
    command.args(arguments).env("PLANE_NATS", nats).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

async fn json(cluster: &Cluster, arguments: &[&str]) -> Vec<Value> {
    let done = plane(cluster, &[arguments, &["-o", "json"]].concat()).await;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a failing command says on stderr; nothing on stdout.
async fn fails(cluster: &Cluster, arguments: &[&str]) -> String {
    fails_at(&cluster.nats.url(), arguments).await
}

async fn fails_at(nats: &str, arguments: &[&str]) -> String {
    let done = plane_at(nats, arguments).await;
    // But that it was done that far.
    let said = if arguments.contains(&"--wait") { done.stdout.len() } else { 0 };
    assert_eq!((done.status.code(), done.stdout.len()), (Some(1), said), "{arguments:?}");
    String::from_utf8(done.stderr).unwrap()
}

/// A NATS server with the streams that a controller has made, and none that runs.
async fn without_controllers() -> (NatsServer, Nats) {
    let server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    for name in [StreamName::State, StreamName::Status, StreamName::Logs] {
        nats.ensure_stream(&StreamConfig::new(name, 1)).await.unwrap();
    }
    (server, nats)
}

/// Writes that a drone may start a backend, or that it may no more.
async fn assign(nats: &Nats, backend: &str, withdrawn: bool) {
    let assignment = Assignment { withdrawn, ..Assignment::to("D".parse().unwrap(), None) };
    let (cluster, backend) = ("plane.test".parse().unwrap(), backend.parse().unwrap());
    let entry = StateEntry::backend(cluster, backend, BackendMessage::Assignment(assignment));
    nats.publish_entry(entry.subject(), &entry).await.unwrap();
}

#[tokio::test]
async fn a_backend_from_its_spawn_to_its_end() {
    let cluster = Cluster::start().await.unwrap();
    let (name, image) = (cluster.name.as_str(), cluster.image());
    let spawned = json(&cluster, &["spawn", name, image, "--pull", "never", "--wait", "--env", "DEMO_LINES=3"]).await;
    let backend = spawned[0]["Scheduled"]["backend_id"].as_str().unwrap().to_owned();
    let listed = json(&cluster, &["list-backends", name]).await;
    assert_eq!((&listed[0][0]["backend"], &listed[0][0]["state"]), (&backend.as_str().into(), &"Ready".into()));
    let drones = json(&cluster, &["list-drones", name]).await;
    assert_eq!((&drones[0][0]["state"], &drones[0][0]["backends"]), (&"Ready".into(), &1.into()));
    json(&cluster, &["terminate", name, &backend]).await;
    let states = json(&cluster, &["status", &backend]).await;
    let states: Vec<_> = states.iter().map(|status| status["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Loading", "Starting", "Ready", "Terminated"]);
    let lines = json(&cluster, &["logs", &backend, "--follow"]).await;
    assert!(lines.iter().any(|line| line["kind"] == "Meta") && lines.len() >= 7, "{lines:?}");
    assert_eq!(json(&cluster, &["list-backends", name]).await, [serde_json::json!([])]);
    assert_eq!(json(&cluster, &["list-backends", name, "--all"]).await[0][0]["state"], "Terminated");
    let table = plane(&cluster, &["list-backends", "--all"]).await.stdout;
    assert!(String::from_utf8(table).unwrap().starts_with("CLUSTER"));
}

#[tokio::test]
async fn errors_say_what_to_do_next() {
    let cluster = Cluster::start().await.unwrap();
    let name = cluster.name.as_str();
    let drone = cluster.drones[0].id.as_str();
    for (arguments, says) in [
        (&["terminate", name, "nobody"][..], "plane list-backends"),
        (&["spawn", "other.test", "i"], "plane list-drones other.test"),
        (&["spawn", name, "plane/none:1", "--pull", "never", "--wait"], "plane logs"),
        (&["drain", name, "nobody"], "plane list-drones"),
        (&["list-drones", "--nats", "nats://u:secret@127.0.0.1:1"], "PLANE_NATS"),
    ] {
        let said = fails(&cluster, arguments).await;
        assert!(
            said.starts_with("error: ") && said.contains(says) && !said.contains("secret"),
            "{arguments:?}: {said}"
        );
    }
    json(&cluster, &["drain", name, drone]).await;
    assert!(fails(&cluster, &["spawn", name, "i"]).await.contains("no drone"));
    json(&cluster, &["drain", name, drone, "--cancel"]).await;
}

#[tokio::test]
async fn why_nats_is_not_reached_is_told() {
    let told = async |nats: &str| {
        let began = Instant::now();
        let done = plane_at(nats, &["list-drones"]).await;
        assert_eq!(done.status.code(), Some(1));
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(said.contains("PLANE_NATS") && !said.contains("secret"), "{nats}: {said}");
        (said, began.elapsed())
    };
    let waits = Duration::from_secs(5);
    let mut server = NatsServer::start_configured("authorization { user: u, password: \"pass\" }").await.unwrap();
    let (said, took) = told(&server.url().replace("://", "://u:secret@")).await;
    assert!(said.contains("authorization violation") && took < waits, "{took:?}: {said}");
    for bad in ["http://u:secret@localhost", "nats://u:secret,secret@localhost", "nats://u:secret#@localhost"] {
        let (said, took) = told(bad).await;
        assert!(said.contains("the address of NATS cannot be used") && took < waits, "{bad}: {took:?}: {said}");
    }
    let (said, _) = told(&server.url().replace("nats://", "tls://u:secret@")).await;
    assert!(said.contains("corrupt message"), "{said}");
    server.kill();
    let (said, took) = told(&server.url()).await;
    assert!(said.contains("Connection refused") && took >= waits, "{took:?}: {said}");
}

#[tokio::test]
async fn operators_wait_for_drained_drones_and_look_into_the_log() {
    let cluster = Cluster::start().await.unwrap();
    let (name, image, drone) = (cluster.name.as_str(), cluster.image(), cluster.drones[0].id.as_str());
    let spawn = ["spawn", name, image, "--pull", "never", "--wait", "--lock", "a lock"];
    let backend = json(&cluster, &spawn).await[0]["Scheduled"]["backend_id"].as_str().unwrap().to_owned();
    let draining = ["drain", name, drone, "--wait"];
    let drained = plane(&cluster, &draining);
    tokio::pin!(drained);
    // Nobody is drained while a backend runs; the status that says so comes with the drain.
    let states = async {
        while json(&cluster, &["list-drones", name]).await[0][0]["state"] != "Draining" {}
        json(&cluster, &["terminate", name, &backend]).await;
    };
    let done = tokio::select! { done = &mut drained => panic!("{done:?}"), () = states => drained.await };
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && said.ends_with("is drained\n"), "{said}");
    json(&cluster, &["drain", name, drone, "--cancel"]).await;

    // Nobody waits for what will not come about.
    let runs = json(&cluster, &["spawn", name, image, "--pull", "never", "--wait"]).await;
    let refused = fails(&cluster, &draining);
    let cancelling = async {
        while json(&cluster, &["list-drones", name]).await[0][0]["state"] != "Draining" {}
        json(&cluster, &["drain", name, drone, "--cancel"]).await;
    };
    let (refused, ()) = tokio::join!(refused, cancelling);
    assert!(refused.contains("somebody cancelled that"), "{refused}");
    json(&cluster, &["terminate", name, runs[0]["Scheduled"]["backend_id"].as_str().unwrap()]).await;

    let over = fails(&cluster, &["terminate", name, &backend]).await;
    assert!(over.contains("it became Terminated at ") && over.contains("plane logs"), "{over}");
    let over = fails(&cluster, &["mark-backend-lost", &backend]).await;
    assert!(over.contains("Terminated"), "{over}");
    assert!(fails(&cluster, &["mark-backend-lost", "nobody"]).await.contains("nobody"));

    let dump = plane(&cluster, &["dump-state"]).await.stdout;
    let dump: Value = serde_json::from_slice(&dump).unwrap();
    let known = &dump["clusters"][name];
    assert_eq!(known["backends"][&backend]["state"], "Terminated");
    assert_eq!(known["locks"]["a lock"]["backend"], Value::Null);
    assert_eq!(known["drones"][drone]["features"], serde_json::json!(["accept", "lease"]));
    let entries = json(&cluster, &["stream-state", "--snapshot"]).await;
    let subjects: Vec<_> = entries.iter().map(|entry| entry["subject"].as_str().unwrap()).collect();
    assert!(subjects.iter().any(|subject| subject.ends_with(&format!("{backend}.state.Terminated"))), "{subjects:?}");
    assert_eq!(json(&cluster, &["cleanup"]).await[0]["backends"], 0);
}

#[tokio::test]
async fn a_backend_is_lost_only_if_its_drone_does_not_answer() {
    let mut cluster = Cluster::start().await.unwrap();
    let name = cluster.name.to_string();
    let backend = cluster.ready().await.unwrap();
    let refused = fails(&cluster, &["mark-backend-lost", backend.as_str()]).await;
    assert!(refused.contains("its drone answers"), "{refused}");
    cluster.wait_for(&backend, BackendState::Terminated).await.unwrap();
    let backend = cluster.ready().await.unwrap();
    cluster.drones[0].daemon.kill();
    let silent = fails(&cluster, &["terminate", &name, backend.as_str()]).await;
    assert!(silent.contains("does not answer; it was last Ready"), "{silent}");
    json(&cluster, &["mark-backend-lost", backend.as_str()]).await;
    cluster.wait_for(&backend, BackendState::Lost).await.unwrap();
    // What the log has as final, its drone ends.
    cluster.drones[0].restart().await.unwrap();
    cluster.container_gone(&backend).await.unwrap();
}

#[tokio::test]
async fn what_was_never_started_is_not_said_to_be_lost() {
    let (server, nats) = without_controllers().await;
    assign(&nats, "b", true).await;
    let said = fails_at(&server.url(), &["mark-backend-lost", "b"]).await;
    assert!(said.contains("b was never started"), "{said}");
}

#[tokio::test]
async fn only_a_backend_of_which_something_is_to_come_is_waited_for() {
    let (server, nats) = without_controllers().await;
    let url = server.url();
    assign(&nats, "withdrawn", true).await;
    for (backend, says) in [("nobody", "no backend nobody is known"), ("withdrawn", "withdrawn was never started")] {
        for arguments in [&["status", backend][..], &["logs", backend], &["logs", "-f", backend]] {
            let said = fails_at(&url, arguments).await;
            assert!(said.contains(says), "{arguments:?}: {said}");
        }
    }
    assign(&nats, "young", false).await;
    let logs = plane_at(&url, &["logs", "young"]).await;
    assert!(logs.status.success() && logs.stdout.is_empty(), "{logs:?}");
    let [status, lines] =
        [&["status", "young"][..], &["logs", "-f", "young"]].map(|arguments| plane_at(&url, arguments));
    let history = async {
        let backend: BackendId = "young".parse().unwrap();
        let (kind, text) = (LogKind::Meta, "hello\n".to_owned());
        nats.publish_stored(&LogLine { backend_id: backend.clone(), kind, text }).await.unwrap();
        for state in [BackendState::Loading, BackendState::Terminated] {
            let (cluster, time) = ("plane.test".parse().unwrap(), jiff::Timestamp::now());
            let (reason, exit_code) = (None, None);
            let status = PublicStatus { cluster, state, backend: backend.clone(), time, reason, exit_code };
            nats.publish_stored(&status).await.unwrap();
        }
    };
    let (status, lines, ()) = tokio::join!(status, lines, history);
    for (done, ends) in [(status, "Terminated\n"), (lines, "plane hello\n")] {
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.ends_with(ends), "{done:?}");
    }
}
