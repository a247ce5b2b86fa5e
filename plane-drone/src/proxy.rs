//! Carries people's requests to backends: HTTP/1.1 and WebSockets, through TLS or in the open, by host or by path, with
//! tokens checked.
//!
//! A request meets, in this order: a listener (`listen`), TLS where that is configured (`tls`), its address (`request`),
//! the routes, the backend's token (`auth`), the count of who is connected, the backend (`upstream`). Where it ends
//! early, `refusal` says how. Where there is TLS, requests in the open are led there (`redirect`). Routes are only read
//! here.

mod auth;
mod body;
mod listen;
#[cfg_attr(not(test), expect(dead_code, reason = "core takes it up"))]
mod origin;
mod page;
#[cfg_attr(not(test), expect(dead_code, reason = "core takes it up"))]
mod preface;
mod redirect;
#[cfg_attr(not(test), expect(dead_code, reason = "core takes it up"))]
mod refusal;
mod request;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
mod upstream;

pub use listen::ListenError;
pub use upstream::{Upstream, get_text};

use crate::{
    cert::Served,
    config::proxy::ProxyConfig,
    route::{Found, InFlight, Route, Routes, target},
};
use auth::Verdict;
use body::{Received, Sent};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use listen::Entrance;
use plane_core::{
    id::{BearerToken, ClusterName},
    task::Tasks,
};
use refusal::Refusal;
use request::Client;
use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    /// Listens, and serves until the tasks are told to stop. Gives the addresses that it listens on.
    ///
    /// # Errors
    /// Where an address cannot be listened on.
    pub async fn start(
        config: &ProxyConfig,
        tls: Option<Tls>,
        cluster: ClusterName,
        routes: Routes,
        patience: Patience,
        tasks: &Tasks,
    ) -> Result<Addresses, ListenError> {
        let (http, http_address) = listen::bind(config.bind_ip, config.http_port).await?;
        let https = match &tls {
            Some(tls) => Some(listen::bind(config.bind_ip, tls.port).await?),
            None => None,
        };
        let https_address = https.as_ref().map(|(_, address)| *address);
        let proxy = Arc::new(Self {
            cluster,
            routes,
            by_path: config.allow_path_routing,
            passthrough: config.passthrough.map(Upstream::new),
            patience,
            tasks: tasks.clone(),
        });
        let in_the_open = match (https_address, &tls) {
            (Some(address), Some(tls)) => Entrance::Redirect { served: tls.served.clone(), port: address.port() },
            _ => Entrance::Open,
        };
        tracing::info!(address = %http_address, "proxy listens");
        tasks.spawn_essential("proxy", listen::accept(proxy.clone(), http, in_the_open));
        if let Some(((listener, address), tls)) = https.zip(tls) {
            let acceptor = tls::acceptor(tls.served).map_err(|cause| ListenError { address, cause })?;
            tracing::info!(%address, "proxy listens for HTTPS");
            tasks.spawn_essential("proxy for HTTPS", listen::accept(proxy, listener, Entrance::Tls(acceptor)));
        }
        Ok(Addresses { http: http_address, https: https_address })
    }

    async fn answer(&self, request: Request<Incoming>, client: Client) -> Response<OutBody> {
        self.pass(request, client).await.unwrap_or_else(|refusal| refusal.into_response().map(Either::Left))
    }

    async fn pass(&self, request: Request<Incoming>, client: Client) -> Result<Response<OutBody>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::MethodNotAllowed);
        }
        let host = request::host(&request)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(target) = target::find(&self.cluster, &host, &path, self.by_path) else {
            return self.pass_through(request, &host, &path, client).await;
        };
        let route = loop {
            match self.routes.find(&target.backend) {
                Found::Unknown => return self.pass_through(request, &host, &path, client).await,
                Found::Ended => return Err(Refusal::Ended),
                Found::Fenced => return Err(Refusal::NotYet),
                Found::Waiting(waiting) => {
                    if let Some(done) = admit(&request, &target, waiting.token.as_ref(), client)? {
                        return Ok(done.map(Either::Left));
                    }
                    let settled = tokio::time::timeout(self.patience.start, waiting.settled()).await;
                    settled.map_err(|_| Refusal::NotYet)?;
                }
                Found::Open(route) => break route,
            }
        };
        if let Some(done) = admit(&request, &target, route.token.as_ref(), client)? {
            return Ok(done.map(Either::Left));
        }
        let entered = Arc::new(route.activity.enter().ok_or(Refusal::Ended)?);
        let outcome = self.forward(request, &route.upstream, &host, &target, client, Some(entered)).await;
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
        client: Client,
    ) -> Result<Response<OutBody>, Refusal> {
        let upstream = self.passthrough.as_ref().ok_or(Refusal::Unknown)?;
        let seen = request::Seen { host, path, prefix: "", client };
        self.exchange(request, upstream, &seen, None).await
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        upstream: &Upstream,
        host: &str,
        target: &target::Target<'_>,
        client: Client,
        entered: Option<Arc<InFlight>>,
    ) -> Result<Response<OutBody>, Refusal> {
        let seen = request::Seen { host, path: target.path, prefix: target.prefix, client };
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

/// Checks a request against a backend's token. `Some` where that answers it.
fn admit(
    request: &Request<Incoming>,
    target: &target::Target<'_>,
    token: Option<&BearerToken>,
    client: Client,
) -> Result<Option<Response<Full<Bytes>>>, Refusal> {
    let Some(token) = token else { return Ok(None) };
    if let Some(login) = auth::login(target, token, client.scheme) {
        return login.map(Some);
    }
    match auth::check(request.headers(), token) {
        Verdict::Right => Ok(None),
        Verdict::Missing => Err(Refusal::Unauthorized),
        Verdict::Wrong => Err(Refusal::Forbidden),
    }
}
