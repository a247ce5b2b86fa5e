//! The body of a request over HTTP/2. What of it has gone on makes room for more.

use super::Interims;
use bytes::Bytes;
use h2::RecvStream;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Frame, SizeHint},
    header,
};
use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

/// A body that comes on a stream. That it is as long as announced is seen to by the library (RFC 9113, section 8.1.1).
#[derive(Debug)]
pub(in crate::proxy) struct Streaming {
    stream: RecvStream,
    /// What is still to come of what was announced, in bytes.
    due: Option<u64>,
    /// Only trailers may follow.
    is_behind_data: bool,
    /// Where the client is told to send it (RFC 9110, section 10.1.1), once somebody wants it.
    expects: Option<Rc<Interims>>,
}

impl Streaming {
    /// The body behind a head with these fields.
    pub(super) fn new(stream: RecvStream, fields: &HeaderMap, interims: &Rc<Interims>) -> Self {
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let due = if stream.is_end_stream() { Some(0) } else { length.and_then(|length| length.parse().ok()) };
        let expectation = fields.get(header::EXPECT).map(|value| value.as_bytes());
        let expects = expectation.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Self { stream, due, is_behind_data: false, expects: expects.then(|| interims.clone()) }
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_behind_data {
            let polled = self.stream.poll_data(cx);
            if let Some(interims) = self.expects.take().filter(|_| polled.is_pending()) {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::CONTINUE;
                interims.say(head);
            }
            match ready!(polled) {
                Some(Ok(bytes)) => {
                    self.due = self.due.map(|due| due.saturating_sub(bytes.len() as u64));
                    // A stream that is over needs no room.
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                // However a client resets a stream: what was to come does not, and is not taken for complete.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_behind_data = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.due.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
