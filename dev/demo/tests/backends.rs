//! The demo program as a process: what it serves, and each way in which it misbehaves.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail by panic, as its tests do")]

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Far beyond what anything here takes; ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(20);

struct Demo {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Demo {
    /// Starts it; the port is known only where it listens.
    fn start(environment: &[(&str, &str)]) -> Demo {
        let mut process = Command::new(env!("CARGO_BIN_EXE_plane-demo"))
            .envs(environment.iter().copied())
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Demo { process, lines, port: 0 }
    }

    async fn listening(environment: &[(&str, &str)]) -> Demo {
        let mut demo = Demo::start(environment);
        let line = timeout(PATIENCE, demo.lines.next_line()).await.unwrap().unwrap().unwrap();
        demo.port = line.rsplit(':').next().unwrap().parse().unwrap();
        demo
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<hyper::body::Incoming>> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await?;
        tokio::spawn(connection);
        timeout(PATIENCE, sender.send_request(request)).await.unwrap()
    }

    async fn get(&self, path: &str) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.send(
            Request::get(path)
                .header("host", "demo")
                .header("x-twice", "a")
                .header("x-twice", "b")
                .body(Full::default())
                .unwrap(),
        )
        .await
    }

    async fn content(&self, path: &str) -> Bytes {
        self.get(path).await.unwrap().into_body().collect().await.unwrap().to_bytes()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.content(path).await).unwrap()
    }

    async fn socket(&self, path: &str) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let url = format!("ws://demo{path}");
        let (socket, _) = tokio_tungstenite::client_async(url, self.connect().await).await.unwrap();
        socket
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap()
    }

    async fn terminate(&mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }
}

#[tokio::test]
async fn it_serves_what_its_table_says() {
    let demo = Demo::listening(&[("DEMO_TEST", "yes")]).await;
    let page = demo.get("/").await.unwrap();
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert_eq!(demo.json("/env").await["DEMO_TEST"], "yes");
    assert_eq!(demo.json("/headers").await["x-twice"], "a, b");
    assert_eq!(demo.json("/request?a=1").await["uri"], "/request?a=1");
    assert_eq!(demo.get("/status?code=418").await.unwrap().status(), 418);
    assert_eq!(demo.get("/nothing").await.unwrap().status(), 404);
    assert_eq!(demo.get("/ws").await.unwrap().status(), 426);
    assert_eq!(demo.content("/slow?chunks=3&ms=1").await, "chunk 1\nchunk 2\nchunk 3\n");

    let many = demo.content("/bytes?n=200001").await;
    assert_eq!(many.len(), 200_001);
    assert!(many.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));

    let posted = demo.send(Request::post("/echo").body(Full::from("over there")).unwrap()).await.unwrap();
    assert_eq!(posted.into_body().collect().await.unwrap().to_bytes(), "over there");
    let sunk = demo.send(Request::post("/sink").body(Full::from("over there")).unwrap()).await.unwrap();
    assert_eq!(sunk.into_body().collect().await.unwrap().to_bytes(), "10");

    let cut = demo.get("/cut?n=5&of=10").await.unwrap();
    assert_eq!(cut.headers()["content-length"], "10");
    assert!(cut.into_body().collect().await.is_err());
}

#[tokio::test]
async fn it_echoes_and_shares_a_room_over_websockets() {
    let demo = Demo::listening(&[]).await;
    let mut echo = demo.socket("/ws").await;
    echo.send(Message::text("hello")).await.unwrap();
    assert_eq!(echo.next().await.unwrap().unwrap(), Message::text("hello"));

    let mut one = demo.socket("/room").await;
    assert!(one.next().await.unwrap().unwrap().to_text().unwrap().contains(r#""you":1"#));
    let mut two = demo.socket("/room").await;
    assert!(two.next().await.unwrap().unwrap().to_text().unwrap().contains(r#""you":2"#));
    two.send(Message::text(r#"{"click":true}"#)).await.unwrap();
    for socket in [&mut one, &mut two] {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(r#"{"count":1}"#));
    }
    drop(two);
    assert_eq!(one.next().await.unwrap().unwrap(), Message::text(r#"{"left":2}"#));
}

#[tokio::test]
async fn it_ends_at_sigterm_also_before_it_listens() {
    let mut page = Demo::listening(&[]).await;
    page.terminate().await;
    assert_eq!(page.end().await.code(), Some(0));

    // The handler is in before the first line is out.
    let mut never = Demo::start(&[("DEMO_MODE", "never"), ("DEMO_LINES", "1")]);
    assert_eq!(never.lines.next_line().await.unwrap().as_deref(), Some("out 1"));
    never.terminate().await;
    assert_eq!(never.end().await.code(), Some(0));
}

#[tokio::test]
async fn it_exits_when_and_how_it_is_told() {
    let mut early = Demo::start(&[("DEMO_MODE", "exit"), ("DEMO_AFTER_MS", "1"), ("DEMO_CODE", "7")]);
    assert_eq!(early.end().await.code(), Some(7));
    let mut later =
        Demo::listening(&[("DEMO_MODE", "exit-after-ready"), ("DEMO_AFTER_MS", "300"), ("DEMO_CODE", "9")]).await;
    assert_eq!(later.end().await.code(), Some(9));
    let mut asked = Demo::listening(&[]).await;
    assert!(asked.get("/exit?code=5").await.is_err());
    assert_eq!(asked.end().await.code(), Some(5));
    let mut confused = Demo::start(&[("DEMO_MODE", "loud")]);
    assert_eq!(confused.end().await.code(), Some(2));
}

#[tokio::test]
async fn late_silent_garbage_stubborn_and_chatty_are_what_they_are_called() {
    let began = Instant::now();
    Demo::listening(&[("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "200")]).await;
    assert!(began.elapsed() >= Duration::from_millis(200));

    let silent = Demo::listening(&[("DEMO_MODE", "silent")]).await;
    let mut stream = silent.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(200), stream.read_u8()).await.is_err());

    let garbage = Demo::listening(&[("DEMO_MODE", "garbage")]).await;
    assert!(garbage.get("/").await.is_err());

    let mut stubborn = Demo::listening(&[("DEMO_MODE", "stubborn")]).await;
    stubborn.terminate().await;
    assert_eq!(stubborn.get("/").await.unwrap().status(), 200);
    assert!(stubborn.process.try_wait().unwrap().is_none());

    let mut chatty = Demo::start(&[("DEMO_MODE", "chatty"), ("DEMO_LINES", "3")]);
    for expected in ["out 1", "out 2", "out 3"] {
        assert_eq!(chatty.lines.next_line().await.unwrap().as_deref(), Some(expected));
    }
    assert!(chatty.lines.next_line().await.unwrap().unwrap().starts_with("listening on 0.0.0.0:"));
}
