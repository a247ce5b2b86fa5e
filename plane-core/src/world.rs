//! The world as the state log tells it: a pure reduction, without clock, input or chance. Time is the log's.
//!
//! Of every subject the newest entry counts, so that reading the compacted log gives the same world as having read
//! every message. What a controller decides *from* the world lives in the controller.

mod forget;
mod lists;
mod table;
mod view;

#[cfg(test)]
mod tests;

pub use forget::{Forgotten, Past};
pub use view::{Assigned, Backend, Cluster, Drone, DroneMeta, KeepAlive, Load, Lock, Reached, StateSeen};

use crate::{
    id::{BackendId, ClusterName, DroneId, LockName},
    message::state::{
        BackendMessage, BackendText, DroneEntry, DroneMessage, EntryBody, HEARTBEAT_SUBJECT, Heartbeat, LockEntry,
        StateEntry,
    },
};
use jiff::{SignedDuration, Timestamp};
use lists::Listing;
use std::collections::{BTreeMap, HashSet};

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
    /// A drone's lease.
    Lease(ClusterName, DroneId),
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
#[derive(Debug, Clone, Default)]
pub struct World {
    clusters: BTreeMap<ClusterName, Cluster>,
    /// Every name above that of a cluster.
    above: HashSet<Box<str>>,
    sequence: u64,
    time: Option<Timestamp>,
    /// The newest time that heartbeats tell of.
    told: Option<Timestamp>,
    retention: Option<SignedDuration>,
    forgotten: Vec<Forgotten>,
}

/// Two worlds are the same if they know the same; what of it is still to be purged from the log does not count.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        (&self.clusters, self.sequence, self.time) == (&other.clusters, other.sequence, other.time)
    }
}

impl World {
    /// An empty world that forgets what ended longer ago than `retention`, by the log's time.
    pub fn forgetting_after(retention: SignedDuration) -> Self {
        Self { retention: Some(retention), ..Self::default() }
    }

    /// Takes the next entry of the log. Entries at or below the newest sequence change nothing.
    ///
    /// # Errors
    /// Where the entry cannot be read; it is skipped.
    pub fn apply(&mut self, entry: &Entry) -> Result<Change, UnreadableEntry> {
        if entry.sequence <= self.sequence {
            return Ok(Change::Nothing);
        }
        self.sequence = entry.sequence;
        // Where the clock of a server was set back, the log's time stands still until it has come so far again: ages are
        // too low meanwhile, never too high.
        let time = self.time.map_or(entry.time, |time| time.max(entry.time));
        self.time = Some(time);
        self.forget();
        if entry.subject == HEARTBEAT_SUBJECT {
            let newest = serde_json::from_slice::<Heartbeat>(&entry.payload).ok().and_then(|beat| beat.newest);
            self.told = self.told.max(newest);
            return Ok(Change::Nothing);
        }
        if let Some(change) = self.reduce_text(entry, time) {
            return Ok(change);
        }
        let unreadable =
            |cause: String| UnreadableEntry { sequence: entry.sequence, subject: entry.subject.clone(), cause };
        let message: StateEntry = serde_json::from_slice(&entry.payload).map_err(|e| unreadable(e.to_string()))?;
        if !message.stands_on(&entry.subject) {
            return Err(unreadable(format!("its content belongs on {}", message.subject())));
        }
        Ok(self.reduce(message, entry.sequence, time))
    }

    /// Takes an entry about a backend of a known cluster, with as few copies as that needs. `None` where it is another.
    fn reduce_text(&mut self, entry: &Entry, time: Timestamp) -> Option<Change> {
        let text = BackendText::read(&entry.subject, &entry.payload)?;
        let (name, _) = self.clusters.get_key_value(text.cluster)?;
        let name = name.clone();
        let cluster = self.clusters.get_mut(text.cluster)?;
        let backend = match cluster.backends.known(text.backend) {
            Some(known) => known.clone(),
            None => text.backend.parse().ok()?,
        };
        cluster.reduce_backend(&backend, text.message, entry.sequence, time);
        Some(Change::Backend(name, backend))
    }

    fn reduce(&mut self, message: StateEntry, sequence: u64, time: Timestamp) -> Change {
        let name = message.cluster;
        let cluster = match self.clusters.get_mut(&name) {
            Some(cluster) => cluster,
            None => {
                let above = name.as_str().match_indices('.').filter_map(|(dot, _)| name.as_str().get(dot + 1..));
                self.above.extend(above.map(Box::from));
                self.clusters.entry(name.clone()).or_default()
            }
        };
        match message.body {
            EntryBody::DroneMessage(entry) => cluster.reduce_drone(name, entry, sequence, time),
            EntryBody::BackendMessage(entry) => {
                // One copy of its id, however often the log names it.
                let known = cluster.backends.known(entry.backend.as_str()).cloned();
                let backend = known.unwrap_or(entry.backend);
                cluster.reduce_backend(&backend, entry.message, sequence, time);
                Change::Backend(name, backend)
            }
            EntryBody::LockMessage(entry) => {
                let lock = entry.lock.clone();
                cluster.reduce_lock(entry, sequence, time);
                Change::Lock(name, lock)
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

    /// The cluster that goes by this name, which need not be one that a cluster can have.
    pub fn cluster_named(&self, name: &str) -> Option<&Cluster> {
        self.clusters.get(name)
    }

    /// Whether the name of a cluster that the log has spoken of ends with a dot and this.
    pub fn is_above_a_cluster(&self, name: &str) -> bool {
        self.above.contains(name)
    }

    /// One backend.
    pub fn backend(&self, cluster: &ClusterName, backend: &BackendId) -> Option<&Backend> {
        self.clusters.get(cluster)?.backend(backend)
    }

    /// One drone.
    pub fn drone(&self, cluster: &ClusterName, drone: &DroneId) -> Option<&Drone> {
        self.clusters.get(cluster)?.drones.get(drone)
    }

    /// One lock.
    pub fn lock(&self, cluster: &ClusterName, lock: &LockName) -> Option<&Lock> {
        self.clusters.get(cluster)?.locks.get(lock)
    }

    /// The sequence of the newest entry that was read; 0 for none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The log's own time: the newest that an entry had which was read.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// The same, or what heartbeats tell of: what is made from it rises also where the entry that had the newest time is
    /// gone and the clock of the server was set back.
    pub fn newest_time(&self) -> Option<Timestamp> {
        self.time.max(self.told)
    }
}

impl Cluster {
    fn reduce_drone(&mut self, name: ClusterName, entry: DroneEntry, sequence: u64, time: Timestamp) -> Change {
        let drone = self.drones.entry(entry.drone.clone()).or_default();
        let change = match entry.message {
            DroneMessage::Metadata { ip, version, git_hash, features } => {
                drone.meta = Some(DroneMeta { ip, version, git_hash, features, sequence });
                Change::Drone(name, entry.drone.clone())
            }
            DroneMessage::State { timestamp, state } => {
                drone.reach(Reached { state, timestamp, sequence }, time);
                Change::Drone(name, entry.drone.clone())
            }
            DroneMessage::KeepAlive { timestamp } => {
                let (instance, lost, answers) = (entry.instance, entry.lost, entry.answers);
                drone.keep_alive = Some(KeepAlive { sequence, timestamp, instance, lost, answers });
                Change::Lease(name, entry.drone.clone())
            }
        };
        self.note_drone(&entry.drone);
        change
    }

    fn reduce_backend(&mut self, id: &BackendId, message: BackendMessage, sequence: u64, time: Timestamp) {
        let message = match (message, self.backends.get_mut(id.as_str()).filter(|backend| backend.assignment.is_some()))
        {
            // The most common entry changes none of the lists.
            (BackendMessage::State(reached), Some(backend)) if !reached.state.is_final() => {
                return backend.reach(reached, sequence, time);
            }
            (other, _) => other,
        };
        let known = self.backends.get(id.as_str());
        let accepts = |new| known.is_some_and(|backend| backend.accepts(new));
        // An acceptance changes only one of the lists.
        let (accepted, relist) = match &message {
            BackendMessage::Assignment(new) if accepts(new) => (true, false),
            BackendMessage::Assignment(_) | BackendMessage::State(_) => (false, true),
        };
        if let Some(before) = known.filter(|_| relist).and_then(Listing::of) {
            self.unlist(id, before);
        }
        if accepted {
            self.unaccepted.remove(id);
        }
        let backend = self.backends.get_or_default(id);
        match message {
            BackendMessage::Assignment(assignment) => {
                // One copy of a drone's id, however many backends it has.
                let known = self.drones.get_key_value(&assignment.drone);
                let drone = known.map_or_else(|| assignment.drone.clone(), |(known, _)| known.clone());
                backend.assignment = Some(Assigned::new(drone, assignment, sequence, time));
            }
            BackendMessage::State(reached) => backend.reach(reached, sequence, time),
        }
        if let Some(now) = Listing::of(backend).filter(|_| relist) {
            self.list(id, now);
        }
    }

    fn reduce_lock(&mut self, entry: LockEntry, sequence: u64, time: Timestamp) {
        let LockEntry { lock: name, holder, last_token } = entry;
        if let Some(before) = self.locks.get(&name) {
            self.free.remove(&(before.time, name.clone()));
        }
        if holder.is_none() {
            self.free.insert((time, name.clone()));
        }
        let token = holder.as_ref().map(|holder| holder.token).or(last_token).unwrap_or(0);
        self.locks.insert(name, Lock { holder, token, sequence, time });
    }
}
