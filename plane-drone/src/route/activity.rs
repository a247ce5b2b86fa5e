//! Who is connected to a backend, exactly: a request counts from before it is passed on until the last byte of its
//! response, an upgraded connection until it is closed. Lock-free: it is on the path of each request.

use crate::lease::Fence;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Set in the count once the backend takes no more requests.
const SEALED: u64 = 1 << 63;

/// How many requests are in flight, and since when none is.
#[derive(Debug)]
pub struct Activity {
    count: AtomicU64,
    /// When the last one ended, or the first one could have come, in ms since `began`.
    idle_since: AtomicU64,
    began: Instant,
    became_idle: Notify,
    fence: Option<Arc<Fence>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            began: Instant::now(),
            became_idle: Notify::new(),
            fence: None,
        }
    }
}

/// One request in flight, or one upgraded connection; it counts until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Activity {
    /// Nobody is connected, and what will be in flight ends where the fence closes.
    pub fn behind(fence: Option<Arc<Fence>>) -> Self {
        Self { fence, ..Self::default() }
    }

    /// Counts a request; `None` where the backend has been found idle for good.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        let entered = InFlight(self.clone());
        (before & SEALED == 0).then_some(entered)
    }

    fn note_idle(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.fetch_max(now, Ordering::AcqRel);
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> u64 {
        self.count.load(Ordering::Acquire) & !SEALED
    }

    /// Waits until nobody was connected for `limit`; from then on nobody can be. The time during which the fence was not
    /// open yet does not count: people were refused.
    pub async fn idle_for(&self, limit: Duration) {
        if let Some(fence) = self.fence.as_ref().filter(|fence| !fence.is_open()) {
            fence.opened().await;
            self.note_idle();
        }
        loop {
            let ended = self.became_idle.notified();
            if self.in_flight() > 0 {
                ended.await;
                continue;
            }
            let since = self.began + Duration::from_millis(self.idle_since.load(Ordering::Acquire));
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                if self.count.compare_exchange(0, SEALED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return;
                }
                continue;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl InFlight {
    /// Whether nothing more may pass: the backend holds a lock that somebody else may hold by now.
    pub fn is_fenced(&self) -> bool {
        self.0.fence.as_ref().is_some_and(|fence| !fence.is_open())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.note_idle();
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.became_idle.notify_one();
        }
    }
}
