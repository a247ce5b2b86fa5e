//! What is said on one stream: interim answers, an answer, and its body as far as its client takes it.

use super::{Interims, Streaming, tunnel::Tunnelled};
use crate::proxy::{
    connection::Seat,
    exchange::{self, Came, Reply},
    http1::with_date,
    inbound::Inbound,
    passage::{Answer, BodyError},
    timers::{CoarseClock, Look, after},
};
use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Body,
    header::{self, HeaderValue},
};
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Not at a time.
const NEVER: u64 = u64::MAX;

/// Answers the request of one stream. Where this ends before the answer does, the library resets the stream.
pub(super) fn answer(
    seat: Rc<Seat>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    let interims = Rc::default();
    let (head, stream) = request.into_parts();
    let (body, stream) = match head.method == Method::CONNECT {
        // What follows belongs to the tunnel.
        true => (Inbound::Empty, Some(stream)),
        false => (Inbound::Http2(Streaming::new(stream, &head.headers, &interims)), None),
    };
    say(seat, Came::new(Request::from_parts(head, body)), stream, interims, respond)
}

async fn say(
    seat: Rc<Seat>,
    came: Box<Came>,
    stream: Option<RecvStream>,
    interims: Rc<Interims>,
    mut respond: SendResponse<Bytes>,
) {
    let Some(reply) = reply(&seat, came, &interims, &mut respond).await else { return };
    let response = match reply {
        Reply::Whole(response) => response,
        Reply::Switched(response, switched) => {
            let (mut head, ()) = response.into_parts();
            complete(&mut head.headers, None, &seat);
            if let (Ok(sender), Some(stream)) = (respond.send_response(Response::from_parts(head, ()), false), stream) {
                // What a tunnel needs is in a box: most streams do without.
                Box::pin(Tunnelled::new(stream, sender).carry(switched)).await;
            }
            return;
        }
    };
    drop(stream);
    let (mut head, body) = response.into_parts();
    let is_over = body.is_end_stream();
    complete(&mut head.headers, if is_over { None } else { body.size_hint().exact() }, &seat);
    match respond.send_response(Response::from_parts(head, ()), is_over) {
        Ok(_) if is_over => {}
        Ok(sender) => send(&seat, sender, body).await,
        // Mostly a stream that was reset meanwhile.
        Err(error) => tracing::debug!(%error, "an answer cannot be given"),
    }
}

/// What a request gets, after its interim answers. `None` where its client does not wait for it any more.
async fn reply(
    seat: &Rc<Seat>,
    came: Box<Came>,
    interims: &Rc<Interims>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Reply> {
    let mut answering = pin!(exchange::answer(seat, came, Some(interims)));
    poll_fn(|cx| {
        let polled = answering.as_mut().poll(cx);
        while let Some(head) = interims.next(cx) {
            // A stream that is reset shows below.
            let _ = respond.send_informational(head);
        }
        match polled {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    })
    .await
}

/// Adds what an answer has to say besides.
fn complete(fields: &mut HeaderMap, length: Option<u64>, seat: &Seat) {
    if !fields.contains_key(header::DATE) {
        let date = with_date(seat.worker.timers.clock().now(), HeaderValue::from_str);
        fields.extend(date.ok().map(|date| (header::DATE, date)));
    }
    if let Some(length) = length.filter(|_| !fields.contains_key(header::CONTENT_LENGTH)) {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Sends a body for as long as its client takes something of it.
async fn send(seat: &Seat, sender: SendStream<Bytes>, body: Answer) {
    let untaken = Cell::new(NEVER);
    let timers = &seat.worker.timers;
    let mut sending = Sending { sender, body, piece: None, untaken: &untaken };
    let sent = pin!(poll_fn(|cx| sending.poll(cx, timers.clock())));
    let patience = seat.worker.shared.limits.send;
    let look = |now| match untaken.get() {
        NEVER => Look::Again(NEVER),
        since if now >= after(since, patience) => Look::Over(()),
        since => Look::Again(after(since, patience)),
    };
    match timers.limit(sent, look).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(peer = %seat.client.peer, %error, "a stream broke"),
        Err(()) => tracing::debug!(peer = %seat.client.peer, "a stream is cut: the client takes nothing"),
    }
}

/// A body on its way to a client.
struct Sending<'a> {
    sender: SendStream<Bytes>,
    body: Answer,
    /// What waits for room, and whether the body ends with it.
    piece: Option<(Bytes, bool)>,
    /// Since when none of it was taken.
    untaken: &'a Cell<u64>,
}

impl Sending<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, clock: &CoarseClock) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(reason) = self.sender.poll_reset(cx)? {
                return Poll::Ready(Err(reason.into()));
            }
            while let Some((piece, is_last)) = &mut self.piece {
                let room = self.sender.capacity();
                if room == 0 {
                    // A backend may have to get on with the request before its client reads.
                    if let Err(error) = self.body.poll_up(cx) {
                        return self.break_off(&error);
                    }
                    match self.sender.poll_capacity(cx) {
                        Poll::Ready(Some(room)) => drop(room?),
                        Poll::Ready(None) => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                        Poll::Pending => {
                            if self.untaken.get() == NEVER {
                                self.untaken.set(clock.now());
                            }
                            return Poll::Pending;
                        }
                    }
                    continue;
                }
                // The library would keep for ever what there is no room for.
                let part = piece.split_to(room.min(piece.len()));
                let (is_rest, is_last) = (piece.is_empty(), *is_last);
                self.sender.send_data(part, is_rest && is_last)?;
                self.untaken.set(NEVER);
                if is_rest {
                    self.piece = None;
                    if is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(self.sender.send_data(Bytes::new(), true)),
                Some(Err(error)) => return self.break_off(&error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if piece.has_remaining() => {
                        // Room is asked for only where there is something to send, and for no more than that: what is
                        // kept for one stream is not there for the others.
                        self.sender.reserve_capacity(piece.len());
                        self.piece = Some((piece, self.body.is_end_stream()));
                    }
                    Ok(_) => {}
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.sender.reserve_capacity(0);
                            return Poll::Ready(self.sender.send_trailers(trailers));
                        }
                    }
                },
            }
        }
    }

    fn break_off(&mut self, error: &BodyError) -> Poll<Result<(), h2::Error>> {
        tracing::debug!(%error, "an answer breaks off");
        self.sender.send_reset(Reason::INTERNAL_ERROR);
        Poll::Ready(Ok(()))
    }
}
