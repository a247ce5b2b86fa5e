//! The proxy's doors: listeners, connections, and how these end. What a connection asks for is not looked at here.

use super::{
    OutBody, Proxy, redirect,
    request::{Client, Scheme},
    tls,
};
use crate::cert::Served;
use http_body_util::Either;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

/// Connections from clients at one time, through one door; more wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// A silent client is probed after this long, this often, and given up after so many probes without an answer.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// How long requests under way may take once the drone stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of connections through a door.
#[derive(Clone)]
pub(super) enum Entrance {
    /// Requests are served as they come.
    Open,
    /// Requests are served that come through TLS.
    Tls(TlsAcceptor),
    /// Requests are led to the door with TLS.
    Redirect {
        /// What is served there.
        served: Served,
        /// The port of that door.
        port: u16,
    },
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("the proxy cannot listen on {address}: {cause}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub cause: io::Error,
}

/// Opens a door; gives its address too, where the system may have chosen the port.
pub(super) async fn bind(ip: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), ListenError> {
    let address = SocketAddr::new(ip, port);
    let failed = |cause| ListenError { address, cause };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Takes connections until the proxy's tasks are told to stop.
pub(super) async fn accept(proxy: Arc<Proxy>, listener: TcpListener, entrance: Entrance) {
    let stop = proxy.tasks.stop_token();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(Ok(place)) = stop.run_until_cancelled(places.clone().acquire_owned()).await {
        let accepted = tokio::select! { () = stop.cancelled() => return, accepted = listener.accept() => accepted };
        match accepted {
            Ok((stream, peer)) => {
                let (proxy, entrance) = (proxy.clone(), entrance.clone());
                let tasks = proxy.tasks.clone();
                tasks.spawn(format!("connection of {peer}"), async move {
                    enter(proxy, stream, peer, entrance).await;
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

async fn enter(proxy: Arc<Proxy>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
        tracing::debug!(%peer, %error, "a connection has not all its options");
    }
    match entrance {
        Entrance::Open => serve(proxy, stream, Client { peer, scheme: Scheme::Http }, None).await,
        Entrance::Redirect { served, port } => {
            serve(proxy, stream, Client { peer, scheme: Scheme::Http }, Some((served, port))).await;
        }
        Entrance::Tls(acceptor) => {
            let stop = proxy.tasks.stop_token();
            match stop.run_until_cancelled(tls::handshake(&acceptor, stream)).await {
                Some(Ok(stream)) => serve(proxy, stream, Client { peer, scheme: Scheme::Https }, None).await,
                // Most of these are scanners.
                Some(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                None => {}
            }
        }
    }
}

async fn serve(
    proxy: Arc<Proxy>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    elsewhere: Option<(Served, u16)>,
) {
    let stop = proxy.tasks.stop_token();
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, elsewhere) = (proxy.clone(), elsewhere.clone());
        async move {
            Ok::<Response<OutBody>, Infallible>(match elsewhere {
                None => proxy.answer(request, client).await,
                Some((served, port)) => redirect::answer(&request, served.is_there(), port).map(Either::Left),
            })
        }
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
        tracing::debug!(peer = %client.peer, %error, "a connection broke");
    }
}

/// Has the kernel find out when a client is gone without a word: a WebSocket from a machine that sleeps would keep its
/// backend for ever.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let probing = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE_EVERY).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probing)
}
