//! The request, on its way to the backend.

use super::{Exchange, HEAD_ROOM, Near, Outcome, Stage, TURN, read, watch};
use crate::proxy::{
    buffer::Buffer,
    http1::{body::ROOM_AFTER, cut::Cut, write::put},
    refusal::Refusal,
};
use std::{
    ops::Range,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

impl Exchange<'_> {
    /// Moves the request.
    pub(super) fn move_up<T>(&mut self, cx: &mut Context<'_>, near: &mut Near<'_, T>) -> Result<(), Outcome>
    where
        T: AsyncRead + AsyncWrite + Unpin + Cut,
    {
        near.pace.set_unheard(false);
        for _ in 0..TURN {
            if self.up.is_broken {
                // An answer may have been sent before the backend stopped to read.
                return near.listen();
            }
            if !self.up.out.is_empty() {
                match self.up.out.poll_write(cx, self.backend) {
                    Poll::Pending => return near.listen(),
                    Poll::Ready(Ok(())) => self.passage.moved(),
                    Poll::Ready(Err(_)) => {
                        self.up.is_broken = true;
                        // Nobody waits for the client any more.
                        self.passage.moved();
                        return near.listen();
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
                self.passage.sent();
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
}
