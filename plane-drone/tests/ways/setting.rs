//! The real proxy of a drone, in this process, in front of a backend that the test plays.

use super::client::{Asked, Asking};
use plane_core::{
    clock::{Clock, TimeSource},
    id::{BackendId, BearerToken},
    task::Tasks,
};
use plane_drone::{
    cert::{Pair, Served},
    config::proxy::{Http1, LimitsConfig, ProxyConfig},
    lease::Fence,
    proxy::{Proxy, Tls},
    route::{Activity, Routes},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The backend's host.
pub(crate) const HOST: &str = "b.plane.test";

/// How requests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// HTTP/1.1, as the hyper library reads it.
    Hyper,
    /// HTTP/1.1, as the own loop does.
    Plane,
    /// HTTP/2.
    Http2,
}

/// All of them.
pub(crate) const WAYS: [Way; 3] = [Way::Hyper, Way::Plane, Way::Http2];

/// A proxy, with one data thread, so that it has all connections to backends that are kept.
#[allow(missing_debug_implementations, reason = "a client of TLS has nothing to show")]
pub(crate) struct Setting {
    pub(crate) way: Way,
    pub(crate) tasks: Tasks,
    pub(crate) routes: Routes,
    address: SocketAddr,
    tls: Option<TlsConnector>,
    listener: TcpListener,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

/// The id of the backend.
pub(crate) fn backend() -> BackendId {
    "b".parse().unwrap()
}

impl Setting {
    /// A proxy that waits for a backend's answer for so many seconds.
    pub(crate) async fn patient(way: Way, answer_secs: u32) -> Self {
        Self::start(way, ProxyConfig { answer_secs, ..ProxyConfig::default() }).await
    }

    /// A proxy with limits.
    pub(crate) async fn limited(way: Way, limits: LimitsConfig) -> Self {
        Self::start(way, ProxyConfig { limits, ..ProxyConfig::default() }).await
    }

    /// A proxy that is configured so, but for where it listens.
    pub(crate) async fn start(way: Way, own: ProxyConfig) -> Self {
        let http1 = if way == Way::Hyper { Http1::Hyper } else { Http1::Plane };
        let threads = 1.try_into().ok();
        let config = ProxyConfig { bind_ip: [127, 0, 0, 1].into(), http_port: 0, http1, threads, ..own };
        let (served, connector) = if way == Way::Http2 { secure() } else { Default::default() };
        let tls = served.map(|served| Tls { port: 0, served });
        let (tasks, routes) = (Tasks::new(), Routes::default());
        let addresses = Proxy::start(&config, tls, "plane.test".parse().unwrap(), routes.clone(), &tasks).unwrap();
        let address = addresses.https.unwrap_or(addresses.http);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { way, tasks, routes, address, tls: connector, listener }
    }

    /// The backend is there.
    pub(crate) fn open(&self) -> Arc<Activity> {
        self.open_as(None, None)
    }

    /// The backend is there, behind a token or a fence.
    pub(crate) fn open_as(&self, token: Option<BearerToken>, fence: Option<Arc<Fence>>) -> Arc<Activity> {
        self.routes.open(&backend(), self.listener.local_addr().unwrap(), token, fence)
    }

    /// Asks for something, on a connection of its own.
    pub(crate) async fn ask(&self, asking: Asking<'_>) -> Asked {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.tls {
            None => Asked::by_lines(stream, asking).await,
            Some(tls) => {
                let stream = tls.connect(HOST.try_into().unwrap(), stream).await.unwrap();
                Asked::by_stream(stream, asking).await
            }
        }
    }

    /// Asks for something small.
    pub(crate) async fn get(&self, path: &str) -> Asked {
        self.ask(Asking::of("GET", path)).await
    }

    /// A connection of the proxy's to the backend.
    pub(crate) async fn accept(&self) -> Inner {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("the backend is asked").unwrap();
        stream.set_nodelay(true).unwrap();
        Inner(stream)
    }

    /// No connection to the backend comes for a while.
    pub(crate) async fn accepts_nothing(&self) {
        let more = timeout(Duration::from_millis(300), self.listener.accept()).await;
        assert!(more.is_err(), "{:?}: the backend is asked once more", self.way);
    }
}

/// A certificate, and what believes it.
fn secure() -> (Option<Served>, Option<TlsConnector>) {
    let made = rcgen::generate_simple_self_signed(["*.plane.test".to_owned()]).unwrap();
    let served = Served::default();
    served.install(Pair::parse(&made.signing_key.serialize_pem(), &made.cert.pem()).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (Some(served), Some(TlsConnector::from(Arc::new(config))))
}

/// Waits until so many count as connected.
pub(crate) async fn counts(activity: &Activity, wanted: u64) {
    let began = Instant::now();
    while activity.in_flight() != wanted {
        assert!(began.elapsed() < PATIENCE, "{} count as connected, not {wanted}", activity.in_flight());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The backend's end of a connection.
#[derive(Debug)]
pub(crate) struct Inner(pub(crate) TcpStream);

impl Inner {
    /// Reads a head, and nothing of what is behind it.
    pub(crate) async fn head(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await.unwrap();
            bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {}", bytes.escape_ascii())));
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Says something, whether or not somebody still listens.
    pub(crate) async fn say(&mut self, text: &str) {
        let _ = timeout(PATIENCE, self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads so many bytes.
    pub(crate) async fn hear(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        timeout(PATIENCE, self.0.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Reads until the proxy ends the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        // However it ends.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut heard)).await.expect("it ends");
        heard
    }
}

/// A fence that the test closes and opens.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) fence: Arc<Fence>,
    now: Arc<AtomicU64>,
}

/// How long contact lasts, on the clock of the test.
const CONTACT: Duration = Duration::from_secs(45);

struct Told(Arc<AtomicU64>);

impl TimeSource for Told {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl Gate {
    /// One that is open.
    pub(crate) fn open() -> Self {
        let now = Arc::new(AtomicU64::new(1000));
        let clock = Clock::from_source(Told(now.clone()));
        let fence = Arc::new(Fence::closed(clock.clone(), CONTACT));
        fence.extend(clock.boot(), CONTACT);
        assert!(fence.is_open());
        Self { fence, now }
    }

    /// The drone had no contact for too long.
    pub(crate) fn close(&self) {
        self.now.fetch_add(CONTACT.as_secs() + 1, Ordering::SeqCst);
        assert!(!self.fence.is_open());
    }
}
