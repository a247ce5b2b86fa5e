//! Upgraded connections through the proxy, and responses without end, with sockets of the tests at both ends: what passes,
//! what holds what up, how they end, and who counts as connected meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    chance::Chance,
    id::{BackendId, BearerToken},
    task::Tasks,
};
use plane_drone::{
    config::proxy::{Http1, LimitsConfig, ProxyConfig},
    proxy::Proxy,
    route::{Activity, Routes},
};
use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// After so long without a byte a writer counts as stopped.
const STOPPED: Duration = Duration::from_millis(500);
/// What two connections of the kernel's and the proxy between them hold at most for a reader that has stopped, in bytes.
const HELD: usize = 64 << 20;
/// Who speaks HTTP/1.1: every test is run with each.
const IMPLEMENTATIONS: [Http1; 2] = [Http1::Hyper, Http1::Plane];
const ASKS: &str = "GET /ws HTTP/1.1\r\nHost: b.plane.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CHANGES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct Setting {
    tasks: Tasks,
    routes: Routes,
    proxy: SocketAddr,
    listener: TcpListener,
    activity: Arc<Activity>,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

fn backend() -> BackendId {
    "b".parse().unwrap()
}

fn filling(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

impl Setting {
    /// Everything that may not count for upgraded connections is as short as can be.
    async fn start(http1: Http1) -> Self {
        let limits =
            LimitsConfig { header_secs: 1, idle_secs: 1, body_secs: 1, send_secs: 1, ..LimitsConfig::default() };
        Self::start_with(http1, limits).await
    }

    async fn start_with(http1: Http1, limits: LimitsConfig) -> Self {
        let own = ProxyConfig { http1, answer_secs: 1, limits, ..ProxyConfig::default() };
        let config = ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, ..own };
        let (tasks, routes) = (Tasks::new(), Routes::default());
        let cluster = "plane.test".parse().unwrap();
        let proxy = Proxy::start(&config, None, cluster, routes.clone(), &tasks).unwrap().http;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let activity = routes.open(&backend(), listener.local_addr().unwrap(), None, None);
        Self { tasks, routes, proxy, listener, activity }
    }

    async fn ask(&self, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.proxy).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }

    async fn accept(&self) -> TcpStream {
        let (mut inner, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        inner.set_nodelay(true).unwrap();
        let asked = head(&mut inner).await;
        assert!(asked.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{asked}");
        inner
    }

    /// A tunnel: the client's end, and the backend's.
    async fn tunnel(&self) -> (TcpStream, TcpStream) {
        let mut client = self.ask(ASKS).await;
        let mut inner = self.accept().await;
        inner.write_all(CHANGES.as_bytes()).await.unwrap();
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        (client, inner)
    }

    async fn counts(&self, wanted: u64) {
        let began = Instant::now();
        while self.activity.in_flight() != wanted {
            assert!(began.elapsed() < PATIENCE, "{} count as connected, not {wanted}", self.activity.in_flight());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Reads a head, and nothing of what is behind it.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {}", bytes.escape_ascii())));
    }
    String::from_utf8(bytes).unwrap()
}

async fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert!(heard == expected, "other bytes than were sent");
}

/// Reads on until the other end has finished or broken off.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut heard)).await.unwrap() {
        Ok(_) => heard,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => heard,
        Err(error) => panic!("{error}"),
    }
}

async fn says(stream: &mut TcpStream, bytes: &[u8]) {
    timeout(PATIENCE, stream.write_all(bytes)).await.unwrap().unwrap();
}

/// Writes until nothing more is taken; says how much was.
async fn fill(stream: &TcpStream, chunk: &[u8]) -> usize {
    let mut taken = 0;
    while timeout(STOPPED, stream.writable()).await.is_ok() {
        let from = taken % chunk.len();
        match stream.try_write(&chunk[from..]) {
            Ok(bytes) => taken += bytes,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(taken < HELD, "a reader that has stopped does not stop its writer");
    }
    taken
}

#[tokio::test]
async fn each_end_can_finish_and_still_hear_the_other() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        for client_first in [true, false] {
            let (mut client, mut inner) = setting.tunnel().await;
            setting.counts(1).await;
            let (first, second) = if client_first { (&mut client, &mut inner) } else { (&mut inner, &mut client) };
            says(first, b"all").await;
            first.shutdown().await.unwrap();
            assert_eq!(rest(second).await, b"all");
            let much = filling(300_000);
            let telling = async {
                says(second, &much).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                says(second, b"and more").await;
            };
            let hearing = async {
                hears(first, &much).await;
                hears(first, b"and more").await;
            };
            tokio::join!(telling, hearing);
            setting.counts(1).await;
            second.shutdown().await.unwrap();
            assert_eq!(rest(first).await, b"");
            setting.counts(0).await;
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_writer_and_nothing_is_lost() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let (mut writer, mut reader) = setting.tunnel().await;
        let chunk = filling(251 * 256);
        // From the client to the backend, then back.
        for _ in 0..2 {
            let taken = fill(&writer, &chunk).await;
            // Longer than the proxy lets a client be that takes nothing of a response.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            // The other direction goes on.
            says(&mut reader, b"still here").await;
            hears(&mut writer, b"still here").await;
            let (mut at, mut heard) = (0, vec![0; chunk.len()]);
            while at < taken {
                let bytes = timeout(PATIENCE, reader.read(&mut heard)).await.unwrap().unwrap();
                assert!(bytes > 0, "it ends {} bytes early", taken - at);
                let same = heard[..bytes].iter().zip(at..).all(|(byte, at)| *byte == (at % 251) as u8);
                assert!(same, "other bytes than were sent, after {at}");
                at += bytes;
            }
            std::mem::swap(&mut writer, &mut reader);
        }
        drop((writer, reader));
        setting.counts(0).await;
    }
}

/// What this process holds of its own, in bytes.
fn own_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn what_readers_that_stopped_have_not_taken_is_not_held_in_memory() {
    const TUNNELS: usize = 8;
    /// A buffer in each direction, and some more.
    const EACH: usize = 256 * 1024;
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let chunk = filling(251 * 256);
        let mut open = Vec::new();
        for _ in 0..TUNNELS {
            open.push(setting.tunnel().await);
        }
        let before = own_memory();
        let both = open.iter().map(|(client, inner)| async { tokio::join!(fill(client, &chunk), fill(inner, &chunk)) });
        let taken: usize = futures_util::future::join_all(both).await.into_iter().map(|(up, down)| up + down).sum();
        let grown = own_memory().saturating_sub(before);
        println!("{taken} bytes were taken for {TUNNELS} tunnels, memory grew by {grown}");
        assert!(grown < TUNNELS * EACH, "memory grew by {grown}");
        drop(open);
        setting.counts(0).await;
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_its_backend() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start_with(http1, LimitsConfig::default()).await;
        let chunk = filling(251 * 256);
        // A request right behind the first one, too: it may not change how the first is answered.
        for behind in ["", "GET /next HTTP/1.1\r\nHost: b.plane.test\r\n\r\n"] {
            let mut client = setting.ask(&format!("GET /large HTTP/1.1\r\nHost: b.plane.test\r\n\r\n{behind}")).await;
            let (mut inner, _) = timeout(PATIENCE, setting.listener.accept()).await.unwrap().unwrap();
            head(&mut inner).await;
            let before = own_memory();
            says(&mut inner, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
            let taken = fill(&inner, &chunk).await;
            let grown = own_memory().saturating_sub(before);
            println!("{taken} bytes were taken for a client that does not read, memory grew by {grown}");
            assert!(grown < 4 << 20, "memory grew by {grown}");
            let answer = head(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            hears(&mut client, &chunk).await;
            drop((client, inner));
            setting.counts(0).await;
        }
    }
}

#[tokio::test]
async fn what_a_backend_has_said_reaches_a_client_that_has_asked_for_more() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let asks = "GET /events HTTP/1.1\r\nHost: b.plane.test\r\n\r\n";
        let mut client = setting.ask(&asks.repeat(2)).await;
        let (mut inner, _) = timeout(PATIENCE, setting.listener.accept()).await.unwrap().unwrap();
        head(&mut inner).await;
        says(&mut inner, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        let answer = timeout(Duration::from_secs(5), head(&mut client)).await;
        let answer = answer.expect("the head is held back until the response has ended");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        hears(&mut client, b"5\r\nfirst\r\n").await;
    }
}

#[tokio::test]
async fn a_quiet_tunnel_stays_open() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let (mut client, mut inner) = setting.tunnel().await;
        // Longer than every limit that is set here, and the clocks that they are measured with.
        tokio::time::sleep(Duration::from_millis(4500)).await;
        setting.counts(1).await;
        for _ in 0..2 {
            says(&mut client, b"are you there").await;
            hears(&mut inner, b"are you there").await;
            says(&mut inner, b"I am").await;
            hears(&mut client, b"I am").await;
        }
    }
}

#[tokio::test]
async fn what_stands_right_behind_the_heads_is_not_lost() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        for length in [1, 100, 5_000, 300_000] {
            let early = filling(length);
            let mut client = TcpStream::connect(setting.proxy).await.unwrap();
            let asking = [ASKS.as_bytes(), &early].concat();
            let answering = [CHANGES.as_bytes(), &early].concat();
            let client_side = async {
                let (mut read, mut write) = client.split();
                let telling = async { write.write_all(&asking).await.unwrap() };
                let mut heard = vec![0; answering.len() + 1000];
                let hearing = async {
                    let mut filled = 0;
                    loop {
                        let bytes = timeout(PATIENCE, read.read(&mut heard[filled..])).await.unwrap().unwrap();
                        assert!(bytes > 0, "it ends after {}", heard[..filled].escape_ascii());
                        filled += bytes;
                        let head = heard[..filled].windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
                        if head.is_some_and(|head| filled >= head + length) {
                            return head.unwrap()..filled;
                        }
                    }
                };
                let ((), behind) = tokio::join!(telling, hearing);
                assert!(heard[behind] == early, "{length} bytes behind the response");
            };
            let backend_side = async {
                let mut inner = setting.accept().await;
                let (mut read, mut write) = inner.split();
                let mut heard = vec![0; length];
                let telling = async { write.write_all(&answering).await.unwrap() };
                let hearing = async { timeout(PATIENCE, read.read_exact(&mut heard)).await.unwrap().unwrap() };
                tokio::join!(telling, hearing);
                assert!(heard == early, "{length} bytes behind the request");
            };
            tokio::join!(client_side, backend_side);
        }
        setting.counts(0).await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_upgrade_is_heard_and_the_connection_serves_on() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        for (status, fields) in [
            ("200 OK", ""),
            ("401 Unauthorized", "WWW-Authenticate: Basic\r\n"),
            ("403 Forbidden", ""),
            ("426 Upgrade Required", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"),
            ("503 Service Unavailable", "Retry-After: 7\r\n"),
        ] {
            let mut client = setting.ask(ASKS).await;
            let mut inner = setting.accept().await;
            says(&mut inner, format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 6\r\n\r\nwhy so").as_bytes()).await;
            let answer = head(&mut client).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            hears(&mut client, b"why so").await;
            if fields.starts_with("Retry") {
                assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: 7\r\n"), "{answer}");
            }
            setting.counts(0).await;
            says(&mut client, b"GET /after HTTP/1.1\r\nHost: b.plane.test\r\n\r\n").await;
            // The backend's connection may be used again or not.
            let mut next = tokio::select! {
                fresh = setting.listener.accept() => fresh.unwrap().0,
                readable = inner.readable() => { readable.unwrap(); inner }
            };
            assert!(head(&mut next).await.starts_with("GET /after HTTP/1.1\r\n"));
            says(&mut next, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter").await;
            head(&mut client).await;
            hears(&mut client, b"after").await;
            setting.counts(0).await;
        }
    }
}

#[tokio::test]
async fn upgrades_are_refused_as_requests_are() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let token = Some(BearerToken::drawn(&Chance::system()));
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        setting.routes.open(&"locked".parse().unwrap(), setting.listener.local_addr().unwrap(), token, None);
        setting.routes.open(&"gone".parse().unwrap(), gone, None, None);
        setting.routes.open(&"ended".parse().unwrap(), gone, None, None);
        setting.routes.close(&"ended".parse().unwrap());
        for (name, status) in [("locked", 401), ("gone", 502), ("ended", 410), ("nobody", 404)] {
            let mut client = setting.ask(&ASKS.replace("b.plane.test", &format!("{name}.plane.test"))).await;
            let answer = head(&mut client).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        }
        // A response that nobody asked for is none.
        let mut client = setting.ask("GET / HTTP/1.1\r\nHost: b.plane.test\r\n\r\n").await;
        let (mut inner, _) = setting.listener.accept().await.unwrap();
        head(&mut inner).await;
        says(&mut inner, CHANGES.as_bytes()).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        setting.counts(0).await;
    }
}

#[tokio::test]
async fn whoever_breaks_off_ends_the_other_and_counts_no_more() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        for client_breaks in [true, false] {
            for under_way in [false, true] {
                let (client, inner) = setting.tunnel().await;
                let (breaks, mut stays) = if client_breaks { (client, inner) } else { (inner, client) };
                setting.counts(1).await;
                if under_way {
                    fill(&stays, &filling(64 * 1024)).await;
                }
                breaks.set_zero_linger().unwrap();
                drop(breaks);
                rest(&mut stays).await;
                setting.counts(0).await;
            }
        }
    }
}

#[tokio::test]
async fn each_tunnel_counts_until_it_ends_and_then_the_backend_is_idle() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let mut open = Vec::new();
        for count in 1..=5 {
            open.push(setting.tunnel().await);
            setting.counts(count).await;
        }
        let idle = setting.activity.idle_for(Duration::from_millis(300));
        let mut idle = std::pin::pin!(idle);
        assert!(timeout(Duration::from_millis(700), &mut idle).await.is_err(), "idle, though five are connected");
        for left in (0..5).rev() {
            drop(open.pop());
            setting.counts(left).await;
        }
        timeout(PATIENCE, idle).await.unwrap();
    }
}

#[tokio::test]
async fn a_drone_that_stops_ends_its_tunnels_after_a_while() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let (mut client, mut inner) = setting.tunnel().await;
        let began = Instant::now();
        let stopping = setting.tasks.shut_down(PATIENCE);
        let served = async {
            // What is open is served on for a moment.
            says(&mut client, b"last words").await;
            hears(&mut inner, b"last words").await;
            rest(&mut client).await;
            rest(&mut inner).await;
        };
        let (stopped, ()) = tokio::join!(stopping, served);
        assert!(stopped, "the proxy does not stop");
        println!("tunnels ended after {:?}", began.elapsed());
        setting.counts(0).await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_let_go_although_the_backend_does_not_read() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let (client, _inner) = setting.tunnel().await;
        fill(&client, &filling(251 * 256)).await;
        setting.counts(1).await;
        client.set_zero_linger().unwrap();
        drop(client);
        setting.counts(0).await;
    }
}

#[tokio::test]
async fn an_upload_that_its_backend_stops_to_read_ends_although_it_is_answered() {
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        let asks = format!("POST /up HTTP/1.1\r\nHost: b.plane.test\r\nContent-Length: {HELD}\r\n\r\n");
        let mut client = setting.ask(&asks).await;
        let (mut inner, _) = timeout(PATIENCE, setting.listener.accept()).await.unwrap().unwrap();
        head(&mut inner).await;
        says(&mut inner, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        setting.counts(1).await;
        fill(&client, &filling(251 * 256)).await;
        setting.counts(0).await;
        let heard = rest(&mut client).await;
        assert!(!heard.ends_with(b"0\r\n\r\n"), "it looks complete");
    }
}

/// A backend that closes with input unread resets its connection behind its last words (RFC 6455, section 7.1.7, has a
/// server fail so), and its client may just be saying more.
#[tokio::test]
async fn the_last_words_of_a_backend_that_breaks_off_are_heard_while_its_client_talks() {
    const WORDS: &[u8] = b"last words";
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1).await;
        for _ in 0..200 {
            let (client, mut inner) = setting.tunnel().await;
            let (mut reading, mut writing) = client.into_split();
            writing.write_all(b"unread").await.unwrap();
            inner.readable().await.unwrap();
            let talking = async {
                while writing.write_all(b"more").await.is_ok() {
                    tokio::task::yield_now().await;
                }
            };
            let listening = async {
                let mut heard = Vec::new();
                // How it ends is not what matters.
                let _ = timeout(PATIENCE, reading.read_to_end(&mut heard)).await.unwrap();
                heard
            };
            let ending = async {
                says(&mut inner, WORDS).await;
                drop(inner);
                listening.await
            };
            let heard = tokio::select! {
                heard = ending => heard,
                () = async { talking.await; std::future::pending().await } => unreachable!(),
            };
            assert!(heard == WORDS, "{}", heard.escape_ascii());
        }
    }
}

/// What it has to say may take its time: a command that is run for a client that has sent all of its input.
#[tokio::test]
async fn a_client_that_finished_and_then_went_away_is_let_go_and_its_backend_with_it() {
    for http1 in IMPLEMENTATIONS {
        for client_finishes in [true, false] {
            let setting = Setting::start(http1).await;
            let (client, inner) = setting.tunnel().await;
            let (mut finishes, mut other) = if client_finishes { (client, inner) } else { (inner, client) };
            finishes.shutdown().await.unwrap();
            assert_eq!(rest(&mut other).await, b"");
            setting.counts(1).await;
            finishes.set_zero_linger().unwrap();
            drop(finishes);
            setting.counts(0).await;
        }
    }
}
