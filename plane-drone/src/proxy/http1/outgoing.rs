//! Bytes that wait to be written to one side: what was made anew, what is passed on within the buffer that it came in,
//! and what was made to follow it. As few writes as there can be: what comes before moves into the buffer if it fits.

use crate::proxy::buffer::Buffer;
use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// What waits for one side.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// First.
    pub(super) before: Vec<u8>,
    written: usize,
    body: Option<(Buffer, Range<usize>)>,
    /// Last.
    pub(super) after: Vec<u8>,
    after_written: usize,
}

impl Outgoing {
    /// Whether all is written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.before.len() && self.body.is_none() && self.after_written == self.after.len()
    }

    /// Puts a part of a buffer after what came before. Nothing may be there of the parts after that.
    pub(super) fn load(&mut self, mut buffer: Buffer, mut range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let before = self.before.get(self.written..).unwrap_or_default();
        if !before.is_empty()
            && let Some(start) = range.start.checked_sub(before.len())
            && let Some(room) = buffer.get_mut(start..range.start)
        {
            room.copy_from_slice(before);
            range.start = start;
            self.before.clear();
            self.written = 0;
        }
        self.body = Some((buffer, range));
    }

    /// Writes until nothing is left, or the other side takes no more.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.written < self.before.len() {
            let left = self.before.get(self.written..).unwrap_or_default();
            self.written += ready!(poll_some(cx, to, left))?;
        }
        while let Some((buffer, range)) = &mut self.body {
            let left = buffer.get(range.clone()).unwrap_or_default();
            range.start += ready!(poll_some(cx, to, left))?;
            if range.start >= range.end {
                self.body = None;
            }
        }
        while self.after_written < self.after.len() {
            let left = self.after.get(self.after_written..).unwrap_or_default();
            self.after_written += ready!(poll_some(cx, to, left))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets what was written, all of which was.
    pub(super) fn clear(&mut self) {
        self.before.clear();
        self.after.clear();
        (self.written, self.after_written) = (0, 0);
        self.body = None;
    }

    /// Forgets what follows what came before, all of which was written.
    pub(super) fn keep_before(&mut self) {
        self.after.clear();
        self.after_written = 0;
    }

    /// Makes ready to write all of it again; only where there is no body.
    pub(super) fn rewind(&mut self) {
        self.written = 0;
    }
}

fn poll_some<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}
