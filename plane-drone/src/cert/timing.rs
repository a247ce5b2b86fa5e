//! When a certificate is renewed, and when what failed is tried again: functions of times and of a number drawn by
//! chance. Nothing here waits.

use super::Validity;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The pause after a first failure, before chance shortens it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 3600);
/// What a CA that says that it was asked too often is given at least.
pub(super) const RATE_LIMITED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The pause after a certificate was ordered that will not do by this machine's clock: some three orders a week.
pub(super) const UNUSABLE_PAUSE: Duration = Duration::from_secs(2 * 86_400);
/// The pause after the authority did not see a challenge, the first times, and from then on: Let's Encrypt takes five
/// such failures an hour.
pub(super) const UNSEEN_PAUSES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(12 * 60));
/// How often the shorter pause follows.
pub(super) const UNSEEN_SHORT: u32 = 2;
/// The longest pause before this machine's own disk is tried again.
pub(super) const DISK_PAUSE: Duration = Duration::from_secs(60);
/// A certificate is at least this old when the authority's word makes it be renewed, or a 24th of its lifetime: an
/// authority that calls each new one overdue is not asked on and on.
const YOUNG: Duration = Duration::from_secs(6 * 3600);
/// Tries that are spread over what is left of a certificate's life: none waits longer than this part of it.
const TRIES_LEFT: u32 = 16;

/// From when until when a CA would like a certificate to be renewed (RFC 9773, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// The first moment.
    pub(super) start: Timestamp,
    /// The last moment.
    pub(super) end: Timestamp,
}

/// When a certificate is to be renewed: somewhere in the CA's window where there is one, else shortly before two thirds
/// of its lifetime, and never in its last twelfth. `draw` is any number; the same one gives the same moment, so it is
/// drawn once for each certificate.
pub(super) fn due(validity: Validity, window: Option<Window>, draw: u64) -> Timestamp {
    let lifetime = span(validity.not_before, validity.not_after);
    let earliest = after(validity.not_before, (lifetime / 24).min(YOUNG));
    let latest = after(validity.not_before, lifetime / 12 * 11);
    match window {
        Some(Window { start, end }) if start < end => {
            after(start, part(span(start, end), draw)).max(earliest).min(latest)
        }
        _ => after(validity.not_before, lifetime / 30 * 19 + part(lifetime / 30, draw)),
    }
}

/// How long to wait after the `failures`-th failure in a row, the first being 1. It doubles each time, from seconds to
/// hours; chance takes off up to half, so that drones that failed together do not ask together again. It is no longer
/// than `longest`, but never less than half of [`FIRST_PAUSE`].
pub(super) fn pause(failures: u32, longest: Option<Duration>, draw: u64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
    let longest = longest.unwrap_or(LONGEST_PAUSE).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    let whole = FIRST_PAUSE.saturating_mul(doubled).min(longest);
    whole / 2 + part(whole / 2, draw)
}

/// The longest pause between tries with so much `left` of a certificate's life.
pub(super) fn longest(left: Duration) -> Duration {
    left / TRIES_LEFT
}

/// The moment a while after another one.
pub(super) fn later(moment: Timestamp, pause: Duration) -> Timestamp {
    after(moment, pause)
}

/// How long there is no other order after one whose certificate is due at once: a twelfth of its life, which is what it
/// may be used for, but no longer than after one that is of no use.
pub(super) fn after_short(validity: Validity) -> Duration {
    (span(validity.not_before, validity.not_after) / 12).min(UNUSABLE_PAUSE)
}

/// What is left of a certificate's life; `None` where nothing is.
pub(super) fn left(now: Timestamp, validity: Validity) -> Option<Duration> {
    Duration::try_from(validity.not_after.duration_since(now)).ok().filter(|left| !left.is_zero())
}

/// The time from one moment to a later one; nothing where it is earlier.
pub(super) fn span(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

fn after(moment: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    moment.saturating_add(span).unwrap_or(Timestamp::MAX)
}

/// A part of a span that a number out of all numbers picks.
fn part(span: Duration, draw: u64) -> Duration {
    let nanoseconds = (span.as_nanos().min(u128::from(u64::MAX)) * u128::from(draw)) >> 64;
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn days(days: i64) -> Validity {
        Validity { not_before: at(0), not_after: at(days * 86_400) }
    }

    #[test]
    fn without_a_window_two_thirds_of_the_lifetime_count() {
        assert_eq!(due(days(90), None, 0), at(57 * 86_400));
        assert!(due(days(90), None, u64::MAX) <= at(60 * 86_400));
    }

    #[test]
    fn a_window_of_the_ca_wins_unless_it_would_let_the_certificate_expire() {
        let window = |start, end| Some(Window { start: at(start), end: at(end) });
        assert_eq!(due(days(90), window(100_000, 200_000), 0), at(100_000));
        assert!((at(149_999)..=at(150_001)).contains(&due(days(90), window(100_000, 200_000), u64::MAX / 2)));
        assert_eq!(due(days(90), window(-2000, -1000), 7), at(6 * 3600));
        assert_eq!(due(days(1), window(-2000, -1000), 7), at(3600));
        assert_eq!(due(days(12), window(86_400 * 20, 86_400 * 30), 7), at(86_400 * 11));
        assert_eq!(due(days(90), window(2000, 1000), 0), due(days(90), None, 0));
    }

    #[test]
    fn what_is_due_at_once_is_not_ordered_at_once() {
        assert_eq!(after_short(days(90)), UNUSABLE_PAUSE);
        assert_eq!(after_short(days(6)), Duration::from_secs(86_400 / 2));
    }

    #[test]
    fn pauses_grow_from_seconds_to_hours() {
        let most = |failures| pause(failures, None, u64::MAX).as_secs();
        assert_eq!([1, 2, 3, 12, 99].map(most), [4, 9, 19, 7199, 7199]);
        assert!(pause(9, Some(longest(Duration::from_secs(80))), u64::MAX) <= Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn renewal_is_within_the_lifetime(
            begin in -1_i64 << 33..1 << 33, lifetime in 12_i64..1 << 32, draw: u64,
            start in -1_i64 << 33..1 << 33, length in -9_i64..1 << 32, windowed: bool,
        ) {
            let validity = Validity { not_before: at(begin), not_after: at(begin + lifetime) };
            let window = windowed.then(|| Window { start: at(start), end: at(start + length) });
            let due = due(validity, window, draw);
            prop_assert!(due < validity.not_after);
            prop_assert!(due >= validity.not_before);
        }

        #[test]
        fn a_try_never_follows_at_once(failures: u32, draw: u64, limit in proptest::option::of(0_u64..1 << 40)) {
            let pause = pause(failures, limit.map(Duration::from_secs), draw);
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}
