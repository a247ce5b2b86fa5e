//! Bodies on their way: one tells of its progress, the other keeps its backend counted as in use to its last byte.

use crate::route::InFlight;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

/// How many pieces of a request's body have gone to the backend.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Resolves once nothing has gone for `limit`. A slow upload is no stall.
    pub(super) async fn stalled(&self, limit: Duration) {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }
}

/// The body of a request, on its way to a backend.
#[derive(Debug)]
pub(super) struct Sent {
    inner: Incoming,
    progress: Progress,
}

impl Sent {
    pub(super) fn new(inner: Incoming) -> (Self, Progress) {
        let progress = Progress::default();
        (Self { inner, progress: progress.clone() }, progress)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_ready() {
            self.progress.0.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a response, on its way to a client.
#[derive(Debug)]
pub(super) struct Received {
    inner: Incoming,
    _entered: Option<InFlight>,
}

impl Received {
    pub(super) fn new(inner: Incoming, entered: Option<InFlight>) -> Self {
        Self { inner, _entered: entered }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
