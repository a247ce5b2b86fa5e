//! Carries people's requests to backends: HTTP/1.1 and WebSockets, by host or by path, with tokens checked.
//!
//! A request meets, in this order: its address (`request`), the routes, the backend's token (`auth`), the count of
//! who is connected, the backend (`upstream`). Where it ends early, `refusal` says how. Routes are only read here.

mod auth;
mod body;
mod refusal;
mod request;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;

pub use upstream::{Upstream, get_text};

use crate::{
    config::ProxyConfig,
    route::{Found, InFlight, Route, Routes, target},
};
use auth::Verdict;
use body::{Received, Sent};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use plane_core::{
    id::{BearerToken, ClusterName},
    task::Tasks,
};
use refusal::Refusal;
use socket2::{SockRef, TcpKeepalive};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections from clients at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// A silent client is probed after this long, this often, and given up after so many probes without an answer.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// How long requests under way may take once the drone stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long the proxy waits for others.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a backend that is starting, until the client gets 503.
    pub start: Duration,
    /// For a backend's answer to begin, since the last byte of the request went to it, until the client gets 504.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { start: Duration::from_secs(60), answer: Duration::from_secs(60) }
    }
}

type OutBody = Either<Full<Bytes>, Received>;

/// The proxy of a drone.
#[derive(Debug)]
pub struct Proxy {
    cluster: ClusterName,
    routes: Routes,
    by_path: bool,
    passthrough: Option<Upstream>,
    patience: Patience,
    tasks: Tasks,
}

impl Proxy {
    /// Listens, and serves until the tasks are told to stop. Gives the address that it listens on.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
    pub async fn start(
        config: &ProxyConfig,
        cluster: ClusterName,
        routes: Routes,
        patience: Patience,
        tasks: &Tasks,
    ) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((config.bind_ip, config.http_port)).await?;
        let address = listener.local_addr()?;
        let proxy = Arc::new(Self {
            cluster,
            routes,
            by_path: config.allow_path_routing,
            passthrough: config.passthrough.map(Upstream::new),
            patience,
            tasks: tasks.clone(),
        });
        tasks.spawn_essential("proxy", proxy.accept(listener));
        tracing::info!(%address, "proxy listens");
        Ok(address)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let stop = self.tasks.stop_token();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Some(Ok(place)) = stop.run_until_cancelled(places.clone().acquire_owned()).await {
            let accepted = tokio::select! { () = stop.cancelled() => return, accepted = listener.accept() => accepted };
            match accepted {
                Ok((stream, peer)) => {
                    let proxy = self.clone();
                    self.tasks.spawn(format!("connection of {peer}"), async move {
                        proxy.serve(stream, peer).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Mostly a want of file descriptors, which passes as connections end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
            tracing::debug!(%peer, %error, "a connection has not all its options");
        }
        let stop = self.tasks.stop_token();
        let service = service_fn(move |request| {
            let proxy = self.clone();
            async move { Ok::<_, Infallible>(proxy.answer(request, peer).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = &mut connection => Ok(outcome),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN_LIMIT, &mut connection).await
            }
        };
        if let Ok(Err(error)) = outcome {
            tracing::debug!(%peer, %error, "a connection broke");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<OutBody> {
        self.pass(request, peer).await.unwrap_or_else(|refusal| refusal.into_response().map(Either::Left))
    }

    async fn pass(&self, request: Request<Incoming>, peer: SocketAddr) -> Result<Response<OutBody>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::MethodNotAllowed);
        }
        let host = request::host(&request)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(target) = target::find(&self.cluster, &host, &path, self.by_path) else {
            return self.pass_through(request, &host, &path, peer).await;
        };
        let route = loop {
            match self.routes.find(&target.backend) {
                Found::Unknown => return self.pass_through(request, &host, &path, peer).await,
                Found::Ended => return Err(Refusal::Ended),
                Found::Fenced => return Err(Refusal::NotYet),
                Found::Waiting(waiting) => {
                    if let Some(done) = admit(&request, &target, waiting.token.as_ref())? {
                        return Ok(done.map(Either::Left));
                    }
                    let settled = tokio::time::timeout(self.patience.start, waiting.settled()).await;
                    settled.map_err(|_| Refusal::NotYet)?;
                }
                Found::Open(route) => break route,
            }
        };
        if let Some(done) = admit(&request, &target, route.token.as_ref())? {
            return Ok(done.map(Either::Left));
        }
        let entered = Arc::new(route.activity.enter().ok_or(Refusal::Ended)?);
        let outcome = self.forward(request, &route.upstream, &host, &target, peer, Some(entered)).await;
        outcome.inspect_err(|refusal| self.tell(&route, &target, refusal))
    }

    fn tell(&self, route: &Route, target: &target::Target<'_>, refusal: &Refusal) {
        tracing::debug!(backend = %target.backend, address = %route.address, ?refusal, "a request failed");
    }

    async fn pass_through(
        &self,
        request: Request<Incoming>,
        host: &str,
        path: &str,
        peer: SocketAddr,
    ) -> Result<Response<OutBody>, Refusal> {
        let upstream = self.passthrough.as_ref().ok_or(Refusal::Unknown)?;
        let seen = request::Seen { host, path, prefix: "", peer: peer.ip() };
        self.exchange(request, upstream, &seen, None).await
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        upstream: &Upstream,
        host: &str,
        target: &target::Target<'_>,
        peer: SocketAddr,
        entered: Option<Arc<InFlight>>,
    ) -> Result<Response<OutBody>, Refusal> {
        let seen = request::Seen { host, path: target.path, prefix: target.prefix, peer: peer.ip() };
        self.exchange(request, upstream, &seen, entered).await
    }

    /// Sends a request to where it belongs, and hands the answer back; `entered` lives as long as both are under way.
    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        upstream: &Upstream,
        seen: &request::Seen<'_>,
        entered: Option<Arc<InFlight>>,
    ) -> Result<Response<OutBody>, Refusal> {
        let upgrade = request::asked_upgrade(&request);
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let (body, progress) = Sent::new(body, entered.clone());
        let request = request::rewrite(head, body, upstream.address(), seen, upgrade.as_ref())?;
        let mut response = tokio::select! {
            response = upstream.send(request) => response.map_err(|error| {
                tracing::debug!(address = %upstream.address(), %error, "no answer");
                Refusal::Broken
            })?,
            () = progress.stalled(self.patience.answer) => return Err(Refusal::NoAnswer),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client_side = client_side.ok_or(Refusal::Broken)?;
            let backend_side = hyper::upgrade::on(&mut response);
            self.tasks.spawn("tunnel", tunnel::run(client_side, backend_side, entered, self.tasks.stop_token()));
            request::clean_upgrade_response(response.headers_mut());
            return Ok(response.map(|_| Either::Left(Full::default())));
        }
        request::clean_response(response.headers_mut());
        Ok(response.map(|body| Either::Right(Received::new(body, entered))))
    }
}

/// Has the kernel find out when a client is gone without a word: a WebSocket from a machine that sleeps would keep its
/// backend for ever.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let probing = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE_EVERY).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probing)
}

/// Checks a request against a backend's token. `Some` where that answers it.
fn admit(
    request: &Request<Incoming>,
    target: &target::Target<'_>,
    token: Option<&BearerToken>,
) -> Result<Option<Response<Full<Bytes>>>, Refusal> {
    let Some(token) = token else { return Ok(None) };
    if let Some(login) = auth::login(target, token) {
        return login.map(Some);
    }
    match auth::check(request.headers(), token) {
        Verdict::Right => Ok(None),
        Verdict::Missing => Err(Refusal::Unauthorized),
        Verdict::Wrong => Err(Refusal::Forbidden),
    }
}
