//! The sockets beneath clients' streams, cut in such a way that their client cannot take what it has for all there is.

use crate::proxy::{noted::Noted, tls::Secured};
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpStream;

/// A stream of a client's.
pub(in crate::proxy) trait Cut {
    /// What carries it.
    fn socket(&self) -> &TcpStream;

    /// Has the stream's end be no good one, once it is dropped. Through TLS as well: many clients do not miss the
    /// `close_notify` that RFC 8446, section 6.1, wants at the end.
    fn cut(&self) {
        // With nothing to linger for, it is reset instead of ended (RFC 9293, section 3.9.1).
        if let Err(error) = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection ends as if its answer was complete");
        }
    }
}

impl Cut for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl<T: Cut> Cut for Box<T> {
    fn socket(&self) -> &TcpStream {
        T::socket(self)
    }
}

impl<T: Cut> Cut for &mut T {
    fn socket(&self) -> &TcpStream {
        T::socket(self)
    }
}

impl<T: Cut, N> Cut for Noted<T, N> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }
}

impl Cut for Secured {
    fn socket(&self) -> &TcpStream {
        Self::socket(self)
    }
}
