//! An upgraded connection: bytes both ways until either side closes. What they mean is not looked at.

use super::body::Fenced;
use crate::route::InFlight;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio_util::sync::CancellationToken;

/// Carries bytes until one side closes or the drone stops; `entered` counts until then.
pub(super) async fn run(
    client: OnUpgrade,
    backend: OnUpgrade,
    entered: Option<Arc<InFlight>>,
    stop: CancellationToken,
) {
    let carried = async {
        let (client, backend) = tokio::try_join!(client, backend)?;
        let fence = entered.as_deref().filter(|entered| entered.has_fence());
        // A broken connection is how most of these end.
        let _ = match fence {
            None => copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await,
            Some(entered) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                copy_bidirectional(&mut Guarded(&mut client, entered), &mut Guarded(&mut backend, entered)).await
            }
        };
        Ok::<_, hyper::Error>(())
    };
    if let Some(Err(error)) = stop.run_until_cancelled(carried).await {
        tracing::debug!(%error, "an upgrade did not come about");
    }
    drop(entered);
}

/// One side of a tunnel to a backend that holds a lock: what is read once the fence is closed goes nowhere.
struct Guarded<'a, T>(&'a mut T, &'a InFlight);

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<'_, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut *self.0).poll_read(cx, buffer);
        if read.is_ready() && self.1.is_fenced() {
            return Poll::Ready(Err(io::Error::other(Fenced)));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.1.is_fenced() {
            return Poll::Ready(Err(io::Error::other(Fenced)));
        }
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
