//! The proxy of a drone, as browsers and programs meet it, in front of real backends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use http_body_util::BodyExt;
use plane_core::{id::BackendId, message::schedule::ScheduleResponse};
use plane_dev::harness::{Cluster, HeldOpen, PATIENCE, get, get_with};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

/// Sends bytes and reads until the proxy closes.
async fn raw(proxy: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn with_token(cluster: &Cluster) -> (BackendId, String) {
    let mut request = cluster.request(300, &[]);
    request.require_bearer_token = true;
    let response = cluster.client.request(&request, PATIENCE).await.unwrap();
    let ScheduleResponse::Scheduled { backend_id, bearer_token, .. } = response else { panic!("{response:?}") };
    (backend_id, bearer_token.unwrap().expose().to_owned())
}

#[tokio::test]
async fn a_backend_is_found_by_host_and_by_path() {
    let cluster = Cluster::start().await.unwrap();
    let proxy = cluster.drones[0].proxy;
    let backend = cluster.ready().await.unwrap();
    for host in [format!("{backend}.{}", cluster.name), format!("{backend}.{}:4711", cluster.name).to_uppercase()] {
        assert_eq!(get_with(proxy, &host, "/status?code=418", &[]).await.unwrap().status.as_u16(), 418, "{host}");
    }
    let path = format!("/_plane_backend={backend}/request?a=b");
    let seen = get_with(proxy, "elsewhere.test", &path, &[]).await.unwrap();
    assert!(seen.body.contains(r#""uri":"/request?a=b""#), "{seen:?}");
    let absolute =
        format!("GET http://{backend}.{}/request HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", cluster.name);
    assert!(raw(proxy, &absolute).await.starts_with("HTTP/1.1 200"));
    let nobody = format!("nobody.{}", cluster.name);
    for (host, path, status) in [(&*nobody, "/", 404), ("a.b", "/", 421), ("x", "/_plane_backend=nobody/", 404)] {
        assert_eq!(get_with(proxy, host, path, &[]).await.unwrap().status.as_u16(), status, "{host}{path}");
    }
}

#[tokio::test]
async fn a_request_waits_for_a_backend_that_starts() {
    let cluster = Cluster::start().await.unwrap();
    let late = [("DEMO_MODE", "late"), ("DEMO_AFTER_MS", "800")];
    let (backend, _) = cluster.schedule(&cluster.request(300, &late)).await.unwrap();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    let early = [("DEMO_MODE", "exit"), ("DEMO_AFTER_MS", "300")];
    let (backend, _) = cluster.schedule(&cluster.request(300, &early)).await.unwrap();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert_eq!(answer.status.as_u16(), 502, "who waited for a backend that then ended hears that it failed");
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert_eq!(answer.status.as_u16(), 410);
}

#[tokio::test]
async fn a_token_is_wanted_in_header_or_cookie() {
    let cluster = Cluster::start().await.unwrap();
    let proxy = cluster.drones[0].proxy;
    let (backend, token) = with_token(&cluster).await;
    let host = format!("{backend}.{}", cluster.name);
    let (bearer, cookie) = (format!("Bearer {token}"), format!("a=b; _plane_auth={token}"));
    let table: [(&[(&str, &str)], u16); 5] = [
        (&[], 401),
        (&[("authorization", "Bearer wrong")], 403),
        (&[("cookie", "_plane_auth=wrong")], 403),
        (&[("authorization", &bearer)], 200),
        (&[("cookie", &cookie)], 200),
    ];
    for (fields, status) in table {
        assert_eq!(get_with(proxy, &host, "/", fields).await.unwrap().status.as_u16(), status, "{fields:?}");
        let path = format!("/_plane_backend={backend}/");
        assert_eq!(get_with(proxy, "elsewhere", &path, fields).await.unwrap().status.as_u16(), status, "{fields:?}");
    }
    let mut request = format!("ws://{host}/ws").into_client_request().unwrap();
    let refused = client_async(request.clone(), TcpStream::connect(proxy).await.unwrap()).await;
    assert!(refused.unwrap_err().to_string().contains("401"));
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    client_async(request, TcpStream::connect(proxy).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_auth_path_sets_the_cookie_and_stays_on_its_origin() {
    let cluster = Cluster::start().await.unwrap();
    let proxy = cluster.drones[0].proxy;
    let (backend, token) = with_token(&cluster).await;
    let host = format!("{backend}.{}", cluster.name);
    for (redirect, goes) in
        [("", "/"), ("&redirect=/a%3Fb", "/a?b"), ("&redirect=//evil.test", "/"), ("&redirect=http://evil.test/", "/")]
    {
        let path = format!("/_plane_auth?token={token}{redirect}");
        let answer = get_with(proxy, &host, &path, &[]).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.headers["location"]), (302, &goes.parse().unwrap()), "{redirect}");
        assert!(answer.headers["set-cookie"].to_str().unwrap().starts_with(&format!("_plane_auth={token};")));
    }
    let wrong = get_with(proxy, &host, "/_plane_auth?token=wrong&redirect=/", &[]).await.unwrap();
    assert_eq!((wrong.status.as_u16(), wrong.headers.get("set-cookie")), (403, None));
    let open = cluster.ready().await.unwrap();
    let own = get(proxy, &cluster.name, &open, "/_plane_auth?token=x").await.unwrap();
    assert_eq!((own.status.as_u16(), own.body.as_str()), (404, "no such path\n"));
}

#[tokio::test]
async fn the_backend_sees_the_client_as_the_proxy_does() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let host = format!("{backend}.{}", cluster.name);
    let claims = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "gopher"),
        ("connection", "x-own"),
        ("x-own", "1"),
        ("te", "trailers, gzip"),
        ("x-kept", "yes"),
    ];
    let seen = get_with(cluster.drones[0].proxy, &host, "/headers", &claims).await.unwrap();
    let fields: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!((&fields["x-forwarded-for"], &fields["x-forwarded-proto"]), (&"127.0.0.1".into(), &"http".into()));
    assert_eq!((&fields["x-forwarded-host"], &fields["host"]), (&host.as_str().into(), &host.as_str().into()));
    assert_eq!(
        (&fields["x-own"], &fields["te"], &fields["x-kept"]),
        (&serde_json::Value::Null, &"trailers".into(), &"yes".into())
    );
}

#[tokio::test]
async fn one_host_is_wanted() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let host = format!("Host: {backend}.{}\r\n", cluster.name);
    for hosts in [String::new(), host.repeat(2)] {
        let answer = raw(cluster.drones[0].proxy, &format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let connect = format!("CONNECT {backend}.{0}:80 HTTP/1.1\r\n{host}Connection: close\r\n\r\n", cluster.name);
    assert!(raw(cluster.drones[0].proxy, &connect).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn bodies_stream_whole_both_ways_and_a_cut_is_seen() {
    let cluster = Cluster::start().await.unwrap();
    let proxy = cluster.drones[0].proxy;
    let backend = cluster.ready().await.unwrap();
    let host = format!("{backend}.{}", cluster.name);
    let mut big = HeldOpen::open(proxy, &host, "/bytes?n=50000000", &[]).await.unwrap();
    assert_eq!(big.response.body_mut().collect().await.unwrap().to_bytes().len(), 50_000_000);
    let mut cut = HeldOpen::open(proxy, &host, "/cut?n=1000&of=5000", &[]).await.unwrap();
    assert!(cut.response.body_mut().collect().await.is_err());

    const PIECES: usize = 320;
    let piece = vec![b'x'; 65_536];
    let (mut read, mut write) = TcpStream::connect(proxy).await.unwrap().into_split();
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        PIECES * piece.len()
    );
    let sending = async {
        write.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..PIECES {
            write.write_all(&piece).await.unwrap();
        }
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(sending, read.read_to_end(&mut answer));
    read.unwrap();
    assert!(answer.iter().filter(|byte| **byte == b'x').count() >= PIECES * piece.len());
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_a_bad_gateway() {
    let cluster = Cluster::start().await.unwrap();
    let backend = cluster.ready().await.unwrap();
    let answer = get(cluster.drones[0].proxy, &cluster.name, &backend, "/exit?code=3").await.unwrap();
    assert_eq!(answer.status.as_u16(), 502);
    cluster.wait_for(&backend, plane_core::message::backend::BackendState::Failed).await.unwrap();
    let after = get(cluster.drones[0].proxy, &cluster.name, &backend, "/").await.unwrap();
    assert_eq!(after.status.as_u16(), 410);
}
