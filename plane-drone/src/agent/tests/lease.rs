//! Of several processes that go by a drone's id one is the drone.

use super::*;
use plane_core::{
    clock::TimeSource,
    message::state::{DroneMessage, EntryBody, Lease, keep_alive_subject},
};
use std::sync::atomic::AtomicI64;

/// Time that is waited for is time that passes; the time of day is set by the test.
struct Paused {
    began: tokio::time::Instant,
    wall: Arc<AtomicI64>,
}

impl TimeSource for Paused {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millisecond(self.wall.load(Ordering::Relaxed)).unwrap()
    }
    fn boot(&self) -> Duration {
        self.began.elapsed()
    }
}

fn clock() -> (Clock, Arc<AtomicI64>) {
    let wall = Arc::new(AtomicI64::new(1_700_000_000_000));
    (Clock::from_source(Paused { began: tokio::time::Instant::now(), wall: wall.clone() }), wall)
}

impl Nobody {
    /// Somebody writes the drone's lease.
    fn lease(&self, instance: &str, timestamp: i64) {
        let lease = Lease { instance: Some(instance.to_owned()), ..Lease::default() };
        let entry = StateEntry::lease("plane.test".parse().unwrap(), "d".parse().unwrap(), timestamp, lease);
        self.put(entry.subject(), serde_json::to_vec(&entry).unwrap().into());
    }

    /// Who wrote it, and which time it names.
    fn newest_lease(&self) -> (String, i64) {
        let subject = keep_alive_subject(&"plane.test".parse().unwrap(), &"d".parse().unwrap());
        let stored = self.log.lock().unwrap().get(&subject).cloned().unwrap();
        match serde_json::from_slice::<StateEntry>(&stored.payload).unwrap().body {
            EntryBody::DroneMessage(entry) => match entry.message {
                DroneMessage::KeepAlive { timestamp } => (entry.instance.unwrap_or_default(), timestamp),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn while_another_process_is_the_drone_nothing_is_said_in_its_name() {
    for stopped in [false, true] {
        let (host, nobody, tasks) = (Arc::new(OddHost::default()), Arc::new(Nobody::default()), Tasks::new());
        nobody.lease("other.a", 5);
        let starting = tokio::spawn({
            let (parts, tasks) = (parts(&host, &nobody, clock().0), tasks.clone());
            async move { Agent::start(parts, &tasks).await }
        });
        seconds(8).await;
        assert!(!starting.is_finished());
        match stopped {
            true => tasks.stop_token().cancel(),
            false => nobody.lease("other.a", 6),
        }
        seconds(2).await;
        // Whoever started it learns that: what waits in the drone's name is not this process's to tell.
        assert!(starting.await.unwrap().unwrap().is_none());
        assert_eq!(tasks.failed(), !stopped);
        assert!(tasks.shut_down(Duration::from_secs(5)).await);
        let said = nobody.said.lock().unwrap().clone();
        assert!(said.is_empty(), "{said:?}");
        assert_eq!(nobody.newest_lease(), ("other.a".to_owned(), if stopped { 5 } else { 6 }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_follows_one_with_its_memory_is_the_drone_at_once_and_other_ones_when_that_cannot_serve() {
    for (before, waits) in [("nonce.a", false), ("nonce.unknown", true), ("other.a", true)] {
        let (host, nobody) = (Arc::new(OddHost::default()), Arc::new(Nobody::default()));
        host.processes.lock().unwrap().push("a".to_owned());
        nobody.lease(before, 5);
        let began = tokio::time::Instant::now();
        let _agent = started(parts(&host, &nobody, clock().0), &Tasks::new()).await;
        let limits = if waits { 45..47 } else { 0..1 };
        assert!(limits.contains(&began.elapsed().as_secs()), "{before}: {:?}", began.elapsed());
        seconds(1).await;
        for end in ["drone.d.spawn", "drone.d.drain", "drone.register", "drone.d.status"] {
            assert!(nobody.has_said(end), "{before}: {end}");
        }
        let (name, _) = nobody.newest_lease();
        assert_eq!(name.strip_prefix("nonce."), host.processes.lock().unwrap().last().map(String::as_str));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_takes_the_lease_ends_the_drone_and_what_arrives_late_does_not() {
    for (writer, ends) in [("nonce.copy", true), ("other.a", true), ("nonce.a", false)] {
        let (host, nobody, tasks) = (Arc::new(OddHost::default()), Arc::new(Nobody::default()), Tasks::new());
        // The others come upon the first process that ever had this memory.
        if !ends {
            host.processes.lock().unwrap().push("a".to_owned());
        }
        let agent = started(parts(&host, &nobody, clock().0), &tasks).await;
        nobody.lease(writer, 5);
        seconds(11).await;
        assert_eq!(tasks.failed(), ends, "{writer}");
        assert_eq!(agent.fence.is_open(), !ends, "{writer}");
        assert_eq!(nobody.newest_lease().0 == writer, ends, "{writer}");
        nobody.said.lock().unwrap().clear();
        tasks.shut_down(Duration::from_secs(5)).await;
        // That it stops is said by the drone alone.
        assert_eq!(nobody.has_said("drone.d.status"), !ends, "{writer}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_process_of_the_drone_accepted_is_not_begun() {
    for (instance, begins) in [(Some("other.a"), false), (None, false)] {
        let (host, nobody) = (Arc::new(OddHost { takes: true, ..OddHost::default() }), Arc::new(Nobody::default()));
        let agent = started(parts(&host, &nobody, clock().0), &Tasks::new()).await;
        let accepted = Assignment {
            accepted: true,
            instance: instance.map(str::to_owned),
            ..Assignment::to("d".parse().unwrap(), None)
        };
        let message = BackendMessage::Assignment(accepted);
        let entry = StateEntry::backend("plane.test".parse().unwrap(), "b".parse().unwrap(), message);
        let sequence = nobody.put(entry.subject(), serde_json::to_vec(&entry).unwrap().into());
        let offer = SpawnRequest { assignment_seq: Some(sequence - 1), ..request("b") };
        assert_eq!(agent.clone().spawn(offer).await, Ok(begins));
        assert_eq!(host.begun.lock().unwrap().len(), usize::from(begins));
        let offer = SpawnRequest { assignment_seq: Some(sequence), ..request("b") };
        assert_eq!(agent.spawn(offer).await, Ok(true));
        assert_eq!(*host.begun.lock().unwrap(), ["b".parse().unwrap()]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_times_of_leases_rise_whatever_the_clock_is_set_to() {
    let (host, nobody) = (Arc::new(OddHost::default()), Arc::new(Nobody::default()));
    let (clock, wall) = clock();
    let ahead = wall.load(Ordering::Relaxed) + 3_600_000;
    nobody.lease("nonce.a", ahead);
    let _agent = started(parts(&host, &nobody, clock), &Tasks::new()).await;
    let mut newest = ahead;
    for set_back_by in [0, 7_200_000, -10_800_000, 10_800_000] {
        wall.fetch_sub(set_back_by, Ordering::Relaxed);
        seconds(11).await;
        let (name, timestamp) = nobody.newest_lease();
        assert!(name != "nonce.a" && timestamp > newest, "{timestamp} after {newest}");
        newest = timestamp;
    }
}

#[tokio::test(start_paused = true)]
async fn the_fence_stays_closed_until_it_is_certain_that_earlier_offers_hold_their_locks() {
    for (lock, becomes_certain) in [(None, false), (Some("l"), true), (Some("l"), false)] {
        let (nobody, lock) = (Arc::new(Nobody::default()), lock.map(|lock| lock.parse().unwrap()));
        let is_locked = lock.is_some();
        let offered = SpawnRequest { assignment_seq: Some(1), lock, fencing_token: Some(7), ..request("b") };
        let backend = offered.backend_id.clone();
        let host = Arc::new(OddHost { undecided: Mutex::new(vec![offered]), ..OddHost::default() });
        host.processes.lock().unwrap().push("a".to_owned());
        nobody.lease("nonce.a", 5);
        let agent = started(parts(&host, &nobody, clock().0), &Tasks::new()).await;
        // For longer than a fence is open: the lease is renewed meanwhile.
        for _ in 0..60 {
            seconds(1).await;
            assert_eq!(agent.fence.is_open(), !is_locked);
        }
        match becomes_certain {
            true => agent.add_answers(Vec::new(), true),
            // It was decided about: it is not among them any more.
            false => host.discard(&backend).await.unwrap(),
        }
        seconds(11).await;
        assert!(agent.fence.is_open());
    }
}
