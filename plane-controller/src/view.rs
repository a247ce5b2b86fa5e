//! This controller's own world: read from the state log, never written to by anything else. Who is told of what was read
//! is in `view/tell.rs`.

mod tell;

use crate::{history::Historian, hub::Hub, placed::InFlight};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    clock::Clock,
    id::{ClusterName, DroneId, LockName},
    message::state::HEARTBEAT_SUBJECT,
    nats::{Event, Nats, NatsError, StreamName},
    task::Tasks,
    world::{Change, Entry, Forgotten, World},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, watch};

/// Entries that may be read without looking for signals.
const SIGNALS_EVERY: u64 = 64;
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
    /// How many worlds were dropped before this one.
    dropped: AtomicU64,
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
    /// Locks whose holder no entry speaks of, and since when.
    unexplained: BTreeMap<(ClusterName, LockName), Duration>,
}

/// When the newest lease of each drone was read, on the boot clock.
pub(crate) type Leases = BTreeMap<ClusterName, BTreeMap<DroneId, Duration>>;

/// An entry that was read, by which the log is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
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
            dropped: AtomicU64::new(0),
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

    /// Locks that have been held for as long as `patience` by a backend that no entry speaks of.
    pub(crate) fn unexplained_locks(&self, patience: Duration) -> Vec<(ClusterName, LockName)> {
        let now = self.clock.boot();
        let reading = self.reading();
        let old = reading.unexplained.iter().filter(|(_, since)| now.saturating_sub(**since) >= patience);
        old.map(|(lock, _)| lock.clone()).collect()
    }

    /// Drops the world and reads the log again.
    pub(crate) fn read_again(&self) {
        self.caught_up.send_replace(false);
        self.again.notify_one();
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
        self.read_to.send_replace(0);
    }

    /// Takes an entry into the world, and gives what has been forgotten since the last one.
    fn take(&self, entry: Entry, history: &Historian) -> Vec<Forgotten> {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        let change = world.apply(&entry);
        let forgotten = world.take_forgotten();
        let renewed = match &change {
            Ok(Change::Lease(cluster, drone)) if world.drone(cluster, drone).is_some_and(|known| !known.is_lost()) => {
                Some((cluster.clone(), drone.clone()))
            }
            _ => None,
        };
        drop(world);
        let now = self.clock.boot();
        let sequence = entry.sequence;
        let mut reading = self.reading();
        reading.newest = now;
        if entry.subject != HEARTBEAT_SUBJECT && !matches!(change, Ok(Change::Lease(..))) {
            if reading.anchors.len() == ANCHORS {
                reading.anchors.pop_front();
            }
            let Entry { subject, sequence, time, .. } = entry;
            reading.anchors.push_back(Anchor { subject, sequence, time });
        }
        if let Some((cluster, drone)) = renewed {
            reading.leases.entry(cluster).or_default().insert(drone, now);
        }
        drop(reading);
        // Telling all who wait is dear; before all has been read nobody does.
        if self.is_caught_up() {
            self.read_to.send_replace(sequence);
        }
        match change {
            Ok(Change::Backend(cluster, backend)) if self.is_caught_up() => {
                self.tell_of_backend(cluster, backend, history);
            }
            Ok(Change::Lock(cluster, lock)) if self.is_caught_up() => self.tell_of_lock(cluster, lock, history),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "skipped an entry"),
        }
        forgotten
    }
}

/// Follows the log for as long as the tasks run. What is forgotten goes to `purge`.
pub(crate) async fn follow(
    nats: &Nats,
    view: Arc<View>,
    history: Arc<Historian>,
    purge: mpsc::UnboundedSender<Forgotten>,
    tasks: &Tasks,
) -> Result<(), NatsError> {
    let mut replay = nats.replay(StreamName::State, "state.>").await?;
    let stop = tasks.stop_token();
    tasks.spawn_essential("follow the state log", async move {
        for turn in 0_u64.. {
            // Signals are looked for now and then while there is enough to read.
            let ready = if turn % SIGNALS_EVERY == 0 { None } else { replay.next().now_or_never() };
            let event = match ready {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = view.again.notified() => {
                        view.drop_world();
                        tokio::select! { biased; () = stop.cancelled() => return, () = replay.rewind() => {} }
                        continue;
                    }
                    event = replay.next() => event,
                },
            };
            match event {
                Event::Entry(entry) => {
                    for forgotten in view.take(entry, &history) {
                        // The purger ends with everything else.
                        let _ = purge.send(forgotten);
                    }
                }
                Event::CaughtUp => view.settle(&history),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history;

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
