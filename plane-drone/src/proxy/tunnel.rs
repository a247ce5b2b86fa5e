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
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a tunnel of which one side has ended may go on without a byte, also where that side's last bytes have not been
/// taken yet. Nothing tells any more whether it is still there: what is read of it has ended, and nothing is written to
/// it. So long a pause within an answer is rare.
const ALONE: Duration = Duration::from_secs(60);
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
    /// How many times it got on.
    moves: u64,
}

impl Half {
    fn new(early: Bytes, note: fn(&Record, usize)) -> Self {
        let pending = if early.is_empty() { Pending::None } else { Pending::Early(early) };
        Self { pending, is_flushed: true, has_ended: false, is_shut: false, is_broken: false, note, moves: 0 }
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
                    self.moves += 1;
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
            self.moves += 1;
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
/// Where a stream breaks, the fence before the backend closes, or nothing comes from one side long after the other has
/// ended.
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
        // Since when one side is alone and nothing has come of it.
        let alone = Cell::new(None);
        let is_held_up = Cell::new(false);
        let mut moves = 0;
        let carrying = pin!(poll_fn(|cx| {
            let is_up_done = up.poll(cx, client, backend, &passage)?.is_ready();
            let is_down_done = down.poll(cx, backend, client, &passage)?.is_ready();
            if is_up_done && is_down_done {
                return Poll::Ready(Ok(()));
            }
            is_held_up.set(up.is_held_up() || down.is_held_up());
            // A client that is gone waits for nothing. Where the backend has ended, it may have ended too, in order.
            if up.is_held_up() && (!is_down_done || down.is_broken) && client.left() == Left::Whole {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let has_left =
                up.is_held_up() && client.left() != Left::No || down.is_held_up() && backend.left() != Left::No;
            let is_alone = is_up_done || is_down_done || has_left;
            let moved = up.moves + down.moves;
            if is_alone && (alone.get().is_none() || moved != moves) {
                alone.set(Some(passage.now()));
            }
            moves = moved;
            Poll::Pending
        }));
        let look = |now| match look(alone.get(), now) {
            Look::Again(until) if is_held_up.get() => Look::Again(until.min(after(now, LOOK_EVERY))),
            look => look,
        };
        let carried = passage.worker().timers.limit(carrying, look).await;
        if passage.is_fenced() {
            passage.record.broken_off(Refusal::NotYet);
        }
        // Whichever side ended it: that is how they end.
        passage.record.passed();
        carried?
    }
}

/// Whether a tunnel has gone on for too long at a time, with one side alone and nothing to carry since.
fn look(alone: Option<u64>, now: u64) -> Look<io::ErrorKind> {
    match alone.map(|since| after(since, ALONE)) {
        None => Look::Again(u64::MAX),
        Some(until) if now >= until => Look::Over(io::ErrorKind::TimedOut),
        Some(until) => Look::Again(until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::timers::{TICK, Timers, millis};
    use std::future::pending;
    use tokio::time::{Instant, sleep};

    /// In seconds, when a tunnel ends of which one side is alone and carries something at such times.
    async fn ends(moves: &[u64]) -> Option<u64> {
        let (timers, began, alone) = (Timers::new(), Instant::now(), Cell::new(None));
        let ticking = async {
            loop {
                sleep(TICK).await;
                timers.tick();
                let now = began.elapsed().as_secs();
                if moves.contains(&now) && alone.get().is_none_or(|since| since < now * 1000) {
                    alone.set(Some(timers.clock().now()));
                    // As the bytes do.
                    timers.wake_all();
                }
            }
        };
        let tunnel = timers.limit(Box::pin(pending::<()>()), |now| look(alone.get(), now));
        tokio::select! {
            () = ticking => None,
            outcome = tunnel => outcome.err().map(|_| began.elapsed().as_secs()),
            () = sleep(Duration::from_secs(3600)) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_is_alone_has_a_minute_for_each_piece() {
        assert_eq!(ends(&[]).await, None, "both sides are there: they may be silent for ever");
        let first = ends(&[5]).await.unwrap();
        assert!((65..=67).contains(&first), "{first}");
        let later = ends(&[5, 60, 110]).await.unwrap();
        assert!((170..=172).contains(&later), "{later}");
        assert_eq!(millis(ALONE), 60_000);
    }
}
