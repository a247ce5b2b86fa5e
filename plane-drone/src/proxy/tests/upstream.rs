//! Connections to backends: kept for the next request, and no client hears that one was closed meanwhile.

use super::*;
use crate::config::proxy::LimitsConfig;

/// Reads one head, and answers it.
async fn serve(stream: &mut TcpStream, answer: &[u8]) -> String {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            break;
        }
    }
    stream.write_all(answer).await.unwrap();
    String::from_utf8(head).unwrap()
}

async fn send(stream: &mut TcpStream, method: &str) {
    let head = format!("{method} / HTTP/1.1\r\nHost: b.plane.test\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

async fn status(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0, "{}", String::from_utf8_lossy(&said));
    }
    String::from_utf8_lossy(&said[9..12]).into_owned()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut client = TcpStream::connect(proxy).await.unwrap();
    send(&mut client, "GET").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    serve(&mut inner, OK).await;
    assert_eq!(status(&mut client).await, "200");
    for _ in 0..3 {
        send(&mut client, "POST").await;
        assert!(serve(&mut inner, OK).await.starts_with("POST"));
        assert_eq!(status(&mut client).await, "200");
    }
}

#[tokio::test]
async fn a_connection_is_kept_after_answers_without_a_body() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut client = TcpStream::connect(proxy).await.unwrap();
    send(&mut client, "GET").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    serve(&mut inner, OK).await;
    assert_eq!(status(&mut client).await, "200");
    for _ in 0..50 {
        send(&mut client, "HEAD").await;
        serve(&mut inner, b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n").await;
        assert_eq!(status(&mut client).await, "200");
        send(&mut client, "GET").await;
        serve(&mut inner, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\n\r\n").await;
        assert_eq!(status(&mut client).await, "304");
        send(&mut client, "GET").await;
        serve(&mut inner, b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(status(&mut client).await, "200");
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_at_the_next_request_is_replaced() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    for (method, expected) in [("GET", "200"), ("PUT", "200"), ("DELETE", "200"), ("POST", "502")] {
        let mut client = TcpStream::connect(proxy).await.unwrap();
        send(&mut client, "GET").await;
        let (mut inner, _) = backend.accept().await.unwrap();
        serve(&mut inner, OK).await;
        assert_eq!(status(&mut client).await, "200");
        send(&mut client, method).await;
        // It has read the request, and says nothing.
        assert!(serve(&mut inner, b"").await.starts_with(method));
        drop(inner);
        if expected == "200" {
            let (mut inner, _) = backend.accept().await.unwrap();
            assert!(
                serve(&mut inner, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await
                    .starts_with(method)
            );
        }
        assert_eq!(status(&mut client).await, expected, "{method}");
    }
    tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1))).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_kept_is_not_used() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut client = TcpStream::connect(proxy).await.unwrap();
    send(&mut client, "GET").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    serve(&mut inner, OK).await;
    drop(inner);
    assert_eq!(status(&mut client).await, "200");
    send(&mut client, "POST").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    serve(&mut inner, OK).await;
    assert_eq!(status(&mut client).await, "200");
}

#[tokio::test]
async fn a_connection_ends_with_its_backend() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    let id = "b".parse().unwrap();
    routes.open(&id, backend.local_addr().unwrap(), None, None);
    let mut client = TcpStream::connect(proxy).await.unwrap();
    send(&mut client, "GET").await;
    let (mut inner, _) = backend.accept().await.unwrap();
    serve(&mut inner, OK).await;
    assert_eq!(status(&mut client).await, "200");
    routes.close(&id);
    let ended = tokio::time::timeout(Duration::from_secs(20), inner.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    send(&mut client, "GET").await;
    assert_eq!(status(&mut client).await, "410");
}

#[tokio::test]
async fn the_body_of_a_get_arrives() {
    let Setting { routes, proxy, backend, .. } = setting().await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut client = TcpStream::connect(proxy).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: b.plane.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut inner, _) = backend.accept().await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"5\r\nquery\r\n0\r\n\r\n") {
        assert_ne!(inner.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
    inner.write_all(OK).await.unwrap();
    assert_eq!(status(&mut client).await, "200");
}

#[tokio::test]
async fn an_upload_that_stops_after_the_answer_began_keeps_nobody_connected() {
    let limits = LimitsConfig { body_secs: 1, ..LimitsConfig::default() };
    for answer in ["Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"] {
        let Setting { routes, proxy, backend, .. } = setting_of(ProxyConfig { limits, ..ProxyConfig::default() }).await;
        let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
        let mut client = TcpStream::connect(proxy).await.unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nHost: b.plane.test\r\nContent-Length: 9\r\n\r\n1").await.unwrap();
        let (mut inner, _) = backend.accept().await.unwrap();
        serve(&mut inner, format!("HTTP/1.1 200 OK\r\n{answer}\r\n").as_bytes()).await;
        assert_eq!(status(&mut client).await, "200");
        let idle = tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1)));
        idle.await.unwrap();
    }
}
