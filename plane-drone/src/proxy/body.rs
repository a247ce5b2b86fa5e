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

/// Why a body broke off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A backend that holds a lock was given up: nothing of it goes on, in neither direction.
#[derive(Debug, thiserror::Error)]
#[error("the backend's drone had no contact with the control plane for too long")]
pub(super) struct Fenced;

/// The body of a request, on its way to a backend.
#[derive(Debug)]
pub(super) struct Sent {
    inner: Incoming,
    progress: Progress,
    entered: Option<Arc<InFlight>>,
}

impl Sent {
    pub(super) fn new(inner: Incoming, entered: Option<Arc<InFlight>>) -> (Self, Progress) {
        let progress = Progress::default();
        (Self { inner, progress: progress.clone(), entered }, progress)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.entered.as_ref().is_some_and(|entered| entered.is_fenced()) {
            return Poll::Ready(Some(Err(Fenced.into())));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into);
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
    entered: Option<Arc<InFlight>>,
}

impl Received {
    pub(super) fn new(inner: Incoming, entered: Option<Arc<InFlight>>) -> Self {
        Self { inner, entered }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.entered.as_ref().is_some_and(|entered| entered.is_fenced()) {
            return Poll::Ready(Some(Err(Fenced.into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
