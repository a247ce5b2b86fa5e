//! HTTPS at a drone: before there is a certificate, with one, and while it is replaced, by good ones and by bad ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::{SinkExt, StreamExt, future::join_all};
use http_body_util::BodyExt;
use plane_core::{
    id::BackendId,
    message::{
        backend::BackendState::Ready,
        schedule::{ScheduleRequest, ScheduleResponse},
    },
};
use plane_dev::harness::{Cluster, PATIENCE, Settings, Tls, TlsWebSocket, get_with, self_signed};
use plane_drone::cert::{Files, Pair};
use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// How many WebSockets are open while certificates change.
const SOCKETS: usize = 100;
/// How many clients ask for pages meanwhile.
const READERS: usize = 4;
/// How often an installation is killed.
const KILLS: u32 = 150;

async fn cluster() -> Cluster {
    Cluster::start_as(Settings { https: true, ..Settings::default() }).await.unwrap()
}

/// A cluster whose drone serves a pair, and a client that trusts it.
async fn served() -> (Cluster, Pair, Tls) {
    let cluster = cluster().await;
    let pair = self_signed(&cluster.name).unwrap();
    cluster.drones[0].install(&pair).unwrap();
    let tls = Tls::trusting([pair.leaf_der()]).unwrap();
    shows(&cluster, &tls, &pair).await;
    (cluster, pair, tls)
}

/// Waits until new handshakes show a pair.
async fn shows(cluster: &Cluster, tls: &Tls, pair: &Pair) {
    let (began, drone) = (Instant::now(), &cluster.drones[0]);
    loop {
        match tls.shown(drone.https().unwrap(), cluster.name.as_str()).await {
            Ok(shown) if shown == pair.leaf_der() => return,
            other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Schedules until a drone takes it, and waits until it is ready.
async fn taken(cluster: &Cluster, request: &ScheduleRequest) -> BackendId {
    let began = Instant::now();
    loop {
        match cluster.client.request(request, PATIENCE).await.unwrap() {
            ScheduleResponse::Scheduled { backend_id, .. } => {
                cluster.wait_for(&backend_id, Ready).await.unwrap();
                return backend_id;
            }
            ScheduleResponse::NoDroneAvailable => assert!(began.elapsed() < PATIENCE, "no drone takes it"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn echoes(socket: &mut TlsWebSocket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), Message::text(text));
}

#[tokio::test]
async fn before_the_first_certificate_handshakes_are_refused_and_no_backend_is_taken() {
    let mut cluster = cluster().await;
    let pair = self_signed(&cluster.name).unwrap();
    let tls = Tls::trusting([pair.leaf_der()]).unwrap();
    let (http, https) = (cluster.drones[0].proxy, cluster.drones[0].https().unwrap());
    let host = format!("b.{}", cluster.name);
    let began = Instant::now();
    let refused = format!("{:#}", tls.connect(https, &host).await.unwrap_err());
    assert!(refused.contains("AccessDenied") && began.elapsed() < Duration::from_secs(5), "{refused}");
    let answer = get_with(http, &host, "/a?b=c", &[]).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &"5".parse().unwrap()), "{answer:?}");
    let request = cluster.request(300, &[]);
    let response = cluster.client.request(&request, PATIENCE).await.unwrap();
    assert!(matches!(response, ScheduleResponse::NoDroneAvailable), "{response:?}");
    cluster.drones[0].daemon.logged("there is no certificate yet").await.unwrap();

    cluster.drones[0].install(&pair).unwrap();
    shows(&cluster, &tls, &pair).await;
    let answer = get_with(http, &host, "/a?b=c", &[]).await.unwrap();
    let there = format!("https://{host}:{}/a?b=c", https.port());
    assert_eq!((answer.status.as_u16(), &answer.headers["location"]), (308, &there.parse().unwrap()), "{answer:?}");
    let backend = taken(&cluster, &request).await;
    let answer = tls.get(https, &format!("{backend}.{}", cluster.name), "/", &[]).await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    let end = cluster.drones[0].daemon.logged("serving a certificate").await.unwrap();
    assert!(end.contains("days_left="), "{end}");
}

#[tokio::test]
async fn pages_streams_and_websockets_pass_through_tls_of_both_versions() {
    let (cluster, pair, new) = served().await;
    let old = Tls::old([pair.leaf_der()]).unwrap();
    let https = cluster.drones[0].https().unwrap();
    let mut request = cluster.request(300, &[]);
    request.require_bearer_token = true;
    let backend = taken(&cluster, &cluster.request(300, &[])).await;
    let host = format!("{backend}.{}", cluster.name);
    for tls in [&new, &old] {
        let version = tls.connect(https, &host).await.unwrap().get_ref().1.protocol_version();
        println!("{version:?}");
        let seen = tls.get(https, &host, "/headers", &[("x-forwarded-proto", "http")]).await.unwrap();
        let fields: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
        assert_eq!((&fields["x-forwarded-proto"], &fields["host"]), (&"https".into(), &host.as_str().into()));
        let mut big = tls.open(https, &host, "/bytes?n=20000000", &[]).await.unwrap();
        assert_eq!(big.response.body_mut().collect().await.unwrap().to_bytes().len(), 20_000_000);
        // The first piece is there long before the last one.
        let began = Instant::now();
        let mut slow = tls.open(https, &host, "/slow?chunks=2&ms=3000", &[]).await.unwrap();
        let first = slow.response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"chunk 1") && began.elapsed() < Duration::from_secs(3), "{first:?}");
        assert!(slow.read().await.unwrap().body.contains("chunk 2"));
        let mut socket = tls.websocket(https, &host, "/ws").await.unwrap();
        echoes(&mut socket, "hello").await;
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    let response = cluster.client.request(&request, PATIENCE).await.unwrap();
    let ScheduleResponse::Scheduled { backend_id, bearer_token, .. } = response else { panic!("{response:?}") };
    let path = format!("/_plane_auth?token={}&redirect=/x", bearer_token.unwrap().expose());
    let answer = new.get(https, &format!("{backend_id}.{}", cluster.name), &path, &[]).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["location"]), (302, &"/x".parse().unwrap()));
    assert!(answer.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_the_rest() {
    let (cluster, _, tls) = served().await;
    let https = cluster.drones[0].https().unwrap();
    let backend = taken(&cluster, &cluster.request(300, &[])).await;
    let host = format!("{backend}.{}", cluster.name);
    for alert in [true, false] {
        let mut socket = tls.websocket(https, &host, "/ws").await.unwrap();
        echoes(&mut socket, "first").await;
        socket.feed(Message::text("last")).await.unwrap();
        socket.flush().await.unwrap();
        let stream = socket.get_mut();
        if alert {
            stream.shutdown().await.unwrap();
        } else {
            stream.get_mut().0.shutdown().await.unwrap();
        }
        let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        assert_eq!(answer.unwrap().unwrap(), Message::text("last"), "with the alert: {alert}");
    }
}

#[tokio::test]
async fn what_is_open_stays_open_while_certificates_are_replaced() {
    let (cluster, first, _) = served().await;
    let pairs: Vec<Pair> = (0..3).map(|_| self_signed(&cluster.name).unwrap()).collect();
    let tls = Tls::trusting(pairs.iter().chain([&first]).map(Pair::leaf_der)).unwrap();
    let https = cluster.drones[0].https().unwrap();
    let backend = taken(&cluster, &cluster.request(300, &[])).await;
    let host = format!("{backend}.{}", cluster.name);
    let (done, messages, pages) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let opened = (0..SOCKETS).map(|_| tls.websocket(https, &host, "/ws"));
    let sockets: Vec<TlsWebSocket> = join_all(opened).await.into_iter().map(Result::unwrap).collect();
    let mut running = Vec::new();
    for (number, mut socket) in sockets.into_iter().enumerate() {
        let (done, messages) = (done.clone(), messages.clone());
        running.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                echoes(&mut socket, &format!("{number}")).await;
                messages.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            echoes(&mut socket, "still here").await;
        }));
    }
    for _ in 0..READERS {
        let (done, pages, tls, host) = (done.clone(), pages.clone(), tls.clone(), host.clone());
        running.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let answer = tls.get(https, &host, "/bytes?n=10000", &[]).await.unwrap();
                assert_eq!((answer.status.as_u16(), answer.body.is_empty()), (200, false));
                pages.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let slow = tls.open(https, &host, "/slow?chunks=80&ms=100", &[]).await.unwrap();
    for pair in &pairs {
        cluster.drones[0].install(pair).unwrap();
        shows(&cluster, &tls, pair).await;
        assert!(running.iter().all(|task| !task.is_finished()));
    }
    assert!(slow.read().await.unwrap().body.contains("chunk 80"));
    done.store(true, Ordering::Relaxed);
    for task in running {
        task.await.unwrap();
    }
    let (messages, pages) = (messages.load(Ordering::Relaxed), pages.load(Ordering::Relaxed));
    println!("{} swaps under {SOCKETS} WebSockets: {messages} messages, {pages} pages", pairs.len());
    assert!(messages >= SOCKETS && pages >= READERS);
}

#[tokio::test]
async fn what_is_no_pair_is_told_and_not_served_until_it_is_mended() {
    let (mut cluster, mut pair, _) = served().await;
    let files = cluster.drones[0].files.clone().unwrap();
    let (key, cert) = (files.key_path().to_owned(), files.cert_path().to_owned());
    type Break<'a> = &'a dyn Fn(&Pair);
    let faults: [(&str, Break<'_>); 5] = [
        ("does not belong to the certificate", &|other| fs::write(&key, other.key_pem()).unwrap()),
        ("there is no certificate (expected", &|_| fs::write(&cert, "garbage").unwrap()),
        ("it is not a file", &|_| {
            fs::remove_file(&key).unwrap();
            fs::create_dir(&key).unwrap();
        }),
        ("is there, but", &|_| fs::remove_file(&key).unwrap()),
        ("are gone", &|_| {
            fs::remove_file(&key).unwrap();
            fs::remove_file(&cert).unwrap();
        }),
    ];
    for (told, break_it) in faults {
        let next = self_signed(&cluster.name).unwrap();
        let tls = Tls::trusting([pair.leaf_der(), next.leaf_der()]).unwrap();
        break_it(&next);
        let line = cluster.drones[0].daemon.logged(told).await.unwrap();
        assert!(line.contains("ERROR") && line.contains("the earlier certificate stays in service"), "{line}");
        let shown = tls.shown(cluster.drones[0].https().unwrap(), cluster.name.as_str()).await.unwrap();
        assert_eq!(shown, pair.leaf_der(), "{told}");
        if key.is_dir() {
            fs::remove_dir(&key).unwrap();
        }
        fs::write(&cert, next.chain_pem()).unwrap();
        fs::write(&key, next.key_pem()).unwrap();
        shows(&cluster, &tls, &next).await;
        assert_eq!(cluster.drones[0].daemon.log().matches(told).count(), 1, "{told}");
        pair = next;
    }
}

#[tokio::test]
async fn a_drone_without_a_good_pair_at_its_start_says_so_and_takes_one_up_later() {
    let (mut cluster, pair, tls) = served().await;
    let files = cluster.drones[0].files.clone().unwrap();
    cluster.drones[0].daemon.stop(PATIENCE).await.unwrap();
    fs::write(files.cert_path(), "garbage").unwrap();
    cluster.drones[0].restart().await.unwrap();
    let line = cluster.drones[0].daemon.logged("there is no certificate to serve").await.unwrap();
    assert!(line.contains("cert.pem") && line.contains("expected PEM"), "{line}");
    assert!(tls.connect(cluster.drones[0].https().unwrap(), cluster.name.as_str()).await.is_err());
    fs::write(files.cert_path(), pair.chain_pem()).unwrap();
    shows(&cluster, &tls, &pair).await;
}

#[tokio::test]
async fn a_connection_that_does_not_shake_hands_holds_nobody_up() {
    let (cluster, pair, tls) = served().await;
    let https = cluster.drones[0].https().unwrap();
    let silent = join_all((0..50).map(|_| TcpStream::connect(https))).await;
    let mut talks_http = TcpStream::connect(https).await.unwrap();
    talks_http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(tls.shown(https, cluster.name.as_str()).await.unwrap(), pair.leaf_der());
    // There is one certificate, whatever the name.
    let stranger = Tls::trusting([pair.leaf_der()]).unwrap().connect(https, "elsewhere.test").await;
    let refused = format!("{:#}", stranger.unwrap_err());
    assert!(refused.contains("not valid for name"), "{refused}");
    drop(silent);
}

#[test]
fn a_kill_while_a_pair_is_installed_leaves_one_that_loads() {
    let folder = tempfile::tempdir().unwrap();
    let name = plane_dev::harness::unique_cluster();
    let pairs = [(); 2].map(|()| self_signed(&name).unwrap());
    let mut paths = Vec::new();
    for place in ["keys", "certs"] {
        fs::create_dir(folder.path().join(place)).unwrap();
    }
    for (number, pair) in pairs.iter().enumerate() {
        for (kind, text) in [("key", pair.key_pem()), ("cert", pair.chain_pem())] {
            let path = folder.path().join(format!("{kind}{number}.pem"));
            fs::write(&path, text).unwrap();
            paths.push(path);
        }
    }
    for (key, cert) in [("keys/key.pem", "certs/cert.pem"), ("keys/key.pem", "keys/cert.pem")] {
        let (key, cert) = (folder.path().join(key), folder.path().join(cert));
        Files::new(key.clone(), cert.clone()).install(&pairs[0]).unwrap();
        let (mut seen, mut interrupted) = (BTreeSet::new(), 0);
        for round in 0..KILLS {
            let mut child = Command::new(env!("CARGO_BIN_EXE_plane-pair-loop"))
                .args([&key, &cert])
                .args(&paths)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            // At moments that are spread over several installations.
            std::thread::sleep(Duration::from_micros(2_000 + u64::from(round) * 7_919 % 30_000));
            child.kill().unwrap();
            child.wait().unwrap();
            let half_done =
                fs::read_dir(key.parent().unwrap()).unwrap().count() > 1 + usize::from(key.parent() == cert.parent());
            interrupted += usize::from(half_done);
            let loaded = Files::new(key.clone(), cert.clone()).load().unwrap().unwrap();
            seen.insert(pairs.iter().position(|pair| *pair == loaded).unwrap());
        }
        println!("{KILLS} kills, {interrupted} of them while files lay beside; pairs that were loaded: {seen:?}");
        assert_eq!(seen.len(), 2, "the loop got to install");
    }
}
