//! Parts that die and come back: connected users notice nothing, and what happened meanwhile is reported after.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::{SinkExt, StreamExt};
use plane_core::{
    id::BackendId,
    message::backend::BackendState::{Failed, Ready},
};
use plane_dev::harness::{Cluster, HeldOpen, PATIENCE, get, websocket};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_killed_drone_takes_its_backends_up_again_in_the_same_containers() {
    let mut cluster = Cluster::start().await.unwrap();
    let ten = cluster.ready_many(10).await.unwrap();
    let mut containers = cluster.containers("{{.ID}}");
    let late = [("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "1500")];
    let mut five = Vec::new();
    for _ in 0..5 {
        five.push(cluster.schedule(&cluster.request(300, &late)).await.unwrap().0);
    }
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    for backend in &ten {
        assert!(get(cluster.drones[0].proxy, &cluster.name, backend, "/").await.unwrap().status.is_success());
    }
    for backend in &five {
        let last = cluster.history_until(backend, Ready).await.unwrap().pop().unwrap().state;
        assert!(last == Ready || last.is_final());
    }
    let after = cluster.containers("{{.ID}}");
    containers.retain(|container| !after.contains(container));
    assert!(containers.is_empty(), "containers were replaced: {containers:?}");
    assert!(after.len() <= 15, "orphans: {after:?}");
}

#[tokio::test]
async fn controllers_and_nats_may_vanish_while_users_are_connected() {
    let mut cluster = Cluster::start().await.unwrap();
    let (kept, ended) = (cluster.ready().await.unwrap(), cluster.ready().await.unwrap());
    let mut socket = websocket(cluster.drones[0].proxy, &cluster.name, &kept, "/ws").await.unwrap();
    cluster.controllers[0].kill();
    cluster.nats.kill();
    let removed = std::process::Command::new("docker").args(["rm", "-f", &format!("plane-{ended}")]).output().unwrap();
    assert!(removed.status.success());
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    assert!(get(cluster.drones[0].proxy, &cluster.name, &kept, "/").await.unwrap().status.is_success());
    cluster.nats.restart().await.unwrap();
    cluster.controllers[0].start().unwrap();
    cluster.client = cluster.nats.connect().await.unwrap();
    cluster.wait_for(&ended, Failed).await.unwrap();
    socket.send(Message::text("again")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("again"));
}

#[tokio::test]
async fn a_backend_that_starts_without_any_controller_is_reachable_all_the_same() {
    let mut cluster = Cluster::start().await.unwrap();
    let late = [("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "1500")];
    let (backend, _) = cluster.schedule(&cluster.request(300, &late)).await.unwrap();
    cluster.controllers[0].kill();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    cluster.controllers[0].start().unwrap();
    let history = cluster.history_until(&backend, Ready).await.unwrap();
    assert_eq!(history.len(), 3, "{history:?}");
}

#[tokio::test]
async fn a_drone_whose_nats_is_away_serves_what_it_ran() {
    let mut cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    cluster.nats.kill();
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    cluster.nats.restart().await.unwrap();
    cluster.drones[0].daemon.logged(" registered").await.unwrap();
}

#[tokio::test]
async fn sigterm_ends_both_daemons_cleanly_and_leaves_containers_running() {
    let mut cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let deadline = Duration::from_secs(10);
    let proxy = cluster.drones[0].proxy;
    let _socket = websocket(proxy, &cluster.name, &backend, "/ws").await.unwrap();
    let _hanging =
        HeldOpen::open(proxy, &format!("{backend}.{}", cluster.name), "/slow?chunks=600&ms=100", &[]).await.unwrap();
    let drone = cluster.drones[0].daemon.stop(deadline).await.unwrap();
    let controller = cluster.controllers[0].stop(deadline).await.unwrap();
    assert_eq!((drone.code(), controller.code()), (Some(0), Some(0)));
    assert_eq!(cluster.containers("{{.Names}} {{.State}}"), [format!("plane-{backend} running")]);
    cluster.drones[0].restart().await.unwrap();
    assert!(get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap().status.is_success());
}

#[tokio::test]
async fn two_drones_on_one_engine_leave_each_others_containers_alone() {
    let mut cluster = Cluster::start_with(1, 2, "").await.unwrap();
    let backends = cluster.ready_many(6).await.unwrap();
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    assert_eq!(cluster.containers("{{.ID}}").len(), backends.len());
    tokio::time::timeout(PATIENCE, async {
        for backend in &backends {
            let mut served = false;
            for drone in &cluster.drones {
                served |= get(drone.proxy, &cluster.name, backend, "/").await.unwrap().status.is_success();
            }
            assert!(served, "{backend} is served by nobody");
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn containers_without_a_backend_are_removed_but_only_the_drones_own() {
    let mut cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let drone = cluster.drones[0].id.to_string();
    let [stray, others] = [drone.as_str(), "another-drone"].map(|drone| {
        let id = BackendId::random();
        let labels =
            [("managed", "true"), ("cluster", cluster.name.as_str()), ("drone", drone), ("backend", id.as_str())];
        let labels = labels.map(|(label, value)| format!("--label=dev.plane.{label}={value}"));
        let mut command = std::process::Command::new("docker");
        command.args(["create", &format!("--name=plane-{id}")]).args(labels).arg(cluster.image());
        assert!(command.output().unwrap().status.success());
        id
    });
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    cluster.container_gone(&stray).await.unwrap();
    let mut left = cluster.containers("{{.Names}}");
    left.sort();
    let mut expected = [format!("plane-{backend}"), format!("plane-{others}")];
    expected.sort();
    assert_eq!(left, expected);
}

/// Whether a backend is reached.
async fn is_reached(cluster: &Cluster, backend: &BackendId) -> bool {
    get(cluster.drones[0].proxy, &cluster.name, backend, "/").await.unwrap().status.is_success()
}

async fn reached(cluster: &Cluster, backend: &BackendId) {
    let reaching = async {
        while !is_reached(cluster, backend).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reaching).await.unwrap();
}

#[tokio::test]
async fn what_holds_a_lock_is_reached_after_a_restart_once_it_is_certain_that_it_does() {
    let mut cluster = Cluster::start().await.unwrap();
    let mut locked = cluster.request(300, &[]);
    locked.lock = Some("document".parse().unwrap());
    let (holder, _) = cluster.schedule(&locked).await.unwrap();
    cluster.wait_for(&holder, Ready).await.unwrap();
    let other = cluster.ready().await.unwrap();
    let mut before = cluster.containers("{{.ID}}");
    before.sort();
    // A controller has said that the log of this server lacks nothing: its word counts, with or without controllers.
    cluster.controllers[0].kill();
    cluster.drones[0].daemon.kill();
    cluster.drones[0].restart().await.unwrap();
    reached(&cluster, &holder).await;
    // Of a server that restarted nobody knows whether it lost that the lock was given on.
    cluster.drones[0].daemon.kill();
    cluster.nats.restart().await.unwrap();
    cluster.drones[0].restart().await.unwrap();
    cluster.drones[0].daemon.logged("no controller vouches").await.unwrap();
    assert!(is_reached(&cluster, &other).await && !is_reached(&cluster, &holder).await);
    cluster.controllers[0].start().unwrap();
    reached(&cluster, &holder).await;
    let mut after = cluster.containers("{{.ID}}");
    after.sort();
    assert_eq!(before, after);
}
