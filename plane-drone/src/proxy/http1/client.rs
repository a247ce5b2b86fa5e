//! One request to a backend by hand, for clients with whom something else than HTTP/1.1 is spoken: the request is written
//! as HTTP/1.1, and the answer is read as strictly as for any other client. There is no task for it: it gets on when its
//! answer is asked for, and its body also while that waits for the client.
//!
//! `head` is what a backend sees first, `up` the request on its way, `down` the answer.

mod down;
mod head;
mod up;

use super::malformed::Malformed;
use crate::proxy::{
    dial::{Socket, dial},
    http2::Interims,
    passage::{BodyError, Passage, Sent},
    refusal::Refusal,
    request::{Seen, Upgrade},
    retry::is_idempotent,
    tunnel::Side,
    upstream::Upstream,
};
use bytes::Bytes;
use down::Down;
use head::{framing, put_head};
use hyper::{
    Method, Response,
    body::{Body as _, Frame, SizeHint},
    http::request::Parts,
};
use plane_core::id::BearerToken;
use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};
use up::Up;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// The request breaks off; its passage may say why.
    #[error("the request is not complete")]
    Request,
    /// The backend's connection ended too soon.
    #[error("the backend broke off")]
    Closed,
    /// What it sends is no answer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A request under way, and the body of its answer.
#[derive(Debug)]
pub(in crate::proxy) struct Call {
    upstream: Upstream,
    /// None once nothing more is to come through it.
    socket: Option<Socket>,
    up: Up,
    down: Down,
    /// It may have its effect twice, and there is no body that would have to be kept for that.
    may_repeat: bool,
}

impl Call {
    /// A request with this head and body.
    pub(in crate::proxy) fn new(
        upstream: &Upstream,
        head: &Parts,
        body: Sent,
        seen: &Seen<'_>,
        token: Option<&BearerToken>,
        upgrade: Option<&Upgrade>,
    ) -> Box<Self> {
        // An extended CONNECT goes to the backend as a GET, and nothing behind it is read before its answer.
        let is_safe = matches!(upgrade, Some(Upgrade::Connect { .. })) || is_idempotent(head.method.as_str());
        let may_repeat = body.is_end_stream() && is_safe;
        let mut first = Vec::new();
        let framing = framing(head, &body);
        put_head(&mut first, head, framing, seen, token, upgrade);
        Box::new(Self {
            upstream: upstream.clone(),
            socket: None,
            up: Up::new(first, framing, body),
            down: Down::new(head.method == Method::HEAD),
            may_repeat,
        })
    }

    /// Sends it through a connection that is open, if there is one. Where that turns out to be closed before a byte of an
    /// answer came, the request is sent once more if it may have its effect twice (RFC 9110, section 9.2.2).
    ///
    /// # Errors
    /// Where no answer comes.
    pub(in crate::proxy) async fn send(
        mut self: Box<Self>,
        passage: &Rc<Passage>,
        interims: &Interims,
    ) -> Result<Response<Box<Self>>, Refusal> {
        let worker = passage.worker();
        let mut kept = worker.sockets.take(&self.upstream);
        loop {
            let is_reused = kept.is_some();
            self.socket = match kept.take() {
                Some(socket) => Some(socket),
                // In a box, since most requests do without.
                None => match Box::pin(dial(worker, &self.upstream)).await {
                    Ok(socket) => Some(socket),
                    Err(error) => {
                        tracing::debug!(address = %self.upstream.address(), %error, "no connection");
                        return Err(error.refusal());
                    }
                },
            };
            // Somebody else may hold the backend's lock by now.
            if passage.is_fenced() {
                return Err(Refusal::NotYet);
            }
            match poll_fn(|cx| self.poll_head(cx, passage, interims)).await {
                Ok(response) => return Ok(response.map(|()| self)),
                Err(CallError::Closed) if is_reused && self.may_repeat && !self.down.was_heard() => self.up.restart(),
                Err(error) => {
                    tracing::debug!(address = %self.upstream.address(), %error, "no answer");
                    return Err(Refusal::Broken);
                }
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        passage: &Passage,
        interims: &Interims,
    ) -> Poll<Result<Response<()>, CallError>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(CallError::Closed)) };
        self.up.poll(cx, &mut socket.stream)?;
        self.down.poll_head(cx, &mut socket.stream, passage, interims)
    }

    /// The next piece of the answer.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(None) };
        self.up.poll(cx, &mut socket.stream)?;
        self.down.poll_frame(cx, &mut socket.stream).map_err(Into::into)
    }

    /// Moves the request on, while nothing of the answer is asked for.
    pub(in crate::proxy) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        Ok(self.up.poll(cx, &mut socket.stream)?)
    }

    /// Whether the answer is complete.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.socket.is_none() || self.down.is_done()
    }

    /// How much of the answer's body is to come.
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.down.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Lets the next request have the connection, where the answer is complete and the backend has all of the request.
    pub(in crate::proxy) fn release(&mut self, passage: &Passage) {
        if let Some(socket) = self.socket.take()
            && self.down.is_reusable()
            && self.up.is_done()
        {
            passage.worker().sockets.give_back(&self.upstream, socket, passage.now());
        }
    }

    /// The backend's side of what follows an answer that changed the protocol.
    pub(in crate::proxy) fn switched(mut self) -> Option<Side<Socket>> {
        let stream = self.socket.take()?;
        Some(Side { stream, early: self.down.take_input() })
    }
}
