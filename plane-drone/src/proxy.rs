//! Carries people's requests to backends: HTTP/1.1, HTTP/2 and WebSockets, through TLS or in the open, by host or by
//! path, with tokens checked.
//!
//! Everything happens on data threads (`worker`), each with its own listeners (`listen`). A connection meets TLS where
//! that is configured (`tls`) and is then served (`http1`, `http2`, or `serve` with the hyper library); what is known of
//! it while it is open is in `connection`. A request (`exchange`) is admitted (`admission`: its address, the routes, the
//! backend's token in `auth`), rewritten (`request`), and sent to its backend (`upstream`, through connections of the
//! `pool`); `hints` are what a backend says before its answer, which is `theirs`. A `passage` keeps the backend
//! counted as in use until the last byte. Upgraded connections go through a `tunnel`. Where a request ends early,
//! `refusal` says how. What became of each request (`outcome`) is noted in its `record`, and goes to the `counters`
//! and the `access_log`. Where there is TLS, requests in the open are led there (`redirect`). Time-outs rest on a
//! coarse clock (`timers`). Routes are only read here.

mod access_log;
mod admission;
mod auth;
mod buffer;
mod connection;
mod counters;
mod dial;
mod exchange;
mod fair;
mod files;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod hints;
mod http1;
mod http2;
mod inbound;
mod leaving;
mod limits;
mod listen;
mod noted;
mod origin;
mod outcome;
mod page;
mod passage;
mod pool;
mod preface;
mod record;
mod redirect;
mod refusal;
mod request;
mod retry;
mod serve;
mod strict;
#[cfg(test)]
mod tests;
mod text;
mod theirs;
mod timers;
mod tls;
mod tunnel;
mod upgraded;
mod upstream;
mod waiting;
mod whole;
mod worker;

pub use access_log::AccessLogError;
pub use listen::ListenError;
pub use text::get_text;
pub use upstream::Upstream;

use crate::{
    cert::Served,
    config::proxy::{Http1, Network, ProxyConfig, SameSite, leads_to},
    route::Routes,
};
use access_log::AccessLog;
use counters::Counters;
use limits::Limits;
use listen::Entrance;
use plane_core::{chance::Chance, id::ClusterName, task::Tasks};
use serve::Service;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
};
use worker::Thread;

/// Where HTTPS is served, and with what.
#[derive(Debug)]
pub struct Tls {
    /// The port; 0 lets the system choose.
    pub port: u16,
    /// The certificate, once there is one.
    pub served: Served,
}

/// Where a proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For HTTP.
    pub http: SocketAddr,
    /// For HTTPS.
    pub https: Option<SocketAddr>,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It cannot write its access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// It would pass requests through to itself.
    #[error(
        "proxy.passthrough is {0}, where this proxy itself listens: requests for unknown names would come back without end; give the address of another program"
    )]
    Passthrough(SocketAddr),
}

/// What the data threads share.
#[derive(Debug)]
struct Shared {
    cluster: ClusterName,
    routes: Routes,
    by_path: bool,
    passthrough: Option<Upstream>,
    limits: Limits,
    /// Front proxies whose word about clients is believed.
    trusted: Vec<Network>,
    /// From where browsers send the cookie with a token.
    same_site: SameSite,
    /// Whether browsers get a page that waits for a backend that starts.
    waiting_page: bool,
    /// Whether they speak the PROXY protocol.
    proxy_protocol: bool,
    http1: Http1,
    chance: Chance,
    counters: Counters,
    /// Where each request is told, if anywhere.
    access_log: Option<AccessLog>,
    /// Open connections of clients, and to backends.
    connections: AtomicUsize,
    backend_connections: AtomicUsize,
    /// Those of each address, where that is limited.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Shared {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an address is one of this machine's: nobody can listen at others.
fn is_of_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The proxy of a drone.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Listens, and serves until the tasks are told to stop. Gives the addresses that it listens on.
    ///
    /// # Errors
    /// Where an address cannot be listened on, the access log not be opened, or what is passed through would come back.
    pub fn start(
        config: &ProxyConfig,
        tls: Option<Tls>,
        cluster: ClusterName,
        routes: Routes,
        tasks: &Tasks,
    ) -> Result<Addresses, ProxyError> {
        let threads = config.threads();
        let access_log = config.access_log.as_ref().map(|target| AccessLog::open(target, tasks)).transpose()?;
        let counters = Counters::new(threads);
        let limits = Limits::of(config, files::limit());
        tracing::debug!(
            connections = limits.connections,
            backend_connections = limits.backend_connections,
            "so many connections may be open"
        );
        let (http_sockets, http) = listen::bind(config.bind_ip, config.http_port, threads)?;
        let https = tls.as_ref().map(|tls| listen::bind(config.bind_ip, tls.port, threads)).transpose()?;
        let own = || [Some(http), https.as_ref().map(|(_, address)| *address)].into_iter().flatten();
        let comes_back = |address: &SocketAddr| own().any(|own| leads_to(*address, own, is_of_machine(address.ip())));
        if let Some(address) = config.passthrough.filter(comes_back) {
            return Err(ProxyError::Passthrough(address));
        }
        let shared = Arc::new(Shared {
            cluster,
            routes,
            by_path: config.allow_path_routing,
            passthrough: config.passthrough.map(|address| Upstream::new(address, None)),
            limits,
            trusted: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            same_site: config.cookie_same_site,
            waiting_page: config.waiting_page,
            http1: config.http1,
            chance: Chance::system(),
            counters: counters.clone(),
            access_log,
            connections: AtomicUsize::new(0),
            backend_connections: AtomicUsize::new(0),
            addresses: Mutex::default(),
        });
        let address = https.as_ref().map(|(_, address)| *address);
        let in_the_open = match (address, &tls) {
            (Some(address), Some(tls)) => Service::Redirect { served: tls.served.clone(), port: address.port() },
            _ => Service::Backends,
        };
        let mut doors: Vec<Vec<_>> =
            listen::doors(http_sockets, &Entrance::Open(in_the_open)).map(|door| vec![door]).collect();
        tracing::info!(address = %http, threads, "proxy listens");
        if let Some(((sockets, address), tls)) = https.zip(tls) {
            let acceptor = tls::acceptor(tls.served).map_err(|cause| ListenError { address, cause })?;
            tracing::info!(%address, "proxy listens for HTTPS");
            for (doors, door) in doors.iter_mut().zip(listen::doors(sockets, &Entrance::Tls(acceptor))) {
                doors.push(door);
            }
        }
        for (number, doors) in doors.into_iter().enumerate() {
            let thread = Thread::start(number, shared.clone(), doors, tasks.stop_token())
                .map_err(|cause| ListenError { address: http, cause })?;
            tasks.spawn_essential(format!("data thread {number} of the proxy"), thread.ended());
        }
        counters.tell(tasks);
        Ok(Addresses { http, https: address })
    }
}
