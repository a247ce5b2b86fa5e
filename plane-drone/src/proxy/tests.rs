//! The proxy's patience, with backends that are played by sockets of the test.

mod fronts;
mod limits;
mod tls;
mod upstream;

use super::*;
use crate::config::proxy::Http1;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long the proxy waits for a backend in these tests, in seconds.
const SHORT: u32 = 1;

struct Setting {
    tasks: Tasks,
    routes: Routes,
    proxy: SocketAddr,
    backend: TcpListener,
}

async fn setting() -> Setting {
    setting_with(SHORT).await
}

async fn setting_with(secs: u32) -> Setting {
    setting_of(ProxyConfig { start_wait_secs: secs, answer_secs: secs, ..ProxyConfig::default() }).await
}

async fn setting_of(own: ProxyConfig) -> Setting {
    // The other one has tests of its own beside it.
    setting_with_http1(Http1::Hyper, own).await
}

async fn setting_with_http1(http1: Http1, own: ProxyConfig) -> Setting {
    let (tasks, routes) = (Tasks::new(), Routes::default());
    let config = ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, http1, ..own };
    let cluster = "plane.test".parse().unwrap();
    let addresses = Proxy::start(&config, None, cluster, routes.clone(), &tasks).unwrap();
    let proxy = addresses.http;
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Setting { tasks, routes, proxy, backend }
}

async fn ask(proxy: SocketAddr, rest: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: b.plane.test\r\nConnection: close\r\n{rest}");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_backend_that_does_not_become_ready_is_not_waited_for_for_ever() {
    let Setting { routes, proxy, .. } = setting().await;
    routes.wait_for(&"b".parse().unwrap(), None, None);
    let said = answer(ask(proxy, "\r\n").await).await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: 1"), "{said}");
}

#[tokio::test]
async fn a_silent_backend_is_a_gateway_timeout() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let said = answer(ask(proxy, "\r\n").await).await;
    assert!(said.starts_with("HTTP/1.1 504"), "{said}");
    assert_eq!(activity.in_flight(), 0);
}

#[tokio::test]
async fn a_slow_upload_is_no_silence() {
    let Setting { routes, proxy, backend, .. } = setting_with(2).await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut stream = ask(proxy, "Content-Length: 8\r\n\r\n").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    let playing = async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"12345678") {
            inner.read_buf(&mut seen).await.unwrap();
        }
        inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    };
    let uploading = async {
        for byte in b"12345678" {
            tokio::time::sleep(Duration::from_millis(350)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        answer(stream).await
    };
    let ((), said) = tokio::join!(playing, uploading);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn a_client_that_leaves_is_not_in_flight_any_more() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let stream = ask(proxy, "\r\n").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome";
    inner.write_all(head).await.unwrap();
    assert_eq!(activity.in_flight(), 1);
    drop(stream);
    tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1))).await.unwrap();
}

#[tokio::test]
async fn an_address_that_refuses_is_a_bad_gateway_and_the_end_is_clean() {
    let Setting { tasks, routes, proxy, backend } = setting().await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    drop(backend);
    assert!(answer(ask(proxy, "\r\n").await).await.starts_with("HTTP/1.1 502"));
    assert!(tasks.shut_down(Duration::from_secs(10)).await);
    assert!(TcpStream::connect(proxy).await.is_err());
}

#[tokio::test]
async fn a_proxy_that_would_pass_through_to_itself_does_not_start() {
    // An address of the machine's that is not known as such before it listens.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own =
        probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map_or([127, 0, 0, 1].into(), |own| own.ip());
    let refused = loop {
        let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let passthrough = Some(SocketAddr::new(own, port));
        let config = ProxyConfig { http_port: port, passthrough, ..ProxyConfig::default() };
        match Proxy::start(&config, None, "plane.test".parse().unwrap(), Routes::default(), &Tasks::new()) {
            // Somebody else was faster.
            Err(ProxyError::Listen(_)) => {}
            other => break other,
        }
    };
    assert!(refused.unwrap_err().to_string().contains("where this proxy itself listens"));
}
