//! What hyper leaves of a connection that was upgraded: its stream, where that is one of ours, without hyper's buffers.

use super::{
    connection::Watched,
    fair::Fair,
    leaving::Leaving,
    passage::Passage,
    tls::Secured,
    tunnel::{self, Side},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::{io, rc::Rc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

type Plain = Watched<TcpStream>;
type Tls = Watched<Secured>;

/// Carries bytes between a client and a backend.
///
/// # Errors
/// As [`tunnel::carry`].
pub(super) async fn carry(client: Upgraded, backend: Upgraded, passage: Rc<Passage>) -> io::Result<()> {
    match bare::<Plain>(client) {
        Ok(client) => to_backend(client, backend, passage).await,
        Err(client) => match bare::<Tls>(client) {
            Ok(client) => to_backend(client, backend, passage).await,
            // A stream of HTTP/2.
            Err(client) => to_backend(whole(client), backend, passage).await,
        },
    }
}

async fn to_backend<C>(client: Side<C>, backend: Upgraded, passage: Rc<Passage>) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Leaving + Unpin,
{
    match bare::<Fair<TcpStream>>(backend) {
        Ok(Side { stream, early }) => {
            let backend = Side { stream: stream.into_inner(), early };
            tunnel::carry(client, backend, passage).await
        }
        Err(backend) => tunnel::carry(client, whole(backend), passage).await,
    }
}

fn bare<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(upgraded: Upgraded) -> Result<Side<T>, Upgraded> {
    let parts = upgraded.downcast::<TokioIo<T>>()?;
    Ok(Side { stream: parts.io.into_inner(), early: parts.read_buf })
}

fn whole(upgraded: Upgraded) -> Side<TokioIo<Upgraded>> {
    Side { stream: TokioIo::new(upgraded), early: bytes::Bytes::new() }
}
