//! One request on its way to a backend, and the answer on its way back, both at once: an answer may come before its
//! request is complete. Buffers are there only while bytes move.
//!
//! `up` moves the request, `down` the answer, whose `heads` are read for themselves; `near` is the client's side.

mod down;
mod heads;
mod near;
mod up;

pub(super) use heads::RESPONSE_LIMITS;
pub(super) use near::{Near, read, watch};

use super::{
    Framing,
    body::{Body, ROOM_BEFORE},
    cut::Cut,
    decide::Asks,
    outgoing::Outgoing,
    pace::Pace,
    scan::Scan,
};
use crate::proxy::{passage::Passage, refusal::Refusal, upstream::Upstream};
use std::{
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

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
    /// What interim answers had so far.
    interim_bytes: usize,
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
            interim_bytes: 0,
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
        T: AsyncRead + AsyncWrite + Unpin + Cut,
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
}
