//! WebSockets through a drone's proxy, byte by byte: whatever two ends say to each other, each must hear what the other
//! said, all of it and nothing else, and how the other went.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a test may tell what it saw")]

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::Empty;
use hyper::{
    Method, Request,
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plane_core::id::ClusterName;
use plane_dev::harness::{
    Cluster, PATIENCE, Settings, Tls,
    frames::{Already, Case, Frame, From, TEXT, cases, play},
    self_signed,
};
use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How many cases are played at once.
const AT_ONCE: usize = 16;
/// The library, and the proxy's own loop: who speaks HTTP/1.1.
const HYPER: &str = "hyper";
const OWN: &str = "plane";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const EXTENSIONS: &str = "permessage-deflate; client_max_window_bits, x-own; a=\"b c\"";
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover";

/// Reads to the end of a head; gives it, and what came behind it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let behind = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, behind));
        }
        ensure!(
            stream.read_buf(&mut bytes).await? > 0,
            "it ends within the head: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// The value of a field; the proxy may write its name in any case.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// The first pieces of some cases are sent together with the head before them.
fn first(pieces: &[Vec<u8>], together: bool) -> (&[u8], usize) {
    match pieces.first() {
        Some(first) if together => (first, 1),
        _ => (&[], 0),
    }
}

/// The backend: plays the case that the path names.
async fn backend(cases: &[Case], mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (asked, heard) = head(&mut stream).await?;
    let number: usize = asked.split(['/', ' ']).nth(3).context("no case")?.parse()?;
    let case = &cases[number];
    for (name, value) in [
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", EXTENSIONS),
        ("sec-websocket-protocol", "chat, superchat"),
        ("origin", "https://app.test"),
    ] {
        let seen = field(&asked, name);
        ensure!(seen == Some(value), "the backend sees {name}: {seen:?}");
    }
    let key = field(&asked, "sec-websocket-key").context("no key")?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Extensions: {ACCEPTED}\r\nSec-WebSocket-Protocol: superchat\r\nX-Case: {number}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    let (behind, said) = first(&case.backend, number.is_multiple_of(2));
    stream.write_all(&[answer.as_bytes(), behind].concat()).await?;
    play(case, From::Backend, stream, Already { said, heard }, |stream| {
        let _ = stream.set_zero_linger();
    })
    .await
}

/// The client of HTTP/1.1: shakes hands and plays.
async fn client<S: AsyncRead + AsyncWrite + Unpin>(
    number: usize,
    case: &Case,
    mut stream: S,
    reset: impl FnOnce(&S),
) -> Result<()> {
    let asks = format!(
        "GET /case/{number} HTTP/1.1\r\nHost: elsewhere.test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Extensions: {EXTENSIONS}\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nOrigin: https://app.test\r\n\r\n"
    );
    let (behind, said) = first(&case.client, number.is_multiple_of(8));
    stream.write_all(&[asks.as_bytes(), behind].concat()).await?;
    stream.flush().await?;
    let (answer, heard) = head(&mut stream).await.with_context(|| case.name.clone())?;
    ensure!(answer.starts_with("HTTP/1.1 101 "), "{}: the client is answered {answer}", case.name);
    let case_number = number.to_string();
    for (name, value) in [
        ("upgrade", "websocket"),
        ("sec-websocket-accept", &derive_accept_key(KEY.as_bytes())),
        ("sec-websocket-extensions", ACCEPTED),
        ("sec-websocket-protocol", "superchat"),
        ("x-case", &case_number),
    ] {
        let seen = field(&answer, name);
        ensure!(seen == Some(value), "{}: the client sees {name}: {seen:?}", case.name);
    }
    play(case, From::Client, stream, Already { said, heard }, reset).await
}

/// The client of HTTP/2, which asks by an extended CONNECT (RFC 8441, section 4): on a stream of a shared connection.
async fn stream_client(number: usize, case: &Case, mut sender: SendRequest<Empty<Bytes>>) -> Result<()> {
    let asks = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://elsewhere.test/case/{number}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-extensions", EXTENSIONS)
        .header("sec-websocket-protocol", "chat, superchat")
        .header("origin", "https://app.test")
        .body(Empty::new())?;
    let answer = sender.send_request(asks).await.with_context(|| case.name.clone())?;
    ensure!(answer.status() == 200, "{}: the client is answered {answer:?}", case.name);
    let case_number = number.to_string();
    for (name, value) in [
        ("sec-websocket-accept", None),
        ("upgrade", None),
        ("sec-websocket-extensions", Some(ACCEPTED)),
        ("sec-websocket-protocol", Some("superchat")),
        ("x-case", Some(&case_number)),
    ] {
        let seen = answer.headers().get(name).and_then(|value| value.to_str().ok());
        ensure!(seen == value, "{}: the client sees {name}: {seen:?}", case.name);
    }
    let stream = TokioIo::new(hyper::upgrade::on(answer).await?);
    // A stream that is dropped before its end is reset.
    play(case, From::Client, stream, Already::default(), |_| {}).await
}

/// A way to a drone's proxy.
enum Way {
    Http(SocketAddr),
    Https(SocketAddr, Tls),
    Http2(SendRequest<Empty<Bytes>>),
}

impl Way {
    async fn play(&self, number: usize, case: &Case) -> Result<()> {
        match self {
            Self::Http(proxy) => {
                let stream = TcpStream::connect(proxy).await?;
                stream.set_nodelay(true)?;
                client(number, case, stream, |stream| {
                    let _ = stream.set_zero_linger();
                })
                .await
            }
            Self::Https(proxy, tls) => {
                let stream = tls.connect(*proxy, "elsewhere.test").await?;
                stream.get_ref().0.set_nodelay(true)?;
                client(number, case, stream, |stream| {
                    let _ = stream.get_ref().0.set_zero_linger();
                })
                .await
            }
            Self::Http2(sender) => stream_client(number, case, sender.clone()).await,
        }
    }
}

/// Who speaks to the proxy, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http,
    Https,
    Http2,
}

/// The way to a cluster's one drone, where names are below `name`.
async fn way_to(cluster: &Cluster, name: &ClusterName, spoken: Spoken) -> Way {
    let drone = &cluster.drones[0];
    if spoken == Spoken::Http {
        return Way::Http(drone.proxy);
    }
    let pair = self_signed(name).unwrap();
    drone.install(&pair).unwrap();
    let (proxy, roots) = (drone.https().unwrap(), [pair.leaf_der()]);
    let tls = if spoken == Spoken::Http2 { Tls::http2(roots) } else { Tls::trusting(roots) }.unwrap();
    let stream = tls.connect_once_served(proxy, name.as_str()).await.unwrap();
    if spoken == Spoken::Https {
        return Way::Https(proxy, tls);
    }
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Way::Http2(sender)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Way {
    /// Opens a WebSocket to a backend, and shakes hands.
    async fn open(&self, host: &str) -> Result<Box<dyn Stream>> {
        let mut stream: Box<dyn Stream> = match self {
            Self::Http(proxy) => Box::new(TcpStream::connect(proxy).await?),
            Self::Https(proxy, tls) => Box::new(tls.connect(*proxy, host).await?),
            Self::Http2(sender) => {
                let asks = Request::connect(format!("https://{host}/ws"))
                    .extension(Protocol::from_static("websocket"))
                    .header("sec-websocket-version", "13");
                let answer = sender.clone().send_request(asks.body(Empty::new())?).await?;
                ensure!(answer.status() == 200, "{answer:?}");
                return Ok(Box::new(TokioIo::new(hyper::upgrade::on(answer).await?)));
            }
        };
        let asks = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream.write_all(asks.as_bytes()).await?;
        stream.flush().await?;
        let (answer, _) = head(&mut stream).await?;
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Ok(stream)
    }
}

/// Keys of `[proxy]` that choose who speaks HTTP/1.1.
fn keys(http1: &str) -> String {
    format!("http1 = \"{http1}\"\n")
}

/// What a socket's client hears when its backend's container ends.
async fn hears_of_the_end(spoken: Spoken, http1: &str) {
    let https = spoken != Spoken::Http;
    let cluster = Cluster::start_as(Settings { https, proxy: keys(http1), ..Settings::default() }).await.unwrap();
    let way = way_to(&cluster, &cluster.name, spoken).await;
    for killed in [true, false] {
        let (backend, _) = cluster.ready_once_taken(&cluster.request(300, &[])).await.unwrap();
        let mut socket = way.open(&format!("{backend}.{}", cluster.name)).await.unwrap();
        let said = Frame::new(TEXT, "are you there");
        let mut heard = vec![0; said.bytes(From::Backend).len()];
        socket.write_all(&said.bytes(From::Client)).await.unwrap();
        socket.flush().await.unwrap();
        tokio::time::timeout(PATIENCE, socket.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, said.bytes(From::Backend));
        if killed {
            let kill = Command::new("docker").args(["kill", &format!("plane-{backend}")]).output().unwrap();
            assert!(kill.status.success(), "{kill:?}");
        } else {
            cluster.end(&backend).await.unwrap();
        }
        let end = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut heard)).await;
        let end = end.unwrap_or_else(|_| panic!("{spoken:?}: the client does not hear of it, killed: {killed}"));
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_that_its_backend_has_ended() {
    hears_of_the_end(Spoken::Http, HYPER).await;
    hears_of_the_end(Spoken::Http, OWN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_that_its_backend_has_ended_through_tls() {
    hears_of_the_end(Spoken::Https, HYPER).await;
    hears_of_the_end(Spoken::Https, OWN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_that_its_backend_has_ended_in_streams_of_http2() {
    hears_of_the_end(Spoken::Http2, HYPER).await;
}

async fn all_are_carried(spoken: Spoken, http1: &str) {
    let cases = Arc::new(cases());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("{}passthrough = \"{}\"\n", keys(http1), listener.local_addr().unwrap());
    let https = spoken != Spoken::Http;
    let cluster = Cluster::start_as(Settings { https, proxy, ..Settings::default() }).await.unwrap();
    let way = way_to(&cluster, &"elsewhere.test".parse().unwrap(), spoken).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backends = cases.clone();
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (cases, tell) = (backends.clone(), tell.clone());
            tokio::spawn(async move { tell.send(backend(&cases, stream).await) });
        }
    });
    let (way, numbered) = (&way, cases.iter().enumerate());
    let clients = stream::iter(numbered.map(|(number, case)| way.play(number, case))).buffer_unordered(AT_ONCE);
    let mut outcomes: Vec<Result<()>> = clients.collect().await;
    while outcomes.len() < 2 * cases.len() {
        let Ok(Some(outcome)) = tokio::time::timeout(PATIENCE, told.recv()).await else {
            outcomes
                .push(Err(anyhow::anyhow!("{} cases have not come to the backend", 2 * cases.len() - outcomes.len())));
            break;
        };
        outcomes.push(outcome);
    }
    accepting.abort();
    let faults: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    println!("{} cases, {} faults", cases.len(), faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_hears_the_other_byte_for_byte() {
    all_are_carried(Spoken::Http, HYPER).await;
    all_are_carried(Spoken::Http, OWN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_hears_the_other_byte_for_byte_through_tls() {
    all_are_carried(Spoken::Https, HYPER).await;
    all_are_carried(Spoken::Https, OWN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_hears_the_other_byte_for_byte_in_streams_of_http2() {
    all_are_carried(Spoken::Http2, HYPER).await;
}
