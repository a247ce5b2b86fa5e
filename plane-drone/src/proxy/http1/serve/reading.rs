//! Waiting for requests, and what becomes of each.

use super::Connection;
use crate::proxy::{
    buffer::Buffer,
    http1::{
        body::{Body, ROOM_AFTER},
        cut::Cut,
        decide::{Asks, Decision, decide},
        exchange::{Near, Up, read, watch},
        head::{self, Space},
        malformed::Malformed,
        outgoing::Outgoing,
        scan::Scan,
    },
    passage::Passage,
    refusal::Refusal,
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A request that was decided on.
pub(super) struct Begun {
    pub(super) asks: Asks,
    pub(super) decision: Decision,
    /// What goes to its backend: its head, and what was at hand of its body.
    pub(super) up: Up,
}

/// What came of reading.
pub(super) enum Step {
    /// The client has ended.
    Ended,
    /// More of a head is needed.
    More,
    /// All of a head may be there.
    Look,
    /// A request has to wait before it can be decided on.
    Wait,
    /// There is no request.
    /// What it is malformed in, and its passage where it has one.
    Malformed(Malformed, Option<Rc<Passage>>),
    /// There is one, and its passage.
    Begun(Rc<Passage>, Box<Begun>),
}

impl<T: AsyncRead + AsyncWrite + Unpin + Cut> Connection<'_, T> {
    /// Reads until there is something to act on.
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        // Where the scan is new, nothing was looked at yet of what is at hand.
        let mut looks = self.scan.is_fresh() && {
            self.skip_empty_lines();
            !self.input.is_empty()
        };
        loop {
            let step = if looks {
                self.look_at_input(cx)
            } else {
                if !self.input.is_empty() {
                    self.seat.activity.head_begun();
                }
                ready!(self.poll_read(cx))
            };
            match step {
                Step::More => looks = false,
                Step::Look => looks = true,
                step => return Poll::Ready(step),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.pace.is_ending() && matches!(self.input.as_slice(), b"" | b"\r") {
            return Poll::Ready(Step::Ended);
        }
        let mut buffer = Buffer::take();
        let room = 0..buffer.len() - ROOM_AFTER;
        let Ok(new) = ready!(read(cx, &mut self.stream, &mut buffer, room)) else { return Poll::Ready(Step::Ended) };
        if !self.input.is_empty() || buffer.get(new.start) == Some(&b'\r') {
            self.input.extend_from_slice(buffer.get(new).unwrap_or_default());
            self.skip_empty_lines();
            return Poll::Ready(if self.input.is_empty() { Step::More } else { Step::Look });
        }
        let step = self.look(cx, &mut buffer, new.end);
        if matches!(step, Step::More | Step::Wait) {
            self.input.extend_from_slice(buffer.get(new).unwrap_or_default());
        }
        Poll::Ready(step)
    }

    /// Forgets empty lines before a request (RFC 9112, section 2.2): they are no part of a head.
    fn skip_empty_lines(&mut self) {
        let lines = self.input.chunks(2).take_while(|pair| pair == b"\r\n").count();
        if lines > 0 {
            self.input.drain(..lines * 2);
            self.scan = Scan::default();
            if self.input.is_empty() {
                self.seat.activity.no_head();
            }
        }
    }

    fn look_at_input(&mut self, cx: &mut Context<'_>) -> Step {
        let mut input = std::mem::take(&mut self.input);
        let end = input.len();
        input.resize(end + ROOM_AFTER, 0);
        let step = self.look(cx, &mut input, end);
        if matches!(step, Step::More | Step::Wait) {
            input.truncate(end);
            self.input = input;
        }
        step
    }

    /// Looks at what was read up to `end`: if there is a head, decides on it at once where that is possible. What is
    /// beyond the request goes to the input.
    fn look(&mut self, cx: &mut Context<'_>, bytes: &mut [u8], end: usize) -> Step {
        let mut space = Space::new();
        let mut out = Outgoing::default();
        let limits = self.limits();
        let (passage, decided) = {
            let seen = bytes.get(..end).unwrap_or_default();
            let head = match head::parse(seen, &mut self.scan, &mut space, limits) {
                Ok(Some(head)) => head,
                Ok(None) => return Step::More,
                Err(why) => return Step::Malformed(why, None),
            };
            let passage = Passage::begin(self.seat);
            let polled = pin!(decide(&passage, &self.peer, &head, &mut out.before)).poll(cx);
            (passage, polled)
        };
        match decided {
            Poll::Pending => {
                passage.record.void();
                Step::Wait
            }
            Poll::Ready((asks, decision)) => self.begin(passage, asks, decision, out, bytes, end),
        }
    }

    /// Takes what is at hand of a request's body.
    fn begin(
        &mut self,
        passage: Rc<Passage>,
        asks: Asks,
        decision: Decision,
        mut out: Outgoing,
        bytes: &mut [u8],
        end: usize,
    ) -> Step {
        let (mut body, mut data, mut at) = (Body::new(asks.framing, asks.framing), 0, asks.length);
        if matches!(decision, Decision::Passes(_)) && !body.is_done() && at < end {
            match body.pass(bytes, at..end, &mut out.after) {
                Err(why) => {
                    return Step::Malformed(why, Some(passage));
                }
                Ok(passed) => {
                    out.before.extend_from_slice(bytes.get(passed.range).unwrap_or_default());
                    at += passed.consumed;
                    data = passed.data as u64;
                    passage.record.received(passed.data);
                }
            }
        }
        self.input.extend_from_slice(bytes.get(at..end).unwrap_or_default());
        let decision = match decision {
            Decision::Passes(_) if data > self.seat.worker.shared.limits.body_bytes => {
                Decision::Refused(Refusal::TooLarge)
            }
            decision => decision,
        };
        let up = Up::new(out, body, data, &asks);
        Step::Begun(passage, Box::new(Begun { asks, decision, up }))
    }

    /// Waits until a request can be decided on, or its client leaves.
    pub(super) async fn wait(&mut self) -> Step {
        let (mut input, mut late) = (std::mem::take(&mut self.input), Vec::new());
        let mut out = Outgoing::default();
        let passage = Passage::begin(self.seat);
        let limits = self.limits();
        let decided = {
            let (peer, out) = (&self.peer, &mut out.before);
            let mut near =
                Near { stream: &mut self.stream, input: &mut late, input_max: limits.bytes, pace: self.pace };
            // Few wait at one time, and what they need is large.
            let mut deciding = Box::pin(async {
                let mut space = Space::new();
                let parsed = head::parse(&input, &mut Scan::default(), &mut space, limits);
                let head = parsed.and_then(|head| head.ok_or(Malformed::RequestLine))?;
                Ok(decide(&passage, peer, &head, out).await)
            });
            poll_fn(|cx| match deciding.as_mut().poll(cx) {
                Poll::Ready(decided) => Poll::Ready(Some(decided)),
                Poll::Pending if watch(cx, &mut near).is_err() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        input.extend(late);
        let end = input.len();
        input.resize(end + ROOM_AFTER, 0);
        match decided {
            None => Step::Ended,
            Some(Err(why)) => Step::Malformed(why, Some(passage)),
            Some(Ok((asks, decision))) => self.begin(passage, asks, decision, out, &mut input, end),
        }
    }
}
