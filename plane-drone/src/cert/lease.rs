//! Which drone orders for its cluster: a lease in the bucket. It is renewed while the order lasts; one that is not has
//! no holder any more. Clocks are not compared: everyone counts for how long, on their own clock, an entry has stood
//! unchanged.

use plane_core::id::DroneId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The lease as it stands in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// Who wrote it.
    pub(super) writer: Writer,
    /// What it says.
    pub(super) state: State,
}

/// A process of a drone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Writer {
    /// The drone.
    pub(super) drone: DroneId,
    /// The process.
    pub(super) instance: String,
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// The writer is ordering.
    Held {
        /// Orders that failed in a row before this one.
        failures: u32,
    },
    /// The writer has ordered; nobody is.
    Free,
    /// The writer's order failed: nobody asks the authority for a while.
    Resting {
        /// Orders that failed in a row.
        failures: u32,
        /// For how long, in seconds.
        pause_secs: u64,
        /// Why it failed.
        problem: String,
    },
}

/// Whether it is this drone's turn to order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may take the lease; so many orders have failed in a row.
    Take {
        /// Orders that failed in a row.
        failures: u32,
    },
    /// It may not for at least so long.
    Wait(Duration),
}

/// Whether `own` may take the lease that was `found`, which has stood unchanged for `unchanged` by the own clock. A
/// holder is dead after `limit`. `fresh` says that this process has not looked before: who restarts a drone has mended
/// something, so what that very drone left is not waited for.
pub(super) fn turn(found: Option<&Lease>, own: &Writer, unchanged: Duration, limit: Duration, fresh: bool) -> Turn {
    let Some(Lease { writer, state }) = found else { return Turn::Take { failures: 0 } };
    let (failures, wait) = match state {
        State::Free => (0, Duration::ZERO),
        // An earlier process of this drone, or an outcome that this one did not learn of.
        State::Held { failures } if writer.drone == own.drone => (*failures, Duration::ZERO),
        State::Held { failures } => (*failures, limit),
        State::Resting { failures, .. } if fresh && writer.drone == own.drone => (*failures, Duration::ZERO),
        State::Resting { failures, pause_secs, .. } => (*failures, Duration::from_secs(*pause_secs)),
    };
    match wait.saturating_sub(unchanged) {
        Duration::ZERO => Turn::Take { failures },
        left => Turn::Wait(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn process(drone: &str, instance: u32) -> Writer {
        Writer { drone: drone.parse().unwrap(), instance: instance.to_string() }
    }

    fn left_by(writer: Writer, state: State) -> Lease {
        Lease { writer, state }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_holder_is_waited_for_until_it_has_been_silent_for_too_long() {
        let own = process("d1", 1);
        let held = left_by(process("d2", 2), State::Held { failures: 3 });
        assert_eq!(turn(Some(&held), &own, secs(59), LIMIT, true), Turn::Wait(secs(1)));
        assert_eq!(turn(Some(&held), &own, secs(60), LIMIT, false), Turn::Take { failures: 3 });
        let earlier = left_by(process("d1", 2), State::Held { failures: 0 });
        assert_eq!(turn(Some(&earlier), &own, secs(0), LIMIT, false), Turn::Take { failures: 0 });
    }

    #[test]
    fn what_nobody_holds_is_taken_at_once() {
        let own = process("d1", 1);
        let free = left_by(process("d2", 2), State::Free);
        for found in [None, Some(&free)] {
            assert_eq!(turn(found, &own, secs(0), LIMIT, false), Turn::Take { failures: 0 });
        }
    }

    #[test]
    fn after_a_failure_all_rest_but_a_drone_that_was_restarted_goes_on() {
        let state = State::Resting { failures: 2, pause_secs: 10, problem: "x".into() };
        let resting = left_by(process("d2", 2), state);
        for own in ["d1", "d2"] {
            assert_eq!(turn(Some(&resting), &process(own, 1), secs(4), LIMIT, false), Turn::Wait(secs(6)));
        }
        assert_eq!(turn(Some(&resting), &process("d1", 1), secs(0), LIMIT, true), Turn::Wait(secs(10)));
        assert_eq!(turn(Some(&resting), &process("d2", 3), secs(0), LIMIT, true), Turn::Take { failures: 2 });
        assert_eq!(turn(Some(&resting), &process("d1", 1), secs(10), LIMIT, false), Turn::Take { failures: 2 });
    }

    #[test]
    fn it_is_written_as_others_read_it() {
        let held = left_by(process("d2", 2), State::Held { failures: 0 });
        let text = serde_json::to_string(&held).unwrap();
        assert_eq!(text, r#"{"writer":{"drone":"d2","instance":"2"},"state":{"held":{"failures":0}}}"#);
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), held);
    }

    proptest! {
        #[test]
        fn a_living_holder_is_never_robbed_and_a_dead_one_always_replaced(unchanged in 0_u64..200, fresh: bool) {
            let held = left_by(process("d2", 2), State::Held { failures: 1 });
            let turn = turn(Some(&held), &process("d1", 1), secs(unchanged), LIMIT, fresh);
            prop_assert_eq!(turn == Turn::Take { failures: 1 }, secs(unchanged) >= LIMIT);
        }
    }
}
