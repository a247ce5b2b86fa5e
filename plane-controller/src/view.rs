//! This controller's own world: read from the state log, never written to by anything else. Who is told of what was read
//! is in `view/tell.rs`.

mod tell;

use crate::{history::Historian, hub::Hub, placed::InFlight, purge::Purger};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    clock::Clock,
    id::{BackendId, ClusterName, DroneId, LockName},
    message::state::HEARTBEAT_SUBJECT,
    nats::{Event, Replay},
    task::Tasks,
    world::{Change, Entry, Forgotten, Past, World},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tell::News;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The subjects that the world is read from.
pub(crate) const FOLLOWED: &str = "state.>";
/// How many entries are taken into the world at once, where so many have come. Whoever looks at the world waits for
/// them, some 100 µs at most, and signals are looked for after them.
const ENTRIES_AT_ONCE: usize = 64;
/// How many of the newest entries are remembered to be compared with the log.
const ANCHORS: usize = 32;

/// The world as far as this controller has read it.
#[derive(Debug)]
pub(crate) struct View {
    world: RwLock<World>,
    retention: SignedDuration,
    clock: Clock,
    caught_up: watch::Sender<bool>,
    read_to: watch::Sender<u64>,
    reading: Mutex<Reading>,
    /// Told when the log turns out not to be what was read.
    again: Notify,
    /// Whether the reading broke off because of that.
    replaced: AtomicBool,
    /// Told when the log may not be what was read.
    suspicion: Notify,
    /// How many worlds were dropped before this one.
    dropped: AtomicU64,
    /// The newest time that any of them had; what has been told of it is not taken back.
    newest: Mutex<Option<Timestamp>>,
    pub(crate) hub: Hub,
    /// What this controller has placed and not read back.
    pub(crate) in_flight: InFlight,
}

/// What is noted of the reading itself.
#[derive(Debug, Default)]
struct Reading {
    anchors: VecDeque<Anchor>,
    /// When all that there was had been read, on the boot clock.
    caught_up: Duration,
    /// When the newest entry was read, on the boot clock.
    newest: Duration,
    /// When each drone's newest lease was read, on the boot clock; that of a drone that was given up does not count.
    leases: Leases,
    /// Locks whose holder does not live as their holder by its own assignment, and since when: no more than there are locks.
    unexplained: BTreeMap<(ClusterName, LockName), Duration>,
}

/// When the newest lease of each drone was read, on the boot clock.
pub(crate) type Leases = BTreeMap<ClusterName, HashMap<DroneId, Duration>>;

/// An entry that was read, by which the log is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
    /// The log's time when it took it, from which its age counts.
    pub(crate) read_at: Timestamp,
}

impl View {
    pub(crate) fn new(retention: SignedDuration, clock: Clock) -> Self {
        Self {
            world: RwLock::new(World::forgetting_after(retention)),
            retention,
            clock,
            caught_up: watch::Sender::new(false),
            read_to: watch::Sender::new(0),
            reading: Mutex::default(),
            again: Notify::new(),
            replaced: AtomicBool::new(false),
            suspicion: Notify::new(),
            dropped: AtomicU64::new(0),
            newest: Mutex::default(),
            hub: Hub::default(),
            in_flight: InFlight::default(),
        }
    }

    /// Looks at the world. `look` must not wait for anything.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all that was in the log when the reading began has been read.
    pub(crate) fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Resolves once [`Self::is_caught_up`].
    pub(crate) async fn caught_up(&self) {
        let _ = self.caught_up.subscribe().wait_for(|done| *done).await;
    }

    /// Resolves once the entry of this sequence has been read.
    pub(crate) async fn has_read(&self, sequence: u64) {
        let _ = self.read_to.subscribe().wait_for(|read| *read >= sequence).await;
    }

    /// When all that there was had been read, on the boot clock.
    pub(crate) fn caught_up_at(&self) -> Duration {
        self.reading().caught_up
    }

    /// How long ago an entry was read last.
    pub(crate) fn quiet_for(&self) -> Duration {
        let newest = self.reading().newest;
        self.clock.since(newest)
    }

    /// When a drone's newest lease was read, on the boot clock.
    pub(crate) fn lease_read(&self, cluster: &ClusterName, drone: &DroneId) -> Option<Duration> {
        self.reading().leases.get(cluster)?.get(drone).copied()
    }

    /// Looks at when leases were read, together with the world. `look` must not wait for anything.
    pub(crate) fn read_with_leases<T>(&self, look: impl FnOnce(&World, &Leases) -> T) -> T {
        let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
        look(&world, &self.reading().leases)
    }

    /// The newest entries that were read, newest first.
    pub(crate) fn anchors(&self) -> Vec<Anchor> {
        self.reading().anchors.iter().rev().cloned().collect()
    }

    /// Locks that have been held for as long as `patience` by a backend that does not live as their holder.
    pub(crate) fn unexplained_locks(&self, patience: Duration) -> Vec<(ClusterName, LockName)> {
        let now = self.clock.boot();
        let reading = self.reading();
        let old = reading.unexplained.iter().filter(|(_, since)| now.saturating_sub(**since) >= patience);
        old.map(|(lock, _)| lock.clone()).collect()
    }

    /// A backend has got another assignment than with a lock that it may hold.
    pub(crate) fn doubt_holder(&self, cluster: &ClusterName, lock: &LockName, backend: &BackendId) {
        let holder = self.read(|world| Some(world.lock(cluster, lock)?.holder.as_ref()?.backend.clone()));
        if holder.as_ref() == Some(backend) {
            let now = self.clock.boot();
            self.reading().unexplained.entry((cluster.clone(), lock.clone())).or_insert(now);
        }
    }

    /// Drops the world and reads the log again.
    pub(crate) fn read_again(&self) {
        self.caught_up.send_replace(false);
        self.again.notify_one();
    }

    /// The log may not be what was read: it is to be looked at.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Resolves once the log is to be looked at.
    pub(crate) async fn suspicion(&self) {
        self.suspicion.notified().await;
    }

    /// Whether the reading broke off, and the log that is there now is not what was read.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    fn replace(&self) {
        self.caught_up.send_replace(false);
        self.replaced.store(true, Ordering::Release);
        self.suspect();
    }

    /// The newest time that has been read in the log, also before it was read again.
    pub(crate) fn newest_time(&self) -> Option<Timestamp> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = newest.max(self.read(World::newest_time));
        *newest
    }

    /// How many worlds were dropped before this one.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }

    fn drop_world(&self) {
        // Again: between the request for this and now, all may have been read for an earlier one. And first of all:
        // nobody may take the empty world for all that there is.
        self.caught_up.send_replace(false);
        self.dropped.fetch_add(1, Ordering::AcqRel);
        *self.world.write().unwrap_or_else(PoisonError::into_inner) = World::forgetting_after(self.retention);
        *self.reading() = Reading::default();
        self.in_flight.clear();
        self.replaced.store(false, Ordering::Release);
        self.read_to.send_replace(0);
    }

    /// Takes entries into the world, and gives what has been forgotten since the last ones. They are taken together, so
    /// that locks are taken, the clock is read and those who wait are woken once for all of them.
    fn take(&self, entries: &mut Vec<Entry>, history: &Historian) -> Vec<Forgotten> {
        let Some(sequence) = entries.last().map(|newest| newest.sequence) else { return Vec::new() };
        // Telling is dear; before all has been read nobody waits to be told.
        let telling = self.is_caught_up();
        let (mut news, mut renewed, mut anchors, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.drain(..) {
            let change = world.apply(&entry);
            if entry.subject != HEARTBEAT_SUBJECT && !matches!(change, Ok(Change::Lease(..))) {
                let Entry { subject, sequence, time, .. } = entry;
                let read_at = world.time().unwrap_or(time);
                anchors.push(Anchor { subject, sequence, time, read_at });
            }
            match change {
                Ok(Change::Lease(cluster, drone)) => {
                    if world.drone(&cluster, &drone).is_some_and(|known| !known.is_lost()) {
                        renewed.push((cluster, drone));
                    }
                }
                Ok(change) => news.extend(telling.then(|| News::of(&world, change)).flatten()),
                Err(error) => unreadable.push(error),
            }
        }
        let forgotten = world.take_forgotten();
        drop(world);
        let now = self.clock.boot();
        let mut reading = self.reading();
        reading.newest = now;
        let superseded = (reading.anchors.len() + anchors.len()).saturating_sub(ANCHORS);
        reading.anchors.extend(anchors);
        reading.anchors.drain(..superseded);
        for (cluster, drone) in renewed {
            reading.leases.entry(cluster).or_default().insert(drone, now);
        }
        for gone in &forgotten {
            if let (Past::Drone(drone), Some(leases)) = (&gone.what, reading.leases.get_mut(&gone.cluster)) {
                leases.remove(drone);
            }
        }
        drop(reading);
        if telling {
            self.read_to.send_replace(sequence);
        }
        for news in news {
            self.tell(news, history);
        }
        for error in unreadable {
            tracing::warn!(%error, "skipped an entry");
        }
        forgotten
    }
}

/// Follows the log until `stop`. What is forgotten goes to `purge`.
pub(crate) fn follow(
    mut replay: Replay,
    view: Arc<View>,
    history: Arc<Historian>,
    purge: Purger,
    tasks: &Tasks,
    stop: CancellationToken,
) {
    tasks.spawn_essential("follow the state log", async move {
        let mut entries = Vec::with_capacity(ENTRIES_AT_ONCE);
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = view.again.notified() => {
                    view.drop_world();
                    tokio::select! { biased; () = stop.cancelled() => return, () = replay.rewind() => {} }
                    continue;
                }
                event = replay.next() => event,
            };
            let mut ready = Some(first);
            let (mut caught_up, mut replaced) = (false, false);
            while let Some(event) = ready {
                match event {
                    Event::Entry(entry) => entries.push(entry),
                    Event::CaughtUp => caught_up = true,
                    Event::Replaced => replaced = true,
                }
                let enough = caught_up || replaced || entries.len() == ENTRIES_AT_ONCE;
                ready = if enough { None } else { replay.next().now_or_never() };
            }
            for forgotten in view.take(&mut entries, &history) {
                purge.purge(forgotten);
            }
            if caught_up {
                view.settle(&history);
            }
            if replaced {
                view.replace();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history;
    use plane_core::message::{
        drone::DroneState,
        state::{DroneMessage, Lease, StateEntry},
    };

    #[test]
    fn of_entries_that_are_taken_together_the_newest_are_remembered() {
        let view = View::new(SignedDuration::from_hours(1), Clock::machine());
        let history = history::none();
        view.settle(&history);
        let drone = |sequence| {
            let (cluster, drone) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
            let message = DroneMessage::State { timestamp: 1, state: DroneState::Ready };
            let message = StateEntry::drone(cluster, drone, message);
            let payload = serde_json::to_vec(&message).unwrap().into();
            Entry { subject: message.subject(), sequence, time: Timestamp::UNIX_EPOCH, payload }
        };
        for together in [1..=3, 4..=60] {
            view.take(&mut together.map(drone).collect(), &history);
        }
        let sequences: Vec<u64> = view.anchors().iter().map(|anchor| anchor.sequence).collect();
        assert_eq!(sequences, (29..=60).rev().collect::<Vec<_>>());
        assert_eq!(*view.read_to.borrow(), 60);
        assert_eq!(view.read(World::sequence), 60);
    }

    #[test]
    fn of_a_drone_that_is_forgotten_no_lease_is_remembered() {
        let view = View::new(SignedDuration::from_hours(1), Clock::machine());
        let (cluster, drone): (ClusterName, DroneId) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        let stored = |message: StateEntry| (message.subject(), serde_json::to_vec(&message).unwrap());
        let lease = stored(StateEntry::lease(cluster.clone(), drone.clone(), 1, Lease::default()));
        let lost = DroneMessage::State { timestamp: 1, state: DroneState::Lost };
        let lost = stored(StateEntry::drone(cluster.clone(), drone.clone(), lost));
        let beat = (HEARTBEAT_SUBJECT.to_owned(), br#"{"heartbeat":null}"#.to_vec());
        let mut remembered = Vec::new();
        let log = [(1, 0, lease), (2, 0, lost), (3, 2, beat)];
        for (sequence, hours, (subject, payload)) in log {
            let time = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
            view.take(&mut vec![Entry { subject, sequence, time, payload: payload.into() }], &history::none());
            remembered.push(view.lease_read(&cluster, &drone).is_some());
        }
        assert_eq!(remembered, [true, true, false]);
    }

    #[test]
    fn an_emptied_world_is_never_taken_for_all_that_there_is() {
        let view = View::new(SignedDuration::from_hours(1), Clock::machine());
        let history = history::none();
        view.settle(&history);
        assert!(view.is_caught_up());
        // Two ask for it, and all has been read for the first before the second is heard.
        view.read_again();
        view.drop_world();
        view.read_again();
        view.settle(&history);
        assert!(view.is_caught_up());
        view.drop_world();
        assert!(!view.is_caught_up());
        assert_eq!(view.dropped(), 2);
    }
}
