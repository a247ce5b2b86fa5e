//! Streams that let others have their turn. A backend that sends faster than what reads it would otherwise keep its data
//! thread to itself for as long as the runtime allows.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads in a row.
const RUN: u8 = 2;

/// A stream that is read a few times in a row at most.
#[derive(Debug)]
pub(super) struct Fair<T> {
    stream: T,
    run: u8,
}

impl<T> Fair<T> {
    pub(super) fn new(stream: T) -> Self {
        Self { stream, run: 0 }
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
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
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

    #[tokio::test]
    async fn others_get_their_turn() {
        let mut stream = Fair::new(tokio::io::repeat(7));
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
}
