//! Time, from two clocks: one that people read and that may be set, and one that only runs on.

use jiff::Timestamp;
use std::{fmt, sync::Arc, time::Duration};

/// Where time comes from. Clones tell the same time.
#[derive(Clone)]
pub struct Clock(Arc<dyn TimeSource>);

/// A source of time.
pub trait TimeSource: Send + Sync + 'static {
    /// The time of day, for people and for entries. It may be set forward and back; nothing is decided by it.
    fn wall(&self) -> Timestamp;

    /// The time since the machine was started. It never goes back, and runs on while this process is stopped and while
    /// the machine is suspended. Only differences of it mean anything.
    fn boot(&self) -> Duration;
}

/// The machine's own clocks.
struct Machine;

impl TimeSource for Machine {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    #[cfg(target_os = "linux")]
    fn boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    #[cfg(not(target_os = "linux"))]
    fn boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

impl Clock {
    /// The machine's clocks.
    pub fn machine() -> Self {
        Self(Arc::new(Machine))
    }

    /// Clocks of the caller's.
    pub fn from_source(source: impl TimeSource) -> Self {
        Self(Arc::new(source))
    }

    /// See [`TimeSource::wall`].
    pub fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    /// See [`TimeSource::boot`].
    pub fn boot(&self) -> Duration {
        self.0.boot()
    }

    /// How long ago `then` was, which this clock's [`Self::boot`] gave.
    pub fn since(&self, then: Duration) -> Duration {
        self.boot().saturating_sub(then)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_start_goes_on() {
        let clock = Clock::machine();
        let then = clock.boot();
        assert!(then > Duration::ZERO);
        assert!(clock.boot() >= then);
    }
}
