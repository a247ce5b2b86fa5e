//! The proxy's doors: listeners, connections, and how these begin. Each data thread has a listener of its own on each
//! port, among which the kernel distributes connections (SO_REUSEPORT).

use super::{
    Shared,
    connection::{Activity, Seat},
    counters::Open,
    http1, http2,
    preface::{self, Preface, PrefaceError},
    request::{Client, Scheme},
    serve::{self, Service},
    timers::Look,
    tls,
    worker::{Stage, Worker},
};
use crate::config::proxy::Http1;
use futures_util::future::LocalBoxFuture;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Connections that wait in the kernel to be taken, for each data thread.
const BACKLOG: i32 = 4096;
/// A silent client is probed after this long and up to a minute more, this often and up to 7 s more, and given up after so
/// many probes without an answer.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 5;
/// The pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// That is said so often at most.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// For how long, and for how many bytes, a client that there is no place for is listened to: closed with something
/// unread, it would not see the answer.
const TURN_AWAY: Duration = Duration::from_millis(500);
const TURN_AWAY_BYTES: u64 = 64 * 1024;
/// One client's share of addresses of IPv6: whoever has one has all that begin with these bits (RFC 6177).
const SITE: u32 = 64;
/// What a client gets that there is no place for.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n";

/// What becomes of connections through a door.
#[derive(Clone)]
pub(super) enum Entrance {
    /// They are served as they come.
    Open(Service),
    /// They are served through TLS.
    Tls(TlsAcceptor),
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

/// A listener that a data thread will open.
pub(super) struct Bound {
    socket: Socket,
    pub(super) entrance: Entrance,
}

/// A listener of a data thread.
pub(super) struct Door {
    listener: TcpListener,
    entrance: Entrance,
}

impl Bound {
    /// # Errors
    /// Where the system refuses.
    pub(super) fn open(self) -> io::Result<Door> {
        Ok(Door { listener: TcpListener::from_std(self.socket.into())?, entrance: self.entrance })
    }
}

/// Listens on an address, once for each data thread; gives the address too, where the system may have chosen the port.
pub(super) fn bind(ip: IpAddr, port: u16, threads: usize) -> Result<(Vec<Socket>, SocketAddr), ListenError> {
    let mut address = SocketAddr::new(ip, port);
    // Nobody else may listen there already: sharing is for these threads only.
    let alone = std::net::TcpListener::bind(address).map_err(|cause| ListenError { address, cause })?;
    address = alone.local_addr().map_err(|cause| ListenError { address, cause })?;
    drop(alone);
    let sockets = (0..threads).map(|_| socket(address)).collect::<io::Result<_>>();
    Ok((sockets.map_err(|cause| ListenError { address, cause })?, address))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Sockets with what becomes of their connections.
pub(super) fn doors(sockets: Vec<Socket>, entrance: &Entrance) -> impl Iterator<Item = Bound> {
    sockets.into_iter().map(|socket| Bound { socket, entrance: entrance.clone() })
}

/// Takes connections until the thread stops.
pub(super) async fn accept(worker: Rc<Worker>, door: Door) {
    let mut warned = None;
    loop {
        let look = |_| match worker.stage() {
            Stage::Serving => Look::Again(u64::MAX),
            Stage::Draining | Stage::Closing => Look::Over(()),
        };
        match worker.timers.limit(pin!(door.listener.accept()), look).await {
            Ok(Ok((stream, peer))) => {
                let (own, entrance) = (worker.clone(), door.entrance.clone());
                let place = Place::take(&worker);
                // In a box of its own, like what comes of it: a connection holds as much memory as its way of being
                // served needs, not as its beginning does, or the largest.
                let entering = Box::pin(enter(own, stream, peer, entrance, place));
                worker.spawn("connection", async move {
                    let serving = entering.await;
                    if let Some(serving) = serving {
                        serving.await;
                    }
                });
            }
            Ok(Err(error)) => {
                // Mostly a want of file descriptors, which passes as connections end.
                if warned.is_none_or(|at: Instant| at.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                // Where the error lasts, nothing else looks.
                if worker.stage() != Stage::Serving {
                    return;
                }
            }
            Err(()) => return,
        }
    }
}

/// A place among all connections; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    counted: Option<IpAddr>,
    _open: Option<Open>,
}

impl Place {
    fn take(worker: &Worker) -> Option<Self> {
        let shared = &worker.shared;
        let taken = shared.connections.fetch_add(1, Ordering::Relaxed);
        let mut place = Self { shared: shared.clone(), counted: None, _open: None };
        if taken >= shared.limits.connections {
            return None;
        }
        place._open = Some(worker.counter.connection());
        Some(place)
    }

    /// The same, as one of those that its client has; `None` where that has as many as it may. Front proxies that are
    /// trusted may have any number: their connections are many clients'.
    fn of(mut self, client: IpAddr) -> Option<Self> {
        let limit = self.shared.limits.connections_per_address;
        let client = client.to_canonical();
        if limit == usize::MAX || self.shared.trusts(client) {
            return Some(self);
        }
        let client = site(client);
        {
            let mut addresses = self.shared.addresses();
            let count = addresses.entry(client).or_default();
            if *count >= limit {
                return None;
            }
            *count += 1;
        }
        self.counted = Some(client);
        Some(self)
    }
}

/// What of an address is one client's.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (u128::BITS - SITE))).into(),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.counted else { return };
        let mut addresses = self.shared.addresses();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Begins with a connection; gives what serves it.
async fn enter(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
    place: Option<Place>,
) -> Option<LocalBoxFuture<'static, ()>> {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
        tracing::debug!(%peer, %error, "a connection has not all its options");
    }
    let Some(place) = place else {
        turn_away(&worker, stream, peer, &entrance).await;
        return None;
    };
    let (peer, may_claim) = match preface(&worker, &mut stream, peer).await {
        Ok(named) => named,
        Err(error) if error.is_silence() => {
            // A check of its health, mostly.
            tracing::debug!(%peer, "a connection of a trusted proxy ended before it began");
            return None;
        }
        Err(error) => {
            tracing::warn!(%peer, %error, "a connection of a trusted proxy is refused");
            return None;
        }
    };
    let Some(place) = place.of(peer.ip()) else {
        turn_away(&worker, stream, peer, &entrance).await;
        return None;
    };
    let activity = Activity::new(worker.timers.clock().clone());
    let own = activity.clone();
    let seat = |scheme| {
        Rc::new(Seat {
            worker: worker.clone(),
            activity: own,
            client: Client { peer, scheme, may_claim },
            _place: place,
        })
    };
    let is_own = worker.shared.http1 == Http1::Plane;
    Some(match entrance {
        Entrance::Open(Service::Backends) if is_own => Box::pin(http1::serve(seat(Scheme::Http), stream)),
        Entrance::Open(service) => Box::pin(serve::http1(seat(Scheme::Http), stream, service)),
        Entrance::Tls(acceptor) => match tls::handshake(&worker, &acceptor, stream, &activity).await {
            Ok(stream) if stream.speaks_http2() => Box::pin(http2::serve(seat(Scheme::Https), stream)),
            // What TLS needs is large, and would be there twice.
            Ok(stream) if is_own => Box::pin(http1::serve(seat(Scheme::Https), Box::new(stream))),
            Ok(stream) => Box::pin(serve::http1(seat(Scheme::Https), stream, Service::Backends)),
            Err(error) => {
                // Most of these are scanners.
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                return None;
            }
        },
    })
}

/// Ends a connection that there is no place for, and says so where its client can understand it.
async fn turn_away(worker: &Worker, mut stream: TcpStream, peer: SocketAddr, entrance: &Entrance) {
    tracing::debug!(%peer, "no place for a connection");
    if matches!(entrance, Entrance::Tls(_)) || worker.stage() != Stage::Serving {
        return;
    }
    let telling = pin!(async move {
        stream.write_all(NO_PLACE).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(TURN_AWAY_BYTES), &mut tokio::io::sink()).await
    });
    // Whoever is gone is not told.
    let _ = worker.while_serving(TURN_AWAY, telling).await;
}

/// Who a connection is carried for, where its other end is a trusted proxy that has to say so, and whether what that one
/// says in fields is its own.
async fn preface(
    worker: &Worker,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<(SocketAddr, bool), PrefaceError> {
    if !worker.shared.proxy_protocol || !worker.shared.trusts(peer.ip().to_canonical()) {
        return Ok((peer, true));
    }
    let read = worker.while_serving(worker.shared.limits.handshake, pin!(preface::read(stream))).await;
    match read.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::TimedOut).into()))? {
        Preface::Carried { client } => Ok((client, true)),
        Preface::Local => Ok((peer, false)),
    }
}

/// Has the kernel find out when a client is gone without a word: a WebSocket from a machine that sleeps would keep its
/// backend for ever.
///
/// Connections that were opened together are not probed together. The kernel's timers of a minute are seconds coarse, and
/// thousands of probes at one moment are more than it queues for containers and the loopback (`net.core.netdev_max_backlog`):
/// they would be lost, each time the same, and sockets that live be given up.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (silence, every) = probing(stream.local_addr()?.port() ^ stream.peer_addr()?.port());
    let probing = TcpKeepalive::new().with_time(silence).with_interval(every).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probing)
}

/// After how long a silent connection is probed, and how often then; spread by its ports, near ones too.
fn probing(ports: u16) -> (Duration, Duration) {
    // Multiplicative hashing: the upper bits of the product depend on all of the number.
    let spread = u32::from(ports).wrapping_mul(0x9E37_79B9);
    let (silence, every) = (u64::from(spread >> 26), u64::from(spread >> 23 & 7));
    (SILENCE + Duration::from_secs(silence), PROBE_EVERY + Duration::from_secs(every))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn connections_that_are_opened_together_are_not_probed_together() {
        let mut at = BTreeMap::<_, usize>::new();
        for port in (32768..52768).step_by(2) {
            *at.entry(probing(port ^ 8080).0).or_default() += 1;
        }
        // Ten thousand, so that in no second there are much more than their share of the minute.
        assert!(at.len() >= 60 && at.values().all(|count| *count < 250), "{at:?}");
    }
}
