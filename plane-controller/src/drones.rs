//! What this controller hears of the drones: their signs of life, and the state entries that follow from them.

use crate::view::View;
use futures_util::StreamExt;
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::{DroneState, DroneStatus},
        state::{DroneMessage, EntryBody, StateEntry},
    },
    nats::{Nats, NatsError, StreamName},
    task::Tasks,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// A drone that has been silent for this long is no candidate.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(30);

/// The drones that this controller has heard of itself.
#[derive(Debug)]
pub(crate) struct HeardDrones {
    heard: Mutex<HashMap<(ClusterName, DroneId), Heard>>,
    news: watch::Sender<u64>,
}

/// The newest sign of life of a drone.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// When it was read.
    pub(crate) at: Instant,
    /// What it said.
    pub(crate) status: DroneStatus,
}

impl Default for HeardDrones {
    fn default() -> Self {
        Self { heard: Mutex::default(), news: watch::Sender::new(0) }
    }
}

impl HeardDrones {
    fn note(&self, status: DroneStatus) {
        let key = (status.cluster.clone(), status.drone_id.clone());
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, heard| heard.at.elapsed() < SILENT_AFTER);
        heard.insert(key, Heard { at: Instant::now(), status });
        drop(heard);
        self.news.send_modify(|count| *count += 1);
    }

    /// The drones of a cluster that are not silent.
    pub(crate) fn audible(&self, cluster: &ClusterName) -> Vec<DroneStatus> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let alive =
            heard.values().filter(|heard| heard.status.cluster == *cluster && heard.at.elapsed() < SILENT_AFTER);
        alive.map(|heard| heard.status.clone()).collect()
    }

    /// Tells of every sign of life from now on.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

/// Listens to the signs of life of all drones, for as long as the tasks run.
pub(crate) async fn listen(
    nats: &Nats,
    view: Arc<View>,
    drones: Arc<HeardDrones>,
    tasks: &Tasks,
) -> Result<(), NatsError> {
    let mut statuses = nats.subscribe::<DroneStatus>("cluster.*.drone.*.status").await?;
    let (nats, stop) = (nats.clone(), tasks.stop_token());
    tasks.spawn_essential("listen to drones", async move {
        while let Some(Some(status)) = stop.run_until_cancelled(statuses.next()).await {
            drones.note(status.clone());
            let known = view.read(|world| {
                world
                    .drone(&status.cluster, &status.drone_id)
                    .map(|drone| drone.state.as_ref().map(|s| (s.state, s.timestamp)))
            });
            let Some(known) = known else { continue };
            if known.map(|(state, _)| state) != Some(status.state)
                && let Err(error) = enter_state(&nats, &status.cluster, &status.drone_id, status.state).await
            {
                tracing::warn!(drone = %status.drone_id, %error, "a drone's state waits for its next message");
            }
        }
    });
    Ok(())
}

/// Puts a drone's state into the log, unless the log has it already. Of several controllers one writes it.
async fn enter_state(nats: &Nats, cluster: &ClusterName, drone: &DroneId, state: DroneState) -> Result<(), NatsError> {
    let any = format!("state.cluster.{}.drone.{drone}.status.*", cluster.subject_token());
    let newest = nats.last(StreamName::State, &any).await?.and_then(|stored| {
        let entry: StateEntry = serde_json::from_slice(&stored.payload).ok()?;
        match entry.body {
            EntryBody::DroneMessage(entry) => match entry.message {
                DroneMessage::State { timestamp, state } => Some((state, timestamp)),
                DroneMessage::Metadata { .. } | DroneMessage::KeepAlive { .. } => None,
            },
            EntryBody::BackendMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
        }
    });
    if newest.is_some_and(|(known, _)| known == state) {
        return Ok(());
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let timestamp = newest.map_or(now, |(_, newest)| now.max(newest + 1));
    let entry = StateEntry::drone(cluster.clone(), drone.clone(), DroneMessage::State { timestamp, state });
    let last = nats.last(StreamName::State, &entry.subject()).await?.map_or(0, |stored| stored.sequence);
    match nats.publish_expecting(entry.subject(), &entry, last).await {
        Ok(_) => {
            tracing::info!(%cluster, %drone, %state, "drone");
            Ok(())
        }
        Err(NatsError::WrongSequence(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
