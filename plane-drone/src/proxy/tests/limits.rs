//! Limits, as a client that runs into them sees it.

use super::*;
use crate::config::proxy::LimitsConfig;

async fn limited(limits: LimitsConfig) -> Setting {
    let own = ProxyConfig { limits, start_wait_secs: SHORT, ..ProxyConfig::default() };
    setting_of(own).await
}

#[tokio::test]
async fn no_more_connections_are_taken_than_there_are_places() {
    let few = LimitsConfig { connections: 2, idle_secs: 4, ..LimitsConfig::default() };
    let Setting { proxy, .. } = limited(few).await;
    let three = [proxy; 3].map(|proxy| async move { answer(TcpStream::connect(proxy).await.unwrap()).await });
    // Those that have a place and do not use it lose it where places are scarce.
    let said = futures_util::future::join_all(three).await;
    assert_eq!(said.iter().filter(|said| said.starts_with("HTTP/1.1 503")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| said.is_empty()).count(), 2, "{said:?}");
    let asking = async { while !answer(ask(proxy, "\r\n").await).await.starts_with("HTTP/1.1 404") {} };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap();
}

#[tokio::test]
async fn one_address_cannot_have_all_places() {
    let few = LimitsConfig { connections_per_address: 1, idle_secs: 2, ..LimitsConfig::default() };
    let Setting { proxy, .. } = limited(few).await;
    let two = [proxy; 2].map(|proxy| async move { answer(TcpStream::connect(proxy).await.unwrap()).await });
    let said = futures_util::future::join_all(two).await;
    assert_eq!(said.iter().filter(|said| said.starts_with("HTTP/1.1 503")).count(), 1, "{said:?}");
    let _one = TcpStream::connect(proxy).await.unwrap();
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(proxy).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: n.plane.test\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(answer(other).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn bodies_have_a_limit_whether_they_say_their_length_or_not() {
    let small = LimitsConfig { body_bytes: 4, ..LimitsConfig::default() };
    let Setting { routes, proxy, backend, .. } = limited(small).await;
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let told = answer(ask(proxy, "Content-Length: 5\r\n\r\n12345").await).await;
    assert!(told.starts_with("HTTP/1.1 413"), "{told}");
    let chunked = answer(ask(proxy, "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n").await).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1))).await.unwrap();
}

#[tokio::test]
async fn few_requests_are_held_for_one_backend() {
    let one = LimitsConfig { held_per_backend: 1, ..LimitsConfig::default() };
    let Setting { routes, proxy, backend, .. } = limited(one).await;
    let id = "b".parse().unwrap();
    routes.wait_for(&id, None, None);
    let both = tokio::join!(async { answer(ask(proxy, "\r\n").await).await }, async {
        answer(ask(proxy, "\r\n").await).await
    });
    let mut said = [both.0, both.1].map(|text| text.lines().last().unwrap().to_owned());
    said.sort();
    assert_eq!(said, ["The backend is not ready yet.", "Too many requests wait already."]);
    drop(backend);
}

#[tokio::test]
async fn a_client_that_leaves_with_half_of_its_body_sent_is_not_held_any_more() {
    let one = LimitsConfig { held_per_backend: 1, ..LimitsConfig::default() };
    let own = ProxyConfig { limits: one, start_wait_secs: 60, ..ProxyConfig::default() };
    let Setting { routes, proxy, backend, .. } = setting_of(own).await;
    let id = "b".parse().unwrap();
    routes.wait_for(&id, None, None);
    let half = "Content-Length: 10\r\n\r\n12345";
    let (mut one, mut other) = (ask(proxy, half).await, ask(proxy, half).await);
    // As long as the one that came first is held, there is no room for another.
    let (mut to_one, mut to_other) = ([0; 12], [0; 12]);
    let refused = async {
        tokio::select! {
            read = one.read_exact(&mut to_one) => read.map(|_| (to_one, other)),
            read = other.read_exact(&mut to_other) => read.map(|_| (to_other, one)),
        }
    };
    let (said, first) = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap().unwrap();
    assert_eq!(&said, b"HTTP/1.1 503");
    drop(first);
    let second = async {
        loop {
            let mut held = ask(proxy, "Content-Length: 10\r\n\r\n12345").await;
            let mut said = [0; 12];
            let reading = held.read_exact(&mut said);
            if tokio::time::timeout(Duration::from_secs(1), reading).await.is_err() {
                return held;
            }
            assert_eq!(&said, b"HTTP/1.1 503");
        }
    };
    let mut second = tokio::time::timeout(Duration::from_secs(20), second).await.expect("the first one is still held");
    // What was read of the body meanwhile is with the rest of it.
    routes.open(&id, backend.local_addr().unwrap(), None, None);
    let (mut inner, _) = backend.accept().await.unwrap();
    second.write_all(b"67890").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n1234567890") {
        assert!(inner.read_buf(&mut seen).await.unwrap() > 0, "{}", seen.escape_ascii());
    }
    inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(answer(second).await.starts_with("HTTP/1.1 200"));
}

/// A connection of the proxy's, with the head of its request read: what comes before a request is no answer to it.
async fn asked(backend: &TcpListener) -> TcpStream {
    let (mut inner, _) = backend.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(inner.read_buf(&mut head).await.unwrap() > 0, "{}", head.escape_ascii());
    }
    inner
}

#[tokio::test]
async fn connections_to_backends_have_a_limit_and_idle_ones_give_way() {
    for http1 in [Http1::Hyper, Http1::Plane] {
        let two = LimitsConfig { backend_connections: 2, ..LimitsConfig::default() };
        // One thread, so that it has all that is idle.
        let own = ProxyConfig { limits: two, answer_secs: 60, threads: 1.try_into().ok(), ..ProxyConfig::default() };
        let Setting { routes, proxy, backend, .. } = setting_with_http1(http1, own).await;
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
        routes.open(&"other".parse().unwrap(), other.local_addr().unwrap(), None, None);
        let mut open = Vec::new();
        for _ in 0..2 {
            let client = ask(proxy, "\r\n").await;
            open.push((client, asked(&backend).await));
        }
        let told = answer(ask(proxy, "\r\n").await).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("wait"), "{told}");
        // Kept open, for requests that do not come.
        let mut kept = Vec::new();
        for (client, mut inner) in open {
            inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert!(answer(client).await.starts_with("HTTP/1.1 200"));
            kept.push(inner);
        }
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: other.plane.test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut inner = asked(&other).await;
        inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        drop(kept);
    }
}

#[tokio::test]
async fn a_long_target_is_refused() {
    let short = LimitsConfig { request_line_bytes: 1024, ..LimitsConfig::default() };
    let Setting { proxy, .. } = limited(short).await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let target = "x".repeat(1024);
    let head = format!("GET /{target} HTTP/1.1\r\nHost: b.plane.test\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(stream).await.starts_with("HTTP/1.1 414"));
}

#[tokio::test]
async fn silence_ends_connections_but_not_one_that_was_upgraded() {
    let short = LimitsConfig { idle_secs: 1, header_secs: 1, body_secs: 1, ..LimitsConfig::default() };
    let Setting { routes, proxy, backend, .. } = limited(short).await;
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: b.plane.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let (mut inner, _) = backend.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(inner.read_buf(&mut head).await.unwrap(), 0);
    }
    inner.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    let silent = TcpStream::connect(proxy).await.unwrap();
    let mut half = TcpStream::connect(proxy).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHos").await.unwrap();
    let body = ask(proxy, "Content-Length: 5\r\n\r\n1").await;
    let (silent, half, body) = tokio::join!(answer(silent), answer(half), answer(body));
    assert_eq!(silent, "");
    assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    let mut received = vec![0; 1024];
    inner.write_all(b"still here").await.unwrap();
    while !received.windows(10).any(|part| part == b"still here") {
        assert_ne!(socket.read_buf(&mut received).await.unwrap(), 0, "{}", String::from_utf8_lossy(&received));
    }
}
