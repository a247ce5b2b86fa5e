//! The name server: authoritative for every cluster of the world, over UDP and TCP, from memory alone.
//!
//! `answer` decides, without input or clock; `message` reads requests and `reply` writes answers; `udp` and `tcp` carry
//! them. There are no zone files, transfers, updates, recursion or signatures.

pub mod answer;
mod batch;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod limit;
mod message;
mod name;
mod reply;
mod tcp;
mod udp;
pub mod zone;

use crate::{config::DnsConfig, view::View};
use hickory_proto::op::ResponseCode;
use limit::Limiter;
use plane_core::{task::Tasks, world::World};
use reply::{Manner, Say};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};
use tokio::net::{TcpListener, UdpSocket};
use zone::Zone;

/// How many sockets take queries over UDP at most; one for each processor up to that.
const MAX_UDP_SOCKETS: usize = 64;
/// How often another port is tried, where any will do and the one that TCP got is taken for UDP.
const PORT_ATTEMPTS: u32 = 16;
/// What each of them may keep of requests that have come and are not read yet, and of answers that are not gone yet, in
/// bytes each.
const SOCKET_BUFFER: usize = 1 << 20;
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The name server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the name server cannot listen on {address}: {cause}; see dns.bind_ip and dns.port{hint}")]
pub struct ListenError {
    address: SocketAddr,
    cause: io::Error,
    hint: &'static str,
}

/// Sockets that are bound and not read from yet.
#[derive(Debug)]
pub(crate) struct Listening {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
}

/// Takes the configured port.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn listen(config: &DnsConfig) -> Result<Listening, ListenError> {
    let any = if has_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let address = SocketAddr::new(config.bind_ip.unwrap_or(any), config.port);
    let mut attempts = if config.port == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        match bind(address) {
            Err(cause) if attempts == 0 || cause.kind() != io::ErrorKind::AddrInUse => {
                let hint = match cause.kind() {
                    io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
                    io::ErrorKind::AddrInUse => {
                        " (another program has it; resolvers of the machine often do on its own addresses)"
                    }
                    _ => "",
                };
                return Err(ListenError { address, cause, hint });
            }
            Err(_) => {}
            Ok(listening) => return Ok(listening),
        }
    }
}

fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).is_ok()
}

/// TCP first: its port is nobody else's, while UDP's may be shared by processes of one user.
fn bind(address: SocketAddr) -> io::Result<Listening> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&SockAddr::from(address))?;
    tcp.listen(BACKLOG)?;
    let tcp = TcpListener::from_std(tcp.into())?;
    let address = tcp.local_addr()?;
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_UDP_SOCKETS);
    let udp = (0..count).map(|_| {
        let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
        udp.set_reuse_port(true)?;
        // The system may give less.
        let _ = udp.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = udp.set_send_buffer_size(SOCKET_BUFFER);
        udp.bind(&SockAddr::from(address))?;
        if address.ip().is_unspecified() {
            batch::tell_addresses(udp.as_fd(), address.is_ipv6())?;
        }
        UdpSocket::from_std(udp.into())
    });
    Ok(Listening { udp: udp.collect::<io::Result<_>>()?, tcp, address })
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // `::` is every address, those of version 4 too.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Answers for as long as the tasks run.
pub(crate) fn serve(listening: Listening, config: &DnsConfig, zone: Arc<Zone>, view: Arc<View>, tasks: &Tasks) {
    let Listening { udp, tcp, address } = listening;
    tracing::info!(%address, "name server listens");
    let responder = Responder { view, zone };
    let limiter = config.rate_limit_per_sec.map(|per_sec| Arc::new(Limiter::new(per_sec)));
    let shared = udp::Shared { responder: responder.clone(), limiter, began: Instant::now() };
    for (number, socket) in udp.into_iter().enumerate() {
        let serving = udp::serve(socket, shared.clone(), tasks.stop_token());
        tasks.spawn_essential(format!("DNS over UDP {number}"), serving);
    }
    let limits = tcp::Limits::of(config);
    tasks.spawn_essential("DNS over TCP", tcp::serve(tcp, responder, limits, tasks.clone()));
}

/// Answers requests from this controller's world.
#[derive(Debug, Clone)]
struct Responder {
    view: Arc<View>,
    zone: Arc<Zone>,
}

impl Responder {
    /// Lends the world as it is now to whoever answers some requests; nothing while it is being read.
    fn with_world<T>(&self, answer: impl FnOnce(Option<&World>) -> T) -> T {
        // Looked at while the world is held: it is not dropped before this says so.
        self.view.read(|world| answer(self.view.is_caught_up().then_some(world)))
    }

    /// Writes what answers a packet into `out`. False where it is not answered.
    fn respond(&self, world: Option<&World>, packet: &[u8], manner: Manner, out: &mut Vec<u8>) -> bool {
        respond(world, &self.zone, packet, manner, out)
    }
}

/// Writes what answers a packet into `out`, from a world; without one it says that it cannot. False where the packet is
/// not answered.
fn respond(world: Option<&World>, zone: &Zone, packet: &[u8], manner: Manner, out: &mut Vec<u8>) -> bool {
    let Some(request) = message::read(packet) else { return false };
    let (code, answer) = match (request.fault, &request.question, world) {
        (Some(fault), ..) => (fault, None),
        (None, Some(_), _) if manner.truncated => (ResponseCode::NoError, None),
        (None, Some((question, _)), Some(world)) => {
            let answer = answer::answer(world, zone, question);
            (answer.code(), Some(answer))
        }
        (None, ..) => (ResponseCode::ServFail, None),
    };
    reply::write(out, packet, &request, zone, &Say { manner, code, answer }).is_ok()
}

#[cfg(test)]
mod tests;
