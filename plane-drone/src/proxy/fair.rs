//! Streams that let others have their turn. A backend that sends faster than what reads it would otherwise keep its data
//! thread to itself for as long as the runtime allows; and one that sends interim answers without end would keep it busy for
//! nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads in a row.
const RUN: u8 = 2;

/// How many bytes may still be read before an answer has begun. Streams have to be `Send` where they may be upgraded; one
/// thread uses this.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Budget {
    /// The head of an answer, with what comes before it, may have so many bytes from now on.
    pub(super) fn begin(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// The head has come.
    pub(super) fn end(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    fn spend(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.0.store(left.saturating_sub(bytes), Ordering::Relaxed);
        }
    }

    /// Whether nothing was read since so many bytes were allowed.
    pub(super) fn is_unspent(&self, bytes: usize) -> bool {
        self.0.load(Ordering::Relaxed) == bytes
    }

    fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A stream that is read a few times in a row at most.
#[derive(Debug)]
pub(super) struct Fair<T> {
    stream: T,
    run: u8,
    budget: Budget,
}

impl<T> Fair<T> {
    pub(super) fn new(stream: T, budget: Budget) -> Self {
        Self { stream, run: 0, budget }
    }

    /// The stream.
    pub(super) fn into_inner(self) -> T {
        self.stream
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Fair<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.run >= RUN {
            self.run = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.budget.is_spent() {
            return Poll::Ready(Err(io::Error::other("no answer begins in what was sent")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.budget.spend(buffer.filled().len() - before);
        self.run = if polled.is_ready() { self.run + 1 } else { 0 };
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Fair<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn others_get_their_turn() {
        let mut stream = Fair::new(tokio::io::repeat(7), Budget::default());
        let mut turns = 0;
        for _ in 0..3 {
            let polled = poll_fn(|cx| {
                let mut bytes = [0; 8];
                let mut reads = 0;
                while Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut bytes)).is_ready() {
                    reads += 1;
                }
                Poll::Ready(reads)
            });
            turns += polled.await;
        }
        assert_eq!(turns, 3 * u32::from(RUN));
    }

    #[tokio::test]
    async fn an_answer_has_to_begin_somewhere() {
        let budget = Budget::default();
        let mut stream = Fair::new(tokio::io::repeat(7), budget.clone());
        let mut bytes = [0; 64];
        budget.begin(100);
        assert!(budget.is_unspent(100));
        assert!(stream.read_exact(&mut bytes).await.is_ok());
        assert!(!budget.is_unspent(100));
        assert!(stream.read_exact(&mut bytes).await.is_ok());
        assert!(stream.read_exact(&mut bytes).await.is_err());
        budget.end();
        assert!(stream.read_exact(&mut bytes).await.is_ok());
    }
}
