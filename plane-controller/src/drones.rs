//! What this controller hears of the drones: their signs of life, and the entries that follow from them.

use crate::{Core, log};
use futures_util::StreamExt;
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::{DroneState, DroneStatus},
        state::{Lease, StateEntry},
    },
    nats::NatsError,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// What a drone without a lease of its own is given: a controller that hears it writes so often.
const LEASE_FOR_OTHERS: Duration = Duration::from_secs(10);
/// Drones whose entries are written at once; the others wait, and what they said last is looked at then.
const WRITERS: usize = 64;

/// The drones that this controller has heard of itself.
#[derive(Debug)]
pub(crate) struct HeardDrones {
    /// Those of each cluster in the order of their ids, so that some can be drawn at random at no cost.
    heard: Mutex<BTreeMap<ClusterName, Vec<Heard>>>,
    writers: Writers,
    news: watch::Sender<u64>,
}

/// The newest sign of life of a drone.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// When it was read, on the boot clock.
    pub(crate) at: Duration,
    /// What it said.
    pub(crate) status: DroneStatus,
}

impl Default for HeardDrones {
    fn default() -> Self {
        Self { heard: Mutex::default(), writers: Writers::default(), news: watch::Sender::new(0) }
    }
}

impl HeardDrones {
    /// The drones of each cluster, with their newest sign of life.
    pub(crate) fn heard(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Vec<Heard>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, status: DroneStatus, now: Duration) {
        let mut heard = self.heard();
        let drones = heard.entry(status.cluster.clone()).or_default();
        let place = drones.binary_search_by(|known| known.status.drone_id.cmp(&status.drone_id));
        let newest = Heard { at: now, status };
        match place {
            Ok(index) => drones[index] = newest,
            Err(index) => drones.insert(index, newest),
        }
        drop(heard);
        self.news.send_modify(|count| *count += 1);
    }

    /// What a drone said last.
    fn newest(&self, cluster: &ClusterName, drone: &DroneId) -> Option<DroneStatus> {
        let heard = self.heard();
        let drones = heard.get(cluster)?;
        let place = drones.binary_search_by(|known| known.status.drone_id.cmp(drone)).ok()?;
        Some(drones[place].status.clone())
    }

    /// Forgets drones that have been silent for long.
    pub(crate) fn forget_silent(&self, now: Duration, limit: Duration) {
        self.heard().retain(|_, drones| {
            drones.retain(|heard| now.saturating_sub(heard.at) < limit);
            !drones.is_empty()
        });
    }

    /// Tells of every sign of life from now on.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

type Key = (ClusterName, DroneId);

/// The drones whose entries are being written, and those that wait for a writer, each once.
#[derive(Debug, Clone, Default)]
struct Writers {
    turns: Arc<Mutex<Turns>>,
}

#[derive(Debug, Default)]
struct Turns {
    busy: BTreeSet<Key>,
    waiting: BTreeSet<Key>,
}

impl Writers {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with a drone, where nobody writes for it and a writer is free; else it waits. The caller does not: the log
    /// may be slow, and what drones say is read all the same.
    fn begin(&self, key: Key) -> Option<Writing> {
        let mut turns = self.turns();
        if turns.busy.len() >= WRITERS || turns.busy.contains(&key) {
            turns.waiting.insert(key);
            return None;
        }
        turns.waiting.remove(&key);
        turns.busy.insert(key.clone());
        Some(Writing { key, writers: self.clone() })
    }
}

/// The right to write a drone's entries, until it is dropped.
struct Writing {
    key: Key,
    writers: Writers,
}

impl Writing {
    /// Goes on with a drone that waits.
    fn next(self) -> Option<Self> {
        let writers = self.writers.clone();
        drop(self);
        let key = {
            let turns = writers.turns();
            turns.waiting.iter().find(|key| !turns.busy.contains(*key)).cloned()?
        };
        writers.begin(key)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.writers.turns().busy.remove(&self.key);
    }
}

/// What of a drone's sign of life has to go into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    State(DroneState),
    /// A lease for a drone that writes none, expecting this sequence.
    Lease(u64),
}

/// Listens to the signs of life of all drones, for as long as the tasks run.
pub(crate) async fn listen(core: &Arc<Core>) -> Result<(), NatsError> {
    let mut statuses = core.nats.subscribe::<DroneStatus>("cluster.*.drone.*.status").await?;
    let (core, stop) = (core.clone(), core.tasks.stop_token());
    let tasks = core.tasks.clone();
    tasks.spawn_essential("listen to drones", async move {
        while let Some(Some(status)) = stop.run_until_cancelled(statuses.next()).await {
            core.drones.note(status.clone(), core.clock.boot());
            if due(&core, &status).is_empty() {
                continue;
            }
            let Some(writing) = core.drones.writers.begin((status.cluster, status.drone_id)) else { continue };
            let (core, stop) = (core.clone(), stop.clone());
            let tasks = core.tasks.clone();
            tasks.spawn(format!("entries of {}", writing.key.1), async move {
                stop.run_until_cancelled(write_all(&core, writing)).await;
            });
        }
    });
    Ok(())
}

fn due(core: &Core, status: &DroneStatus) -> Vec<Due> {
    let (cluster, drone) = (&status.cluster, &status.drone_id);
    let known = core.view.read(|world| {
        let known = world.drone(cluster, drone)?;
        let lease = known.keep_alive.as_ref().map(|lease| (lease.sequence, lease.lost));
        Some((known.state().map(|reached| reached.state), lease, known.has_feature("lease")))
    });
    let mut due = Vec::new();
    let Some((state, lease, leases)) = known else { return due };
    let lost = lease.is_some_and(|(_, lost)| lost);
    // What a drone says of itself counts again once it has a lease again.
    if state != Some(status.state) && !(lost && leases) {
        due.push(Due::State(status.state));
    }
    if !leases && status.state != DroneState::Stopped {
        let read = core.view.lease_read(cluster, drone);
        if lost || read.is_none_or(|read| core.clock.since(read) >= LEASE_FOR_OTHERS.min(core.timing.silent / 3)) {
            due.push(Due::Lease(lease.map_or(0, |(sequence, _)| sequence)));
        }
    }
    due
}

/// Writes for one drone after the other, as long as some wait.
async fn write_all(core: &Core, first: Writing) {
    let mut turn = Some(first);
    while let Some(writing) = turn {
        let (cluster, drone) = &writing.key;
        if let Some(status) = core.drones.newest(cluster, drone) {
            write(core, cluster, drone, due(core, &status)).await;
        }
        turn = writing.next();
    }
}

async fn write(core: &Core, cluster: &ClusterName, drone: &DroneId, due: Vec<Due>) {
    for due in due {
        let written = match due {
            Due::State(state) => log::enter_drone_state(core, cluster, drone, state).await,
            Due::Lease(expected) => {
                let time = log::time_for(core, cluster, drone);
                let entry = StateEntry::lease(cluster.clone(), drone.clone(), time, Lease::default());
                log::write(&core.nats, &entry, expected).await.map(|_| ())
            }
        };
        if let Err(error) = written {
            tracing::warn!(%drone, %error, "an entry about a drone waits for its next message");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        ("plane.test".parse().unwrap(), format!("drone-{number}").parse().unwrap())
    }

    #[test]
    fn a_drone_has_one_writer_and_waits_for_one_while_others_are_heard() {
        let writers = Writers::default();
        let mut hang: Vec<_> = (0..WRITERS).map(|number| writers.begin(key(number)).unwrap()).collect();
        assert!(writers.begin(key(0)).is_none());
        assert!(writers.begin(key(WRITERS)).is_none());
        // The one that is written for already waits until that is done.
        let next = hang.pop().unwrap().next().unwrap();
        assert_eq!(next.key, key(WRITERS));
        assert!(next.next().is_none());
        assert_eq!(hang.swap_remove(0).next().unwrap().key, key(0));
    }

    #[tokio::test]
    async fn a_writer_that_panics_keeps_nothing_busy() {
        let (writers, tasks) = (Writers::default(), plane_core::task::Tasks::new());
        let writing = writers.begin(key(0)).unwrap();
        tasks.spawn("writer", async move {
            let _writing = writing;
            panic!("on purpose");
        });
        assert!(tasks.shut_down(Duration::from_secs(5)).await);
        assert!(writers.begin(key(0)).is_some());
    }
}
