//! Tables of where a lock stands, and of what becomes of what a drone announces.

use super::*;
use crate::announce::{Verdict, as_told, judge};
use jiff::Timestamp;
use plane_core::{
    message::{
        backend::{BackendState, PublicStatus},
        drone::AnnouncedBackend,
        state::{Assignment, BackendMessage, HeldLock, Lease, LockEntry, ReachedState, StateEntry},
    },
    world::Entry,
};

fn cluster() -> ClusterName {
    "plane.test".parse().unwrap()
}

fn lock() -> LockName {
    "l".parse().unwrap()
}

/// A world from entries; the log's time is 1 s a sequence.
fn world(entries: &[StateEntry]) -> World {
    let mut world = World::default();
    for (entry, sequence) in entries.iter().zip(1..) {
        let time = Timestamp::from_second(i64::try_from(sequence).unwrap()).unwrap();
        let payload = serde_json::to_vec(entry).unwrap().into();
        world.apply(&Entry { subject: entry.subject(), sequence, time, payload }).unwrap();
    }
    world
}

fn assignment(backend: &str, drone: &str, change: impl Fn(&mut Assignment)) -> StateEntry {
    let mut assignment = Assignment::to(drone.parse().unwrap(), None);
    change(&mut assignment);
    StateEntry::backend(cluster(), backend.parse().unwrap(), BackendMessage::Assignment(assignment))
}

fn locked(accepted: bool, withdrawn: bool) -> impl Fn(&mut Assignment) {
    move |assignment| {
        assignment.lock = Some(HeldLock { name: lock(), token: 7 });
        (assignment.accepted, assignment.withdrawn) = (accepted, withdrawn);
    }
}

fn held(backend: &str, token: u64) -> StateEntry {
    let holder = Some(Holder { backend: backend.parse().unwrap(), token });
    StateEntry::lock(cluster(), LockEntry { lock: lock(), holder, last_token: None })
}

fn free(last_token: u64) -> StateEntry {
    StateEntry::lock(cluster(), LockEntry { lock: lock(), holder: None, last_token: Some(last_token) })
}

fn state(backend: &str, state: BackendState) -> StateEntry {
    let reached = ReachedState { state, timestamp: 1, reason: None, exit_code: None };
    StateEntry::backend(cluster(), backend.parse().unwrap(), BackendMessage::State(reached))
}

fn stands(entries: &[StateEntry]) -> &'static str {
    match standing(&world(entries), &cluster(), &lock()) {
        Standing::Held { .. } => "held",
        Standing::Undecided => "undecided",
        Standing::Free { .. } => "free",
    }
}

#[test]
fn a_lock_is_held_by_a_backend_that_a_drone_took_and_that_has_not_ended() {
    let (offered, taken) = (assignment("b", "d", locked(false, false)), assignment("b", "d", locked(true, false)));
    let lost = StateEntry::lease(cluster(), "d".parse().unwrap(), 1, Lease { lost: true, ..Lease::default() });
    assert_eq!(stands(&[]), "free");
    assert_eq!(stands(&[free(3)]), "free");
    assert_eq!(stands(std::slice::from_ref(&offered)), "free");
    assert_eq!(stands(&[held("b", 7)]), "undecided");
    assert_eq!(stands(&[offered, held("b", 7)]), "undecided");
    assert_eq!(stands(&[taken.clone(), held("b", 7)]), "held");
    assert_eq!(stands(&[taken.clone(), held("b", 8)]), "undecided");
    assert_eq!(stands(&[taken.clone(), held("b", 7), state("b", BackendState::Swept)]), "undecided");
    assert_eq!(stands(&[taken, held("b", 7), lost]), "undecided");
}

#[test]
fn a_token_is_above_the_last_one_and_not_below_the_logs_time() {
    let next = |entries: &[StateEntry]| match standing(&world(entries), &cluster(), &lock()) {
        Standing::Free { next_token, .. } => next_token,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(&[free(3)]), 1_000_000);
    assert_eq!(next(&[free(5_000_000)]), 5_000_001);
}

#[test]
fn only_what_cannot_run_gives_its_lock_up() {
    let holder = Holder { backend: "b".parse().unwrap(), token: 7 };
    let may = |entries: &[StateEntry]| {
        may_free(world(entries).backend(&cluster(), &holder.backend).unwrap(), &lock(), &holder)
    };
    let taken = assignment("b", "d", locked(true, false));
    assert!(!may(&[assignment("b", "d", locked(false, false))]));
    assert!(!may(&[taken.clone(), state("b", BackendState::Ready)]));
    assert!(may(&[taken, state("b", BackendState::Lost)]));
    assert!(may(&[assignment("b", "d", locked(false, true))]));
    assert!(may(&[assignment("b", "d", |assignment| assignment.accepted = true)]));
}

fn announced(state: BackendState, locked: bool) -> AnnouncedBackend {
    AnnouncedBackend {
        backend_id: "b".parse().unwrap(),
        state,
        time: Timestamp::UNIX_EPOCH,
        bearer_token: None,
        lock: locked.then(lock),
        fencing_token: locked.then_some(7),
    }
}

#[test]
fn what_a_drone_announces_is_entered_unless_something_stands_against_it() {
    use BackendState::{Exited, Ready, Starting, Swept};
    let drone = "d".parse().unwrap();
    let verdict =
        |entries: &[StateEntry], backend: AnnouncedBackend| judge(&world(entries), &cluster(), &drone, &backend);
    let taken = assignment("b", "d", locked(true, false));
    let (has, unsure) = (held("b", 7), assignment("b", "d", locked(false, false)));
    let table = [
        (vec![], announced(Ready, false), Verdict::Enter),
        (vec![], announced(Ready, true), Verdict::Hold(0)),
        (vec![], announced(Exited, true), Verdict::Enter),
        (vec![free(6)], announced(Ready, true), Verdict::Hold(1)),
        // Freed after this backend had it: it was given up.
        (vec![free(7)], announced(Ready, true), Verdict::Lost),
        (vec![has.clone()], announced(Ready, true), Verdict::Enter),
        (vec![held("c", 8)], announced(Ready, true), Verdict::Lost),
        (vec![unsure.clone(), has.clone()], announced(Ready, true), Verdict::Accept(1)),
        (vec![unsure.clone()], announced(Ready, true), Verdict::Hold(0)),
        (vec![unsure.clone(), held("c", 8)], announced(Ready, true), Verdict::Lost),
        (vec![unsure, held("b", 8)], announced(Ready, true), Verdict::Lost),
        (vec![assignment("b", "d", locked(false, true))], announced(Ready, true), Verdict::Lost),
        (vec![assignment("b", "d", locked(false, true))], announced(Exited, true), Verdict::Reach),
        (vec![assignment("b", "other", locked(true, false))], announced(Exited, true), Verdict::Lost),
        (vec![assignment("b", "other", locked(true, false))], announced(Ready, true), Verdict::Lost),
        (vec![assignment("b", "other", locked(false, false)), has.clone()], announced(Ready, true), Verdict::Accept(1)),
        (vec![taken.clone(), has.clone()], announced(Ready, true), Verdict::Reach),
        // The log has lost the hold, and the acceptance not.
        (vec![taken.clone()], announced(Ready, true), Verdict::Hold(0)),
        (vec![taken.clone(), state("b", Ready)], announced(Ready, true), Verdict::Hold(0)),
        (vec![taken.clone(), free(6)], announced(Ready, true), Verdict::Hold(2)),
        (vec![taken.clone(), free(7)], announced(Ready, true), Verdict::Lost),
        (vec![taken.clone(), held("c", 8)], announced(Ready, true), Verdict::Lost),
        (vec![taken.clone()], announced(Exited, true), Verdict::Reach),
        (vec![taken.clone(), has.clone(), state("b", Ready)], announced(Starting, true), Verdict::Known(Ready)),
        (vec![taken.clone(), state("b", Swept)], announced(Ready, true), Verdict::Known(Swept)),
        (vec![taken, has, state("b", Ready)], announced(Exited, true), Verdict::Reach),
    ];
    for (entries, backend, expected) in table {
        assert_eq!(verdict(&entries, backend.clone()), expected, "{entries:?} {backend:?}");
    }
}

#[test]
fn an_end_that_was_told_stays() {
    use BackendState::{Exited, Lost, Ready};
    let told = |state| PublicStatus {
        cluster: cluster(),
        state,
        backend: "b".parse().unwrap(),
        time: Timestamp::from_second(9).unwrap(),
        reason: None,
        exit_code: None,
    };
    let ended = |state, time| AnnouncedBackend { state, time, ..announced(Ready, true) };
    let table = [
        (Ready, None, None),
        (Ready, Some(told(Ready)), None),
        (Ready, Some(told(Lost)), Some(ended(Lost, told(Lost).time))),
        (Exited, Some(told(Lost)), Some(ended(Lost, told(Lost).time))),
    ];
    for (state, told, expected) in table {
        assert_eq!(as_told(&cluster(), &announced(state, true), told.as_ref()), expected, "{state} {told:?}");
    }
    let elsewhere = PublicStatus { cluster: "other.test".parse().unwrap(), ..told(Lost) };
    assert_eq!(as_told(&cluster(), &announced(Ready, true), Some(&elsewhere)), None);
}
