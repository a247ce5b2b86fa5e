//! The world as the state log tells it: a pure reduction, without clock, input or chance. Time is the log's.
//!
//! Of every subject the newest entry counts, so that reading the compacted log gives the same world as having read
//! every message. What a controller decides *from* the world lives in the controller.

use crate::{
    id::{BackendId, BearerToken, ClusterName, DroneId, LockName},
    message::{
        backend::BackendState,
        drone::DroneState,
        state::{
            Assignment, BackendMessage, DroneMessage, EntryBody, HEARTBEAT_SUBJECT, HeldLock, Holder, Millis,
            ReachedState, StateEntry,
        },
    },
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

#[cfg(test)]
mod tests;

/// An entry as it stands in the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream took it.
    pub time: Timestamp,
    /// Its content.
    pub payload: bytes::Bytes,
}

/// What an entry changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing but the log's time: a heartbeat, an old entry, or one that this version does not know.
    Nothing,
    /// A drone.
    Drone(ClusterName, DroneId),
    /// A backend.
    Backend(ClusterName, BackendId),
    /// A lock.
    Lock(ClusterName, LockName),
    /// The challenge values of a cluster.
    Acme(ClusterName),
}

/// Why an entry could not be read. The world is unchanged but for the log's time.
#[derive(Debug, thiserror::Error)]
#[error("entry {sequence} on {subject} is not readable: {cause}")]
pub struct UnreadableEntry {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// What is wrong with it.
    pub cause: String,
}

/// All that the log has decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    clusters: BTreeMap<ClusterName, Cluster>,
    sequence: u64,
    time: Option<Timestamp>,
}

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its drones.
    pub drones: BTreeMap<DroneId, Drone>,
    /// Its backends.
    pub backends: HashMap<BackendId, Backend>,
    /// Its locks.
    pub locks: HashMap<LockName, Lock>,
    /// The newest challenge values.
    pub acme: Vec<String>,
}

/// One drone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drone {
    /// How it is reached and what it is; `None` until it registered.
    pub meta: Option<DroneMeta>,
    /// Its state.
    pub state: Option<Reached<DroneState>>,
    /// Its lease.
    pub keep_alive: Option<KeepAlive>,
}

/// How a drone is reached, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroneMeta {
    /// The address of its proxy.
    pub ip: IpAddr,
    /// Its version.
    pub version: String,
    /// The commit that it was built from.
    pub git_hash: Option<String>,
    /// What it can beyond 0.3.
    pub features: Vec<String>,
}

/// A state and when it was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached<S> {
    /// The state.
    pub state: S,
    /// The writer's time.
    pub timestamp: Millis,
    /// The entry's sequence.
    pub sequence: u64,
}

/// A drone's lease as last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// The entry's sequence.
    pub sequence: u64,
    /// The drone's time.
    pub timestamp: Millis,
    /// The nonce of its process.
    pub instance: Option<String>,
    /// Whether the drone was given up.
    pub lost: bool,
}

/// One backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// Who may start it.
    pub assignment: Option<Assigned>,
    /// The states that it reached, by sequence.
    states: Vec<StateSeen>,
}

/// An assignment and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The drone.
    pub drone: DroneId,
    /// What requests to the backend must carry.
    pub bearer_token: Option<BearerToken>,
    /// The lock that it holds.
    pub lock: Option<HeldLock>,
    /// Whether the drone took it.
    pub accepted: bool,
    /// Whether a controller took it back.
    pub withdrawn: bool,
    /// The entry's sequence.
    pub sequence: u64,
    /// When the log took it.
    pub time: Timestamp,
}

/// A state of a backend, and the sequence of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSeen {
    /// The state, its time and reason.
    pub reached: ReachedState,
    /// The entry's sequence.
    pub sequence: u64,
}

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it.
    pub holder: Option<Holder>,
    /// The entry's sequence.
    pub sequence: u64,
}

impl Backend {
    /// The state that counts: the first final one, else the furthest.
    pub fn current(&self) -> Option<&StateSeen> {
        let mut finals = self.states.iter().filter(|seen| seen.reached.state.is_final());
        finals.next().or_else(|| self.states.iter().max_by_key(|seen| seen.reached.state.rank()))
    }

    /// The state that counts, alone.
    pub fn state(&self) -> Option<BackendState> {
        self.current().map(|seen| seen.reached.state)
    }

    /// Whether it may still run: assigned, not taken back, not ended.
    pub fn is_live(&self) -> bool {
        !self.state().is_some_and(BackendState::is_final)
            && self.assignment.as_ref().is_some_and(|assigned| !assigned.withdrawn)
    }

    /// Its history as the world is to see it: forward only, ending with the final state that counts.
    pub fn history(&self) -> Vec<&StateSeen> {
        let mut history: Vec<&StateSeen> = Vec::new();
        let mut seen: Vec<&StateSeen> = self.states.iter().filter(|seen| !seen.reached.state.is_final()).collect();
        seen.sort_by_key(|seen| seen.reached.state.rank());
        history.extend(seen);
        history.extend(self.states.iter().find(|seen| seen.reached.state.is_final()));
        history
    }

    /// The newest timestamp of its entries; what is written next must be above it.
    pub fn newest_timestamp(&self) -> Option<Millis> {
        self.states.iter().map(|seen| seen.reached.timestamp).max()
    }

    fn reach(&mut self, reached: ReachedState, sequence: u64) {
        self.states.retain(|seen| seen.reached.state != reached.state);
        self.states.push(StateSeen { reached, sequence });
    }
}

impl World {
    /// Takes the next entry of the log. Entries at or below the newest sequence change nothing.
    ///
    /// # Errors
    /// Where the entry cannot be read; it is skipped.
    pub fn apply(&mut self, entry: &Entry) -> Result<Change, UnreadableEntry> {
        if entry.sequence <= self.sequence {
            return Ok(Change::Nothing);
        }
        self.sequence = entry.sequence;
        self.time = self.time.max(Some(entry.time));
        if entry.subject == HEARTBEAT_SUBJECT {
            return Ok(Change::Nothing);
        }
        let unreadable =
            |cause: String| UnreadableEntry { sequence: entry.sequence, subject: entry.subject.clone(), cause };
        let message: StateEntry = serde_json::from_slice(&entry.payload).map_err(|e| unreadable(e.to_string()))?;
        if message.subject() != entry.subject {
            return Err(unreadable(format!("its content belongs on {}", message.subject())));
        }
        Ok(self.reduce(message, entry.sequence, entry.time))
    }

    fn reduce(&mut self, message: StateEntry, sequence: u64, time: Timestamp) -> Change {
        let name = message.cluster;
        let cluster = self.clusters.entry(name.clone()).or_default();
        match message.body {
            EntryBody::DroneMessage(entry) => {
                let drone = cluster.drones.entry(entry.drone.clone()).or_default();
                match entry.message {
                    DroneMessage::Metadata { ip, version, git_hash, features } => {
                        drone.meta = Some(DroneMeta { ip, version, git_hash, features });
                    }
                    DroneMessage::State { timestamp, state } => {
                        drone.state = Some(Reached { state, timestamp, sequence });
                    }
                    DroneMessage::KeepAlive { timestamp } => {
                        let (instance, lost) = (entry.instance, entry.lost);
                        drone.keep_alive = Some(KeepAlive { sequence, timestamp, instance, lost });
                    }
                }
                Change::Drone(name, entry.drone)
            }
            EntryBody::BackendMessage(entry) => {
                let backend = cluster.backends.entry(entry.backend.clone()).or_default();
                match entry.message {
                    BackendMessage::Assignment(Assignment {
                        drone, bearer_token, lock, accepted, withdrawn, ..
                    }) => {
                        let assigned = Assigned { drone, bearer_token, lock, accepted, withdrawn, sequence, time };
                        backend.assignment = Some(assigned);
                    }
                    BackendMessage::State(reached) => backend.reach(reached, sequence),
                }
                Change::Backend(name, entry.backend)
            }
            EntryBody::LockMessage(entry) => {
                cluster.locks.insert(entry.lock.clone(), Lock { holder: entry.holder, sequence });
                Change::Lock(name, entry.lock)
            }
            EntryBody::AcmeMessage(entry) => {
                cluster.acme = if entry.values.is_empty() { vec![entry.value] } else { entry.values };
                Change::Acme(name)
            }
        }
    }

    /// Every cluster that the log speaks of.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterName, &Cluster)> {
        self.clusters.iter()
    }

    /// One cluster.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.clusters.get(name)
    }

    /// One backend.
    pub fn backend(&self, cluster: &ClusterName, backend: &BackendId) -> Option<&Backend> {
        self.clusters.get(cluster)?.backends.get(backend)
    }

    /// One drone.
    pub fn drone(&self, cluster: &ClusterName, drone: &DroneId) -> Option<&Drone> {
        self.clusters.get(cluster)?.drones.get(drone)
    }

    /// The sequence of the newest entry that was read; 0 for none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The log's own time: that of its newest entry.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }
}
