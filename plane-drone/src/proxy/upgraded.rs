//! What hyper leaves of a connection that was upgraded: its stream, where that is one of ours, without hyper's buffers.

use super::{
    connection::Watched,
    leaving::Leaving,
    passage::Passage,
    theirs::Backend,
    timers::Look,
    tls::Secured,
    tunnel::{self, Side},
    worker::{Stage, Worker},
};
use bytes::Bytes;
use futures_util::TryFutureExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::{future::Future, io, pin::pin, rc::Rc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

type Plain = Watched<TcpStream>;
type Tls = Watched<Secured>;

/// A request whose backend has changed the protocol. Its client is told so now, and then has its side of the tunnel.
#[derive(Debug)]
pub(super) struct Switched {
    passage: Rc<Passage>,
    backend: Backend,
}

impl Switched {
    pub(super) fn new(passage: Rc<Passage>, backend: Backend) -> Self {
        Self { passage, backend }
    }

    /// Carries bytes between a client whose connection hyper gives up and the backend, until one of them ends it or the
    /// drone stops.
    pub(super) async fn with_upgraded(self, client: OnUpgrade) {
        let Self { passage, backend } = self;
        let carrying = async {
            let (client, backend) = tokio::try_join!(client.map_err(io::Error::other), backend.side())?;
            // A broken connection is how most of these end.
            let _ = match bare::<Plain>(client) {
                Ok(client) => tunnel::carry(client, backend, passage.clone()).await,
                Err(client) => match bare::<Tls>(client) {
                    Ok(client) => tunnel::carry(client, backend, passage.clone()).await,
                    Err(client) => tunnel::carry(whole(client), backend, passage.clone()).await,
                },
            };
            Ok(())
        };
        until_closing(passage.worker(), carrying).await;
    }

    /// The same with a client whose side is there already. What resets that resets the backend's side too.
    pub(super) async fn with<C>(self, client: C, reset: impl Future<Output = ()>)
    where
        C: AsyncRead + AsyncWrite + Leaving + Unpin,
    {
        let Self { passage, backend } = self;
        let client = Side { stream: client, early: Bytes::new() };
        let carrying = async {
            let Side { mut stream, early } = backend.side().await?;
            let backend = Side { stream: &mut stream, early };
            let is_reset = tokio::select! {
                biased;
                () = reset => true,
                // As above.
                _ = tunnel::carry(client, backend, passage.clone()) => false,
            };
            if is_reset {
                passage.record.passed();
                // Its end may have been told long ago: only this is told to a backend that says nothing.
                let _ = stream.stream.set_zero_linger();
            }
            Ok(())
        };
        until_closing(passage.worker(), carrying).await;
    }
}

async fn until_closing(worker: &Worker, carrying: impl Future<Output = io::Result<()>>) {
    let look = |_| match worker.stage() {
        Stage::Serving | Stage::Draining => Look::Again(u64::MAX),
        Stage::Closing => Look::Over(()),
    };
    if let Ok(Err(error)) = worker.timers.limit(pin!(carrying), look).await {
        tracing::debug!(%error, "an upgrade did not come about");
    }
}

fn bare<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(upgraded: Upgraded) -> Result<Side<T>, Upgraded> {
    let parts = upgraded.downcast::<TokioIo<T>>()?;
    Ok(Side { stream: parts.io.into_inner(), early: parts.read_buf })
}

fn whole(upgraded: Upgraded) -> Side<TokioIo<Upgraded>> {
    Side { stream: TokioIo::new(upgraded), early: Bytes::new() }
}
