//! TLS from clients (RFC 8446, and 1.2 by RFC 5246): the handshake, and what of TLS its streams do not show.

use crate::cert::Served;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client may take from its connection until the end of its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// What is spoken inside (RFC 7301).
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// What does handshakes with the certificate that is served at the moment.
///
/// # Errors
/// Never with the provider that is built in.
pub(super) fn acceptor(served: Served) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Current(served)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    // A session that is resumed would not show its client the new certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
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
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<Encrypted<TlsStream<TcpStream>>> {
    let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
    shaken.map_err(|_| io::Error::new(ErrorKind::TimedOut, "the handshake took too long"))?.map(Encrypted)
}

/// A stream through TLS whose end is an end like any other. Many clients close their side without the alert that RFC
/// 8446, section 6.1, wants for it, and go on reading; what they sent says itself where it ends (RFC 9112, section 9.8;
/// RFC 6455, section 7.1.1).
pub(super) struct Encrypted<T>(T);

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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let refused = handshake(&acceptor(Served::default()).unwrap(), stream).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
}
