//! The client's side while a request is under way.

use super::{Outcome, Pace};
use crate::proxy::{
    buffer::Buffer,
    http1::cut::Cut,
    leaving::{Leaving, Left},
};
use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Why an exchange ends whose client has left.
pub(super) const GONE: Outcome = Outcome::Cut("the client left before the answer was complete");

/// What there is on the client's side.
pub(in crate::proxy::http1) struct Near<'a, T> {
    pub(in crate::proxy::http1) stream: &'a mut T,
    /// What it sent beyond the request.
    pub(in crate::proxy::http1) input: &'a mut Vec<u8>,
    /// How much of that is taken, in bytes.
    pub(in crate::proxy::http1) input_max: usize,
    pub(in crate::proxy::http1) pace: &'a Pace,
}

impl<T: Leaving> Near<'_, T> {
    /// Looks whether the client is still there, while what it sends has no place. Called again from time to time.
    pub(in crate::proxy::http1) fn listen(&self) -> Result<(), Outcome> {
        self.pace.set_unheard(true);
        match self.stream.left() {
            Left::No => Ok(()),
            Left::Half | Left::Whole => Err(GONE),
        }
    }
}

/// Looks whether the client is still there, while it has nothing more to send for this request. What it sends is kept
/// for the next.
pub(in crate::proxy::http1) fn watch<T: AsyncRead + Unpin + Cut>(
    cx: &mut Context<'_>,
    near: &mut Near<'_, T>,
) -> Result<(), Outcome> {
    const GONE: Outcome = Outcome::Cut("the client left before the answer was complete");
    while near.input.len() < near.input_max {
        let mut buffer = Buffer::take();
        let room = 0..(near.input_max - near.input.len()).min(buffer.len());
        match read(cx, near.stream, &mut buffer, room) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(read)) => near.input.extend_from_slice(buffer.get(read).unwrap_or_default()),
            Poll::Ready(Err(_)) => return Err(GONE),
        }
    }
    near.listen()
}

/// Reads into a part of a buffer; gives where what was read lies.
///
/// # Errors
/// Where there is no more to come: true where that was an end as it should be.
pub(in crate::proxy::http1) fn read<R: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    from: &mut R,
    buffer: &mut Buffer,
    room: Range<usize>,
) -> Poll<Result<Range<usize>, bool>> {
    let start = room.start;
    let mut read = ReadBuf::new(buffer.get_mut(room).unwrap_or_default());
    match Pin::new(from).poll_read(cx, &mut read) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(_)) => Poll::Ready(Err(false)),
        Poll::Ready(Ok(())) => match read.filled().len() {
            0 => Poll::Ready(Err(true)),
            bytes => Poll::Ready(Ok(start..start + bytes)),
        },
    }
}
