//! The real proxy of a drone, in this process, in front of backends of the tests. The one place that knows how a proxy
//! is started.

use super::{
    backend::{Backend, Script},
    client::{Client, PATIENCE},
};
use plane_core::{id::BackendId, task::Tasks};
use plane_drone::{
    cert::{Pair, Served},
    config::proxy::ProxyConfig,
    proxy::{Proxy, Tls},
    route::{Activity, Routes},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// The cluster of all backends here.
pub(crate) const CLUSTER: &str = "plane.test";
/// How long a backend may take to begin its answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// Who speaks HTTP/1.1 to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http1 {
    /// The hyper library.
    Hyper,
    /// The proxy's own loop.
    Plane,
}

/// All of them: every case is run with each.
pub(crate) const IMPLEMENTATIONS: [Http1; 2] = [Http1::Hyper, Http1::Plane];

impl Http1 {
    /// The keys of `[proxy]` that choose it.
    fn keys(self) -> Value {
        match self {
            Self::Hyper => json!({ "http1": "hyper" }),
            Self::Plane => json!({ "http1": "plane" }),
        }
    }
}

/// A proxy.
#[allow(missing_debug_implementations, reason = "a client of TLS has nothing to show")]
pub(crate) struct Setting {
    pub(crate) proxy: SocketAddr,
    /// Where it waits for TLS.
    pub(crate) https: Option<SocketAddr>,
    /// What trusts its certificate, if it has one.
    tls: Option<TlsConnector>,
    routes: Routes,
    tasks: Tasks,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

impl Setting {
    /// Starts a proxy with `keys` of `[proxy]` beside the ports.
    pub(crate) async fn start(http1: Http1, keys: Value) -> Self {
        Self::start_with(http1, keys, None)
    }

    /// Starts a proxy whose backends are reached through TLS.
    pub(crate) fn start_safe(http1: Http1) -> Self {
        let made = rcgen::generate_simple_self_signed([format!("*.{CLUSTER}")]).unwrap();
        let served = Served::default();
        served.install(Pair::parse(&made.signing_key.serialize_pem(), &made.cert.pem()).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let mut setting = Self::start_with(http1, json!({}), Some(Tls { port: 0, served }));
        setting.tls = Some(TlsConnector::from(Arc::new(config)));
        setting
    }

    /// Connects to where a backend of this host is reached.
    pub(crate) async fn connect(&self, host: &str) -> Client {
        match (&self.tls, self.https) {
            (Some(tls), Some(https)) => Client::connect_safely(https, tls, host).await,
            _ => Client::connect(self.proxy).await,
        }
    }

    /// The same, with a port for TLS, where handshakes cannot come to their end.
    pub(crate) fn start_for_handshakes(keys: Value) -> Self {
        Self::start_with(IMPLEMENTATIONS[0], keys, Some(Tls { port: 0, served: Served::default() }))
    }

    fn start_with(http1: Http1, keys: Value, tls: Option<Tls>) -> Self {
        let mut config = json!({ "bind_ip": "127.0.0.1", "http_port": 0, "start_wait_secs": ANSWER.as_secs(), "answer_secs": ANSWER.as_secs() });
        for more in [http1.keys(), keys] {
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        let config: ProxyConfig = serde_json::from_value(config).unwrap();
        let (tasks, routes) = (Tasks::new(), Routes::default());
        let cluster = CLUSTER.parse().unwrap();
        let addresses = Proxy::start(&config, tls, cluster, routes.clone(), &tasks).unwrap();
        Self { proxy: addresses.http, https: addresses.https, tls: None, routes, tasks }
    }

    /// Starts a backend and opens the way to it. Gives its host too, and who is connected to it.
    pub(crate) async fn backend(&self, name: &str, script: Option<Script>) -> Open {
        let backend = Backend::start(script).await;
        let id: BackendId = name.parse().unwrap();
        let activity = self.routes.open(&id, backend.address, None, None);
        Open { proxy: self.proxy, backend, activity, host: format!("{name}.{CLUSTER}") }
    }
}

/// A backend that the proxy leads to.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// Where the proxy is.
    pub(crate) proxy: SocketAddr,
    pub(crate) backend: Backend,
    pub(crate) host: String,
    activity: Arc<Activity>,
}

impl Open {
    /// How many count as connected.
    pub(crate) fn connected(&self) -> u64 {
        self.activity.in_flight()
    }

    /// Waits until nobody counts as connected any more.
    pub(crate) async fn calm(&self) -> Result<(), String> {
        let began = Instant::now();
        while self.activity.in_flight() > 0 {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} still count as connected", self.activity.in_flight()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
