//! A stream of HTTP/2 as the client's side of a tunnel (RFC 8441). END_STREAM ends one direction, as FIN does;
//! RST_STREAM ends both at once, as RST does (section 5).

use crate::proxy::{
    leaving::{Leaving, Left},
    upgraded::Switched,
};
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's side.
#[derive(Debug)]
pub(super) struct Tunnelled {
    receiver: RecvStream,
    /// What has come and is not read yet.
    at_hand: Bytes,
    sender: Rc<RefCell<SendStream<Bytes>>>,
}

impl Tunnelled {
    pub(super) fn new(receiver: RecvStream, sender: SendStream<Bytes>) -> Self {
        Self { receiver, at_hand: Bytes::new(), sender: Rc::new(RefCell::new(sender)) }
    }

    /// Carries bytes between the client and a backend, until the client resets the stream at the latest. Its reading
    /// side does not tell that any more once the client has ended it.
    pub(super) async fn carry(self, switched: Switched) {
        let sender = self.sender.clone();
        // A connection that broke resets its streams, too.
        let reset = poll_fn(|cx| sender.borrow_mut().poll_reset(cx).map(drop));
        switched.with(self, reset).await;
    }
}

impl Leaving for Tunnelled {
    /// What resets it ends the tunnel anyway.
    fn left(&self) -> Left {
        Left::No
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Tunnelled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.at_hand.is_empty() {
            match ready!(this.receiver.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.at_hand = data.map_err(broken)?,
            }
        }
        let bytes = this.at_hand.len().min(buffer.remaining());
        buffer.put_slice(&this.at_hand[..bytes]);
        this.at_hand.advance(bytes);
        // A stream that is over needs no room.
        let _ = this.receiver.flow_control().release_capacity(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut sender = self.sender.borrow_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Only what there is to send is asked for: room that is kept is not there for other streams.
        sender.reserve_capacity(bytes.len());
        while sender.capacity() == 0 {
            match ready!(sender.poll_capacity(cx)) {
                Some(room) => drop(room.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = sender.capacity().min(bytes.len());
        sender.send_data(Bytes::copy_from_slice(&bytes[..taken]), false).map_err(broken)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sender.borrow_mut().send_data(Bytes::new(), true).map_err(broken))
    }
}
