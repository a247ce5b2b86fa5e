//! Interim answers of a backend (RFC 9110, section 15.2): signs that it works on a request, as long as they are not too
//! many.

use super::timers::after;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Interim answers to one request: one for each second of the longest time that they can make at the usual patience, and
/// more. A backend that sends more gives no answer.
const INTERIMS_MAX: u32 = 1000;
/// What they may have in all, in bytes.
pub(super) const INTERIM_BYTES: usize = 256 * 1024;
/// How many times the usual patience they can make of it.
const PATIENCES: u32 = 10;

/// What is known of those to one request. The hyper library calls whoever is told of them from anywhere; one thread uses
/// this.
#[derive(Debug, Default)]
pub(super) struct Hints {
    count: AtomicU32,
    /// When the last one came, on the coarse clock.
    last: AtomicU64,
}

impl Hints {
    /// One came. False where it is one too many.
    pub(super) fn came(&self, now: u64) -> bool {
        self.last.store(now, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed) < INTERIMS_MAX
    }

    /// Whether more came than one request may have.
    pub(super) fn are_too_many(&self) -> bool {
        self.count.load(Ordering::Relaxed) > INTERIMS_MAX
    }

    /// Until when an answer is waited for with such patience, on the coarse clock; `moved` is when the backend got
    /// something of the request last. Each interim answer begins the time anew, up to a ceiling.
    pub(super) fn until(&self, moved: u64, patience: Duration) -> u64 {
        let last = self.last.load(Ordering::Relaxed);
        let ceiling = after(moved, patience.saturating_mul(PATIENCES));
        after(last.max(moved), patience).min(ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_begins_the_time_anew_up_to_a_ceiling() {
        let (hints, minute) = (Hints::default(), Duration::from_secs(60));
        assert_eq!(hints.until(5000, minute), after(5000, minute));
        hints.came(50_000);
        assert_eq!(hints.until(5000, minute), after(50_000, minute));
        hints.came(590_000);
        assert_eq!(hints.until(5000, minute), after(605_000, Duration::ZERO));
        // What went to the backend afterwards counts by itself.
        assert_eq!(hints.until(600_000, minute), after(600_000, minute));
    }

    #[test]
    fn too_many_are_no_hints() {
        let hints = Hints::default();
        assert!((0..INTERIMS_MAX).all(|_| hints.came(0)));
        assert!(!hints.are_too_many());
        assert!(!hints.came(0));
        assert!(hints.are_too_many());
    }
}
