//! New connections to backends: no more at a time than there is room for, each a file that the drone has open.

use super::{
    Shared,
    listen::keep_alive,
    noted::{Noted, Notes},
    pool::{Condition, Kept},
    refusal::Refusal,
    upstream::Upstream,
    worker::Worker,
};
use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::net::TcpStream;

/// How long a backend may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection to a backend.
pub(super) type Socket = Noted<TcpStream, Slot>;

/// One of as many connections to backends as may be open; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Shared>);

impl Slot {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let taken = shared.backend_connections.fetch_add(1, Ordering::Relaxed);
        let slot = Self(shared.clone());
        (taken < shared.limits.backend_connections).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.backend_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Notes for Slot {}

impl Kept for Socket {
    /// No system call unless something came.
    fn condition(&self) -> Condition {
        match self.stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Condition::Ready,
            _ => Condition::Gone,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// As many are open as may be.
    #[error("no more connections to backends may be open; proxy.limits.backend_connections says how many may")]
    NoSlot,
    /// The backend takes none.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DialError {
    /// What a request gets.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::NoSlot => Refusal::Overloaded,
            Self::Io(_) => Refusal::Broken,
        }
    }
}

/// Opens a connection. Those of this data thread that nobody uses give way where there is no room for one more.
///
/// # Errors
/// Where there is no room, or the backend takes none in time.
pub(super) async fn dial(worker: &Worker, upstream: &Upstream) -> Result<Socket, DialError> {
    let slot = match Slot::take(&worker.shared) {
        Some(slot) => slot,
        None => {
            worker.pools.clear();
            worker.sockets.clear();
            // The tasks of those that hyper has end first.
            tokio::task::yield_now().await;
            Slot::take(&worker.shared).ok_or(DialError::NoSlot)?
        }
    };
    let connecting = worker.timers.within(CONNECT_LIMIT, pin!(TcpStream::connect(upstream.address()))).await;
    let stream = connecting.ok_or(io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    // A container whose network went away says nothing any more.
    keep_alive(&stream)?;
    Ok(Socket::new(stream, slot))
}
