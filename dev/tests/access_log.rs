//! The access log and the counters of a drone, as an operator reads them: each request is one line, and says how it went.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Frame as Piece, Incoming},
    client::conn::{http1, http2},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plane_core::id::BackendId;
use plane_dev::harness::{
    Cluster, PATIENCE, Settings, Tls,
    frames::{Frame, From, TEXT},
    self_signed,
};
use serde_json::Value;
use std::{
    convert::Infallible,
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

/// What is no token of any backend.
const WRONG: &str = "wr0ng";

type Body = BoxBody<Bytes, Infallible>;

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// A connection; it is gone when this is.
struct Client {
    sender: Sender,
    connection: JoinHandle<()>,
    /// Closed for all who still hold it: a request that is not complete would keep the connection.
    socket: std::net::TcpStream,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.connection.abort();
    }
}

/// Where requests go, and what all of them say.
struct Front {
    tls: Tls,
    proxy: SocketAddr,
    host: String,
    token: String,
    spoken: Version,
}

impl Front {
    async fn connect(&self) -> Client {
        let stream = self.tls.connect_once_served(self.proxy, &self.host).await.unwrap();
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned().unwrap().into();
        let stream = TokioIo::new(stream);
        if self.spoken == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            let connection = tokio::spawn(async move { drop(connection.await) });
            return Client { sender: Sender::Two(sender), connection, socket };
        }
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Client { sender: Sender::One(sender), connection, socket }
    }

    fn request(&self, method: Method, path: &str, token: &str) -> hyper::http::request::Builder {
        let (two, host) = (self.spoken == Version::HTTP_2, &self.host);
        let uri = if two { format!("https://{host}{path}") } else { path.to_owned() };
        let request = Request::builder().method(method).uri(uri).header("authorization", format!("Bearer {token}"));
        if two { request } else { request.header("host", host) }
    }

    /// A WebSocket that hears one message of its own back.
    async fn websocket(&self) -> usize {
        let mut client = self.connect().await;
        let mut request = if self.spoken == Version::HTTP_2 {
            let request = self.request(Method::CONNECT, "/ws", &self.token);
            request.extension(Protocol::from_static("websocket"))
        } else {
            let request = self.request(Method::GET, "/ws", &self.token);
            let request = request.header("connection", "upgrade").header("upgrade", "websocket");
            request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        };
        request = request.header("sec-websocket-version", "13");
        let mut response = client.send(request.body(whole("")).unwrap()).await.unwrap();
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        let said = Frame::new(TEXT, "hello").bytes(From::Client);
        stream.write_all(&said).await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = vec![0; Frame::new(TEXT, "hello").bytes(From::Backend).len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert!(heard.ends_with(b"hello"));
        said.len()
    }
}

impl Client {
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>> {
        Ok(match &mut self.sender {
            Sender::One(sender) => sender.send_request(request).await?,
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }
}

fn whole(text: &'static str) -> Body {
    Full::from(text).boxed()
}

/// Begins, and does not end.
fn begun(text: &'static str) -> Body {
    let first = Ok(Piece::data(Bytes::from_static(text.as_bytes())));
    BodyExt::boxed(StreamBody::new(stream::iter([first]).chain(stream::pending())))
}

/// The lines of the log, once there are so many.
async fn lines(file: &Path, count: usize) -> Vec<Value> {
    let reading = async {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if text.ends_with('\n') && text.lines().count() >= count {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    let text = read.unwrap_or_else(|_| panic!("not {count} lines: {:?}", std::fs::read_to_string(file)));
    assert!(!text.contains(WRONG), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What each line has.
fn check(line: &Value, front: &Front, backend: &BackendId, method: &str, path: &str, wanted: (u16, &str)) {
    let (status, outcome) = wanted;
    let said = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key} of {line}"));
    assert_eq!((said("method"), said("path"), said("outcome")), (method, path, outcome), "{line}");
    assert_eq!((said("host"), said("backend"), said("client")), (&*front.host, backend.as_str(), "127.0.0.1"));
    assert_eq!(line["status"], status, "{line}");
    said("time").parse::<jiff::Timestamp>().unwrap();
    assert!(line["duration_ms"].as_f64().unwrap() >= 0.0, "{line}");
}

async fn requests_are_told(http1: &str, spoken: Version) {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let proxy = format!("http1 = {http1:?}\naccess_log = {file:?}\n");
    let mut cluster = Cluster::start_as(Settings { https: true, proxy, ..Settings::default() }).await.unwrap();
    let pair = self_signed(&cluster.name).unwrap();
    cluster.drones[0].install(&pair).unwrap();
    let mut request = cluster.request(300, &[]);
    request.require_bearer_token = true;
    let (backend, token) = cluster.ready_once_taken(&request).await.unwrap();
    let token = token.unwrap().expose().to_owned();
    let roots = [pair.leaf_der()];
    let tls = if spoken == Version::HTTP_2 { Tls::http2(roots) } else { Tls::trusting(roots) }.unwrap();
    let proxy = cluster.drones[0].https().unwrap();
    let host = format!("{backend}.{}", cluster.name);
    let front = Front { tls, proxy, host, token, spoken };
    let protocol = if spoken == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
    let check = |line: &Value, method, path, wanted| check(line, &front, &backend, method, path, wanted);

    let mut client = front.connect().await;
    let request = front.request(Method::POST, "/echo?a=b", &front.token).body(whole("hello")).unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let told = lines(&file, 1).await;
    check(&told[0], "POST", "/echo?a=b", (200, "passed"));
    assert_eq!(
        (&told[0]["protocol"], &told[0]["bytes_in"], &told[0]["bytes_out"]),
        (&protocol.into(), &5.into(), &5.into())
    );

    let entering = format!("/_plane_auth?token={WRONG}");
    for (path, count) in [("/", 2), (&*entering, 3)] {
        let request = front.request(Method::GET, path, WRONG).body(whole("")).unwrap();
        let refused = client.send(request).await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let said = refused.into_body().collect().await.unwrap().to_bytes().len();
        let line = lines(&file, count).await.pop().unwrap();
        check(&line, "GET", path.split('?').next().unwrap(), (403, "forbidden"));
        assert_eq!((&line["protocol"], &line["bytes_out"]), (&protocol.into(), &said.into()));
    }

    let said = front.websocket().await;
    let line = lines(&file, 4).await.pop().unwrap();
    let (method, status) = if spoken == Version::HTTP_2 { ("CONNECT", 200) } else { ("GET", 101) };
    check(&line, method, "/ws", (status, "passed"));
    assert_eq!(line["protocol"], "websocket", "{line}");
    assert!(line["bytes_in"].as_u64() >= Some(said as u64) && line["bytes_out"].as_u64() >= Some(7), "{line}");

    let mut leaving = front.connect().await;
    let request = front.request(Method::GET, "/bytes?n=50000000", &front.token).body(whole("")).unwrap();
    let mut answer = leaving.send(request).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop((leaving, answer));
    let line = lines(&file, 5).await.pop().unwrap();
    check(&line, "GET", "/bytes?n=50000000", (200, "client_gone"));
    assert!((1..50_000_000).contains(&line["bytes_out"].as_u64().unwrap()), "{line}");

    let mut leaving = front.connect().await;
    let request = front.request(Method::POST, "/echo", &front.token).body(begun("hello")).unwrap();
    let mut answer = leaving.send(request).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop((leaving, answer));
    let line = lines(&file, 6).await.pop().unwrap();
    check(&line, "POST", "/echo", (200, "client_gone"));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()), "{line}");

    std::fs::rename(&file, &moved).unwrap();
    cluster.drones[0].daemon.process.as_ref().unwrap().signal(libc::SIGHUP);
    cluster.drones[0].daemon.logged("the access log is opened anew").await.unwrap();
    let request = front.request(Method::GET, "/status?code=418", &front.token).body(whole("")).unwrap();
    assert_eq!(client.send(request).await.unwrap().status(), StatusCode::IM_A_TEAPOT);
    check(&lines(&file, 1).await[0], "GET", "/status?code=418", (418, "passed"));
    drop(client);

    let drone = &mut cluster.drones[0].daemon;
    assert!(drone.stop(PATIENCE).await.unwrap().success());
    assert_eq!((lines(&moved, 6).await.len(), lines(&file, 1).await.len()), (6, 1), "each request is one line");
    let counted = drone.logged("proxy stops").await.unwrap();
    for part in ["7 requests: passed 3, client_gone 2, forbidden 2;", "connections 0 open,", "upgraded 0 open, 1 ever;"]
    {
        assert!(counted.contains(part), "{part}: {counted}");
    }
}

#[tokio::test]
async fn requests_of_http1_are_told_by_the_library() {
    requests_are_told("hyper", Version::HTTP_11).await;
}

#[tokio::test]
async fn requests_of_http1_are_told_by_the_own_loop() {
    requests_are_told("plane", Version::HTTP_11).await;
}

#[tokio::test]
async fn requests_of_http2_are_told() {
    requests_are_told("hyper", Version::HTTP_2).await;
}
