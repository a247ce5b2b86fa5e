//! How connections end.

use super::Connection;
use crate::proxy::{
    buffer::Buffer,
    http1::{cut::Cut, decide::Asks, exchange::read, outgoing::Outgoing},
    passage::Passage,
    refusal::Refusal,
};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a connection that is closed goes on reading what its client still sends: closed at once, the client may not
/// see the answer (RFC 9112, section 9.6). And how much it reads, in bytes.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

impl<T: AsyncRead + AsyncWrite + Unpin + Cut> Connection<'_, T> {
    /// Tells the client that the head of its request takes too long.
    pub(super) async fn end_late(&mut self) {
        let (seat, mut out, asks) = (self.seat, Outgoing::default(), Asks::unknown());
        let passage = Passage::begin(seat);
        passage.record.refused(Refusal::TooSlow);
        let late = pin!(self.answer(&mut out, None, &asks, true, Refusal::TooSlow.into_response()));
        seat.worker.timers.within(LINGER * 2, late).await;
    }

    /// Has nobody take the answer under way for complete.
    pub(super) fn cut(&self) {
        if self.pace.is_open_ended() {
            self.stream.stream.cut();
        }
    }

    /// Says that nothing more comes, and reads for a while what the client may still send: the rest of a request, or the
    /// next, where it was not the client who wanted to end.
    pub(super) async fn close(&mut self, may_send: bool) {
        let may_send = may_send || !self.input.is_empty();
        let (stream, mut left) = (&mut self.stream, LINGER_BYTES);
        let closing = poll_fn(|cx| {
            if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() || !may_send {
                return Poll::Ready(());
            }
            loop {
                let mut buffer = Buffer::take();
                let room = 0..buffer.len();
                match ready!(read(cx, stream, &mut buffer, room)) {
                    Ok(read) if read.len() < left => left -= read.len(),
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = self.seat.worker.timers.within(LINGER, pin!(closing)).await;
    }
}
