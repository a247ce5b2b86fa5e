//! One request on its way to a backend, and the answer on its way back, both at once: an answer may come before its
//! request is complete. Buffers are there only while bytes move.

use super::{
    Framing, HeadLimits, Version,
    body::{Body, ROOM_AFTER, ROOM_BEFORE},
    date::with_date,
    decide::Asks,
    head::Space,
    malformed::Malformed,
    outgoing::Outgoing,
    pace::Pace,
    response,
    scan::Scan,
    write::{After, Answering, put, put_interim, put_response},
};
use crate::proxy::{buffer::Buffer, passage::Passage, refusal::Refusal, upstream::Upstream};
use std::{
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What the head of a response may be large.
const RESPONSE_LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 256, line_bytes: 8 * 1024 };
/// Interim responses to one request; more are no hints any more.
const INTERIMS_MAX: usize = 32;
/// Room before what is read, in bytes, where a head mostly fits.
const HEAD_ROOM: usize = 4096;
const _: () = assert!(HEAD_ROOM > ROOM_BEFORE);
/// After so many pieces others get their turn.
const TURN: usize = 16;

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer is complete.
    Complete {
        /// The request is complete too, and the client's connection may go on.
        goes_on: bool,
    },
    /// The protocol was changed; these bytes of the backend's follow the answer.
    Switched(Vec<u8>),
    /// Nothing of an answer went to the client, which gets this instead.
    Refused(Refusal),
    /// A connection that was used before turned out to be closed, and the request may be sent again.
    Repeat,
    /// An answer cannot be completed, or there is nobody to give it to.
    Cut(&'static str),
}

/// What there is on the client's side.
pub(super) struct Near<'a, T> {
    pub(super) stream: &'a mut T,
    /// What it sent beyond the request.
    pub(super) input: &'a mut Vec<u8>,
    /// How much of that is taken, in bytes.
    pub(super) input_max: usize,
    pub(super) pace: &'a Pace,
}

/// The request.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) out: Outgoing,
    pub(super) body: Body,
    /// Bytes of the body so far.
    pub(super) data: u64,
    is_broken: bool,
    /// 100 has to be said once the head is with the backend.
    owes_continue: bool,
}

impl Up {
    /// At the start; what is at hand of the body is in `out` already.
    pub(super) fn new(out: Outgoing, body: Body, data: u64, asks: &Asks) -> Self {
        let owes_continue = asks.expects_continue && data == 0 && !body.is_done();
        Self { out, body, data, is_broken: false, owes_continue }
    }

    /// Back to the start, for another connection; only of a request that may be sent twice.
    pub(super) fn restart(&mut self) {
        self.out.rewind();
        self.is_broken = false;
    }
}

#[derive(Debug)]
enum Stage {
    Head,
    Body,
    Switching(Vec<u8>),
    Complete,
}

/// The answer.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) out: Outgoing,
    stage: Stage,
    /// What there is of a head that is not complete.
    head: Vec<u8>,
    scan: Scan,
    interims: usize,
    /// Where the head of the final response begins in what goes out.
    head_at: usize,
    body: Body,
    /// Whether the backend said anything.
    was_heard: bool,
    /// Whether bytes wait in the client's stream.
    is_unflushed: bool,
    closes: bool,
    /// Whether the backend's connection may be used again.
    is_reusable: bool,
}

impl Down {
    pub(super) fn new() -> Self {
        Self {
            out: Outgoing::default(),
            stage: Stage::Head,
            head: Vec::new(),
            scan: Scan::default(),
            interims: 0,
            head_at: 0,
            body: Body::new(Framing::None, Framing::None),
            was_heard: false,
            is_unflushed: false,
            closes: true,
            is_reusable: false,
        }
    }
}

/// One request and its answer.
pub(super) struct Exchange<'a> {
    pub(super) asks: &'a Asks,
    pub(super) passage: &'a Rc<Passage>,
    pub(super) upstream: &'a Upstream,
    pub(super) backend: &'a mut TcpStream,
    /// Whether the backend's connection was used before.
    pub(super) is_reused: bool,
    pub(super) up: &'a mut Up,
    pub(super) down: &'a mut Down,
}

impl Exchange<'_> {
    /// Whether the backend's connection may be used again, once the answer is complete.
    pub(super) fn is_reusable(&self) -> bool {
        self.down.is_reusable && self.up.body.is_done() && self.up.out.is_empty() && !self.up.is_broken
    }

    /// Moves what can be moved.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Poll<Outcome>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(refusal) = self.passage.broken() {
            return Poll::Ready(self.fail(refusal, "the client or the backend takes too long"));
        }
        if let Err(outcome) = self.move_up(cx, near) {
            return Poll::Ready(outcome);
        }
        match self.move_down(cx, near) {
            Ok(true) if self.awaits_rest() => Poll::Pending,
            Ok(true) => Poll::Ready(self.end()),
            Ok(false) => Poll::Pending,
            Err(outcome) => Poll::Ready(outcome),
        }
    }

    fn end(&mut self) -> Outcome {
        match &mut self.down.stage {
            Stage::Switching(early) => Outcome::Switched(std::mem::take(early)),
            _ => Outcome::Complete { goes_on: !self.down.closes && self.up.body.is_done() },
        }
    }

    /// Whether the answer is complete and did not say that the connection ends, but the request goes on: its rest goes to
    /// the backend, so that the next request may follow.
    fn awaits_rest(&self) -> bool {
        let may_go_on = !self.down.closes && self.down.is_reusable && !self.up.is_broken;
        matches!(self.down.stage, Stage::Complete) && may_go_on && !self.up.body.is_done()
    }

    fn fail(&self, refusal: Refusal, reason: &'static str) -> Outcome {
        match self.down.stage {
            Stage::Head => Outcome::Refused(refusal),
            Stage::Complete if self.down.out.is_empty() => Outcome::Complete { goes_on: false },
            _ => {
                self.passage.record.broken_off(refusal);
                Outcome::Cut(reason)
            }
        }
    }

    /// Moves the request.
    fn move_up<T>(&mut self, cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Result<(), Outcome>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            if self.up.is_broken {
                // An answer may have been sent before the backend stopped to read.
                return Ok(());
            }
            if !self.up.out.is_empty() {
                match self.up.out.poll_write(cx, self.backend) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.passage.moved(),
                    Poll::Ready(Err(_)) => {
                        self.up.is_broken = true;
                        // Nobody waits for the client any more.
                        self.passage.moved();
                        return Ok(());
                    }
                }
            }
            if self.up.owes_continue {
                self.up.owes_continue = false;
                if matches!(self.down.stage, Stage::Head) {
                    put(&mut self.down.out.before, &["HTTP/1.1 100 Continue\r\n\r\n"]);
                }
            }
            if self.up.body.is_done() {
                return watch(cx, near);
            }
            let mut buffer = Buffer::take();
            let room = HEAD_ROOM..buffer.len() - ROOM_AFTER;
            match read(cx, near.stream, &mut buffer, room) {
                Poll::Pending => {
                    self.passage.wants_body();
                    return Ok(());
                }
                Poll::Ready(Err(_)) => return Err(Outcome::Cut("the client left before its request was complete")),
                Poll::Ready(Ok(read)) => self.take_up(near, buffer, read)?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn take_up<T>(&mut self, near: &mut Near<'_, T>, mut buffer: Buffer, read: Range<usize>) -> Result<(), Outcome> {
        if self.passage.is_fenced() {
            return Err(self.fail(Refusal::NotYet, "the fence closed"));
        }
        self.passage.moved();
        self.up.out.keep_before();
        let passed = self.up.body.pass(&mut buffer, read.clone(), &mut self.up.out.after);
        let passed = passed.map_err(|why| self.fail(why.refusal(), "the client's chunks are malformed"))?;
        near.input.extend_from_slice(buffer.get(read.start + passed.consumed..read.end).unwrap_or_default());
        self.up.data += passed.data as u64;
        self.passage.record.received(passed.data);
        if self.up.data > self.passage.worker().shared.limits.body_bytes {
            return Err(self.fail(Refusal::TooLarge, "the body of the request is too long"));
        }
        self.up.out.load(buffer, passed.range);
        Ok(())
    }

    /// Moves the answer; true where all of it is with the client.
    fn move_down<T>(&mut self, cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Result<bool, Outcome>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        const GONE: Outcome = Outcome::Cut("the client left before the answer was complete");
        for _ in 0..TURN {
            if !self.down.out.is_empty() {
                match self.down.out.poll_write(cx, near.stream) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Ok(())) => self.down.is_unflushed = true,
                    Poll::Ready(Err(_)) => return Err(GONE),
                }
                self.down.out.clear();
            }
            let is_over = matches!(self.down.stage, Stage::Complete | Stage::Switching(_));
            let mut buffer = Buffer::take();
            let received = if is_over {
                Poll::Pending
            } else {
                let room = HEAD_ROOM..buffer.len() - ROOM_AFTER;
                read(cx, self.backend, &mut buffer, room)
            };
            match received {
                Poll::Pending => {
                    drop(buffer);
                    if self.down.is_unflushed {
                        match Pin::new(&mut *near.stream).poll_flush(cx) {
                            Poll::Pending => return Ok(false),
                            Poll::Ready(Ok(())) => self.down.is_unflushed = false,
                            Poll::Ready(Err(_)) => return Err(GONE),
                        }
                    }
                    return Ok(is_over);
                }
                Poll::Ready(Ok(read)) => {
                    if self.passage.is_fenced() {
                        return Err(self.fail(Refusal::NotYet, "the fence closed"));
                    }
                    self.take_down(near.pace, buffer, read)?;
                }
                Poll::Ready(Err(is_end)) => self.break_off(is_end)?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn take_down(&mut self, pace: &Pace, mut buffer: Buffer, mut read: Range<usize>) -> Result<(), Outcome> {
        self.down.was_heard = true;
        let is_first = matches!(self.down.stage, Stage::Head);
        if is_first {
            let rest = match self.take_heads(pace, &mut buffer, read.clone()) {
                Ok(Some(rest)) => rest,
                Ok(None) => return Ok(()),
                Err(why) => {
                    tracing::debug!(address = %self.upstream.address(), %why, "an answer is malformed");
                    return Err(Outcome::Refused(Refusal::Broken));
                }
            };
            read.start = read.end - rest;
            if let Stage::Switching(early) = &mut self.down.stage {
                early.extend_from_slice(buffer.get(read).unwrap_or_default());
                return Ok(());
            }
        }
        let down = &mut *self.down;
        let passed = match down.body.pass(&mut buffer, read.clone(), &mut down.out.after) {
            Ok(passed) => passed,
            Err(why) => {
                tracing::debug!(address = %self.upstream.address(), %why, "an answer's body is malformed");
                if !is_first {
                    return Err(self.fail(Refusal::Broken, "the backend's chunks are malformed"));
                }
                // Its head has not gone yet.
                down.out.before.truncate(down.head_at);
                return Err(Outcome::Refused(Refusal::Broken));
            }
        };
        if passed.consumed < read.len() {
            down.is_reusable = false;
        }
        self.passage.record.sent(passed.data);
        down.out.load(buffer, passed.range);
        if down.body.is_done() {
            down.stage = Stage::Complete;
        }
        Ok(())
    }

    /// Reads heads, until that of the final response; gives how many bytes after it are at hand.
    fn take_heads(&mut self, pace: &Pace, buffer: &mut Buffer, read: Range<usize>) -> Result<Option<usize>, Malformed> {
        let down = &mut *self.down;
        let new = buffer.get(read).unwrap_or_default();
        let kept = if down.head.is_empty() {
            None
        } else {
            down.head.extend_from_slice(new);
            Some(std::mem::take(&mut down.head))
        };
        let mut bytes = kept.as_deref().unwrap_or(new);
        loop {
            let mut space = Space::new();
            let parsed = response::parse(bytes, &mut down.scan, &mut space, RESPONSE_LIMITS, self.asks.is_head)?;
            let Some(head) = parsed else {
                down.head = bytes.to_vec();
                return Ok(None);
            };
            bytes = bytes.get(head.length..).unwrap_or_default();
            down.scan = Scan::default();
            if !head.is_interim() {
                self.begin_answer(pace, &head)?;
                return Ok(Some(bytes.len()));
            }
            down.interims += 1;
            if down.interims > INTERIMS_MAX {
                return Err(Malformed::Interims);
            }
            // 100 was said by us, or nobody asked for it.
            if head.status != 100 && self.asks.version == Version::Http11 {
                put_interim(&mut down.out.before, &head);
            }
        }
    }

    fn begin_answer(&mut self, pace: &Pace, head: &response::ResponseHead<'_, '_>) -> Result<(), Malformed> {
        let down = &mut *self.down;
        if head.status == 101 {
            let asked = self.asks.upgrade.as_deref().zip(head.upgrade);
            let is_due = asked.is_some_and(|(asked, given)| asked.eq_ignore_ascii_case(given));
            // What the backend has not got of the request would be lost.
            if !is_due || !self.up.body.is_done() || !self.up.out.is_empty() {
                return Err(Malformed::Upgrade);
            }
        }
        let framing = match (head.framing, self.asks.version) {
            (framing @ (Framing::None | Framing::Length(_)), _) => framing,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        };
        // An answer of a known length to a request that is not complete mostly is its refusal.
        let is_early = !self.up.body.is_done();
        let refuses = is_early && matches!(head.framing, Framing::None | Framing::Length(_));
        let after = self.asks.after(pace.is_ending() || framing == Framing::UntilClose || refuses);
        let backend = self.upstream.name().and_then(|name| name.to_str().ok());
        down.head_at = down.out.before.len();
        with_date(self.passage.now(), |date| {
            put_response(&mut down.out.before, head, &Answering { backend, framing, after, date });
        });
        if is_early {
            pace.awaits_body();
        } else {
            pace.awaits_nothing();
        }
        pace.set_open_ended(framing == Framing::UntilClose);
        self.passage.record.status(head.status);
        down.closes = after == After::Closes;
        down.is_reusable = head.is_persistent;
        down.body = Body::of_response(head.framing, framing);
        down.stage = match head.status {
            101 => Stage::Switching(Vec::new()),
            _ => Stage::Body,
        };
        Ok(())
    }

    /// The backend's connection ended, as it should (`is_end`) or not.
    fn break_off(&mut self, is_end: bool) -> Result<(), Outcome> {
        match self.down.stage {
            Stage::Head if self.is_reused && self.asks.may_repeat && !self.down.was_heard => Err(Outcome::Repeat),
            Stage::Head => Err(Outcome::Refused(Refusal::Broken)),
            _ if is_end && self.down.body.close(&mut self.down.out.after) => {
                self.down.is_reusable = false;
                self.down.stage = Stage::Complete;
                Ok(())
            }
            _ => Err(self.fail(Refusal::Broken, "the backend broke off")),
        }
    }
}

/// Looks whether the client is still there, while it has nothing more to send for this request. What it sends is kept
/// for the next.
pub(super) fn watch<T: AsyncRead + Unpin>(cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Result<(), Outcome> {
    while near.input.len() < near.input_max {
        let mut buffer = Buffer::take();
        let room = 0..(near.input_max - near.input.len()).min(buffer.len());
        match read(cx, near.stream, &mut buffer, room) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(read)) => near.input.extend_from_slice(buffer.get(read).unwrap_or_default()),
            Poll::Ready(Err(_)) => return Err(Outcome::Cut("the client left before the answer was complete")),
        }
    }
    Ok(())
}

/// Reads into a part of a buffer; gives where what was read lies.
///
/// # Errors
/// Where there is no more to come: true where that was an end as it should be.
pub(super) fn read<R: AsyncRead + Unpin>(
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
