//! The reduction: what counts of several entries, and that compaction loses nothing.

use super::*;
use crate::message::{
    backend::BackendState,
    drone::DroneState,
    state::{Millis, ReachedState},
};
use proptest::prelude::*;

fn entry(sequence: u64, message: &StateEntry) -> Entry {
    let payload = serde_json::to_vec(message).unwrap().into();
    let time = Timestamp::from_second(i64::try_from(sequence).unwrap()).unwrap();
    Entry { subject: message.subject(), sequence, time, payload }
}

fn state(backend: &str, state: BackendState, timestamp: Millis) -> StateEntry {
    let reached = ReachedState { state, timestamp, reason: None, exit_code: None };
    StateEntry::backend("plane.test".parse().unwrap(), backend.parse().unwrap(), BackendMessage::State(reached))
}

fn world(entries: &[Entry]) -> World {
    let mut world = World::default();
    for entry in entries {
        world.apply(entry).unwrap();
    }
    world
}

#[test]
fn the_first_final_state_counts() {
    let entries =
        [state("b", BackendState::Ready, 1), state("b", BackendState::Swept, 2), state("b", BackendState::Lost, 3)];
    let log: Vec<Entry> = entries.iter().enumerate().map(|(i, e)| entry(i as u64 + 1, e)).collect();
    let world = world(&log);
    let backend = world.backend(&"plane.test".parse().unwrap(), &"b".parse().unwrap()).unwrap();
    assert_eq!(backend.state(), Some(BackendState::Swept));
    let history: Vec<_> = backend.history().iter().map(|seen| seen.state).collect();
    assert_eq!(history, [BackendState::Ready, BackendState::Swept]);
}

#[test]
fn an_unreadable_entry_changes_nothing_but_the_time() {
    let mut world = World::default();
    let bad = Entry {
        subject: "state.cluster.a_b.acme".into(),
        sequence: 4,
        time: Timestamp::from_second(4).unwrap(),
        payload: "{".into(),
    };
    assert!(world.apply(&bad).is_err());
    assert_eq!((world.sequence(), world.clusters().count()), (4, 0));
}

#[test]
fn an_entry_on_another_subject_than_its_own_is_refused() {
    let mut stray = entry(1, &state("b", BackendState::Ready, 1));
    stray.subject = "state.cluster.plane_test.backend.c.state.Ready".into();
    assert!(World::default().apply(&stray).is_err());
}

fn any_entry() -> impl Strategy<Value = StateEntry> {
    let cluster = || "plane.test".parse::<ClusterName>().unwrap();
    let drone = prop::sample::select(vec!["d1", "d2"]);
    prop_oneof![
        (prop::sample::select(vec!["a", "b"]), prop::sample::select(BackendState::ALL.to_vec()), 0..9_i64)
            .prop_map(|(b, s, t)| state(b, s, t)),
        (drone.clone(), prop::sample::select(DroneState::ALL.to_vec()), 0..9_i64).prop_map(
            move |(d, state, timestamp)| {
                StateEntry::drone(cluster(), d.parse().unwrap(), DroneMessage::State { timestamp, state })
            }
        ),
        (drone, any::<bool>()).prop_map(move |(d, accepted)| {
            let mut assignment = Assignment::to(d.parse().unwrap(), None);
            assignment.accepted = accepted;
            StateEntry::backend(cluster(), "a".parse().unwrap(), BackendMessage::Assignment(assignment))
        }),
    ]
}

proptest! {
    #[test]
    fn the_compacted_log_gives_the_same_world(entries in prop::collection::vec(any_entry(), 0..40)) {
        let log: Vec<Entry> = entries.iter().enumerate().map(|(i, e)| entry(i as u64 + 1, e)).collect();
        let newest: BTreeMap<&str, &Entry> = log.iter().map(|e| (e.subject.as_str(), e)).collect();
        let mut compacted: Vec<Entry> = newest.into_values().cloned().collect();
        compacted.sort_by_key(|e| e.sequence);
        prop_assert_eq!(world(&compacted), world(&log));
    }

    #[test]
    fn a_repeated_entry_changes_nothing(entries in prop::collection::vec(any_entry(), 1..20)) {
        let log: Vec<Entry> = entries.iter().enumerate().map(|(i, e)| entry(i as u64 + 1, e)).collect();
        let mut again = world(&log);
        for e in &log {
            prop_assert_eq!(again.apply(e).unwrap(), Change::Nothing);
        }
        prop_assert_eq!(again, world(&log));
    }
}
