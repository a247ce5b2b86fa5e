//! The body of a request whose last piece goes on only with its end. What says how long it is and then has more is malformed
//! (RFC 9113, section 8.1.1), and a backend that has all that was announced takes the request for complete.

use super::inbound::Inbound;
use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A body of which a client sends what it announced, or which fails before its last piece went on.
#[derive(Debug)]
pub(super) struct Whole<B = Inbound> {
    inner: B,
    /// What is still to come of what was announced, in bytes.
    due: Option<u64>,
    /// The last piece, until the end has come.
    last: Option<Frame<Bytes>>,
    /// What came behind it.
    behind: Option<Frame<Bytes>>,
}

impl<B: Body> Whole<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { due: inner.size_hint().exact(), inner, last: None, behind: None }
    }
}

fn bytes_of(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.remaining() as u64)
}

impl<B: Body<Data = Bytes> + Unpin> Body for Whole<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        loop {
            if this.last.is_none()
                && let Some(behind) = this.behind.take()
            {
                return Poll::Ready(Some(Ok(behind)));
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                None => return Poll::Ready(this.last.take().map(Ok)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => frame,
            };
            if let Some(last) = this.last.take() {
                if frame.is_data() && bytes_of(&frame) == 0 {
                    this.last = Some(last);
                    continue;
                }
                this.behind = Some(frame);
                return Poll::Ready(Some(Ok(last)));
            }
            this.due = this.due.map(|due| due.saturating_sub(bytes_of(&frame)));
            if this.due == Some(0) && frame.is_data() && !this.inner.is_end_stream() {
                this.last = Some(frame);
                continue;
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.behind.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use std::collections::VecDeque;

    /// Pieces that come one by one; `None` is a pause.
    struct Played(VecDeque<Option<Result<&'static str, &'static str>>>, u64);

    impl Body for Played {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(piece)) => Poll::Ready(Some(piece.map(|piece| Frame::data(piece.into())))),
            }
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    fn next(body: &mut Whole<Played>) -> Option<Option<Result<Bytes, &'static str>>> {
        let frame = body.frame().now_or_never()?;
        Some(frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[test]
    fn the_last_piece_waits_for_the_end() {
        let pieces = [Some(Ok("ab")), Some(Ok("c")), None, Some(Ok("")), None];
        let mut body = Whole::new(Played(pieces.into(), 3));
        assert_eq!(next(&mut body), Some(Some(Ok("ab".into()))));
        assert_eq!((next(&mut body), next(&mut body)), (None, None));
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body), Some(Some(Ok("c".into()))));
        assert_eq!(next(&mut body), Some(None));
    }

    #[test]
    fn what_is_longer_than_announced_never_looks_complete() {
        let mut body = Whole::new(Played([Some(Ok("abc")), None, Some(Err("malformed"))].into(), 3));
        assert_eq!((next(&mut body), next(&mut body)), (None, Some(Some(Err("malformed")))));
    }
}
