//! A drone's edge alone, with neither a control plane nor containers behind it: what its operator reads of who came, and
//! that it goes on when files run out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::id::ClusterName;
use plane_dev::harness::{LoneDrone, PATIENCE, Tls};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// The front proxy that is trusted.
const FRONT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A backend that says `ok` to each request.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    address
}

fn cluster() -> ClusterName {
    "plane.test".parse().unwrap()
}

/// Sends a head, and gives all that comes until the connection is closed.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> String {
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut said = Vec::new();
    // TLS may end without its last word.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap();
    String::from_utf8(said).unwrap()
}

async fn lines(file: &Path, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') && text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        assert!(began.elapsed() < PATIENCE, "not {count} lines: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn who_came_is_told(http1: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let keys = format!(
        "http1 = {http1:?}\naccess_log = {file:?}\ntrusted_proxies = [\"{FRONT}\"]\nlimits.handshake_secs = 1\n"
    );
    let mut lone = LoneDrone::start(&cluster(), backend().await, &keys).await.unwrap();
    let (https, host) = (lone.drone.https().unwrap(), "b.plane.test");
    let tls = Tls::trusting([lone.pair.leaf_der()]).unwrap();

    let old = "GET /old HTTP/1.0\r\nHost: b.plane.test\r\n\r\n";
    let answer = said(tls.connect(https, host).await.unwrap(), old).await;
    // A server may answer with its own version, or the client's (RFC 9110, section 6.2).
    let is_good = answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 ");
    assert!(is_good && answer.ends_with("ok"), "{answer}");
    let line = lines(&file, 1).await.pop().unwrap();
    assert_eq!((&line["protocol"], &line["client"]), (&"HTTP/1.0".into(), &"127.0.0.1".into()), "{line}");
    assert_eq!((&line["path"], &line["status"], &line["bytes_out"]), (&"/old".into(), &200.into(), &2.into()));

    // Of what one says that is not trusted nothing is believed; of a front proxy it is the client's address that is told.
    let asks = "GET / HTTP/1.1\r\nHost: b.plane.test\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n";
    said(tls.connect(https, host).await.unwrap(), asks).await;
    let line = lines(&file, 2).await.pop().unwrap();
    assert_eq!((&line["protocol"], &line["client"]), (&"HTTP/1.1".into(), &"127.0.0.1".into()), "{line}");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((FRONT, 0).into()).unwrap();
    let front = tls.shake(socket.connect(https).await.unwrap(), host).await.unwrap();
    said(front, asks).await;
    let line = lines(&file, 3).await.pop().unwrap();
    assert_eq!(line["client"], "203.0.113.7", "{line}");

    // No handshake, one that trusts another certificate, and one that does not go on.
    said(TcpStream::connect(https).await.unwrap(), "GET / HTTP/1.1\r\n\r\n").await;
    let distrusts = Tls::trusting([]).unwrap();
    assert!(distrusts.connect(https, host).await.is_err());
    let mut silent = TcpStream::connect(https).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a handshake that does not go on is waited for");

    assert!(lone.drone.daemon.stop(PATIENCE).await.unwrap().success());
    let told = lone.drone.daemon.logged("proxy stops").await.unwrap();
    for part in ["3 requests: passed 3;", "connections 0 open,"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let counted = told.split("handshakes ").nth(1).unwrap().split(';').next().unwrap();
    let counts: Vec<u64> = counted.split(' ').filter_map(|word| word.parse().ok()).collect();
    // The harness shook hands as well: once with success, and maybe before, when the certificate was not served yet.
    assert!(matches!(counts[..], [4, failed, 1] if failed >= 2), "{counted}");
}

#[tokio::test]
async fn who_came_is_told_by_the_library() {
    who_came_is_told("hyper").await;
}

#[tokio::test]
async fn who_came_is_told_by_the_own_loop() {
    who_came_is_told("plane").await;
}

fn open_files(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

#[tokio::test]
async fn what_is_malformed_is_counted_as_that_and_once() {
    let mut lone = LoneDrone::start(&cluster(), backend().await, "").await.unwrap();
    let tls = Tls::trusting([lone.pair.leaf_der()]).unwrap();
    for asks in [
        "GET / HTTP/1.1\r\nHost: b.plane.test\r\nA : b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let answer = said(tls.connect(lone.drone.https().unwrap(), "b.plane.test").await.unwrap(), asks).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert!(lone.drone.daemon.stop(PATIENCE).await.unwrap().success());
    let told = lone.drone.daemon.logged("proxy stops").await.unwrap();
    assert!(told.contains("2 requests: malformed 2;"), "{told}");
}

#[tokio::test]
async fn a_drone_that_has_no_files_left_serves_again_once_it_has() {
    let mut lone = LoneDrone::start(&cluster(), backend().await, "").await.unwrap();
    let pid = lone.pid().unwrap();
    let tls = Tls::trusting([lone.pair.leaf_der()]).unwrap();
    let (https, host) = (lone.drone.https().unwrap(), "b.plane.test");
    // More than what it still opens for itself after its start.
    let few = Some(open_files(pid) + 32);
    let id = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(id, Resource::Nofile, Rlimit { current: few, maximum: few }).unwrap();
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(TcpStream::connect(https).await.unwrap());
    }
    lone.drone.daemon.logged("a connection could not be accepted").await.unwrap();
    drop(held);
    let asks = "GET / HTTP/1.1\r\nHost: b.plane.test\r\nConnection: close\r\n\r\n";
    let began = Instant::now();
    while tls.connect(https, host).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "it takes no connections any more");
    }
    // Each thread that takes connections does so again.
    for _ in 0..16 {
        let answer = said(tls.connect(https, host).await.unwrap(), asks).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
