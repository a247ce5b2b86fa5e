//! TLS as clients meet it: what is agreed upon, and how sessions are resumed.

use super::*;
use crate::{
    cert::{Pair, testing},
    config::proxy::LimitsConfig,
};
use futures_util::StreamExt;
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::kx_group},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::sync::Arc;
use tokio_rustls::{TlsConnector, client::TlsStream};

struct Secure {
    _tasks: Tasks,
    routes: Routes,
    served: Served,
    address: SocketAddr,
    backend: TcpListener,
}

async fn secure() -> Secure {
    secure_with(LimitsConfig::default()).await
}

async fn secure_with(limits: LimitsConfig) -> Secure {
    let (tasks, routes, served) = (Tasks::new(), Routes::default(), Served::default());
    let config = ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, limits, ..ProxyConfig::default() };
    let tls = Tls { port: 0, served: served.clone() };
    let cluster = "plane.test".parse().unwrap();
    let addresses = Proxy::start(&config, Some(tls), cluster, routes.clone(), &tasks).unwrap();
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Secure { _tasks: tasks, routes, served, address: addresses.https.unwrap(), backend }
}

/// A client that believes a pair, and remembers sessions.
fn client(pair: &Pair, versions: &[&'static rustls::SupportedProtocolVersion], protocols: &[&[u8]]) -> TlsConnector {
    believing(&[pair], versions, protocols)
}

/// The same of several pairs.
fn believing(
    pairs: &[&Pair],
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.chain_pem().as_bytes()).collect();
        roots.add_parsable_certificates(chain.into_iter().map(Result::unwrap));
    }
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(client: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("b.plane.test").unwrap();
    client.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap()
}

/// Asks once, so that what the server says after the handshake is read, and tells what the handshake was.
async fn shake(client: &TlsConnector, address: SocketAddr) -> HandshakeKind {
    let mut stream = connect(client, address).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x.plane.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(said.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&said));
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn sessions_are_resumed_until_there_is_another_certificate() {
    let Secure { served, address, _tasks, .. } = secure().await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (first, second) = (testing::pair("plane.test"), testing::pair("plane.test"));
        let believes = client(&first, &[version], &[b"http/1.1"]);
        served.install(first);
        assert_ne!(shake(&believes, address).await, HandshakeKind::Resumed);
        assert_eq!(shake(&believes, address).await, HandshakeKind::Resumed);
        // Data threads take turns in serving, and each resumes what another began.
        for _ in 0..8 {
            assert_eq!(shake(&believes, address).await, HandshakeKind::Resumed);
        }
        served.install(second);
        let name = ServerName::try_from("b.plane.test").unwrap();
        let refused = believes.connect(name, TcpStream::connect(address).await.unwrap()).await;
        assert!(refused.is_err(), "the old session would hide the new certificate");
    }
}

#[tokio::test]
async fn tickets_change_with_the_certificate_and_sessions_are_resumed_again() {
    let Secure { served, address, _tasks, .. } = secure().await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (first, second) = (testing::pair("plane.test"), testing::pair("plane.test"));
        let believes = believing(&[&first, &second], &[version], &[b"http/1.1"]);
        let shows = second.chain_pem().to_owned();
        for pair in [first, second] {
            served.install(pair);
            // A ticket of the earlier certificate's is not taken, and its client is not turned away.
            assert_ne!(shake(&believes, address).await, HandshakeKind::Resumed);
            assert_eq!(shake(&believes, address).await, HandshakeKind::Resumed);
        }
        let stream = connect(&believes, address).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, CertificateDer::from_pem_slice(shows.as_bytes()).unwrap());
    }
}

#[tokio::test]
async fn what_clients_offer_is_agreed_upon() {
    let Secure { served, address, _tasks, .. } = secure().await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2", b"http/1.1"]), address).await;
    let shaken = stream.get_ref().1;
    assert_eq!(shaken.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(shaken.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(shaken.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    let old = connect(&client(&pair, &[&rustls::version::TLS12], &[b"http/1.1"]), address).await;
    assert_eq!(old.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let silent = connect(&client(&pair, rustls::ALL_VERSIONS, &[]), address).await;
    assert_eq!(silent.get_ref().1.alpn_protocol(), None);
}

#[tokio::test]
async fn requests_over_http2_share_a_connection_and_reach_backends_as_http1() {
    let Secure { served, address, routes, backend, _tasks } = secure().await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2"]), address).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let request = hyper::Request::get("https://b.plane.test/a?b").header("cookie", "c=d").header("cookie", "e=f");
        request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
    };
    let (one, two) = (sender.send_request(request()), sender.send_request(request()));
    let playing = async {
        let mut streams = [backend.accept().await.unwrap().0, backend.accept().await.unwrap().0];
        for stream in &mut streams {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("cookie: c=d; e=f\r\n") && head.contains("host: b.plane.test\r\n"), "{head}");
        }
        assert_eq!(activity.in_flight(), 2);
        for mut stream in streams {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
                .await
                .unwrap();
        }
    };
    let (one, two, ()) = tokio::join!(one, two, playing);
    for response in [one.unwrap(), two.unwrap()] {
        assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
        assert_eq!(response.headers()["x-plane-backend-id"], "b");
        assert!(!response.headers().contains_key("connection"));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, "hi");
    }
    drop(sender);
    connection.await.unwrap().unwrap();
    activity.idle_for(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_ends() {
    let limits = LimitsConfig { send_secs: 1, ..LimitsConfig::default() };
    let Secure { served, address, routes, backend, _tasks } = secure_with(limits).await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2"]), address).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let mut builder = hyper::client::conn::http2::Builder::new(executor);
    builder.initial_stream_window_size(0_u32);
    let (mut sender, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("https://b.plane.test/");
    let asking = sender.send_request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap());
    let playing = async {
        let mut inner = backend.accept().await.unwrap().0;
        assert!(inner.read(&mut [0; 4096]).await.unwrap() > 0);
        inner.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        inner
    };
    let (response, _inner) = tokio::join!(asking, playing);
    let response = response.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let body = http_body_util::BodyExt::collect(response.into_body());
    assert!(tokio::time::timeout(Duration::from_secs(20), body).await.unwrap().is_err());
    tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1))).await.unwrap();
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_agrees_on_http2_and_says_nothing_loses_its_place() {
    let limits = LimitsConfig { header_secs: 1, ..LimitsConfig::default() };
    let Secure { served, address, _tasks, .. } = secure_with(limits).await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let mut stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2"]), address).await;
    let mut said = Vec::new();
    // Whether it ends with an alert does not matter.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await.unwrap();
}

#[tokio::test]
async fn an_old_client_does_not_take_a_part_for_the_whole() {
    let Secure { served, address, routes, backend, _tasks } = secure().await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let _activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let mut stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"http/1.1"]), address).await;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: b.plane.test\r\n\r\n").await.unwrap();
    let (mut inner, _) = backend.accept().await.unwrap();
    assert!(inner.read(&mut [0; 4096]).await.unwrap() > 0);
    inner.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hal") {
        heard.push(stream.read_u8().await.unwrap());
    }
    drop(inner);
    let end = stream.read(&mut [0]).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_head_over_http2_that_does_not_go_on_ends_its_connection() {
    let limits = LimitsConfig { idle_secs: 1, ..LimitsConfig::default() };
    let Secure { served, address, _tasks, .. } = secure_with(limits).await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let mut stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2"]), address).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // HEADERS of stream 1 with one byte, and without END_HEADERS.
    let head = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let begun = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &head].concat();
    stream.write_all(&begun).await.unwrap();
    let mut said = Vec::new();
    // Whether it ends with an alert does not matter.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await.unwrap();
}

#[tokio::test]
async fn a_body_over_http2_that_does_not_go_on_is_not_waited_for() {
    let limits = LimitsConfig { body_secs: 1, ..LimitsConfig::default() };
    let Secure { served, address, routes, backend, _tasks } = secure_with(limits).await;
    let pair = Arc::new(testing::pair("plane.test"));
    served.install(pair.clone());
    let activity = routes.open(&"b".parse().unwrap(), backend.local_addr().unwrap(), None, None);
    let stream = connect(&client(&pair, rustls::ALL_VERSIONS, &[b"h2"]), address).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let first = hyper::body::Frame::data(bytes::Bytes::from_static(b"1"));
    let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(first)]);
    let body = http_body_util::StreamBody::new(first.chain(futures_util::stream::pending()));
    let request = hyper::Request::post("https://b.plane.test/").header("content-length", "5");
    let asking = sender.send_request(request.body(body).unwrap());
    let reading = async {
        let (mut inner, mut seen) = (backend.accept().await.unwrap().0, Vec::new());
        while inner.read_buf(&mut seen).await.is_ok_and(|bytes| bytes > 0) {}
        seen
    };
    let both = async { tokio::join!(asking, reading) };
    let (response, seen) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(response.unwrap().status().as_u16(), 408);
    assert!(seen.ends_with(b"\r\n\r\n1"), "{}", seen.escape_ascii());
    tokio::time::timeout(Duration::from_secs(20), activity.idle_for(Duration::from_millis(1))).await.unwrap();
    connection.abort();
}
