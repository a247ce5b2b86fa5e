//! Connections that are cut in such a way that their client cannot take what it has for all there is.

use crate::proxy::tls::Encrypted;
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpStream;

/// A stream that an answer may end with.
pub(in crate::proxy) trait Cut {
    /// Has the stream's end be no good one, once it is dropped.
    fn cut(&self);
}

impl Cut for TcpStream {
    fn cut(&self) {
        // With nothing to linger for, it is reset instead of ended (RFC 9293, section 3.9.1).
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection ends as if its answer was complete");
        }
    }
}

impl<T: Cut> Cut for Box<T> {
    fn cut(&self) {
        T::cut(self);
    }
}

impl<T> Cut for Encrypted<T> {
    /// Dropped, it says no `close_notify`, which tells that something is missing (RFC 8446, section 6.1).
    fn cut(&self) {}
}
