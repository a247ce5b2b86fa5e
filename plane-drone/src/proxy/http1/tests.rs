//! The loop between sockets of the test: what goes over the wire on either side, and who counts as connected.

use crate::{
    config::proxy::{Http1, LimitsConfig, ProxyConfig},
    proxy::Proxy,
    route::{Activity, Routes},
};
use plane_core::task::Tasks;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const OURS: &str = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: b.plane.test\r\n\
    forwarded: for=127.0.0.1;host=b.plane.test;proto=http\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
const PASSED_OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ncontent-length: 2\r\n\r\nok";

struct Setting {
    tasks: Tasks,
    routes: Routes,
    proxy: SocketAddr,
    backend: TcpListener,
}

impl Setting {
    async fn new() -> Self {
        Self::with(ProxyConfig::default()).await
    }

    async fn with(config: ProxyConfig) -> Self {
        let (tasks, routes) = (Tasks::new(), Routes::default());
        let threads = std::num::NonZeroU16::new(1);
        let config =
            ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, http1: Http1::Plane, threads, ..config };
        let cluster = "plane.test".parse().unwrap();
        let addresses = Proxy::start(&config, None, cluster, routes.clone(), &tasks).unwrap();
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { tasks, routes, proxy: addresses.http, backend }
    }

    /// With a backend that answers.
    async fn open() -> (Self, Arc<Activity>) {
        let setting = Self::new().await;
        let activity = setting.open_route();
        (setting, activity)
    }

    fn open_route(&self) -> Arc<Activity> {
        self.routes.open(&"b".parse().unwrap(), self.backend.local_addr().unwrap(), None, None)
    }

    async fn client(&self) -> Wire {
        Wire(TcpStream::connect(self.proxy).await.unwrap())
    }

    async fn accept(&self) -> Wire {
        Wire(within(self.backend.accept()).await.unwrap().0)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes in time")
}

async fn nobody_is_connected(activity: &Arc<Activity>) {
    within(async {
        while activity.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

struct Wire(TcpStream);

impl Wire {
    async fn say(&mut self, text: &str) {
        within(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads exactly this.
    async fn hear(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        let mut filled = 0;
        within(async {
            while filled < bytes.len() {
                let read = self.0.read(&mut bytes[filled..]).await.unwrap();
                filled += read;
                if read == 0 || !text.as_bytes().starts_with(&bytes[..filled]) {
                    break;
                }
            }
        })
        .await;
        assert_eq!(String::from_utf8_lossy(&bytes[..filled]), text);
    }

    /// Reads until that comes.
    async fn hear_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        within(async {
            while !bytes.ends_with(end.as_bytes()) {
                bytes.push(
                    self.0
                        .read_u8()
                        .await
                        .unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&bytes))),
                );
            }
        })
        .await;
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until the end; what is cut off has one too.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = within(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: b.plane.test\r\n{fields}\r\n")
}

/// What a backend gets of such a request.
fn passed(line: &str, fields: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: b.plane.test\r\n{fields}{OURS}{more}\r\n")
}

#[tokio::test]
async fn requests_follow_each_other_on_both_connections() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    // The second comes before the first is answered, the third byte by byte.
    client.say(&(request("GET /1", "") + &request("GET /2", "A: b\r\n"))).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /1", "", "")).await;
    assert_eq!(activity.in_flight(), 1);
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    backend.hear(&passed("GET /2", "A: b\r\n", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
    for byte in request("GET /3", "").chars() {
        client.say(&byte.to_string()).await;
    }
    backend.hear(&passed("GET /3", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 5\r\n") + "he")).await;
    let mut backend = setting.accept().await;
    backend.hear(&(passed("POST /", "", "content-length: 5\r\n") + "he")).await;
    client.say("lloGET").await;
    backend.hear("llo").await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n\r\n";
    client.hear(&(head.to_owned() + "3\r\nabc\r\n")).await;
    backend.say("02\r\nde\r\n0\r\nSum: 1\r\nContent-Length: 5\r\n\r\n").await;
    client.hear("2\r\nde\r\n0\r\nSum: 1\r\n\r\n").await;
    client
        .say(" / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: u\r\n\r\n")
        .await;
    backend.hear(&(passed("GET /", "", "transfer-encoding: chunked\r\n") + "1\r\nx\r\n0\r\nT: u\r\n\r\n")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn old_clients_get_what_they_can_read() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\nConnection: keep-alive\r\n\r\n").await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say(OK).await;
    client.hear(&PASSED_OK.replace("\r\n\r\n", "\r\nconnection: keep-alive\r\n\r\n")).await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\nConnection: keep-alive\r\n\r\n").await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    backend.say("3\r\nabc\r\n0\r\n\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\nconnection: close\r\n\r\n";
    assert_eq!(client.rest().await, format!("{head}abc"));
}

#[tokio::test]
async fn an_old_client_does_not_take_a_part_for_the_whole() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.0\r\nHost: b.plane.test\r\n\r\n").await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n").await;
    client.hear_until("hal").await;
    drop(backend);
    let end = within(client.0.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn interim_responses_pass_and_bodies_are_asked_for() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("PUT /", "Content-Length: 2\r\nExpect: 100-continue\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("PUT /", "", "content-length: 2\r\n")).await;
    client.hear("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("hi").await;
    backend.hear("hi").await;
    backend.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    client.hear("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
}

#[tokio::test]
async fn an_answer_may_come_before_its_request_is_complete() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 100\r\n") + "some")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("some").await;
    backend.say(OK).await;
    client.say("more").await;
    assert_eq!(client.rest().await, PASSED_OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    nobody_is_connected(&activity).await;
    // And so may a stream that lasts as long as its request.
    let mut client = setting.client().await;
    client.say(&request("POST /", "Transfer-Encoding: chunked\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.hear_until("\r\n\r\n").await;
    for _ in 0..3 {
        client.say("4\r\nping\r\n").await;
        backend.hear("4\r\nping\r\n").await;
        backend.say("4\r\npong\r\n").await;
        client.hear("4\r\npong\r\n").await;
    }
    client.say("0\r\n\r\n").await;
    backend.hear("0\r\n\r\n").await;
    backend.say("0\r\n\r\n").await;
    client.hear("0\r\n\r\n").await;
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
}

#[tokio::test]
async fn who_leaves_is_noticed_while_the_backend_is_silent() {
    let (setting, activity) = Setting::open().await;
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"] {
        let mut client = setting.client().await;
        client.say(&(request("GET /events", "") + &request("GET /next", ""))).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(answer).await;
        if !answer.is_empty() {
            client.hear_until("data: 1\n\n\r\n").await;
        }
        assert_eq!(activity.in_flight(), 1);
        drop(client);
        nobody_is_connected(&activity).await;
        assert_eq!(backend.rest().await, "");
    }
}

#[tokio::test]
async fn who_leaves_is_noticed_behind_more_requests_than_are_read() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /events", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    let most = LimitsConfig::default().header_bytes as usize;
    client.say(&request("GET /next", "").repeat(most * 5 / 4 / request("GET /next", "").len())).await;
    assert_eq!(activity.in_flight(), 1);
    drop(client);
    nobody_is_connected(&activity).await;
    assert_eq!(backend.rest().await, "");
    // Who stays gets all answers.
    let mut client = setting.client().await;
    client.say(&request("GET /first", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    let count = most * 5 / 4 / request("GET /next", "").len();
    client.say(&request("GET /next", "").repeat(count)).await;
    for _ in 0..count {
        backend.say(OK).await;
        client.hear(PASSED_OK).await;
        backend.hear(&passed("GET /next", "", "")).await;
    }
}

#[tokio::test]
async fn protocols_are_offered_and_chosen_from_as_the_client_says() {
    let (setting, _) = Setting::open().await;
    let asks = "Connection: Upgrade\r\nUpgrade: a/1, h2c\r\nUpgrade: b\r\n";
    for (chosen, is_taken) in [("B", true), ("a/1, b", true), ("c", false), ("b, c", false), ("h2c", false)] {
        let mut client = setting.client().await;
        client.say(&request("GET /ws", asks)).await;
        let mut backend = setting.accept().await;
        backend.hear(&passed("GET /ws", "", "connection: upgrade\r\nupgrade: a/1, b\r\n")).await;
        backend.say(&format!("HTTP/1.1 101 S\r\nUpgrade: {chosen}\r\nConnection: upgrade\r\n\r\nhello")).await;
        let head = client.hear_until("\r\n\r\n").await;
        if is_taken {
            assert!(
                head.starts_with("HTTP/1.1 101 ") && head.contains(&format!("\r\nupgrade: {chosen}\r\n")),
                "{head}"
            );
            client.hear("hello").await;
        } else {
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        }
    }
}

#[tokio::test]
async fn upgraded_connections_carry_anything_and_count_until_they_end() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    let asks = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    client.say(&(request("GET /ws", asks) + "early")).await;
    let mut backend = setting.accept().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    backend.hear(&passed("GET /ws", "Sec-WebSocket-Key: k\r\n", upgrade)).await;
    let switching = "HTTP/1.1 101 Switching Protocols\r\nDate: x\r\n";
    backend.say(&format!("{switching}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")).await;
    client.hear(&format!("{switching}x-plane-backend-id: b\r\n{upgrade}\r\nhello")).await;
    backend.hear("early").await;
    client.say("\x01\0ping").await;
    backend.hear("\x01\0ping").await;
    assert_eq!(activity.in_flight(), 1);
    client.0.shutdown().await.unwrap();
    assert_eq!(backend.rest().await, "");
    backend.say("bye").await;
    drop(backend);
    assert_eq!(client.rest().await, "bye");
    nobody_is_connected(&activity).await;
    // A backend that declines answers as to any request, and one that changes unasked is not believed.
    let mut client = setting.client().await;
    client.say(&request("GET /ws", asks)).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say(&request("GET /", "")).await;
    backend.hear_until("\r\n\r\n").await;
    backend.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").await;
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_closed_connection_is_replaced_if_the_request_may_be_sent_again() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /1", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /1", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    // It takes the next request and goes away without a word.
    client.say(&request("GET /2", "")).await;
    backend.hear(&passed("GET /2", "", "")).await;
    drop(backend);
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /2", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say(&(request("POST /3", "Content-Length: 1\r\n") + "x")).await;
    backend.hear_until("\r\n\r\nx").await;
    drop(backend);
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
    // One that is fresh is not tried twice.
    let mut client = setting.client().await;
    client.say(&request("GET /4", "")).await;
    drop(setting.accept().await);
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_reaches_nobody() {
    let (setting, activity) = Setting::open().await;
    let table = [
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: b.plane.test\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nHost: b.plane.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nHost: b.plane.test\r\n\r\n", 505),
        ("CONNECT b.plane.test:80 HTTP/1.1\r\nHost: b.plane.test\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 9\r\n\r\n", 421),
    ];
    for (said, status) in table {
        let mut client = setting.client().await;
        client.say(said).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?} got {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    // A refusal that needs no body to be skipped leaves the connection open.
    let mut client = setting.client().await;
    client.say("GET / HTTP/1.1\r\nHost: other.test\r\nAccept: application/json\r\n\r\n").await;
    assert!(client.hear_until("}").await.contains("wrong_host"));
    client.say(&request("GET /after", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /after", "", "")).await;
    assert_eq!(activity.in_flight(), 1);
}

#[tokio::test]
async fn chunks_that_go_bad_on_their_way_end_the_request() {
    let (setting, activity) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Transfer-Encoding: chunked\r\n") + "1\r\nx\r\n")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("1\r\nx\r\n").await;
    client.say("zz\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400 "));
    assert_eq!(backend.rest().await, "");
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn hostile_answers_are_replaced_or_visibly_cut() {
    let (setting, activity) = Setting::open().await;
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    let wide = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000));
    let replaced = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b",
        "",
        &wide,
        &flood,
    ];
    for answer in replaced {
        let mut client = setting.client().await;
        client.say(&request("GET /", "")).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        // It may be hung up on.
        let _ = backend.0.write_all(answer.as_bytes()).await;
        drop(backend);
        let heard = client.hear_until("broke off.\n").await;
        assert!(heard.starts_with("HTTP/1.1 502 ") || answer == flood, "{answer:?} got {heard}");
        assert_eq!(heard.matches("HTTP/1.1 502 ").count(), 1, "{heard}");
    }
    for (fields, body, seen) in [
        ("Content-Length: 5\r\n", "abc", "abc"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", "3\r\nabc\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\nzz\r\n", ""),
    ] {
        let mut client = setting.client().await;
        client.say(&request("GET /", "")).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await;
        client.hear_until("\r\n\r\n").await;
        backend.say(body).await;
        drop(backend);
        assert_eq!(client.rest().await, seen);
    }
    // What a backend says beyond its answer is nobody's answer.
    let mut client = setting.client().await;
    client.say(&request("GET /1", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(&format!("{OK}HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n")).await;
    client.hear(PASSED_OK).await;
    client.say(&request("GET /2", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /2", "", "")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("HEAD /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("HEAD /", "", "")).await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\n").await;
    client.hear(PASSED_OK.strip_suffix("ok").unwrap()).await;
    for status in ["204 No Content", "304 Not Modified"] {
        client.say(&request("GET /", "")).await;
        backend.hear(&passed("GET /", "", "")).await;
        backend.say(&format!("HTTP/1.1 {status}\r\nDate: x\r\n\r\n")).await;
        client.hear(&format!("HTTP/1.1 {status}\r\nDate: x\r\nx-plane-backend-id: b\r\n\r\n")).await;
    }
    // Without a length, an answer ends with its connection.
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nall").await;
    drop(backend);
    let head = "HTTP/1.1 200 OK\r\nDate: x\r\nx-plane-backend-id: b\r\ntransfer-encoding: chunked\r\n\r\n";
    client.hear(&format!("{head}3\r\nall\r\n0\r\n\r\n")).await;
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let (setting, activity) = Setting::open().await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = setting.client().await;
    let (mut reading, mut writing) = client.0.split();
    let backend = setting.accept();
    let asking = async {
        let head = request("POST /", &format!("Content-Length: {}\r\n", body.len()));
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&body).await.unwrap();
    };
    let answering = async {
        let mut backend = backend.await;
        backend.hear_until("\r\n\r\n").await;
        let (mut from, mut to) = backend.0.split();
        to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
        tokio::io::copy(&mut (&mut from).take(body.len() as u64), &mut to).await.unwrap();
    };
    let hearing = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(reading.read_u8().await.unwrap());
        }
        let mut heard = vec![0; body.len()];
        reading.read_exact(&mut heard).await.unwrap();
        assert!(heard == body, "the body is another");
    };
    within(async { tokio::join!(asking, answering, hearing) }).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn what_takes_too_long_is_given_up() {
    let limits = LimitsConfig { body_secs: 1, header_secs: 1, idle_secs: 1, body_bytes: 10, ..LimitsConfig::default() };
    let setting =
        Setting::with(ProxyConfig { answer_secs: 1, start_wait_secs: 1, limits, ..ProxyConfig::default() }).await;
    let activity = setting.open_route();
    for (said, status) in [
        (request("GET /", ""), "504"),
        (request("POST /", "Content-Length: 5\r\n") + "x", "408"),
        (request("POST /", "Content-Length: 11\r\n"), "413"),
        (request("POST /", "Transfer-Encoding: chunked\r\n") + "c\r\n0123456789ab\r\n", "413"),
    ] {
        let mut client = setting.client().await;
        client.say(&said).await;
        let heard = client.hear_until("\r\n\r\n").await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?} got {heard}");
        nobody_is_connected(&activity).await;
    }
    for said in ["", "GET / HT"] {
        let mut client = setting.client().await;
        client.say(said).await;
        client.rest().await;
    }
    setting.routes.wait_for(&"b".parse().unwrap(), None, None);
    let mut client = setting.client().await;
    client.say(&request("GET /", "")).await;
    assert!(client.hear_until("\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn what_stalls_behind_a_request_or_its_answer_is_ended() {
    let limits = LimitsConfig { body_secs: 1, header_secs: 1, idle_secs: 1, ..LimitsConfig::default() };
    let setting = Setting::with(ProxyConfig { limits, ..ProxyConfig::default() }).await;
    let activity = setting.open_route();
    // What came behind a request is the next head's beginning, and an empty line is none.
    for (left, end) in [("GET / HT", "HTTP/1.1 408 "), ("\r\n", "")] {
        let mut client = setting.client().await;
        client.say(&(request("GET /", "") + left)).await;
        let mut backend = setting.accept().await;
        backend.hear_until("\r\n\r\n").await;
        backend.say(OK).await;
        client.hear(PASSED_OK).await;
        drop(backend);
        let rest = client.rest().await;
        assert!(rest.starts_with(end) && rest.is_empty() == end.is_empty(), "{left:?} got {rest}");
    }
    // An upload that stalls once its answer has begun.
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 5\r\n") + "x")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\nx").await;
    backend.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.hear_until("1\r\na\r\n").await;
    client.rest().await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn a_request_waits_for_its_backend_with_all_that_it_brought() {
    let setting = Setting::new().await;
    setting.routes.wait_for(&"b".parse().unwrap(), None, None);
    let mut client = setting.client().await;
    client.say(&(request("POST /", "Content-Length: 4\r\n") + "bo")).await;
    client.say("dy").await;
    let activity = setting.open_route();
    let mut backend = setting.accept().await;
    backend.hear(&(passed("POST /", "", "content-length: 4\r\n") + "body")).await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    nobody_is_connected(&activity).await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_says_so() {
    let (setting, _) = Setting::open().await;
    let (mut client, mut idle) = (setting.client().await, setting.client().await);
    idle.say(&request("GET /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear(&passed("GET /", "", "")).await;
    backend.say(OK).await;
    idle.hear(PASSED_OK).await;
    client.say(&request("GET /", "")).await;
    backend.hear(&passed("GET /", "", "")).await;
    let tasks = setting.tasks.clone();
    let stopping = tokio::spawn(async move { tasks.shut_down(PATIENCE).await });
    assert_eq!(idle.rest().await, "");
    backend.say(OK).await;
    assert_eq!(client.rest().await, PASSED_OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    assert!(within(stopping).await.unwrap());
}

#[tokio::test]
async fn a_stop_does_not_wait_long_for_the_rest_of_a_head() {
    let (setting, _) = Setting::open().await;
    let mut client = setting.client().await;
    client.say(&request("GET /", "")).await;
    let mut backend = setting.accept().await;
    backend.hear_until("\r\n\r\n").await;
    backend.say(OK).await;
    client.hear(PASSED_OK).await;
    client.say("GET / HTTP/1.1\r\nHost: b.pl").await;
    let tasks = setting.tasks.clone();
    let stopping = tokio::spawn(async move { tasks.shut_down(PATIENCE).await });
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(within(stopping).await.unwrap());
}
