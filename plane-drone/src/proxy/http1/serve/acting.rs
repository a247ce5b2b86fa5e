//! Having requests answered: here, or by their backends.

use super::{
    Connection, Next,
    reading::{Begun, Step},
};
use crate::proxy::{
    dial::{DialError, Socket, dial},
    http1::{
        cut::Cut,
        decide::{Asks, Decision, accepted},
        exchange::{Down, Exchange, Near, Outcome, Up, watch},
        malformed::Malformed,
        outgoing::Outgoing,
        own::put_own,
        write::After,
    },
    passage::Passage,
    refusal::Refusal,
    tunnel::Side,
    upstream::Upstream,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, body::Body as _};
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

impl<T: AsyncRead + AsyncWrite + Unpin + Cut> Connection<'_, T> {
    /// Does what a request asks for.
    pub(super) async fn act(&mut self, step: Step) -> Next {
        // What is rare is in boxes of its own, so that what each request needs is small.
        let step = match step {
            Step::Wait => Box::pin(self.wait()).await,
            step => step,
        };
        match step {
            Step::Begun(passage, begun) => self.fulfil(passage, begun).await,
            Step::Malformed(why, passage) => Box::pin(self.reject(why, passage)).await,
            Step::Ended => {
                // Through TLS an end is said as well (RFC 8446, section 6.1).
                Box::pin(self.close(false)).await;
                Next::End
            }
            Step::More | Step::Look | Step::Wait => Next::End,
        }
    }

    async fn reject(&mut self, why: Malformed, passage: Option<Rc<Passage>>) -> Next {
        tracing::debug!(peer = %self.seat.client.peer, %why, "a request is malformed");
        // Until it is closed it waits for no head, which could come too late as well.
        let passage = passage.unwrap_or_else(|| Passage::begin(self.seat));
        passage.record.refused(why.refusal());
        let (mut out, asks) = (Outgoing::default(), Asks::unknown());
        Next::request_if(self.answer(&mut out, None, &asks, true, why.refusal().into_response()).await)
    }

    /// Has a request answered.
    async fn fulfil(&mut self, passage: Rc<Passage>, mut begun: Box<Begun>) -> Next {
        let Begun { asks, decision, up } = &mut *begun;
        let response = match decision {
            Decision::Passes(upstream) => return self.exchange(passage, asks, upstream, up).await,
            Decision::Answered(response) => {
                passage.record.answered(response.status().as_u16());
                std::mem::take(response)
            }
            Decision::Refused(refusal) => {
                passage.record.refused(*refusal);
                refusal.into_response_for(asks.accept.as_deref(), asks.is_head)
            }
        };
        let mut out = Outgoing::default();
        Next::request_if(Box::pin(self.answer(&mut out, Some(passage), asks, asks.has_body(), response)).await)
    }

    /// Answers a request here, after what is to be sent before. True where the connection goes on; it is closed where
    /// part of the request is unread.
    pub(super) async fn answer(
        &mut self,
        out: &mut Outgoing,
        passage: Option<Rc<Passage>>,
        asks: &Asks,
        is_unread: bool,
        response: Response<Full<Bytes>>,
    ) -> bool {
        let after = asks.after(is_unread || self.pace.is_ending());
        let now = self.seat.worker.timers.clock().now();
        if let Some(passage) = passage.as_ref().filter(|_| !asks.is_head) {
            let bytes = response.body().size_hint().exact().unwrap_or(0);
            passage.record.sent(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        put_own(&mut out.before, response, asks.is_head, after, now);
        let sent = poll_fn(|cx| self.poll_send(cx, out)).await;
        drop(passage);
        if sent.is_err() {
            return false;
        }
        if after == After::Closes {
            self.close(is_unread || asks.is_persistent).await;
        }
        after != After::Closes
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<io::Result<()>> {
        ready!(out.poll_write(cx, &mut self.stream))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Carries a request to its backend and the answer back.
    async fn exchange(&mut self, passage: Rc<Passage>, asks: &Asks, upstream: &Upstream, up: &mut Up) -> Next {
        let worker = &self.seat.worker;
        let input_max = self.limits().bytes;
        let mut down = Down::new();
        let mut kept = worker.sockets.take(upstream);
        let (outcome, backend) = loop {
            let is_reused = kept.is_some();
            let mut backend = match kept.take() {
                Some(backend) => backend,
                None => match Box::pin(self.connect(upstream, up.body.is_done())).await {
                    Ok(Ok(backend)) => backend,
                    Err(gone) => break (gone, None),
                    Ok(Err(error)) => {
                        tracing::debug!(address = %upstream.address(), %error, "no connection");
                        break (Outcome::Refused(error.refusal()), None);
                    }
                },
            };
            if passage.is_fenced() {
                break (Outcome::Refused(Refusal::NotYet), None);
            }
            self.pace.awaits(&passage);
            let mut near = Near { stream: &mut self.stream, input: &mut self.input, input_max, pace: self.pace };
            let mut exchange = Exchange {
                asks,
                passage: &passage,
                upstream,
                backend: &mut backend.stream,
                is_reused,
                up: &mut *up,
                down: &mut down,
            };
            let outcome = poll_fn(|cx| exchange.poll(cx, &mut near)).await;
            let is_reusable = exchange.is_reusable();
            self.pace.awaits_nothing();
            match outcome {
                Outcome::Repeat => up.restart(),
                Outcome::Complete { .. } if is_reusable => {
                    worker.sockets.give_back(upstream, backend, passage.now());
                    break (outcome, None);
                }
                outcome => break (outcome, Some(backend)),
            }
        };
        let is_unread = !up.body.is_done();
        if !matches!(outcome, Outcome::Cut(_)) {
            self.pace.set_open_ended(false);
        }
        match outcome {
            Outcome::Complete { goes_on } => {
                passage.record.passed();
                drop(passage);
                if !goes_on {
                    Box::pin(self.close(is_unread || asks.is_persistent)).await;
                }
                Next::request_if(goes_on)
            }
            Outcome::Switched(early) => match backend {
                Some(stream) => Next::Tunnel(Box::new((Side { stream, early: early.into() }, passage))),
                None => Next::End,
            },
            Outcome::Refused(refusal) => {
                drop(backend);
                passage.record.refused(refusal);
                let accept = accepted(&up.out.before, self.limits());
                let response = refusal.into_response_for(accept.as_deref(), asks.is_head);
                Next::request_if(Box::pin(self.answer(&mut down.out, Some(passage), asks, is_unread, response)).await)
            }
            Outcome::Repeat => Next::End,
            Outcome::Cut(reason) => {
                tracing::debug!(peer = %self.seat.client.peer, address = %upstream.address(), reason, "a request is cut");
                self.cut();
                Next::End
            }
        }
    }

    /// Opens a connection to a backend, while the client is there; looks for that where the client `is_done` with the
    /// request, so that what it sends is the next.
    async fn connect(&mut self, upstream: &Upstream, is_done: bool) -> Result<Result<Socket, DialError>, Outcome> {
        let input_max = self.limits().bytes;
        let mut connecting = pin!(dial(&self.seat.worker, upstream));
        let mut near = Near { stream: &mut self.stream, input: &mut self.input, input_max, pace: self.pace };
        poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(connected) => Poll::Ready(Ok(connected)),
            Poll::Pending if is_done => match watch(cx, &mut near) {
                Ok(()) => Poll::Pending,
                Err(gone) => Poll::Ready(Err(gone)),
            },
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
