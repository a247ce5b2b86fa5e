//! Connections of clients: one request after the other, until either side has had enough. Between requests a connection
//! has no buffer.

use super::{
    HeadLimits,
    body::{Body, ROOM_AFTER},
    cut::Cut,
    decide::{Asks, Decision, Peer, accepted, decide},
    exchange::{Down, Exchange, Near, Outcome, Up, read, watch},
    head::{self, Space},
    malformed::Malformed,
    outgoing::Outgoing,
    own::put_own,
    pace::{Interruption, Pace},
    scan::Scan,
    upstream::connect,
    write::After,
};
use crate::proxy::{
    buffer::Buffer,
    connection::{Ending, Seat, Watched},
    passage::Passage,
    refusal::Refusal,
    tunnel::{self, Side},
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
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long a connection that is closed goes on reading what its client still sends: closed at once, the client may not
/// see the answer (RFC 9112, section 9.6). And how much it reads, in bytes.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Serves HTTP/1.1 until the connection ends.
pub(in crate::proxy) async fn serve<T>(seat: Rc<Seat>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Cut,
{
    let limits = &seat.worker.shared.limits;
    let limits =
        HeadLimits { bytes: limits.header_bytes, fields: limits.header_count, line_bytes: limits.request_line_bytes };
    let pace = Pace::default();
    let mut connection = Connection {
        seat: &seat,
        pace: &pace,
        peer: Peer::new(seat.client),
        limits,
        stream: Watched { stream, activity: seat.activity.clone() },
        input: Vec::new(),
        scan: Scan::default(),
        up: Outgoing::default(),
        down: Outgoing::default(),
    };
    let mut is_cut = false;
    {
        let mut serving = pin!(connection.run());
        loop {
            match seat.worker.timers.limit(serving.as_mut(), |now| pace.look(&seat, now)).await {
                Ok(()) => return,
                Err(Interruption::GivenUp) => {}
                Err(Interruption::Ends(Ending::Gently)) => pace.end(),
                Err(Interruption::Ends(Ending::LateHead)) => break,
                Err(Interruption::Ends(Ending::AtOnce(reason))) => {
                    tracing::debug!(peer = %seat.client.peer, reason, "a connection is cut");
                    is_cut = true;
                    break;
                }
            }
        }
    }
    if is_cut {
        connection.cut();
        return;
    }
    let asks = Asks::unknown();
    let late = pin!(connection.answer(None, &asks, true, Refusal::TooSlow.into_response()));
    seat.worker.timers.within(LINGER * 2, late).await;
}

struct Connection<'a, T> {
    seat: &'a Rc<Seat>,
    pace: &'a Pace,
    peer: Peer,
    limits: HeadLimits,
    stream: Watched<T>,
    /// What was read and not looked at, or not in full.
    input: Vec<u8>,
    scan: Scan,
    /// Room for what goes to a backend, and to the client.
    up: Outgoing,
    down: Outgoing,
}

/// A request that was decided on.
struct Begun {
    passage: Rc<Passage>,
    asks: Asks,
    decision: Decision,
    /// Its body, of which what was at hand waits to be sent.
    body: Body,
    data: u64,
}

/// What came of reading.
enum Step {
    /// The client has ended.
    Ended,
    /// More of a head is needed.
    More,
    /// All of a head may be there.
    Look,
    /// A request has to wait before it can be decided on.
    Wait,
    Malformed(Malformed),
    Begun(Begun),
}

impl<T: AsyncRead + AsyncWrite + Unpin + Cut> Connection<'_, T> {
    async fn run(&mut self) {
        loop {
            let goes_on = match self.next_request().await {
                Step::Begun(begun) => self.fulfil(begun).await,
                Step::Malformed(why) => {
                    tracing::debug!(peer = %self.seat.client.peer, %why, "a request is malformed");
                    // Until it is closed it waits for no head, which could come too late as well.
                    let _passage = Passage::begin(self.seat);
                    self.answer(None, &Asks::unknown(), true, why.refusal().into_response()).await
                }
                Step::Ended => {
                    // Through TLS an end is said as well (RFC 8446, section 6.1).
                    self.close(false).await;
                    false
                }
                Step::More | Step::Look | Step::Wait => false,
            };
            if !goes_on {
                return;
            }
            self.up.rest();
            self.down.rest();
        }
    }

    /// Waits for a request, and for what becomes of it.
    async fn next_request(&mut self) -> Step {
        self.scan = Scan::default();
        self.skip_empty_lines();
        let mut step = if self.input.is_empty() { Step::More } else { Step::Look };
        loop {
            step = match step {
                Step::More => {
                    if !self.input.is_empty() {
                        self.seat.activity.head_begun();
                    }
                    poll_fn(|cx| self.poll_read(cx)).await
                }
                Step::Look => poll_fn(|cx| Poll::Ready(self.look_at_input(cx))).await,
                Step::Wait => return self.wait().await,
                Step::Ended | Step::Malformed(_) | Step::Begun(_) => return step,
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
        let decided = {
            let seen = bytes.get(..end).unwrap_or_default();
            let head = match head::parse(seen, &mut self.scan, &mut space, self.limits) {
                Ok(Some(head)) => head,
                Ok(None) => return Step::More,
                Err(why) => return Step::Malformed(why),
            };
            let passage = Passage::begin(self.seat);
            self.up.clear();
            let polled = pin!(decide(&passage, &self.peer, &head, &mut self.up.before)).poll(cx);
            (passage, polled)
        };
        match decided {
            (passage, Poll::Pending) => {
                passage.record.void();
                Step::Wait
            }
            (passage, Poll::Ready((asks, decision))) => self.begin(passage, asks, decision, bytes, end),
        }
    }

    /// Takes what is at hand of a request's body.
    fn begin(&mut self, passage: Rc<Passage>, asks: Asks, decision: Decision, bytes: &mut [u8], end: usize) -> Step {
        let (mut body, mut data, mut at) = (Body::new(asks.framing, asks.framing), 0, asks.length);
        if matches!(decision, Decision::Passes(_)) && !body.is_done() && at < end {
            match body.pass(bytes, at..end, &mut self.up.after) {
                Err(why) => {
                    passage.record.refused(why.refusal());
                    return Step::Malformed(why);
                }
                Ok(passed) => {
                    self.up.before.extend_from_slice(bytes.get(passed.range).unwrap_or_default());
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
        Step::Begun(Begun { passage, asks, decision, body, data })
    }

    /// Waits until a request can be decided on, or its client leaves.
    async fn wait(&mut self) -> Step {
        let (mut input, mut late) = (std::mem::take(&mut self.input), Vec::new());
        let passage = Passage::begin(self.seat);
        self.up.clear();
        let decided = {
            let (peer, limits, out) = (&self.peer, self.limits, &mut self.up.before);
            let mut near =
                Near { stream: &mut self.stream, input: &mut late, input_max: self.limits.bytes, pace: self.pace };
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
            Some(Err(why)) => Step::Malformed(why),
            Some(Ok((asks, decision))) => self.begin(passage, asks, decision, &mut input, end),
        }
    }

    /// Has a request answered. True where the connection goes on.
    async fn fulfil(&mut self, begun: Begun) -> bool {
        let Begun { passage, asks, decision, body, data } = begun;
        match decision {
            Decision::Passes(upstream) => self.exchange(passage, &asks, &upstream, body, data).await,
            Decision::Answered(response) => {
                passage.record.answered(response.status().as_u16());
                self.answer(Some(passage), &asks, asks.has_body(), response).await
            }
            Decision::Refused(refusal) => {
                passage.record.refused(refusal);
                let response = refusal.into_response_for(asks.accept.as_deref(), asks.is_head);
                self.answer(Some(passage), &asks, asks.has_body(), response).await
            }
        }
    }

    /// Answers a request here. True where the connection goes on; it is closed where part of the request is unread.
    async fn answer(
        &mut self,
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
        put_own(&mut self.down.before, response, asks.is_head, after, now);
        let sent = poll_fn(|cx| self.poll_send(cx)).await;
        drop(passage);
        if sent.is_err() {
            return false;
        }
        if after == After::Closes {
            self.close(is_unread || asks.is_persistent).await;
        }
        after != After::Closes
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.down.poll_write(cx, &mut self.stream))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Carries a request to its backend and the answer back. True where the connection goes on.
    async fn exchange(
        &mut self,
        passage: Rc<Passage>,
        asks: &Asks,
        upstream: &Upstream,
        body: Body,
        data: u64,
    ) -> bool {
        let worker = &self.seat.worker;
        let mut up = Up::new(std::mem::take(&mut self.up), body, data, asks);
        let mut down = Down::new(std::mem::take(&mut self.down));
        let mut kept = worker.sockets.take(upstream);
        let (outcome, backend) = loop {
            let is_reused = kept.is_some();
            let mut backend = match kept.take() {
                Some(backend) => backend,
                None => match self.connect(upstream, up.body.is_done()).await {
                    Ok(Ok(backend)) => backend,
                    Err(gone) => break (gone, None),
                    Ok(Err(error)) => {
                        tracing::debug!(address = %upstream.address(), %error, "no connection");
                        break (Outcome::Refused(Refusal::Broken), None);
                    }
                },
            };
            if passage.is_fenced() {
                break (Outcome::Refused(Refusal::NotYet), None);
            }
            self.pace.awaits(&passage);
            let mut near = Near {
                stream: &mut self.stream,
                input: &mut self.input,
                input_max: self.limits.bytes,
                pace: self.pace,
            };
            let mut exchange = Exchange {
                asks,
                passage: &passage,
                upstream,
                backend: &mut backend,
                is_reused,
                up: &mut up,
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
        (self.up, self.down) = (up.out, down.out);
        if !matches!(outcome, Outcome::Cut(_)) {
            self.pace.set_open_ended(false);
        }
        match outcome {
            Outcome::Complete { goes_on } => {
                passage.record.passed();
                drop(passage);
                if !goes_on {
                    self.close(is_unread || asks.is_persistent).await;
                }
                goes_on
            }
            Outcome::Switched(early) => {
                if let Some(backend) = backend {
                    self.tunnel(Side { stream: backend, early: early.into() }, passage).await;
                }
                false
            }
            Outcome::Refused(refusal) => {
                drop(backend);
                passage.record.refused(refusal);
                let accept = accepted(&self.up.before, self.limits);
                let response = refusal.into_response_for(accept.as_deref(), asks.is_head);
                self.answer(Some(passage), asks, is_unread, response).await
            }
            Outcome::Repeat => false,
            Outcome::Cut(reason) => {
                tracing::debug!(peer = %self.seat.client.peer, address = %upstream.address(), reason, "a request is cut");
                self.cut();
                false
            }
        }
    }

    /// Opens a connection to a backend, while the client is there; looks for that where the client `is_done` with the
    /// request, so that what it sends is the next.
    async fn connect(&mut self, upstream: &Upstream, is_done: bool) -> Result<io::Result<TcpStream>, Outcome> {
        let mut connecting = pin!(connect(&self.seat.worker, upstream));
        let (stream, input) = (&mut self.stream, &mut self.input);
        let mut near = Near { stream, input, input_max: self.limits.bytes, pace: self.pace };
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

    /// Carries what the client and the backend say to each other from now on.
    async fn tunnel(&mut self, backend: Side<TcpStream>, passage: Rc<Passage>) {
        self.pace.tunnels();
        let early = Bytes::from(std::mem::take(&mut self.input));
        (self.up, self.down) = (Outgoing::default(), Outgoing::default());
        // A broken connection is how most of these end.
        let _ = tunnel::carry(Side { stream: &mut self.stream, early }, backend, passage).await;
    }

    /// Has nobody take the answer under way for complete.
    fn cut(&self) {
        if self.pace.is_open_ended() {
            self.stream.stream.cut();
        }
    }

    /// Says that nothing more comes, and reads for a while what the client may still send: the rest of a request, or the
    /// next, where it was not the client who wanted to end.
    async fn close(&mut self, may_send: bool) {
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
