//! The answer, on its way to the client.

use super::{Exchange, HEAD_ROOM, Near, Outcome, Stage, TURN, near::GONE, read};
use crate::proxy::{
    buffer::Buffer,
    http1::{body::ROOM_AFTER, cut::Cut, pace::Pace},
    refusal::Refusal,
};
use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

impl Exchange<'_> {
    /// Moves the answer; true where all of it is with the client.
    pub(super) fn move_down<T>(&mut self, cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Result<bool, Outcome>
    where
        T: AsyncRead + AsyncWrite + Unpin + Cut,
    {
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

    /// The backend's connection ended, as it should (`is_end`) or not.
    fn break_off(&mut self, is_end: bool) -> Result<(), Outcome> {
        match self.down.stage {
            Stage::Head if self.is_reused && self.asks.may_repeat && !self.down.was_heard => Err(Outcome::Repeat),
            Stage::Head => Err(Outcome::Refused(Refusal::Broken)),
            // What ends because it was given up is not complete.
            _ if self.passage.is_fenced() => Err(self.fail(Refusal::NotYet, "the fence closed")),
            _ if is_end && self.down.body.close(&mut self.down.out.after) => {
                self.down.is_reusable = false;
                self.down.stage = Stage::Complete;
                Ok(())
            }
            _ => Err(self.fail(Refusal::Broken, "the backend broke off")),
        }
    }
}
