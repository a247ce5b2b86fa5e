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
use tokio::sync::{Semaphore, watch};

/// What a drone without a lease of its own is given: a controller that hears it writes so often.
const LEASE_FOR_OTHERS: Duration = Duration::from_secs(10);
/// Drones whose entries are written at once.
const WRITERS: usize = 64;

/// The drones that this controller has heard of itself.
#[derive(Debug)]
pub(crate) struct HeardDrones {
    /// Those of each cluster in the order of their ids, so that some can be drawn at random at no cost.
    heard: Mutex<BTreeMap<ClusterName, Vec<Heard>>>,
    busy: Mutex<BTreeSet<(ClusterName, DroneId)>>,
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
        Self { heard: Mutex::default(), busy: Mutex::default(), news: watch::Sender::new(0) }
    }
}

impl HeardDrones {
    /// The drones of each cluster, with their newest sign of life.
    pub(crate) fn heard(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Vec<Heard>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<(ClusterName, DroneId)>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
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
    let places = Arc::new(Semaphore::new(WRITERS));
    let tasks = core.tasks.clone();
    tasks.spawn_essential("listen to drones", async move {
        while let Some(Some(status)) = stop.run_until_cancelled(statuses.next()).await {
            core.drones.note(status.clone(), core.clock.boot());
            let due = due(&core, &status);
            let key = (status.cluster.clone(), status.drone_id.clone());
            if due.is_empty() || !core.drones.busy().insert(key.clone()) {
                continue;
            }
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (writer, stop) = (core.clone(), stop.clone());
            core.tasks.spawn(format!("entries of {}", key.1), async move {
                stop.run_until_cancelled(write(&writer, &key.0, &key.1, due)).await;
                writer.drones.busy().remove(&key);
                drop(place);
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

async fn write(core: &Core, cluster: &ClusterName, drone: &DroneId, due: Vec<Due>) {
    for due in due {
        let written = match due {
            Due::State(state) => log::enter_drone_state(&core.nats, &core.clock, cluster, drone, state).await,
            Due::Lease(expected) => {
                let now = core.clock.wall().as_millisecond();
                let entry = StateEntry::lease(cluster.clone(), drone.clone(), now, Lease::default());
                log::write(&core.nats, &entry, expected).await.map(|_| ())
            }
        };
        if let Err(error) = written {
            tracing::warn!(%drone, %error, "an entry about a drone waits for its next message");
        }
    }
}
