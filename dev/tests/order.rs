//! One controller and a played drone in virtual time, where it matters what comes before what.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on fails")]

use jiff::Timestamp;
use plane_controller::config::SchedulerConfig;
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        FaultCode,
        backend::{BackendState, PublicStatus, StatusReport},
        drone::{AnnounceRequest, AnnouncedBackend, KnownBackend},
        schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse},
        state::{
            Assignment, BackendMessage, EntryBody, HEARTBEAT_SUBJECT, HeldLock, Holder, LockEntry, StateEntry,
            lock_subject, state_subject,
        },
    },
    nats::{Nats, NatsError, Serving, StreamName},
};
use plane_dev::{
    harness::played,
    sim::stage::{self, PATIENCE, Stage},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

fn request(stage: &Stage) -> ScheduleRequest {
    serde_json::from_value(serde_json::json!({
        "cluster": stage.cluster, "max_idle_secs": 300, "metadata": {}, "lock": "l",
        "executable": {"image": "image", "env": {}},
    }))
    .unwrap()
}

/// Asks for a backend with the lock; gives it and whether it was spawned for this.
async fn ask(stage: &Stage) -> Result<Option<(BackendId, bool)>, NatsError> {
    Ok(match stage.nats.request(&request(stage), PATIENCE).await? {
        ScheduleResponse::Scheduled { backend_id, spawned, .. } => Some((backend_id, spawned)),
        ScheduleResponse::NoDroneAvailable => None,
    })
}

/// The lock as the log has it.
async fn lock_entry(stage: &Stage) -> Option<LockEntry> {
    let subject = lock_subject(&stage.cluster, &"l".parse().unwrap());
    let stored = stage.nats.last(StreamName::State, &subject).await.unwrap()?;
    match serde_json::from_slice::<StateEntry>(&stored.payload).unwrap().body {
        EntryBody::LockMessage(entry) => Some(entry),
        other => panic!("{other:?}"),
    }
}

/// The tokens that the drone was told.
type Tokens = Arc<Mutex<Vec<u64>>>;

/// A drone that takes everything.
async fn drone(stage: &Stage) -> (DroneId, Serving, Tokens) {
    let tokens = Tokens::default();
    let (nats, told): (Nats, Tokens) = (stage.nats.clone(), tokens.clone());
    let (id, serving) = played::play(&stage.nats, &stage.tasks, &stage.cluster, None, move |spawn| {
        let (nats, told) = (nats.clone(), told.clone());
        async move {
            told.lock().unwrap().extend(spawn.fencing_token);
            Ok(played::accept(&nats, &spawn).await.unwrap())
        }
    })
    .await
    .unwrap();
    (id, serving, tokens)
}

fn report(stage: &Stage, drone: &DroneId, backend: &BackendId, state: BackendState) -> StatusReport {
    StatusReport {
        cluster: stage.cluster.clone(),
        state,
        backend: backend.clone(),
        time: Timestamp::now(),
        drone: drone.clone(),
        reason: None,
        exit_code: None,
    }
}

/// Has a backend end, and waits until its lock is free in the log.
async fn end(stage: &Stage, drone: &DroneId, backend: &BackendId) -> LockEntry {
    stage.nats.request(&report(stage, drone, backend, BackendState::Terminated), PATIENCE).await.unwrap();
    loop {
        match lock_entry(stage).await {
            Some(entry) if entry.holder.is_none() => return entry,
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// How many assignments were written since a sequence, of which the newest of each backend counts.
async fn assignments_since(stage: &Stage, sequence: u64) -> usize {
    let last = stage.nats.info(StreamName::State).await.unwrap().unwrap().last_sequence;
    let mut count = 0;
    for sequence in sequence + 1..=last {
        let Some(stored) = stage.nats.get(StreamName::State, sequence).await.unwrap() else { continue };
        let entry = serde_json::from_slice::<StateEntry>(&stored.payload);
        if let Ok(EntryBody::BackendMessage(entry)) = entry.map(|entry| entry.body) {
            count += usize::from(matches!(entry.message, BackendMessage::Assignment(_)));
        }
    }
    count
}

#[test]
fn a_free_lock_whose_entry_was_purged_is_granted_with_a_higher_token() {
    stage::play(|stage| async move {
        let (drone, _serving, tokens) = drone(&stage).await;
        let (first, _) = ask(&stage).await.unwrap().unwrap();
        end(&stage, &drone, &first).await;
        // Read by the controller.
        sleep(Duration::from_secs(1)).await;
        let subject = lock_subject(&stage.cluster, &"l".parse().unwrap());
        let before = stage.nats.info(StreamName::State).await.unwrap().unwrap().last_sequence;
        stage.nats.purge(StreamName::State, &subject, before).await.unwrap();
        let (second, spawned) = ask(&stage).await.unwrap().unwrap();
        assert!(spawned && second != first);
        assert!(tokens.lock().unwrap().is_sorted_by(|one, next| one < next), "{tokens:?}");
        // The one that was taken back, and the one that was accepted.
        assert_eq!(assignments_since(&stage, before).await, 2);
        assert_eq!(ask(&stage).await.unwrap(), Some((second, false)));
    })
    .unwrap();
}

#[test]
fn a_controller_that_is_stopped_answers_what_it_has_been_asked() {
    stage::play(|stage| async move {
        let nats = stage.nats.clone();
        let slow = move |spawn| {
            let nats = nats.clone();
            async move {
                sleep(Duration::from_secs(1)).await;
                Ok(played::accept(&nats, &spawn).await.unwrap())
            }
        };
        let (drone, _serving) = played::play(&stage.nats, &stage.tasks, &stage.cluster, None, slow).await.unwrap();
        let scheduled = async |lock: &str| {
            let request = ScheduleRequest { lock: Some(lock.parse().unwrap()), ..request(&stage) };
            stage.nats.request(&request, PATIENCE).await
        };
        // The first is being decided, others have just come, one of them waits for the first.
        let late = async {
            sleep(Duration::from_millis(100)).await;
            let stopping = async { stage.stop_controller() };
            let (waits, comes, ()) = tokio::join!(scheduled("l"), scheduled("m"), stopping);
            [waits, comes]
        };
        let (first, late) = tokio::join!(scheduled("l"), late);
        for answer in [first].into_iter().chain(late) {
            assert!(matches!(answer, Ok(ScheduleResponse::Scheduled { drone: on, .. }) if on == drone));
        }
        // Others would be given what comes from then on.
        assert!(matches!(scheduled("l").await, Err(NatsError::NoResponders(_))));
    })
    .unwrap();
}

/// Writes an assignment of a backend; gives its sequence.
async fn assign(stage: &Stage, backend: &BackendId, assignment: Assignment, expected: u64) -> u64 {
    let message = BackendMessage::Assignment(assignment);
    let entry = StateEntry::backend(stage.cluster.clone(), backend.clone(), message);
    stage.nats.publish_expecting(entry.subject(), &entry, expected).await.unwrap()
}

/// Writes that a backend holds the lock.
async fn hold(stage: &Stage, backend: &BackendId, token: u64) {
    let holder = Some(Holder { backend: backend.clone(), token });
    let entry = LockEntry { lock: "l".parse().unwrap(), holder, last_token: None };
    let entry = StateEntry::lock(stage.cluster.clone(), entry);
    stage.nats.publish_expecting(entry.subject(), &entry, 0).await.unwrap();
}

#[test]
fn a_hold_that_comes_late_does_not_block_its_lock() {
    for late in [false, true] {
        stage::play(|stage| async move {
            let (drone, _serving, tokens) = drone(&stage).await;
            let backend = BackendId::random();
            let held = HeldLock { name: "l".parse().unwrap(), token: 1 };
            let first = Assignment { lock: Some(held), ..Assignment::to(drone.clone(), None) };
            let assigned = assign(&stage, &backend, first.clone(), 0).await;
            let withdrawn = assign(&stage, &backend, Assignment { withdrawn: true, ..first }, assigned).await;
            if !late {
                hold(&stage, &backend, 1).await;
            }
            // The id is asked for again, without the lock, and a drone takes that.
            let again = Assignment { accepted: true, ..Assignment::to(drone, None) };
            assign(&stage, &backend, again, withdrawn).await;
            if late {
                hold(&stage, &backend, 1).await;
            }
            let (next, spawned) = ask(&stage).await.unwrap().unwrap();
            assert!(spawned && next != backend);
            assert!(*tokens.lock().unwrap().first().unwrap() > 1);
        })
        .unwrap();
    }
}

#[test]
fn a_hold_that_an_announcement_writes_before_the_assignment_stays() {
    stage::play(|stage| async move {
        let (drone, backend) = (DroneId::random(), BackendId::random());
        let assigned = assign(&stage, &backend, Assignment::to(drone.clone(), None), 0).await;
        hold(&stage, &backend, 7).await;
        sleep(Duration::from_secs(3)).await;
        let held = HeldLock { name: "l".parse().unwrap(), token: 7 };
        let accepted = Assignment { accepted: true, lock: Some(held), ..Assignment::to(drone, None) };
        assign(&stage, &backend, accepted, assigned).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(lock_entry(&stage).await.unwrap().holder.unwrap().backend, backend);
    })
    .unwrap();
}

/// A backend that holds the lock and that no drone has taken yet; gives it, its drone and its assignment's sequence.
async fn undecided(stage: &Stage) -> (BackendId, Assignment, u64) {
    let (backend, held) = (BackendId::random(), HeldLock { name: "l".parse().unwrap(), token: 1 });
    let assignment = Assignment { lock: Some(held), ..Assignment::to(DroneId::random(), None) };
    let assigned = assign(stage, &backend, assignment.clone(), 0).await;
    hold(stage, &backend, 1).await;
    sleep(Duration::from_secs(1)).await;
    (backend, assignment, assigned)
}

#[test]
fn who_waits_for_a_lock_in_vain_hears_so_within_8_s() {
    stage::play(|stage| async move {
        undecided(&stage).await;
        let fetch = FetchRequest { cluster: stage.cluster.clone(), lock: "l".parse().unwrap() };
        let began = Instant::now();
        let answers = async { tokio::join!(ask(&stage), stage.nats.request(&fetch, PATIENCE)) };
        let (asked, fetched) = answers.await;
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(7) && waited <= Duration::from_secs(8), "{waited:?}");
        for error in [asked.unwrap_err(), fetched.unwrap_err()] {
            assert!(matches!(&error, NatsError::Fault(fault) if fault.code == FaultCode::LockBusy), "{error}");
        }
    })
    .unwrap();
}

#[test]
fn a_fetch_waits_while_the_lock_is_being_decided() {
    stage::play(|stage| async move {
        let (backend, assignment, assigned) = undecided(&stage).await;
        let began = Instant::now();
        let deciding = async {
            sleep(Duration::from_secs(3)).await;
            assign(&stage, &backend, Assignment { accepted: true, ..assignment.clone() }, assigned).await;
        };
        let fetch = FetchRequest { cluster: stage.cluster.clone(), lock: "l".parse().unwrap() };
        let (fetched, ()) = tokio::join!(stage.nats.request(&fetch, PATIENCE), deciding);
        let expected = FetchResponse::Scheduled { drone: assignment.drone, backend_id: backend, bearer_token: None };
        assert_eq!(fetched.unwrap(), expected);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    })
    .unwrap();
}

#[test]
fn a_report_of_a_drone_whose_assignment_has_not_been_read_is_entered() {
    stage::play(|stage| async move {
        let (backend, unread) = (BackendId::random(), BackendId::random());
        let (first, second, neither) = (DroneId::random(), DroneId::random(), DroneId::random());
        let assigned = assign(&stage, &backend, Assignment::to(first, None), 0).await;
        sleep(Duration::from_secs(1)).await;
        stage.hold_back();
        let accepted = Assignment { accepted: true, ..Assignment::to(second.clone(), None) };
        assign(&stage, &backend, accepted.clone(), assigned).await;
        assign(&stage, &unread, accepted, 0).await;
        let reports = [
            (&backend, &neither, BackendState::Loading, false),
            (&backend, &second, BackendState::Starting, true),
            (&backend, &second, BackendState::Exited, true),
            (&unread, &neither, BackendState::Starting, false),
            (&unread, &second, BackendState::Exited, true),
        ];
        for (backend, drone, state, counts) in reports {
            stage.nats.request(&report(&stage, drone, backend, state), PATIENCE).await.unwrap();
            let subject = state_subject(&stage.cluster, backend, state);
            let entered = stage.nats.last(StreamName::State, &subject).await.unwrap().is_some();
            assert_eq!(entered, counts, "{backend} is {state}, says {drone}");
        }
    })
    .unwrap();
}

#[test]
fn what_was_forgotten_while_its_drone_was_away_does_not_come_back() {
    let scheduler = SchedulerConfig { retention_secs: 60, ..SchedulerConfig::default() };
    let patience = Duration::from_secs((60 + scheduler.abandon_secs).into());
    stage::play_as(scheduler, |stage| async move {
        let clock = stage.clock();
        let (drone, long_ago) = (DroneId::random(), clock.wall());
        sleep(patience + Duration::from_secs(5)).await;
        let lately = clock.wall();
        for (time, known) in [(long_ago, BackendState::Lost), (lately, BackendState::Ready)] {
            let backend = BackendId::random();
            let told = StatusReport { time, ..report(&stage, &drone, &backend, BackendState::Starting) };
            stage.nats.request(&told, PATIENCE).await.unwrap();
            let subject = state_subject(&stage.cluster, &backend, BackendState::Starting);
            let entered = stage.nats.last(StreamName::State, &subject).await.unwrap().is_some();
            assert_eq!(entered, known == BackendState::Ready);
            let announced = AnnouncedBackend {
                backend_id: backend.clone(),
                state: BackendState::Ready,
                time,
                bearer_token: None,
                lock: None,
                fencing_token: None,
            };
            let (cluster, drone_id) = (stage.cluster.clone(), drone.clone());
            let announcement = AnnounceRequest { cluster, drone_id, backends: vec![announced], last: false };
            let reply = stage.nats.request(&announcement, PATIENCE).await.unwrap();
            assert_eq!(reply.backends, [KnownBackend { backend_id: backend, state: known }]);
        }
    })
    .unwrap();
}

#[test]
fn who_waits_for_a_drone_in_vain_is_given_the_holder_that_the_lock_has_got_meanwhile() {
    stage::play(|stage| async move {
        let asking = ask(&stage);
        let holding = async {
            // There is no drone: it is waited for by now, and for a moment more.
            sleep(Duration::from_millis(100)).await;
            let (backend, token) = (BackendId::random(), 1);
            let held = HeldLock { name: "l".parse().unwrap(), token };
            let assignment = Assignment::to(DroneId::random(), None);
            let accepted = Assignment { accepted: true, lock: Some(held.clone()), ..assignment };
            assign(&stage, &backend, accepted, 0).await;
            let holder = Some(Holder { backend: backend.clone(), token });
            let entry = LockEntry { lock: held.name, holder, last_token: None };
            let entry = StateEntry::lock(stage.cluster.clone(), entry);
            stage.nats.publish_expecting(entry.subject(), &entry, 0).await.unwrap();
            backend
        };
        let (answer, backend) = tokio::join!(asking, holding);
        assert_eq!(answer.unwrap(), Some((backend, false)));
    })
    .unwrap();
}

#[test]
fn who_comes_next_does_not_decide_a_lock_before_its_hold_has_been_read() {
    stage::play(|stage| async move {
        let (_, _serving, tokens) = drone(&stage).await;
        stage.hold_back();
        let before = stage.nats.info(StreamName::State).await.unwrap().unwrap().last_sequence;
        let next = async {
            sleep(Duration::from_millis(100)).await;
            ask(&stage).await
        };
        let reading = async {
            sleep(Duration::from_millis(200)).await;
            assert!(lock_entry(&stage).await.is_none());
            // All up to the assignment, and not the hold that comes behind it.
            let last = stage.nats.info(StreamName::State).await.unwrap().unwrap().last_sequence;
            stage.release(usize::try_from(last - before).unwrap());
            sleep(Duration::from_millis(500)).await;
            assert!(lock_entry(&stage).await.is_some() && tokens.lock().unwrap().is_empty());
            stage.release_all();
        };
        let (first, next, ()) = tokio::join!(ask(&stage), next, reading);
        let (backend, spawned) = first.unwrap().unwrap();
        assert!(spawned);
        assert_eq!(next.unwrap(), Some((backend, false)));
        // The assignment and its acceptance: nothing was assigned in vain.
        sleep(Duration::from_secs(1)).await;
        assert_eq!(assignments_since(&stage, before).await, 1);
    })
    .unwrap();
}

#[test]
fn no_lock_is_granted_by_the_world_of_a_log_that_is_no_more() {
    // With few entries in the new log, and with more than the controller had read of the old one.
    for entries in [0, 500] {
        stage::play(|stage| async move {
            let (_, _serving, tokens) = drone(&stage).await;
            stage.replace_log();
            for number in 0..entries {
                let heartbeat = serde_json::json!({"heartbeat": null, "number": number});
                stage.nats.publish_entry(HEARTBEAT_SUBJECT.to_owned(), &heartbeat).await.unwrap();
            }
            let asked = ask(&stage).await.unwrap_err();
            assert!(matches!(&asked, NatsError::Fault(fault) if fault.code == FaultCode::Unavailable), "{asked}");
            assert!(tokens.lock().unwrap().is_empty());
            // Somebody else may hold it, and tell so in a moment.
            assert!(lock_entry(&stage).await.is_none());
        })
        .unwrap();
    }
}

#[test]
fn a_locked_backend_is_not_given_up_by_hand_while_its_drone_may_serve_it() {
    stage::play(|stage| async move {
        let (drone, serving, _tokens) = drone(&stage).await;
        let (backend, _) = ask(&stage).await.unwrap().unwrap();
        drop(serving);
        let by_hand = report(&stage, &drone, &backend, BackendState::Lost);
        let refused = stage.nats.request(&by_hand, PATIENCE).await.unwrap_err();
        assert!(refused.to_string().contains("holds a lock"), "{refused}");
        assert_eq!(lock_entry(&stage).await.unwrap().holder.unwrap().backend, backend);
    })
    .unwrap();
}

#[test]
fn what_ended_while_the_log_took_it_back_is_told() {
    stage::play(|stage| async move {
        for announces in [false, true] {
            let (drone, _serving, _tokens) = drone(&stage).await;
            let backend = BackendId::random();
            let taken_back = Assignment { withdrawn: true, ..Assignment::to(DroneId::random(), None) };
            assign(&stage, &backend, taken_back, 0).await;
            if announces {
                let ended = AnnouncedBackend {
                    backend_id: backend.clone(),
                    state: BackendState::Exited,
                    time: Timestamp::now(),
                    bearer_token: None,
                    lock: None,
                    fencing_token: None,
                };
                let (cluster, drone_id) = (stage.cluster.clone(), drone.clone());
                let announcement = AnnounceRequest { cluster, drone_id, backends: vec![ended], last: true };
                stage.nats.request(&announcement, PATIENCE).await.unwrap();
            } else {
                let ended = report(&stage, &drone, &backend, BackendState::Exited);
                stage.nats.request(&ended, PATIENCE).await.unwrap();
            }
            let told = async {
                while stage.nats.last(StreamName::Status, &PublicStatus::subject_of(&backend)).await.unwrap().is_none()
                {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            assert!(tokio::time::timeout(PATIENCE, told).await.is_ok(), "announces: {announces}");
        }
    })
    .unwrap();
}
