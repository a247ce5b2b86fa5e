//! The answer of a backend: as the hyper library reads it, or by hand.

use super::{
    dial::Socket,
    fair::Fair,
    http1::Call,
    passage::{BodyError, Passage},
    pool::{Condition, Kept},
    tunnel::Side,
    upstream::{Link, Upstream},
};
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

/// The body of an answer, and the connection that it comes through.
#[derive(Debug)]
pub(super) enum Theirs {
    /// As hyper reads it.
    Hyper {
        /// The body.
        body: Incoming,
        /// The connection, and where it goes; none once another request may have it.
        through: Option<(Upstream, Link)>,
    },
    /// By hand.
    Call(Box<Call>),
}

impl Theirs {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Hyper { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Call(call) => call.poll_frame(cx),
        }
    }

    /// Moves the request on; hyper does so by itself.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Hyper { .. } => Ok(()),
            Self::Call(call) => call.poll_up(cx),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper { body, .. } => body.is_end_stream(),
            Self::Call(call) => call.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper { body, .. } => body.size_hint(),
            Self::Call(call) => call.size_hint(),
        }
    }

    /// Lets the next request have the connection once the answer is complete. One through which the request still goes is
    /// cut.
    pub(super) fn release(&mut self, passage: &Passage) {
        match self {
            Self::Hyper { through, .. } => {
                if let Some((upstream, link)) = through.take()
                    && link.condition() == Condition::Ready
                {
                    passage.worker().pools.give_back(&upstream, link, passage.now());
                }
            }
            Self::Call(call) => call.release(passage),
        }
    }

    /// The backend's side of a connection that changes its protocol; `upgrade` is what hyper has of it.
    pub(super) fn switched(self, upgrade: OnUpgrade) -> Option<Backend> {
        match self {
            Self::Hyper { through, .. } => through.map(|(_, link)| Backend::Hyper(upgrade, link)),
            Self::Call(call) => call.switched().map(Backend::Call),
        }
    }
}

/// The backend's side of a connection that changes its protocol.
#[derive(Debug)]
pub(super) enum Backend {
    /// Once hyper gives it up.
    Hyper(OnUpgrade, Link),
    /// As it is.
    Call(Side<Socket>),
}

impl Backend {
    /// What follows the answer.
    ///
    /// # Errors
    /// Where hyper keeps it.
    pub(super) async fn side(self) -> io::Result<Side<Socket>> {
        let (upgrade, link) = match self {
            Self::Call(side) => return Ok(side),
            Self::Hyper(upgrade, link) => (upgrade, link),
        };
        let upgraded = upgrade.await.map_err(io::Error::other)?;
        drop(link);
        match upgraded.downcast::<TokioIo<Fair<Socket>>>() {
            Ok(parts) => Ok(Side { stream: parts.io.into_inner().into_inner(), early: parts.read_buf }),
            Err(_) => Err(io::Error::other("the connection to the backend is another than was opened")),
        }
    }
}
