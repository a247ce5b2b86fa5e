//! Streams that let others have their turn. A backend that sends faster than what reads it would otherwise keep its data
//! thread to itself for as long as the runtime allows; and one that sends interim answers without end would keep it busy for
//! nothing.

use super::noted::{Noted, Notes};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

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
pub(super) type Fair<T> = Noted<T, Turns>;

/// How many times it was read in a row, and how much may still be.
#[derive(Debug)]
pub(super) struct Turns {
    run: u8,
    budget: Budget,
}

impl Turns {
    pub(super) fn within(budget: Budget) -> Self {
        Self { run: 0, budget }
    }
}

impl Notes for Turns {
    fn poll_may_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.run >= RUN {
            self.run = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.budget.is_spent() {
            return Poll::Ready(Err(io::Error::other("no answer begins in what was sent")));
        }
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, bytes: usize, is_ready: bool) {
        self.budget.spend(bytes);
        self.run = if is_ready { self.run + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::Pin};
    use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

    #[tokio::test]
    async fn others_get_their_turn() {
        let mut stream = Fair::new(tokio::io::repeat(7), Turns::within(Budget::default()));
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
        let mut stream = Fair::new(tokio::io::repeat(7), Turns::within(budget.clone()));
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
