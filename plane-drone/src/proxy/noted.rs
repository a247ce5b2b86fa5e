//! A stream of which somebody notes what moves, and may have a say in when it is read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is noted.
pub(super) trait Notes {
    /// Whether it may be read now. Where not, the task is woken when it may.
    ///
    /// # Errors
    /// Where it may not be read any more.
    fn poll_may_read(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// So many bytes were read; `is_ready` is false where none were there.
    fn read(&mut self, _bytes: usize, _is_ready: bool) {}

    /// Bytes were written, or not.
    fn wrote(&self, _outcome: &Poll<io::Result<usize>>) {}
}

/// The stream, and what notes.
#[derive(Debug)]
pub(super) struct Noted<T, N> {
    pub(super) stream: T,
    notes: N,
}

impl<T, N> Noted<T, N> {
    pub(super) fn new(stream: T, notes: N) -> Self {
        Self { stream, notes }
    }

    /// The stream.
    pub(super) fn into_inner(self) -> T {
        self.stream
    }
}

impl<T: AsyncRead + Unpin, N: Notes + Unpin> AsyncRead for Noted<T, N> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.notes.poll_may_read(cx))?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.notes.read(buffer.filled().len() - before, polled.is_ready());
        polled
    }
}

impl<T: AsyncWrite + Unpin, N: Notes + Unpin> AsyncWrite for Noted<T, N> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.notes.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.notes.wrote(&outcome);
        outcome
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
