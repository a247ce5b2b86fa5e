//! The way to a backend: its address, new connections to it, and one request through one of them.

use super::{
    dial::{DialError, dial},
    fair::{Budget, Fair, Turns},
    hints::INTERIM_BYTES,
    http1::FIELDS_MAX,
    passage::Sent,
    pool::{Condition, Kept},
    refusal::Refusal,
    retry,
    worker::Worker,
};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::HeaderValue,
};
use hyper_util::rt::TokioIo;
use plane_core::id::BackendId;
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
};
use tokio::sync::oneshot;

/// What is read of a backend at once, and how large the head of an answer may be, in bytes.
const BUFFER: usize = 32 * 1024;
/// What a backend may send until the head of its answer has come, interim answers too, in bytes: what is read with its
/// end belongs to the body.
const HEAD: usize = INTERIM_BYTES + 2 * BUFFER;

/// The way to one address. Connections to it are kept by data threads for as long as one of these is there.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Way>);

#[derive(Debug)]
pub(super) struct Way {
    address: SocketAddr,
    /// The backend's id, as answers carry it.
    name: Option<HeaderValue>,
}

/// A connection to a backend. It is cut where this is dropped, also in the midst of a request that a backend does not
/// read: what nobody waits for any more may not count as in use.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<Sent>,
    budget: Budget,
    _held: oneshot::Sender<()>,
}

impl Kept for Link {
    fn condition(&self) -> Condition {
        match (self.sender.is_closed(), self.sender.is_ready()) {
            (true, _) => Condition::Gone,
            (false, true) => Condition::Ready,
            (false, false) => Condition::Busy,
        }
    }
}

impl Upstream {
    /// The way to a backend, or to a program that is none.
    pub fn new(address: SocketAddr, backend: Option<&BackendId>) -> Self {
        let name = backend.and_then(|id| HeaderValue::from_str(id.as_str()).ok());
        Self(Arc::new(Way { address, name }))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(super) fn name(&self) -> Option<&HeaderValue> {
        self.0.name.as_ref()
    }

    /// Tells ways apart for as long as one is remembered by [`Self::downgrade`].
    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    pub(super) fn downgrade(&self) -> Weak<Way> {
        Arc::downgrade(&self.0)
    }

    /// Sends a request, through a connection that is open if there is one. Where that one turns out to be closed, without a
    /// byte of an answer, the request is sent once more if it cannot have had an effect, or may have it twice (RFC 9110,
    /// section 9.2.2).
    pub(super) async fn send(
        &self,
        worker: &Rc<Worker>,
        request: Box<Request<Sent>>,
    ) -> Result<(Response<Incoming>, Link), Refusal> {
        let request = match worker.pools.take(self) {
            None => request,
            Some(mut link) => {
                let again = retry::copy(&request).map(Box::new);
                link.budget.begin(HEAD);
                match link.sender.try_send_request(*request).await {
                    Ok(response) => {
                        link.budget.end();
                        return Ok((response, link));
                    }
                    Err(mut failed) => {
                        let was_heard = !link.budget.is_unspent(HEAD);
                        let again = again.filter(|_| !was_heard && retry::is_end(failed.error()));
                        // What the library hands back it has not sent.
                        match failed.take_message().map(Box::new).or(again) {
                            Some(request) => request,
                            None => return Err(self.failed(&failed.into_error())),
                        }
                    }
                }
            }
        };
        // In a box, since most requests do without.
        let mut link = Box::pin(self.connect(worker)).await.map_err(|error| {
            self.failed(&error);
            error.refusal()
        })?;
        // Somebody else may hold the backend's lock by now.
        if request.body().is_fenced() {
            return Err(Refusal::NotYet);
        }
        link.budget.begin(HEAD);
        let response = link.sender.send_request(*request).await.map_err(|error| self.failed(&error))?;
        link.budget.end();
        Ok((response, link))
    }

    async fn connect(&self, worker: &Rc<Worker>) -> Result<Link, DialError> {
        let socket = dial(worker, self).await?;
        let budget = Budget::default();
        let mut builder = http1::Builder::new();
        builder.writev(false).max_buf_size(BUFFER).max_headers(FIELDS_MAX);
        let (sender, connection) = builder
            .handshake(TokioIo::new(Fair::new(socket, Turns::within(budget.clone()))))
            .await
            .map_err(io::Error::other)?;
        let (held, let_go) = oneshot::channel();
        worker.spawn("connection to a backend", async move {
            // Whoever waits for an answer is told as well.
            tokio::select! {
                _ = connection.with_upgrades() => {}
                _ = let_go => {}
            }
        });
        Ok(Link { sender, budget, _held: held })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Refusal {
        tracing::debug!(address = %self.address(), %error, "no answer");
        Refusal::Broken
    }
}
