//! When a state was entered, on a clock that nobody sets and that runs on while the machine is suspended.
//!
//! That clock begins anew with each boot of the machine, so what it said is kept with the name of the boot. After a restart of the
//! drone a state's time goes on. After one of the machine it begins anew: how long that was off is known by no clock
//! that can be trusted, and what was under way has ended with it.

use plane_core::clock::Clock;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Where Linux tells the name of the boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A moment of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// The boot; none where the system does not name it, and then the moment says nothing to another process.
    boot: Option<Arc<str>>,
    /// Milliseconds on the boot clock.
    at_ms: u64,
}

/// The clock of this boot.
#[derive(Debug, Clone)]
pub(crate) struct BootClock {
    clock: Clock,
    boot: Option<Arc<str>>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl BootClock {
    /// The clock of the machine's present boot.
    pub(crate) fn of_machine(clock: Clock) -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().into());
        Self { clock, boot: boot.filter(|boot: &Arc<str>| !boot.is_empty()) }
    }

    pub(super) fn now(&self) -> Entered {
        Entered { boot: self.boot.clone(), at_ms: millis(self.clock.boot()) }
    }

    /// What an earlier process noted, where it did so in this boot; else now.
    pub(super) fn taken_up(&self, noted: Option<Entered>) -> Entered {
        let now = self.now();
        noted.filter(|noted| noted.boot.is_some() && noted.boot == now.boot && noted.at_ms <= now.at_ms).unwrap_or(now)
    }

    /// What is left of a limit that runs since then, which is of this boot.
    pub(super) fn left(&self, since: &Entered, limit: Duration) -> Duration {
        limit.saturating_sub(Duration::from_millis(self.now().at_ms.saturating_sub(since.at_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use plane_core::clock::TimeSource;

    /// So many seconds after the boot, at whatever time of day.
    struct At(u64);

    impl TimeSource for At {
        fn wall(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            Duration::from_secs(self.0)
        }
    }

    fn clock(boot: Option<&str>, seconds: u64) -> BootClock {
        BootClock { clock: Clock::from_source(At(seconds)), boot: boot.map(Into::into) }
    }

    #[test]
    fn a_limit_goes_on_over_restarts_of_the_drone_and_begins_anew_with_the_machine() {
        let limit = Duration::from_secs(900);
        let left =
            |clock: BootClock, noted: &Entered| clock.left(&clock.taken_up(Some(noted.clone())), limit).as_secs();
        let noted = clock(Some("a"), 1000).now();
        assert_eq!(left(clock(Some("a"), 1000), &noted), 900);
        assert_eq!(left(clock(Some("a"), 1300), &noted), 600);
        assert_eq!(left(clock(Some("a"), 9000), &noted), 0);
        assert_eq!(left(clock(Some("b"), 1300), &noted), 900);
        // A process that is shown another boot clock than the last one, as in a container of its own.
        assert_eq!(left(clock(Some("a"), 10), &noted), 900);
        assert_eq!(left(clock(None, 1300), &clock(None, 1000).now()), 900);
        let later = clock(Some("a"), 1300);
        assert_eq!(later.left(&later.taken_up(None), limit), limit);
    }

    #[test]
    fn a_boot_has_a_name_that_stays() {
        let [one, other] = [(); 2].map(|()| BootClock::of_machine(Clock::machine()));
        assert!(one.boot.is_some() == cfg!(target_os = "linux"));
        assert_eq!(one.boot, other.boot);
        let noted: Entered = serde_json::from_str(&serde_json::to_string(&one.now()).unwrap()).unwrap();
        assert!(other.left(&other.taken_up(Some(noted)), Duration::from_secs(900)) > Duration::from_secs(800));
    }
}
