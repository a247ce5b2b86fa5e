//! An upgraded connection: bytes both ways until both sides have ended. What they mean is not looked at. A side that
//! ends is ended on the other, which may go on talking; buffers are there only while bytes move.

use super::{
    buffer::Buffer,
    leaving::{LOOK_EVERY, Leaving, Left},
    passage::{Fenced, Passage},
    record::Record,
    refusal::Refusal,
    timers::{Look, after},
};
use bytes::Bytes;
use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After so many pieces others get their turn.
const TURN: usize = 16;

/// Bytes that were read and are not written yet.
#[derive(Debug)]
enum Pending {
    None,
    Read(Buffer, usize, usize),
    Early(Bytes),
}

/// One direction.
#[derive(Debug)]
struct Half {
    pending: Pending,
    is_flushed: bool,
    has_ended: bool,
    is_shut: bool,
    /// Whoever it goes to takes nothing any more.
    is_broken: bool,
    /// Notes how many bytes came.
    note: fn(&Record, usize),
}

impl Half {
    fn new(early: Bytes, note: fn(&Record, usize)) -> Self {
        let pending = if early.is_empty() { Pending::None } else { Pending::Early(early) };
        Self { pending, is_flushed: true, has_ended: false, is_shut: false, is_broken: false, note }
    }

    /// Moves what can be moved; ready where nothing more is to be. Whoever takes nothing any more may have said something
    /// before, so that the other direction goes on.
    ///
    /// # Errors
    /// Where it cannot be read, or may not.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, passage: &Passage) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            if self.is_broken || ready!(self.poll_out(cx, to)).is_err() {
                self.is_broken = true;
                self.pending = Pending::None;
                return Poll::Ready(Ok(()));
            }
            if self.is_shut {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = Buffer::take();
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending if self.is_flushed => return Poll::Pending,
                Poll::Pending => match ready!(Pin::new(&mut *to).poll_flush(cx)) {
                    Ok(()) => {
                        self.is_flushed = true;
                        return Poll::Pending;
                    }
                    Err(_) => {
                        self.is_broken = true;
                        continue;
                    }
                },
            }
            // What is read once the fence is closed goes nowhere.
            if passage.is_fenced() {
                return Poll::Ready(Err(io::Error::other(Fenced)));
            }
            match read.filled().len() {
                0 => self.has_ended = true,
                bytes => {
                    (self.note)(&passage.record, bytes);
                    self.pending = Pending::Read(buffer, 0, bytes);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether what was read cannot be written yet, so that nothing is read.
    fn is_held_up(&self) -> bool {
        !matches!(self.pending, Pending::None)
    }

    /// Writes what was read, and the end where that has come.
    fn poll_out<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, to))?;
        if self.has_ended && !self.is_shut {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        loop {
            let left = match &self.pending {
                Pending::None => return Poll::Ready(Ok(())),
                Pending::Read(buffer, from, to) => &buffer[*from..*to],
                Pending::Early(bytes) => &bytes[..],
            };
            let written = ready!(Pin::new(&mut *to).poll_write(cx, left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_flushed = false;
            let is_done = written == left.len();
            match &mut self.pending {
                Pending::Read(_, from, _) => *from += written,
                Pending::Early(bytes) => drop(bytes.split_to(written)),
                Pending::None => {}
            }
            if is_done {
                self.pending = Pending::None;
            }
        }
    }
}

/// One side of a tunnel, and what of it was read before the tunnel began.
#[derive(Debug)]
pub(super) struct Side<T> {
    pub(super) stream: T,
    pub(super) early: Bytes,
}

/// Carries bytes until both sides have ended or one is broken.
///
/// # Errors
/// Where a stream breaks, the fence before the backend closes, or a side that had ended is gone: it may take what the other
/// says for as long as it likes, and TCP keep-alive tells whether it still does.
pub(super) fn carry<C, B>(
    client: Side<C>,
    backend: Side<B>,
    passage: Rc<Passage>,
) -> impl Future<Output = io::Result<()>>
where
    C: AsyncRead + AsyncWrite + Leaving + Unpin,
    B: AsyncRead + AsyncWrite + Leaving + Unpin,
{
    let open = passage.worker().counter.tunnel();
    let record = &passage.record;
    record.upgraded();
    record.received(client.early.len());
    record.sent(backend.early.len());
    let mut up = Half::new(client.early, Record::received);
    let mut down = Half::new(backend.early, Record::sent);
    let (mut client, mut backend) = (client.stream, backend.stream);
    // Many tunnels are quiet: a function that waits itself would hold all that it is given twice.
    async move {
        let _open = &open;
        let (client, backend) = (&mut client, &mut backend);
        // Whether a side is not read, so that nothing but a look tells when it is gone.
        let is_unread = Cell::new(false);
        let carrying = pin!(poll_fn(|cx| {
            let is_up_done = up.poll(cx, client, backend, &passage)?.is_ready();
            let is_down_done = down.poll(cx, backend, client, &passage)?.is_ready();
            if is_up_done && is_down_done {
                return Poll::Ready(Ok(()));
            }
            is_unread.set(is_up_done || is_down_done || up.is_held_up() || down.is_held_up());
            // A client that is gone waits for nothing. Where the backend has ended, it may have ended too, in order.
            let may_be_gone = is_up_done || up.is_held_up();
            let is_gone = may_be_gone && (!is_down_done || down.is_broken) && client.left() == Left::Whole;
            // A backend that has ended takes nothing any more once it is gone.
            if is_gone || is_down_done && backend.left() == Left::Whole {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Poll::Pending
        }));
        let look = |now| Look::<io::Error>::Again(if is_unread.get() { after(now, LOOK_EVERY) } else { u64::MAX });
        let carried = passage.worker().timers.limit(carrying, look).await;
        if passage.is_fenced() {
            passage.record.broken_off(Refusal::NotYet);
        }
        // Whichever side ended it: that is how they end.
        passage.record.passed();
        carried.flatten()
    }
}
