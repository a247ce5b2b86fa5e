//! Sockets to backends: those that wait for their next request, per data thread and backend, the newest first, and new
//! ones.

use crate::proxy::{
    listen::keep_alive,
    timers::millis,
    upstream::{Upstream, Way},
    worker::Worker,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    pin::pin,
    sync::Weak,
    time::Duration,
};
use tokio::net::TcpStream;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses. Less than servers commonly do.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// How many are kept for one backend. As many as there may be requests: those beyond would be opened and closed for
/// each request, which uses up the ports of the machine.
const KEPT: usize = 4096;

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: u64,
}

#[derive(Debug)]
struct Pool {
    way: Weak<Way>,
    idle: Vec<Idle>,
}

/// The idle sockets of one data thread.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Sockets {
    pools: RefCell<BTreeMap<usize, Pool>>,
    closed: Cell<bool>,
}

impl Sockets {
    /// A socket that nothing was heard of since its last answer.
    pub(super) fn take(&self, upstream: &Upstream) -> Option<TcpStream> {
        let mut pools = self.pools.borrow_mut();
        let idle = &mut pools.get_mut(&upstream.key())?.idle;
        while let Some(Idle { stream, .. }) = idle.pop() {
            if is_quiet(&stream) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a socket whose last answer is complete.
    pub(super) fn give_back(&self, upstream: &Upstream, stream: TcpStream, now: u64) {
        if self.closed.get() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(upstream.key()).or_insert_with(|| Pool { way: upstream.downgrade(), idle: Vec::new() });
        if pool.idle.len() < KEPT {
            pool.idle.push(Idle { stream, since: now });
        }
    }

    /// Closes what is too old, was closed by its backend, or whose backend has ended.
    pub(in crate::proxy) fn sweep(&self, now: u64) {
        let oldest = now.saturating_sub(millis(IDLE_KEPT));
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.retain(|idle| idle.since >= oldest && is_quiet(&idle.stream));
            pool.way.strong_count() > 0
        });
    }

    /// Keeps none any more.
    pub(in crate::proxy) fn close(&self) {
        self.closed.set(true);
        self.pools.borrow_mut().clear();
    }
}

/// Whether a backend neither closed a connection nor said what nobody asked for. No system call unless something came.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Opens a connection.
///
/// # Errors
/// Where the backend takes none in time.
pub(super) async fn connect(worker: &Worker, upstream: &Upstream) -> io::Result<TcpStream> {
    let connecting = pin!(TcpStream::connect(upstream.address()));
    let stream = worker.timers.within(CONNECT_LIMIT, connecting).await.ok_or(io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    // A container whose network went away says nothing any more.
    keep_alive(&stream)?;
    Ok(stream)
}
