//! One request on its way through the proxy, from its head until the last byte of its answer, and the bodies of both.
//! For as long as any part of it is there, its backend counts as in use.

use super::{
    connection::Seat,
    hints::Hints,
    inbound::Inbound,
    record::Record,
    refusal::Refusal,
    request::clean_trailers,
    theirs::Theirs,
    timers::{Look, after},
    whole::Whole,
    worker::Worker,
};
use crate::route::InFlight;
use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    cell::{Cell, OnceCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

/// Why a body broke off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A backend that holds a lock was given up: nothing of it goes on, in neither direction.
#[derive(Debug, thiserror::Error)]
#[error("the backend's drone had no contact with the control plane for too long")]
pub(super) struct Fenced;

/// The rest of a request does not come, or is not taken.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request does not get on")]
struct Stalled;

/// A body is longer than the proxy takes.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request is longer than {0} bytes")]
struct TooLong(u64);

/// One request under way.
#[derive(Debug)]
pub(super) struct Passage {
    seat: Rc<Seat>,
    entered: OnceCell<InFlight>,
    /// When the last piece of the request went to the backend.
    moved: Cell<u64>,
    /// The backend's interim answers, once there is one, or somebody who would be told of it.
    hints: OnceCell<Arc<Hints>>,
    /// Whether the client is to send more, and is waited for.
    wants_body: Cell<bool>,
    /// Whether nothing more of the request is to go to the backend.
    is_sent: Cell<bool>,
    /// Why nobody may answer it any more.
    broken: Cell<Option<Refusal>>,
    /// Whether its body has ended, without trailers.
    ended_plainly: Cell<bool>,
    /// What is told of it at its end.
    pub(super) record: Record,
}

impl Passage {
    pub(super) fn begin(seat: &Rc<Seat>) -> Rc<Self> {
        seat.activity.begin();
        Rc::new(Self {
            seat: seat.clone(),
            entered: OnceCell::new(),
            moved: Cell::new(seat.worker.timers.clock().now()),
            hints: OnceCell::new(),
            wants_body: Cell::new(false),
            is_sent: Cell::new(false),
            broken: Cell::new(None),
            ended_plainly: Cell::new(false),
            record: Record::begin(),
        })
    }

    /// Its backend counts as in use from now on.
    pub(super) fn enter(&self, entered: InFlight) {
        // Set once: a request has one backend.
        let _ = self.entered.set(entered);
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.seat.worker
    }

    /// Whether nothing more may pass.
    pub(super) fn is_fenced(&self) -> bool {
        self.entered.get().is_some_and(InFlight::is_fenced)
    }

    /// Whether it waits too long for an answer to begin, at a time.
    pub(super) fn look(&self, now: u64) -> Look<Refusal> {
        if let Some(refusal) = self.broken.get() {
            return Look::Over(refusal);
        }
        let (limits, moved) = (&self.worker().shared.limits, self.moved.get());
        let (until, refusal) = match (self.wants_body.get(), self.hints.get()) {
            (true, _) => (after(moved, limits.body), Refusal::TooSlow),
            (false, Some(hints)) if hints.are_too_many() => return Look::Over(Refusal::Broken),
            (false, Some(hints)) => (hints.until(moved, limits.answer), Refusal::NoAnswer),
            (false, None) => (after(moved, limits.answer), Refusal::NoAnswer),
        };
        if now >= until { Look::Over(refusal) } else { Look::Again(until) }
    }

    /// Whether it waits too long for more of the request, or for the backend to take it, at a time, once its answer has
    /// begun.
    pub(super) fn look_at_body(&self, now: u64) -> Look<Refusal> {
        if self.is_sent.get() { Look::Again(u64::MAX) } else { self.look(now) }
    }

    /// A piece of the request came, or went to the backend.
    pub(super) fn moved(&self) {
        self.moved.set(self.now());
        self.wants_body.set(false);
    }

    /// The backend's interim answers.
    pub(super) fn hints(&self) -> &Arc<Hints> {
        self.hints.get_or_init(Arc::default)
    }

    /// The client is to send more, and is waited for.
    pub(super) fn wants_body(&self) {
        self.wants_body.set(true);
    }

    /// Nothing more of the request is to go to the backend.
    pub(super) fn sent(&self) {
        self.is_sent.set(true);
    }

    /// Nobody may answer it any more.
    pub(super) fn give_up(&self, refusal: Refusal) {
        self.broken.set(Some(refusal));
    }

    /// Why it broke, if that is known better than from what broke.
    pub(super) fn broken(&self) -> Option<Refusal> {
        self.broken.get()
    }

    /// Whether all of its body has come, and nothing behind it.
    pub(super) fn ended_plainly(&self) -> bool {
        self.ended_plainly.get()
    }

    pub(super) fn now(&self) -> u64 {
        self.worker().timers.clock().now()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.seat.activity.end();
        self.record.tell(&self.seat.worker);
    }
}

/// The body of a request, on its way to a backend.
#[derive(Debug)]
pub(super) struct Sent {
    /// None where there is none.
    inner: Option<Whole>,
    passage: Rc<Passage>,
    /// How many more bytes are taken.
    left: u64,
    /// Where the client is waited for, also once the answer has begun.
    waits: Option<usize>,
    has_trailers: bool,
}

impl Sent {
    pub(super) fn new(inner: Inbound, passage: Rc<Passage>) -> Self {
        let left = passage.worker().shared.limits.body_bytes;
        Self {
            inner: (!inner.is_end_stream()).then(|| Whole::new(inner)),
            passage,
            left,
            waits: None,
            has_trailers: false,
        }
    }

    /// Whether nothing more may pass.
    pub(super) fn is_fenced(&self) -> bool {
        self.passage.is_fenced()
    }

    /// The same, where there is no body.
    pub(super) fn again(&self) -> Option<Self> {
        self.inner.is_none().then(|| Self {
            inner: None,
            passage: self.passage.clone(),
            left: self.left,
            waits: None,
            has_trailers: false,
        })
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if this.passage.is_fenced() {
            this.passage.broken.set(Some(Refusal::NotYet));
            return Poll::Ready(Some(Err(Fenced.into())));
        }
        let polled = Pin::new(inner).poll_frame(cx);
        this.passage.wants_body.set(polled.is_pending());
        let timers = &this.passage.worker().timers;
        if polled.is_pending() {
            let until = after(this.passage.moved.get(), this.passage.worker().shared.limits.body);
            if this.passage.now() >= until {
                this.passage.broken.set(Some(Refusal::TooSlow));
                return Poll::Ready(Some(Err(Stalled.into())));
            }
            timers.register(&mut this.waits, until, cx.waker());
        } else {
            timers.forget(&mut this.waits);
            this.passage.moved.set(this.passage.now());
        }
        match &polled {
            Poll::Ready(None) => this.passage.ended_plainly.set(!this.has_trailers),
            Poll::Ready(Some(Ok(frame))) => this.has_trailers |= frame.is_trailers(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            this.passage.record.received(bytes);
            let Some(left) = this.left.checked_sub(bytes as u64) else {
                this.passage.broken.set(Some(Refusal::TooLarge));
                return Poll::Ready(Some(Err(TooLong(this.passage.worker().shared.limits.body_bytes).into())));
            };
            this.left = left;
        }
        if let Poll::Ready(Some(Err(error))) = &polled {
            if !error.is_malformed() {
                this.passage.record.client_gone();
            }
            this.passage.broken.set(Some(Refusal::Malformed));
        }
        polled.map(|frame| frame.map(|frame| frame.map(cleaned).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.passage.sent();
        self.passage.worker().timers.forget(&mut self.waits);
    }
}

/// The body of a response, on its way to a client.
#[derive(Debug)]
pub(super) struct Received {
    theirs: Theirs,
    passage: Rc<Passage>,
    /// Where it is waited for while the request has not gone to the backend as a whole.
    waits: Option<usize>,
}

impl Received {
    pub(super) fn new(theirs: Theirs, passage: Rc<Passage>) -> Self {
        Self { theirs, passage, waits: None }
    }

    /// Moves the request on while the client does not take what has come.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        // It is not the backend that is waited for.
        self.passage.worker().timers.forget(&mut self.waits);
        self.theirs.poll_up(cx).inspect_err(|_| self.passage.record.broken_off(Refusal::Broken))
    }

    fn complete(&mut self) {
        self.passage.record.passed();
        self.theirs.release(&self.passage);
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.passage.is_fenced() {
            self.passage.record.broken_off(Refusal::NotYet);
            return Poll::Ready(Some(Err(Fenced.into())));
        }
        let polled = self.theirs.poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.complete(),
            Poll::Ready(Some(Ok(frame))) => self.passage.record.sent(frame.data_ref().map_or(0, Buf::remaining)),
            Poll::Ready(Some(Err(_))) => self.passage.record.broken_off(Refusal::Broken),
            Poll::Pending => match self.passage.look_at_body(self.passage.now()) {
                Look::Again(until) => {
                    let this = &mut *self;
                    let timers = &this.passage.worker().timers;
                    match until {
                        // What has come due before would wake with each tick.
                        u64::MAX => timers.forget(&mut this.waits),
                        _ => timers.register(&mut this.waits, until, cx.waker()),
                    }
                }
                Look::Over(refusal) => {
                    self.passage.record.broken_off(refusal);
                    return Poll::Ready(Some(Err(Stalled.into())));
                }
            },
        }
        polled.map(|frame| frame.map(|frame| frame.map(cleaned)))
    }

    fn is_end_stream(&self) -> bool {
        self.theirs.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.theirs.size_hint()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.passage.worker().timers.forget(&mut self.waits);
        if self.theirs.is_end_stream() {
            self.complete();
        }
    }
}

/// A piece of a body as it goes on.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// What a client gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// Something of ours, and the request that it is for.
    Own {
        /// It.
        body: Full<Bytes>,
        /// That request.
        passage: Option<Rc<Passage>>,
    },
    /// What a backend says.
    Theirs(Received),
}

impl Answer {
    /// Moves the request on that this answers, while none of the answer is asked for.
    ///
    /// # Errors
    /// Where the request breaks off, and its answer with it.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Own { .. } => Ok(()),
            Self::Theirs(body) => body.poll_up(cx),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own { body, passage } => {
                let polled = Pin::new(body).poll_frame(cx).map_err(|never| match never {});
                if let (Poll::Ready(Some(Ok(frame))), Some(passage)) = (&polled, passage) {
                    passage.record.sent(frame.data_ref().map_or(0, Buf::remaining));
                }
                polled
            }
            Self::Theirs(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { body, .. } => body.is_end_stream(),
            Self::Theirs(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { body, .. } => body.size_hint(),
            Self::Theirs(body) => body.size_hint(),
        }
    }
}
