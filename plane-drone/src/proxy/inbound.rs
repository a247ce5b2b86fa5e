//! The body of a request as it comes from its client, over HTTP/1.1 as the hyper library reads it or over HTTP/2.

use super::http2;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    collections::VecDeque,
    error::Error as _,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

/// How much is read of a body that nobody wants yet, in bytes; a piece more than that at most.
const AHEAD: usize = 64 * 1024;

/// A body that comes.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Nothing.
    Empty,
    /// Over HTTP/1.1.
    Http1(Ahead),
    /// Over HTTP/2.
    Http2(http2::Streaming),
}

/// Why no more of it comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboundError {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl InboundError {
    /// Whether a client sent what is no body, rather than nothing more: that is how hyper tells them apart.
    pub(super) fn is_malformed(&self) -> bool {
        let Self::Http1(error) = self else { return false };
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| matches!(cause.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData))
    }
}

impl Inbound {
    /// A body over HTTP/1.1.
    pub(super) fn http1(body: Incoming) -> Self {
        Self::Http1(Ahead { body, pieces: VecDeque::new(), bytes: 0 })
    }

    /// Reads on, as far as there is room, while nobody wants it yet. Only so is it noticed that a client is gone who has
    /// not sent all of it: resolves then, or where it is no body. Over HTTP/2 there is RST_STREAM for that.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<InboundError> {
        match self {
            Self::Http1(ahead) => ahead.poll_gone(cx).map(InboundError::Http1),
            Self::Empty | Self::Http2(_) => Poll::Pending,
        }
    }
}

/// A body of which some may have been read already.
#[derive(Debug)]
pub(super) struct Ahead {
    body: Incoming,
    pieces: VecDeque<Frame<Bytes>>,
    /// What of them is data.
    bytes: usize,
}

impl Ahead {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Error> {
        while self.bytes < AHEAD && !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Pending,
                Some(Err(error)) => return Poll::Ready(error),
                Some(Ok(piece)) => {
                    self.bytes += bytes_of(&piece);
                    self.pieces.push_back(piece);
                }
            }
        }
        Poll::Pending
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(piece) = self.pieces.pop_front() else { return Pin::new(&mut self.body).poll_frame(cx) };
        self.bytes -= bytes_of(&piece);
        Poll::Ready(Some(Ok(piece)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + self.bytes as u64),
            None => SizeHint::default(),
        }
    }
}

fn bytes_of(piece: &Frame<Bytes>) -> usize {
    piece.data_ref().map_or(0, Bytes::len)
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = InboundError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InboundError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(ahead) => ahead.poll_frame(cx).map_err(InboundError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(InboundError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(ahead) => ahead.pieces.is_empty() && ahead.body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(ahead) => ahead.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
