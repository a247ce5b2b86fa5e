//! Until when a drone may serve what it holds locks with, by itself.

use super::LOOK_EVERY;
use plane_core::clock::Clock;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Until when locked backends may be reached. It is read on the path of each request to one.
#[derive(Debug)]
pub struct Fence {
    clock: Clock,
    /// Milliseconds on the boot clock. Before the first contact it is 0, and nothing is reached.
    open_until: AtomicU64,
    /// When locked backends are given up, in the same way.
    kill_at: AtomicU64,
    /// How often the drone was given up: an acceptance counts only in the term that it began in.
    term: AtomicU64,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Fence {
    /// Closed, and to be given up after `patience` without contact.
    pub fn closed(clock: Clock, patience: Duration) -> Self {
        let kill_at = AtomicU64::new(millis(clock.boot() + patience));
        Self { clock, open_until: AtomicU64::new(0), kill_at, term: AtomicU64::new(0) }
    }

    /// Whether locked backends may be reached now.
    pub fn is_open(&self) -> bool {
        millis(self.clock.boot()) < self.open_until.load(Ordering::Acquire)
    }

    pub(super) fn is_overdue(&self) -> bool {
        millis(self.clock.boot()) >= self.kill_at.load(Ordering::Acquire)
    }

    /// There was contact, which was begun at `sent`.
    pub fn extend(&self, sent: Duration, patience: Duration) {
        let until = millis(sent + patience);
        self.kill_at.store(until, Ordering::Release);
        self.open_until.store(until, Ordering::Release);
    }

    /// There was contact, which was begun at `sent`, but it is not known yet what may be reached: nothing is given up
    /// meanwhile.
    pub(super) fn spare(&self, sent: Duration, patience: Duration) {
        self.kill_at.store(millis(sent + patience), Ordering::Release);
    }

    /// The drone was given up.
    pub(super) fn close(&self) {
        self.open_until.store(0, Ordering::Release);
        self.term.fetch_add(1, Ordering::AcqRel);
    }

    /// Resolves once what holds locks may be reached.
    pub(crate) async fn opened(&self) {
        while !self.is_open() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Resolves once there was contact, or has been none for too long.
    pub(crate) async fn settled(&self) {
        while !self.is_open() && !self.is_overdue() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Which term it is.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }
}
