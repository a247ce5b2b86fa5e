//! Where requests go: the table of backends in memory, shared by the agent, which writes it, and the proxy, which
//! reads it on each request without a lock. What a request is made of is decided in [`target`].

mod activity;
pub mod target;
#[cfg(test)]
mod tests;

pub use activity::{Activity, InFlight};

use crate::{lease::Fence, proxy::Upstream};
use arc_swap::ArcSwap;
use plane_core::id::{BackendId, BearerToken};
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many ended backends are told apart from unknown ones, and for how long.
const ENDED_KEPT: usize = 100_000;
const ENDED_FOR: Duration = Duration::from_secs(3600);

/// The way to a backend that answers.
#[derive(Debug)]
pub struct Route {
    /// Its address.
    pub address: SocketAddr,
    /// What requests must carry.
    pub token: Option<BearerToken>,
    /// Who is connected.
    pub activity: Arc<Activity>,
    /// The connections to it; they end with the route.
    pub upstream: Upstream,
    /// What stands before it, where it holds a lock.
    pub fence: Option<Arc<Fence>>,
}

/// A backend that does not answer yet.
#[derive(Debug)]
pub struct Waiting {
    /// What requests must carry.
    pub token: Option<BearerToken>,
    fence: Option<Arc<Fence>>,
    settled: CancellationToken,
    held: AtomicUsize,
}

/// A request that is held until a backend answers.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waiting {
    /// Holds one more request; `None` where so many are held already.
    pub fn hold(&self, limit: usize) -> Option<Held<'_>> {
        let before = self.held.fetch_add(1, Ordering::Relaxed);
        let held = Held(&self.held);
        (before < limit).then_some(held)
    }

    /// Resolves once the backend answers, or has ended.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }
}

/// What the table has for a backend.
#[derive(Debug, Clone)]
pub enum Found {
    /// It answers.
    Open(Arc<Route>),
    /// It does not answer yet.
    Waiting(Arc<Waiting>),
    /// It holds a lock, and the drone has not been in contact for too long: somebody else may hold it by now.
    Fenced,
    /// It has ended.
    Ended,
    /// The drone does not know it.
    Unknown,
}

#[derive(Debug, Clone)]
enum Entry {
    Open(Arc<Route>),
    Waiting(Arc<Waiting>),
}

fn is_fenced(fence: Option<&Arc<Fence>>) -> bool {
    fence.is_some_and(|fence| !fence.is_open())
}

/// The table. Clones speak of the same.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    live: Arc<ArcSwap<HashMap<BackendId, Entry>>>,
    ended: Arc<RwLock<Ended>>,
}

#[derive(Debug, Default)]
struct Ended {
    order: VecDeque<(Instant, BackendId)>,
    ids: HashMap<BackendId, Instant>,
}

impl Ended {
    fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front() {
            if self.order.len() < ENDED_KEPT && now.duration_since(*at) < ENDED_FOR {
                return;
            }
            self.ids.remove(id);
            self.order.pop_front();
        }
    }
}

impl Routes {
    /// What there is for a backend.
    pub fn find(&self, backend: &str) -> Found {
        match self.live.load().get(backend) {
            Some(Entry::Open(route)) if is_fenced(route.fence.as_ref()) => Found::Fenced,
            Some(Entry::Open(route)) => Found::Open(route.clone()),
            Some(Entry::Waiting(waiting)) if is_fenced(waiting.fence.as_ref()) => Found::Fenced,
            Some(Entry::Waiting(waiting)) => Found::Waiting(waiting.clone()),
            None if self.has_ended(backend) => Found::Ended,
            None => Found::Unknown,
        }
    }

    /// Lets requests for a backend wait until it answers.
    pub fn wait_for(&self, backend: &BackendId, token: Option<BearerToken>, fence: Option<Arc<Fence>>) {
        let waiting = Arc::new(Waiting { token, fence, settled: CancellationToken::new(), held: AtomicUsize::new(0) });
        self.change(backend, Some(Entry::Waiting(waiting)));
    }

    /// Lets requests through. The result tells who is connected; its idle time begins now, or once its
    /// fence opens.
    pub fn open(
        &self,
        backend: &BackendId,
        address: SocketAddr,
        token: Option<BearerToken>,
        fence: Option<Arc<Fence>>,
    ) -> Arc<Activity> {
        let activity = Arc::new(Activity::behind(fence.clone()));
        let upstream = Upstream::new(address, Some(backend));
        let route = Arc::new(Route { address, token, activity: activity.clone(), upstream, fence });
        self.change(backend, Some(Entry::Open(route)));
        activity
    }

    /// Lets no more requests through, and remembers for a while that there was a backend.
    pub fn close(&self, backend: &BackendId) {
        let now = Instant::now();
        let mut ended = self.ended();
        ended.expire(now);
        if !ended.ids.contains_key(backend) {
            ended.ids.insert(backend.clone(), now);
            ended.order.push_back((now, backend.clone()));
        }
        drop(ended);
        self.change(backend, None);
    }

    /// Lets nobody wait any more for a backend that never began.
    pub fn forget(&self, backend: &BackendId) {
        self.change(backend, None);
    }

    /// Whether a backend has ended and is remembered. Readers do not wait for each other.
    fn has_ended(&self, backend: &str) -> bool {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        ended.ids.get(backend).is_some_and(|at| at.elapsed() < ENDED_FOR)
    }

    fn ended(&self) -> std::sync::RwLockWriteGuard<'_, Ended> {
        self.ended.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, backend: &BackendId, entry: Option<Entry>) {
        let before = self.live.rcu(|live| {
            let mut live = HashMap::clone(live);
            match &entry {
                Some(entry) => live.insert(backend.clone(), entry.clone()),
                None => live.remove(backend),
            };
            live
        });
        if let Some(Entry::Waiting(waiting)) = before.get(backend) {
            waiting.settled.cancel();
        }
    }
}
