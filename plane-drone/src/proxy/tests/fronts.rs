//! Front proxies that are trusted and speak the PROXY protocol, and others that speak it as well.

use super::*;
use crate::config::proxy::LimitsConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::net::TcpSocket;

/// The front proxy that is trusted.
const FRONT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Somebody.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

async fn setting_on(bind_ip: IpAddr, limits: LimitsConfig, http1: Http1) -> Setting {
    let (tasks, routes) = (Tasks::new(), Routes::default());
    let trusted_proxies = vec![FRONT.to_string().parse().unwrap()];
    let own = ProxyConfig { bind_ip, http_port: 0, http1, limits, ..ProxyConfig::default() };
    let config = ProxyConfig { trusted_proxies, proxy_protocol: true, ..own };
    let addresses = Proxy::start(&config, None, "plane.test".parse().unwrap(), routes.clone(), &tasks).unwrap();
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, addresses.http.port()));
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    Setting { tasks, routes, proxy, backend }
}

async fn connect_from(address: Ipv4Addr, proxy: SocketAddr, first: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = socket.connect(proxy).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

/// A header of version 2 that names a client.
fn carried(client: IpAddr) -> Vec<u8> {
    let (family, addresses) = match client {
        IpAddr::V4(client) => (0x11, [client.octets(), [192, 0, 2, 99]].concat()),
        IpAddr::V6(client) => (0x21, [client.octets(), Ipv6Addr::LOCALHOST.octets()].concat()),
    };
    let length = u8::try_from(addresses.len() + 4).unwrap();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], &addresses, &[0, 7, 0, 80]].concat()
}

/// Asks for something, and gives what the backend and then the client got.
async fn asks(setting: &Setting, client: TcpStream) -> (String, String) {
    asks_with(setting, client, "").await
}

async fn asks_with(setting: &Setting, mut client: TcpStream, fields: &str) -> (String, String) {
    let request = format!("GET / HTTP/1.1\r\nHost: b.plane.test\r\nConnection: close\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let playing = async {
        let (mut inner, _) = setting.backend.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(inner.read_buf(&mut head).await.unwrap(), 0);
        }
        inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(playing, answer(client)) }).await.unwrap()
}

/// The proxy is found at an address of version 4, and at the same one as version 6 writes it.
#[tokio::test]
async fn only_those_that_are_trusted_say_whose_a_connection_is() {
    for (bind_ip, http1) in [
        (Ipv4Addr::LOCALHOST.into(), Http1::Hyper),
        (Ipv4Addr::LOCALHOST.into(), Http1::Plane),
        (Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), Http1::Plane),
    ] {
        let setting = setting_on(bind_ip, LimitsConfig::default(), http1).await;
        let header = carried([203, 0, 113, 7].into());
        let front = connect_from(FRONT, setting.proxy, &header).await;
        let (seen, said) = asks(&setting, front).await;
        assert!(seen.contains("\r\nx-forwarded-for: 203.0.113.7\r\n"), "{bind_ip}: {seen}");
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        let mapped = carried(Ipv4Addr::new(203, 0, 113, 8).to_ipv6_mapped().into());
        let front = connect_from(FRONT, setting.proxy, &mapped).await;
        let (seen, _) = asks(&setting, front).await;
        assert!(seen.contains("\r\nx-forwarded-for: 203.0.113.8\r\n"), "{bind_ip}: {seen}");

        // One that names nobody carries what may be anybody's.
        for nobody in [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"] {
            let front = connect_from(FRONT, setting.proxy, nobody).await;
            let (seen, _) = asks_with(&setting, front, "X-Forwarded-For: 203.0.113.9\r\n").await;
            assert!(seen.contains("\r\nx-forwarded-for: 127.0.0.2\r\n"), "{bind_ip}: {seen}");
        }

        // What one that is not trusted sends is a request of its own, or none.
        let other = connect_from(OTHER, setting.proxy, b"").await;
        let (seen, _) = asks(&setting, other).await;
        assert!(seen.contains("\r\nx-forwarded-for: 127.0.0.3\r\n"), "{bind_ip}: {seen}");
        for header in [&header, &mapped] {
            let mut other = connect_from(OTHER, setting.proxy, header).await;
            other.write_all(b"GET / HTTP/1.1\r\nHost: b.plane.test\r\n\r\n").await.unwrap();
            let mut said = Vec::new();
            // It may end with a reset: what follows the refusal is not read.
            let _ = tokio::time::timeout(Duration::from_secs(20), other.read_to_end(&mut said)).await.unwrap();
            let said = String::from_utf8_lossy(&said);
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{bind_ip}: {said}");
        }
        let nobody = tokio::time::timeout(Duration::from_millis(100), setting.backend.accept()).await;
        assert!(nobody.is_err(), "a request went on behind a header that nobody believes");
    }
}

#[tokio::test]
async fn a_network_of_version_6_is_one_client() {
    let limits = LimitsConfig { connections_per_address: 1, ..LimitsConfig::default() };
    let setting = setting_on(Ipv4Addr::LOCALHOST.into(), limits, Http1::Plane).await;
    let from = |client: &str| {
        let header = carried(client.parse().unwrap());
        let request = b"GET / HTTP/1.1\r\nHost: n.plane.test\r\n\r\n";
        let (proxy, first) = (setting.proxy, [&header[..], request].concat());
        async move {
            let mut stream = connect_from(FRONT, proxy, &first).await;
            let mut said = vec![0; 12];
            tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut said)).await.unwrap().unwrap();
            (stream, String::from_utf8(said).unwrap())
        }
    };
    let (_first, said) = from("2001:db8:0:1::1").await;
    assert_eq!(said, "HTTP/1.1 404");
    for neighbour in ["2001:db8:0:1::2", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::1"] {
        assert_eq!(from(neighbour).await.1, "HTTP/1.1 503", "{neighbour}");
    }
    let (_second, said) = from("2001:db8:0:2::1").await;
    assert_eq!(said, "HTTP/1.1 404");
    // Addresses of version 4 are each a client's, also as version 6 writes them.
    let (_third, said) = from("192.0.2.1").await;
    assert_eq!(said, "HTTP/1.1 404");
    let (_fourth, said) = from("192.0.2.2").await;
    assert_eq!(said, "HTTP/1.1 404");
    assert_eq!(from("::ffff:192.0.2.2").await.1, "HTTP/1.1 503");
}

#[tokio::test]
async fn a_front_proxy_that_says_nothing_does_not_put_off_a_stop() {
    for first in [&b""[..], b"\r\n\r\n\0"] {
        let limits = LimitsConfig { connections: 3, ..LimitsConfig::default() };
        let setting = setting_on(Ipv4Addr::LOCALHOST.into(), limits, Http1::Plane).await;
        let mut silent = connect_from(FRONT, setting.proxy, first).await;
        // One that is served, so that the other is known of.
        let served = connect_from(OTHER, setting.proxy, b"").await;
        let (_, said) = asks(&setting, served).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        let began = std::time::Instant::now();
        assert!(setting.tasks.shut_down(Duration::from_secs(20)).await);
        assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    }
}
