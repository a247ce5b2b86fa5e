//! The life of a backend, seen from outside: scheduled over NATS, run by Docker, served through the proxy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::{SinkExt, StreamExt};
use plane_core::message::backend::{BackendState, LogKind, TerminateRequest};
use plane_dev::harness::{Cluster, HeldOpen, PATIENCE, get, websocket};
use tokio_tungstenite::tungstenite::Message;

use BackendState::{
    ErrorLoading, ErrorStarting, Exited, Failed, Loading, Ready, Starting, Swept, Terminated, TimedOutBeforeReady,
};

async fn states(cluster: &Cluster, env: &[(&str, &str)], last: BackendState) -> Vec<BackendState> {
    let (backend, _) = cluster.schedule(&cluster.request(300, env)).await.unwrap();
    ends(cluster, &backend, last).await
}

/// Waits for the end of a backend: its history, its reason as a `Meta` line, its container gone.
async fn ends(cluster: &Cluster, backend: &plane_core::id::BackendId, last: BackendState) -> Vec<BackendState> {
    let history = cluster.history_until(backend, last).await.unwrap();
    cluster.container_gone(backend).await.unwrap();
    let reason = history.last().unwrap().reason.clone().unwrap_or_default();
    let lines = cluster.log_lines(backend).await.unwrap();
    assert!(!reason.is_empty(), "no reason for {last}");
    assert!(
        lines.iter().any(|line| line.kind == LogKind::Meta && line.text.contains(&reason)),
        "no Meta line with {reason:?} in {lines:?}"
    );
    history.into_iter().map(|status| status.state).collect()
}

#[tokio::test]
async fn a_backend_becomes_ready_and_its_page_is_served_from_then_on() {
    let cluster = Cluster::start().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(300, &[])).await.unwrap();
    let history = cluster.history_until(&backend, Ready).await.unwrap();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert_eq!(history.iter().map(|status| status.state).collect::<Vec<_>>(), [Loading, Starting, Ready]);
    assert!(history.windows(2).all(|pair| pair[0].time < pair[1].time));
    assert!(answer.status.is_success() && answer.body.contains("<html"), "{answer:?}");
}

#[tokio::test]
async fn a_websocket_keeps_its_backend_and_its_end_lets_it_be_swept() {
    let cluster = Cluster::start().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(1, &[])).await.unwrap();
    cluster.wait_for(&backend, Ready).await.unwrap();
    let mut socket = websocket(cluster.drones[0].proxy, &cluster.name, &backend, "/ws").await.unwrap();
    let (other, _) = cluster.schedule(&cluster.request(2, &[])).await.unwrap();
    assert_eq!(ends(&cluster, &other, Swept).await, [Loading, Starting, Ready, Swept]);
    socket.send(Message::text("still there")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still there"));
    drop(socket);
    assert_eq!(ends(&cluster, &backend, Swept).await, [Loading, Starting, Ready, Swept]);
    let gone = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert_eq!(gone.status.as_u16(), 410);
}

#[tokio::test]
async fn a_streaming_body_is_a_connection_to_its_last_byte() {
    let cluster = Cluster::start().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(1, &[])).await.unwrap();
    cluster.wait_for(&backend, Ready).await.unwrap();
    let host = format!("{backend}.{}", cluster.name);
    let mut slow = HeldOpen::open(cluster.drones[0].proxy, &host, "/slow?chunks=30&ms=100", &[]).await.unwrap();
    use http_body_util::BodyExt;
    let body = slow.response.body_mut().collect().await.unwrap().to_bytes();
    assert!(!body.is_empty());
    assert_eq!(ends(&cluster, &backend, Swept).await.last(), Some(&Swept));
}

#[tokio::test]
async fn ill_behaved_backends_end_as_the_protocol_says() {
    let cluster = Cluster::start().await.unwrap();
    let exit = |code| [("DEMO_MODE", "exit"), ("DEMO_AFTER_MS", "100"), ("DEMO_CODE", code)];
    let later = |code| [("DEMO_MODE", "exit-after-ready"), ("DEMO_AFTER_MS", "700"), ("DEMO_CODE", code)];
    let (early, zero, seven, late) = tokio::join!(
        async { states(&cluster, &exit("0"), ErrorStarting).await },
        async { states(&cluster, &later("0"), Exited).await },
        async { states(&cluster, &later("7"), Failed).await },
        async {
            let request = cluster.request(300, &[("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "600")]);
            let (backend, _) = cluster.schedule(&request).await.unwrap();
            cluster.wait_for(&backend, Ready).await.map(|status| status.state).unwrap()
        }
    );
    assert_eq!(early, [Loading, Starting, ErrorStarting]);
    assert_eq!(zero, [Loading, Starting, Ready, Exited]);
    assert_eq!(seven, [Loading, Starting, Ready, Failed]);
    assert_eq!(late, Ready);
}

#[tokio::test]
async fn what_never_listens_is_given_up_after_the_configured_time() {
    let cluster = Cluster::start_with(1, 1, "ready_timeout_secs = 2").await.unwrap();
    let never = states(&cluster, &[("DEMO_MODE", "never")], TimedOutBeforeReady).await;
    assert_eq!(never, [Loading, Starting, TimedOutBeforeReady]);
}

#[tokio::test]
async fn what_cannot_be_loaded_ends_in_error_loading() {
    let cluster = Cluster::start().await.unwrap();
    let mut missing = cluster.request(300, &[]);
    missing.executable.image = "plane/no-such-image:1".into();
    missing.executable.pull_policy = Some(plane_core::message::schedule::PullPolicy::Never);
    let mut mounting = cluster.request(300, &[]);
    mounting.executable.volume_mounts = vec!["/tmp:/data".into()];
    for request in [missing, mounting] {
        let (backend, _) = cluster.schedule(&request).await.unwrap();
        assert_eq!(ends(&cluster, &backend, ErrorLoading).await, [Loading, ErrorLoading]);
    }
}

/// An image whose entry point is not there.
fn broken_image() -> String {
    let name = format!("plane/broken:{}", plane_core::id::BackendId::random());
    let script = r#"tar cf - --files-from /dev/null | docker import --change 'ENTRYPOINT ["/nothing"]' - "$0""#;
    let made = std::process::Command::new("sh").args(["-ec", script, &name]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    name
}

#[tokio::test]
async fn a_broken_entry_point_ends_in_error_loading() {
    let cluster = Cluster::start().await.unwrap();
    let mut request = cluster.request(300, &[]);
    request.executable.image = broken_image();
    let (backend, _) = cluster.schedule(&request).await.unwrap();
    assert_eq!(ends(&cluster, &backend, ErrorLoading).await, [Loading, ErrorLoading]);
    let lines = cluster.log_lines(&backend).await.unwrap();
    assert!(lines.iter().any(|line| line.text.contains("/nothing")), "{lines:?}");
    let removed = std::process::Command::new("docker").args(["rmi", &request.executable.image]).output().unwrap();
    assert!(removed.status.success());
}

#[tokio::test]
async fn limits_environment_and_port_reach_the_container() {
    let cluster = Cluster::start().await.unwrap();
    let mut request = cluster.request(300, &[("GREETING", "hello = you")]);
    request.executable.port = Some(9123.try_into().unwrap());
    let limits = serde_json::json!({
        "cpu_period": 50000, "cpu_period_percent": 40, "cpu_time_limit": 77, "memory_limit_bytes": 50_000_000,
    });
    request.executable.resource_limits = serde_json::from_value(limits).unwrap();
    let (backend, drone) = cluster.schedule(&request).await.unwrap();
    cluster.wait_for(&backend, Ready).await.unwrap();
    let inspected =
        std::process::Command::new("docker").args(["inspect", &format!("plane-{backend}")]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let (host, config) = (&found[0]["HostConfig"], &found[0]["Config"]);
    assert_eq!((&host["CpuPeriod"], &host["CpuQuota"]), (&50000.into(), &20000.into()));
    assert_eq!((&host["Memory"], &host["Ulimits"][0]["Hard"]), (&50_000_000.into(), &77.into()));
    let env = config["Env"].as_array().unwrap();
    assert!(env.contains(&"GREETING=hello = you".into()) && env.contains(&"PORT=9123".into()), "{env:?}");
    let labels = [
        ("managed", "true"),
        ("cluster", cluster.name.as_str()),
        ("drone", drone.as_str()),
        ("backend", backend.as_str()),
    ];
    for (label, value) in labels {
        assert_eq!(config["Labels"][format!("dev.plane.{label}")], value);
    }
    assert!(host["LogConfig"]["Config"]["max-size"].is_string());
    assert!(get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap().status.is_success());
}

#[tokio::test]
async fn what_a_backend_writes_and_uses_is_told() {
    let cluster = Cluster::start().await.unwrap();
    let subject = format!("cluster.{}.backend.*.stats", cluster.name.subject_token());
    let mut stats = cluster.client.subscribe::<plane_core::message::backend::Stats>(&subject).await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(300, &[("DEMO_LINES", "20")])).await.unwrap();
    cluster.wait_for(&backend, Ready).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, stats.next()).await.unwrap().unwrap();
    assert_eq!(told.backend_id, backend);
    assert!(told.mem_used > 0 && told.mem_available > told.mem_used && told.sys_cpu > 0, "{told:?}");
    let request = TerminateRequest { cluster_id: cluster.name.clone(), backend_id: backend.clone() };
    cluster.client.request(&request, PATIENCE).await.unwrap();
    ends(&cluster, &backend, Terminated).await;
    let lines = cluster.log_lines(&backend).await.unwrap();
    let of = |kind| lines.iter().filter(|line| line.kind == kind).count();
    assert!(of(LogKind::Stdout) >= 20 && of(LogKind::Stderr) >= 20 && of(LogKind::Meta) == 1, "{lines:?}");
    for line in &lines {
        let (time, rest) = line.text.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && rest.ends_with('\n'), "{line:?}");
    }
}

#[tokio::test]
async fn a_container_removed_behind_our_back_has_failed() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let removed =
        std::process::Command::new("docker").args(["rm", "-f", &format!("plane-{backend}")]).output().unwrap();
    assert!(removed.status.success());
    assert_eq!(ends(&cluster, &backend, Failed).await, [Loading, Starting, Ready, Failed]);
}

#[tokio::test]
async fn terminate_ends_a_backend_once_and_nobody_listens_afterwards() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let request = TerminateRequest { cluster_id: cluster.name.clone(), backend_id: backend.clone() };
    cluster.client.request(&request, PATIENCE).await.unwrap();
    assert_eq!(ends(&cluster, &backend, Terminated).await, [Loading, Starting, Ready, Terminated]);
    let again = async { while cluster.client.request(&request, PATIENCE).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

/// Docker's socket as an HTTP address, for as long as the test runs.
async fn docker_over_http() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut engine = tokio::net::UnixStream::connect("/var/run/docker.sock").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_engine_can_be_reached_over_http() {
    let engine = format!("[agent.docker]\nconnection = {{ http = \"{}\" }}", docker_over_http().await);
    let cluster = Cluster::start_with(1, 1, &engine).await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(1, &[])).await.unwrap();
    assert_eq!(ends(&cluster, &backend, Swept).await, [Loading, Starting, Ready, Swept]);
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_after_its_grace() {
    let cluster = Cluster::start().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(300, &[("DEMO_MODE", "stubborn")])).await.unwrap();
    cluster.wait_for(&backend, Ready).await.unwrap();
    let request = TerminateRequest { cluster_id: cluster.name.clone(), backend_id: backend.clone() };
    cluster.client.request(&request, PATIENCE).await.unwrap();
    assert_eq!(ends(&cluster, &backend, Terminated).await, [Loading, Starting, Ready, Terminated]);
    let last = cluster.history_until(&backend, Terminated).await.unwrap().pop().unwrap();
    assert_eq!(last.exit_code, Some(137));
}

#[tokio::test]
async fn fifty_at_once_all_become_ready() {
    let cluster = Cluster::start_with(2, 2, "").await.unwrap();
    let backends = cluster.ready_many(50).await.unwrap();
    assert_eq!(backends.iter().collect::<std::collections::HashSet<_>>().len(), 50);
    for backend in &backends {
        let states: Vec<_> =
            cluster.history_until(backend, Ready).await.unwrap().into_iter().map(|status| status.state).collect();
        assert_eq!(states, [Loading, Starting, Ready]);
    }
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_its_backend_untouched() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let before = cluster.containers("{{.ID}}");
    let mut request = cluster.request(300, &[]);
    request.backend_id = Some(backend.clone());
    let error = cluster.schedule(&request).await.unwrap_err().to_string();
    assert!(error.contains("BackendIdInUse"), "{error}");
    assert_eq!(cluster.containers("{{.ID}}"), before);
    assert!(get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap().status.is_success());
}
