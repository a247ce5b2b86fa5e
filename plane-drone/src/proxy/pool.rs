//! Connections to backends that wait for their next request: per data thread and backend, the newest first.

use super::{
    timers::millis,
    upstream::{Link, Upstream},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::Duration,
};

/// How long a connection is kept that nobody uses. Less than servers commonly do.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// How many are kept for one backend. As many as there may be requests: those beyond would be opened and closed for
/// each request, which uses up the ports of the machine.
const KEPT: usize = 4096;

#[derive(Debug)]
struct Idle {
    link: Link,
    since: u64,
}

#[derive(Debug)]
struct Pool {
    upstream: std::sync::Weak<super::upstream::Way>,
    idle: Vec<Idle>,
}

/// The idle connections of one data thread.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: RefCell<HashMap<usize, Pool>>,
    closed: Cell<bool>,
}

impl Pools {
    /// A connection that takes a request now.
    pub(super) fn take(&self, upstream: &Upstream) -> Option<Link> {
        let mut pools = self.pools.borrow_mut();
        let idle = &mut pools.get_mut(&upstream.key())?.idle;
        for place in (0..idle.len()).rev() {
            let sender = &idle[place].link.sender;
            if sender.is_closed() {
                idle.remove(place);
            } else if sender.is_ready() {
                return Some(idle.remove(place).link);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is complete. One through which a request still goes is cut.
    pub(super) fn give_back(&self, upstream: &Upstream, link: Link, now: u64) {
        if self.closed.get() || !link.sender.is_ready() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let pool =
            pools.entry(upstream.key()).or_insert_with(|| Pool { upstream: upstream.downgrade(), idle: Vec::new() });
        if pool.idle.len() < KEPT {
            pool.idle.push(Idle { link, since: now });
        }
    }

    /// Closes what is too old, or whose backend has ended.
    pub(super) fn sweep(&self, now: u64) {
        let oldest = now.saturating_sub(millis(IDLE_KEPT));
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.retain(|idle| idle.since >= oldest && !idle.link.sender.is_closed());
            pool.upstream.strong_count() > 0
        });
    }

    /// Keeps none any more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.pools.borrow_mut().clear();
    }
}
