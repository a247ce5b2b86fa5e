//! TLS from clients (RFC 8446, and 1.2 by RFC 5246): the handshake, and what of TLS its streams do not show.

use super::{
    connection::{Activity, Beneath, Taken},
    counters::Handshake,
    timers::{Look, after},
    worker::{Stage, Worker},
};
use crate::cert::Served;
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, kx_group},
    },
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const HTTP2: &[u8] = b"h2";
/// What is spoken inside (RFC 7301), what is liked best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// Tickets that a client gets for resuming its session; it needs one for each new connection.
const TICKETS: usize = 1;

/// What does handshakes with the certificate that is served at the moment.
///
/// # Errors
/// Never with the provider that is built in.
pub(super) fn acceptor(served: Served) -> io::Result<TlsAcceptor> {
    let provider = CryptoProvider { kx_groups: GROUPS.to_vec(), ..aws_lc_rs::default_provider() };
    let tickets = Arc::new(Tickets::new(served.clone())?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Current(served)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    // Tickets hold what is needed: nothing has to be kept for each client.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = TICKETS;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Key exchange: hybrid with ML-KEM for clients that offer it, so that what is recorded today stays secret; else the
/// usual curves.
static GROUPS: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// Tickets by which clients resume their sessions (RFC 8446, section 4.6.1). Their keys change every six hours, and with
/// the certificate: whoever comes back after that is shown the new one.
#[derive(Debug)]
struct Tickets {
    served: Served,
    now: ArcSwap<Issued>,
}

#[derive(Debug)]
struct Issued {
    with: Option<Arc<CertifiedKey>>,
    tickets: Arc<dyn ProducesTickets>,
}

impl Tickets {
    fn new(served: Served) -> io::Result<Self> {
        let issued = Issued::with(served.certified()).map_err(io::Error::other)?;
        Ok(Self { served, now: ArcSwap::from_pointee(issued) })
    }

    /// `None` where there is no randomness for new keys.
    fn current(&self) -> Option<Arc<Issued>> {
        let (now, served) = (self.now.load(), self.served.certified());
        if is_same(now.with.as_ref(), served.as_ref()) {
            return Some(now.clone());
        }
        let issued = Arc::new(Issued::with(served).ok()?);
        self.now.store(issued.clone());
        Some(issued)
    }
}

fn is_same(one: Option<&Arc<CertifiedKey>>, other: Option<&Arc<CertifiedKey>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

impl Issued {
    fn with(pair: Option<Arc<CertifiedKey>>) -> Result<Self, rustls::Error> {
        Ok(Self { with: pair, tickets: aws_lc_rs::Ticketer::new()? })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.now.load().tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.current()?.tickets.encrypt(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.current()?.tickets.decrypt(ticket)
    }
}

/// There is one certificate, for whatever name is asked for: a client that does not like it says so itself. Without one,
/// rustls ends the handshake with an alert.
#[derive(Debug)]
struct Current(Served);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }
}

/// Does a handshake.
///
/// # Errors
/// Where the client does not keep to the protocol or takes too long, or there is no certificate.
pub(super) async fn handshake(
    worker: &Worker,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    activity: &Arc<Activity>,
) -> io::Result<Secured> {
    let until = after(worker.timers.clock().now(), worker.shared.limits.handshake);
    let look = |now| match worker.stage() {
        Stage::Serving if now < until => Look::Again(until),
        Stage::Serving => Look::Over("the handshake took too long"),
        Stage::Draining | Stage::Closing => Look::Over("the drone stops"),
    };
    let shaken =
        worker.timers.limit(pin!(acceptor.accept(Beneath::new(stream, Taken::by(activity.clone())))), look).await;
    worker.counter.handshake(match &shaken {
        Ok(Ok(_)) => Handshake::Done,
        Err(_) if worker.stage() == Stage::Serving => Handshake::TimedOut,
        Ok(Err(_)) | Err(_) => Handshake::Failed,
    });
    let stream = shaken.map_err(|reason| io::Error::new(ErrorKind::TimedOut, reason))??;
    activity.open();
    Ok(Encrypted(stream))
}

/// A stream through TLS whose end is an end like any other. Many clients close their side without the alert that RFC
/// 8446, section 6.1, wants for it, and go on reading; what they sent says itself where it ends (RFC 9112, section 9.8;
/// RFC 6455, section 7.1.1).
#[derive(Debug)]
pub(super) struct Encrypted<T>(T);

/// The stream of a client that speaks TLS.
pub(super) type Secured = Encrypted<TlsStream<Beneath<TcpStream>>>;

impl Secured {
    /// Whether HTTP/2 was agreed upon.
    pub(super) fn speaks_http2(&self) -> bool {
        self.0.get_ref().1.alpn_protocol() == Some(HTTP2)
    }

    /// What carries it.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.0.get_ref().0.stream
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Encrypted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Encrypted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
