//! The reduction: what counts of several entries, and that compaction loses nothing.

use super::*;
use crate::message::{
    backend::BackendState,
    drone::DroneState,
    state::{Assignment, HeldLock, Holder, Lease, Millis, ReachedState},
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

const RETENTION: SignedDuration = SignedDuration::from_secs(20);

fn cluster() -> ClusterName {
    "plane.test".parse().unwrap()
}

/// Entries as controllers and drones write them: a backend's id is used again only if nothing of it ever ran (`w`), and
/// a drone that may be gone (`g`) does not come back. Whom a backend is given is not written long after it has reached a
/// state.
fn any_entry() -> impl Strategy<Value = StateEntry> {
    let drone = prop::sample::select(vec!["d1", "d2"]);
    let assignment = |ids: Vec<&'static str>, withdrawn: BoxedStrategy<bool>| {
        let drone = prop::sample::select(vec!["d1", "d2"]);
        let memory = prop::option::of(0..9_u64);
        (prop::sample::select(ids), drone, any::<bool>(), withdrawn, memory, any::<bool>()).prop_map(
            |(id, drone, accepted, withdrawn, memory_bytes, locked)| {
                let lock = locked.then(|| HeldLock { name: "l".parse().unwrap(), token: 1 });
                let drone = drone.parse().unwrap();
                let assignment = Assignment { accepted, withdrawn, memory_bytes, lock, ..Assignment::to(drone, None) };
                StateEntry::backend(cluster(), id.parse().unwrap(), BackendMessage::Assignment(assignment))
            },
        )
    };
    prop_oneof![
        (prop::sample::select(vec!["a", "b"]), prop::sample::select(BackendState::ALL.to_vec()), 0..9_i64)
            .prop_map(|(b, s, t)| state(b, s, t)),
        (drone.clone(), 0..9_i64, any::<bool>()).prop_map(|(d, timestamp, ready)| {
            let state = if ready { DroneState::Ready } else { DroneState::Draining };
            StateEntry::drone(cluster(), d.parse().unwrap(), DroneMessage::State { timestamp, state })
        }),
        prop::sample::select(DroneState::ALL.to_vec()).prop_map(|state| {
            StateEntry::drone(cluster(), "g".parse().unwrap(), DroneMessage::State { timestamp: 1, state })
        }),
        (drone, any::<bool>()).prop_map(|(d, lost)| {
            StateEntry::lease(cluster(), d.parse().unwrap(), 1, Lease { lost, ..Lease::default() })
        }),
        (prop::sample::select(vec!["l", "m"]), prop::option::of(0..9_u64)).prop_map(|(lock, token)| {
            let holder = token.map(|token| Holder { backend: "a".parse().unwrap(), token });
            StateEntry::lock(cluster(), LockEntry { lock: lock.parse().unwrap(), holder, last_token: Some(3) })
        }),
        assignment(vec!["a", "b"], Just(false).boxed()),
        assignment(vec!["w"], any::<bool>().boxed()),
    ]
}

/// A log: entries that come some seconds after each other. States of backends, and of the drone that may be gone, are
/// written once.
fn any_log() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec((any_entry(), 0..6_i64), 0..40).prop_map(|entries| {
        let (mut time, mut written, mut reached) = (0, HashSet::new(), BTreeMap::new());
        let numbered = entries.iter().zip(1..).map(|((message, pause), sequence)| {
            time += pause;
            Entry { time: Timestamp::from_second(time).unwrap(), ..entry(sequence, message) }
        });
        let is_new = |entry: &Entry| {
            if let Some((backend, _)) = entry.subject.split_once(".state.") {
                reached.entry(backend.to_owned()).or_insert(entry.time);
            }
            let given = entry.subject.strip_suffix(".assignment").and_then(|backend| reached.get(backend));
            if given.is_some_and(|reached| entry.time.duration_since(*reached) > RETENTION) {
                return false;
            }
            let once = entry.subject.contains(".state.") || entry.subject.contains(".drone.g.");
            !once || written.insert(entry.subject.clone())
        };
        numbered.filter(is_new).collect()
    })
}

fn forgetting(entries: &[Entry]) -> World {
    let mut world = World::forgetting_after(RETENTION);
    for entry in entries {
        world.apply(entry).unwrap();
    }
    world
}

/// The same entries, written so that the name of their cluster cannot be read without copying it.
fn escaped(log: &[Entry]) -> Vec<Entry> {
    let escape = |entry: &Entry| {
        let text = String::from_utf8(entry.payload.to_vec()).unwrap().replace("plane.test", "\\u0070lane.test");
        Entry { payload: text.into(), ..entry.clone() }
    };
    log.iter().map(escape).collect()
}

fn compacted(log: &[Entry]) -> Vec<Entry> {
    let newest: BTreeMap<&str, &Entry> = log.iter().map(|entry| (entry.subject.as_str(), entry)).collect();
    let mut compacted: Vec<Entry> = newest.into_values().cloned().collect();
    compacted.sort_by_key(|entry| entry.sequence);
    compacted
}

/// What follows from the backends is what a count of them gives.
fn check_loads(world: &World) {
    for (_, cluster) in world.clusters() {
        let mut loads: BTreeMap<DroneId, Load> = BTreeMap::new();
        for (id, backend) in cluster.backends().filter(|(_, backend)| backend.is_live()) {
            let assigned = backend.assignment.as_ref().unwrap();
            let load = loads.entry(assigned.drone.clone()).or_default();
            load.backends.insert(id.clone());
            load.memory_bytes += assigned.memory_bytes().unwrap_or(0);
        }
        for drone in ["d1", "d2"].map(|id| id.parse::<DroneId>().unwrap()) {
            assert_eq!(cluster.load(&drone), loads.get(&drone));
        }
        let unaccepted = cluster.backends().filter(|(_, b)| b.is_live() && !b.is_accepted()).count();
        assert_eq!(cluster.unaccepted().count(), unaccepted);
    }
}

#[test]
fn what_ended_is_forgotten_by_the_logs_time_alone() {
    let at = |second, entry: Entry| Entry { time: Timestamp::from_second(second).unwrap(), ..entry };
    let assignment = BackendMessage::Assignment(Assignment::to("d1".parse().unwrap(), None));
    let assigned = StateEntry::backend(cluster(), "b".parse().unwrap(), assignment);
    let mut world = forgetting(&[
        at(0, entry(1, &assigned)),
        at(1, entry(2, &state("b", BackendState::Swept, 1))),
        at(9, entry(3, &state("b", BackendState::Ready, 1))),
    ]);
    let later = |sequence, second| at(second, entry(sequence, &state("c", BackendState::Loading, 1)));
    world.apply(&later(4, 21)).unwrap();
    assert!(world.backend(&cluster(), &"b".parse().unwrap()).is_some());
    world.apply(&later(5, 22)).unwrap();
    assert!(world.backend(&cluster(), &"b".parse().unwrap()).is_none());
    let forgotten = world.take_forgotten();
    // What says that it is over goes last.
    let sequences = |one: &Forgotten| one.entries.iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>();
    assert_eq!(forgotten.iter().map(sequences).collect::<Vec<_>>(), [[3, 1, 2]]);
    assert_eq!(forgotten[0].entries[1].0, assigned.subject());
}

#[test]
fn what_nobody_was_given_is_forgotten_when_it_is_not_heard_of() {
    let at = |second, sequence, message: &StateEntry| {
        let time = Timestamp::from_second(second).unwrap();
        Entry { time, ..entry(sequence, message) }
    };
    let (ready, loading) = (state("b", BackendState::Ready, 1), state("b", BackendState::Loading, 1));
    let mut world = forgetting(&[at(1, 1, &loading), at(9, 2, &ready), at(29, 3, &state("c", BackendState::Ready, 1))]);
    let id = "b".parse().unwrap();
    assert!(world.backend(&cluster(), &id).is_some());
    world.apply(&at(30, 4, &state("d", BackendState::Ready, 1))).unwrap();
    assert!(world.backend(&cluster(), &id).is_none());
    let sequences: Vec<u64> = world.take_forgotten()[0].entries.iter().map(|(_, sequence)| *sequence).collect();
    assert_eq!(sequences, [1, 2]);
}

#[test]
fn entries_about_backends_are_read_without_copies_where_they_can_be() {
    let usual = entry(1, &state("b", BackendState::Ready, 1));
    let read = BackendText::read(&usual.subject, &usual.payload).unwrap();
    assert_eq!((read.cluster, read.backend), ("plane.test", "b"));
    let [unusual] = &escaped(std::slice::from_ref(&usual))[..] else { panic!("one entry became several") };
    assert!(BackendText::read(&unusual.subject, &unusual.payload).is_none());
    assert!(BackendText::read("state.cluster.plane_test.backend.c.state.Ready", &usual.payload).is_none());
    let lock = StateEntry::lock(cluster(), LockEntry { lock: "l".parse().unwrap(), holder: None, last_token: None });
    let lock = entry(1, &lock);
    assert!(BackendText::read(&lock.subject, &lock.payload).is_none());
}

#[test]
fn what_is_made_from_the_newest_time_rises_though_a_clock_was_set_back() {
    let beat = |sequence, second, newest: Option<i64>| {
        let newest = newest.map(|second| Timestamp::from_second(second).unwrap());
        let payload = serde_json::to_vec(&Heartbeat { heartbeat: (), trusted: None, made: None, newest }).unwrap();
        let time = Timestamp::from_second(second).unwrap();
        Entry { subject: HEARTBEAT_SUBJECT.to_owned(), sequence, time, payload: payload.into() }
    };
    let all = [beat(1, 900, None), beat(2, 90, Some(900))];
    let second = |time: Option<Timestamp>| time.map(Timestamp::as_second);
    let read = world(&all);
    assert_eq!((second(read.time()), second(read.newest_time())), (Some(900), Some(900)));
    // The first is gone from the log.
    let later = world(&all[1..]);
    assert_eq!((second(later.time()), second(later.newest_time())), (Some(90), Some(900)));
}

/// A log over which the clock of its server is set back now and then: its entries, and how many seconds had really passed
/// at each of them.
fn any_set_back_log() -> impl Strategy<Value = (Vec<Entry>, Vec<i64>)> {
    (any_log(), prop::collection::vec(prop_oneof![4 => Just(0), 1 => 0..50_i64], 40)).prop_map(|(log, steps)| {
        let real: Vec<i64> = log.iter().map(|entry| entry.time.as_second()).collect();
        let mut back = 0;
        let set_back = log.into_iter().zip(steps).map(|(entry, step)| {
            back += step;
            let time = Timestamp::from_second(1000 + entry.time.as_second() - back).unwrap();
            Entry { time, ..entry }
        });
        (set_back.collect(), real)
    })
}

/// Of all that the log speaks of, nothing is forgotten that was over for less than the retention time.
fn check_remembered(world: &World, log: &[Entry], real: &[i64]) {
    let Some(now) = real.last() else { return };
    for (entry, _) in log.iter().zip(real).filter(|(_, time)| now - **time <= RETENTION.as_secs()) {
        let message: StateEntry = serde_json::from_slice(&entry.payload).unwrap();
        let known = world.cluster(&message.cluster).unwrap();
        let remembered = match &message.body {
            EntryBody::DroneMessage(about) => known.drones.contains_key(&about.drone),
            EntryBody::BackendMessage(about) => {
                // A second end, and a word about what is over, change nothing about since when it is.
                let over = known.backend(&about.backend).is_none()
                    && log.iter().zip(real).any(|(earlier, time)| {
                        let message: StateEntry = serde_json::from_slice(&earlier.payload).unwrap();
                        let ends = matches!(&message.body, EntryBody::BackendMessage(end)
                        if end.backend == about.backend
                            && matches!(&end.message, BackendMessage::State(reached) if reached.state.is_final()));
                        let withdraws = matches!(&message.body, EntryBody::BackendMessage(end)
                        if end.backend == about.backend
                            && matches!(&end.message, BackendMessage::Assignment(assignment) if assignment.withdrawn));
                        (ends || withdraws) && now - time > RETENTION.as_secs()
                    });
                over || known.backend(&about.backend).is_some()
            }
            EntryBody::LockMessage(about) => known.locks.contains_key(&about.lock),
            EntryBody::AcmeMessage(_) => true,
        };
        assert!(remembered, "{} was forgotten too early", entry.subject);
    }
}

proptest! {
    #[test]
    fn a_clock_that_is_set_back_has_nothing_forgotten_early((log, real) in any_set_back_log(), cut in 0..40_usize) {
        check_remembered(&forgetting(&log), &log, &real);
        check_remembered(&forgetting(&compacted(&log)), &log, &real);
        let cut = cut.min(log.len());
        let mut half = compacted(&log[..cut]);
        half.extend_from_slice(&log[cut..]);
        check_remembered(&forgetting(&half), &log, &real);
    }

    #[test]
    fn what_is_read_without_copies_says_the_same(log in any_log()) {
        prop_assert_eq!(forgetting(&escaped(&log)), forgetting(&log));
    }

    #[test]
    fn the_compacted_log_gives_the_same_world(log in any_log()) {
        prop_assert_eq!(forgetting(&compacted(&log)), forgetting(&log));
        prop_assert_eq!(world(&compacted(&log)), world(&log));
    }

    #[test]
    fn any_part_that_is_compacted_gives_the_same_world(log in any_log(), cut in 0..40_usize) {
        let cut = cut.min(log.len());
        let mut half = compacted(&log[..cut]);
        half.extend_from_slice(&log[cut..]);
        prop_assert_eq!(forgetting(&half), forgetting(&log));
    }

    #[test]
    fn a_repeated_entry_changes_nothing(log in any_log()) {
        let mut again = forgetting(&log);
        for entry in &log {
            prop_assert_eq!(again.apply(entry).unwrap(), Change::Nothing);
        }
        prop_assert_eq!(again, forgetting(&log));
    }

    #[test]
    fn loads_are_those_of_the_backends(log in any_log()) {
        check_loads(&forgetting(&log));
    }
}
