//! How a certificate's end is told: each day, and louder the nearer it is. Pure.

use super::pair::Validity;
use jiff::{SignedDuration, Timestamp};

/// How often the days that are left are told.
const EVERY: SignedDuration = SignedDuration::from_hours(24);
/// From here on it is told as a warning; for certificates of short life, from a quarter of it.
const WARN: SignedDuration = SignedDuration::from_hours(14 * 24);
const WARN_PART: i32 = 4;
/// From here on it is told as an error; for certificates of short life, from a tenth of it.
const URGENT: SignedDuration = SignedDuration::from_hours(3 * 24);
const URGENT_PART: i32 = 10;

/// How near a certificate's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Far.
    Good,
    /// It is not valid yet: this machine's clock may be wrong, or the CA's is.
    Early,
    /// Somebody should look why it is not renewed.
    Ending,
    /// Somebody should act today.
    Urgent,
    /// Browsers refuse it. It is served nevertheless: without it there is nothing at all.
    Expired,
}

/// How near the end is.
pub(super) fn stage(now: Timestamp, validity: Validity) -> Stage {
    let life = validity.not_before.duration_until(validity.not_after);
    let left = now.duration_until(validity.not_after);
    match left {
        _ if now < validity.not_before => Stage::Early,
        left if left.is_negative() => Stage::Expired,
        left if left <= URGENT.min(life / URGENT_PART) => Stage::Urgent,
        left if left <= WARN.min(life / WARN_PART) => Stage::Ending,
        _ => Stage::Good,
    }
}

/// Whole days until the end, negative behind it.
pub(super) fn days_left(now: Timestamp, validity: Validity) -> i64 {
    now.duration_until(validity.not_after).as_hours().div_euclid(24)
}

/// Whether it is to be told now, when it was last told `then` as this stage. A clock that was set back must not silence
/// it until it has caught up.
pub(super) fn is_due(now: Timestamp, stage: Stage, told: Option<(Timestamp, Stage)>) -> bool {
    told.is_none_or(|(then, before)| stage > before || now < then || then.duration_until(now) >= EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_end_is_told_louder_the_nearer_it_is() {
        let ninety = Validity { not_before: at("2026-01-01T00:00:00Z"), not_after: at("2026-04-01T00:00:00Z") };
        let six = Validity { not_before: at("2026-03-26T00:00:00Z"), not_after: at("2026-04-01T00:00:00Z") };
        for (now, of_ninety, of_six, days) in [
            ("2026-03-17T00:00:00Z", Stage::Good, Stage::Early, 15),
            ("2026-03-18T12:00:00Z", Stage::Ending, Stage::Early, 13),
            ("2026-03-30T00:00:00Z", Stage::Urgent, Stage::Good, 2),
            ("2026-03-31T00:00:00Z", Stage::Urgent, Stage::Ending, 1),
            ("2026-03-31T12:00:00Z", Stage::Urgent, Stage::Urgent, 0),
            ("2026-04-01T00:00:01Z", Stage::Expired, Stage::Expired, 0),
            ("2026-04-02T00:00:01Z", Stage::Expired, Stage::Expired, -1),
        ] {
            let now = at(now);
            assert_eq!(
                (stage(now, ninety), stage(now, six), days_left(now, ninety)),
                (of_ninety, of_six, days),
                "{now}"
            );
        }
    }

    #[test]
    fn it_is_told_at_first_daily_and_when_it_gets_worse() {
        let then = at("2026-01-01T00:00:00Z");
        let later = |hours| then + SignedDuration::from_hours(hours);
        assert!(is_due(then, Stage::Good, None));
        let told = Some((then, Stage::Ending));
        assert!(!is_due(later(23), Stage::Ending, told));
        assert!(is_due(later(24), Stage::Ending, told));
        assert!(is_due(later(1), Stage::Urgent, told));
        assert!(!is_due(later(1), Stage::Good, told));
        assert!(is_due(later(-1), Stage::Ending, told));
    }
}
