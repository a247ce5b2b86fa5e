//! How a peer has left a connection that nobody reads at the moment, since what was read has nowhere to go yet. The
//! system says so beside what lies unread.

use super::{connection::Beneath, noted::Noted, tls::Encrypted};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// How often a connection that is not read is looked at: nothing else wakes its task when its peer leaves.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It is there, or nothing tells.
    No,
    /// It has ended its side.
    Half,
    /// It takes nothing any more either.
    Whole,
}

/// A stream whose peer may leave unseen.
pub(super) trait Leaving {
    /// How the peer has left, as far as the runtime was told; no system call.
    fn left(&self) -> Left;
}

impl Leaving for TcpStream {
    fn left(&self) -> Left {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        // What is known is there at once; nobody is woken for the rest.
        let known = pin!(self.ready(interest)).poll(&mut Context::from_waker(Waker::noop()));
        match known {
            Poll::Ready(Ok(ready)) => of(ready),
            Poll::Ready(Err(_)) => Left::Whole,
            Poll::Pending => Left::No,
        }
    }
}

fn of(ready: Ready) -> Left {
    match () {
        () if ready.is_write_closed() || ready.is_error() => Left::Whole,
        () if ready.is_read_closed() => Left::Half,
        () => Left::No,
    }
}

impl<T: Leaving> Leaving for &mut T {
    fn left(&self) -> Left {
        T::left(self)
    }
}

impl<T: Leaving> Leaving for Box<T> {
    fn left(&self) -> Left {
        T::left(self)
    }
}

impl<T: Leaving, N> Leaving for Noted<T, N> {
    fn left(&self) -> Left {
        self.stream.left()
    }
}

impl<T: Leaving> Leaving for Encrypted<TlsStream<Beneath<T>>> {
    fn left(&self) -> Left {
        self.beneath().stream.left()
    }
}

impl Leaving for TokioIo<Upgraded> {
    /// A stream of hyper's does not tell.
    fn left(&self) -> Left {
        Left::No
    }
}
