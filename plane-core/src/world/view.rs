//! What the world consists of.

use super::table::Table;
use crate::{
    id::{BackendId, BearerToken, DroneId, LockName},
    message::{
        backend::BackendState,
        drone::DroneState,
        state::{Assignment, HeldLock, Holder, Millis, ReachedState},
    },
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its drones.
    pub drones: BTreeMap<DroneId, Drone>,
    /// Its locks.
    pub locks: HashMap<LockName, Lock>,
    /// The newest challenge values.
    pub acme: Vec<String>,
    pub(super) backends: Table,
    pub(super) loads: HashMap<DroneId, Load>,
    pub(super) unaccepted: HashSet<BackendId>,
    /// What has ended, and when.
    pub(super) ended: BTreeSet<(Timestamp, BackendId)>,
    pub(super) gone: BTreeSet<(Timestamp, DroneId)>,
    pub(super) free: BTreeSet<(Timestamp, LockName)>,
}

/// What of a drone is in use: by backends that are assigned to it and have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// The backends, in no particular order.
    pub backends: HashSet<BackendId>,
    /// The memory limits that their requests named, in bytes.
    pub memory_bytes: u64,
    /// The shares of a processor that their requests named, in percent of one.
    pub cpu_percent: u64,
}

/// One drone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drone {
    /// How it is reached and what it is; `None` until it registered.
    pub meta: Option<DroneMeta>,
    /// Its lease.
    pub keep_alive: Option<KeepAlive>,
    /// The newest entry of each state.
    pub(super) states: Vec<Reached<DroneState>>,
    /// The log's time when it took the state that counts.
    pub(super) since: Option<Timestamp>,
    /// Under which time it is listed as gone.
    pub(super) listed: Option<Timestamp>,
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
    /// The entry's sequence.
    pub sequence: u64,
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
    /// The writer's time.
    pub timestamp: Millis,
    /// The nonce of its process.
    pub instance: Option<String>,
    /// Whether the drone was given up.
    pub lost: bool,
    /// The calls that its announcements have answered.
    pub answers: Vec<String>,
}

/// One backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// Who may start it.
    pub assignment: Option<Assigned>,
    /// The states that it reached, by sequence.
    pub(super) states: Vec<StateSeen>,
    /// The log's time when it took the final state that counts, or the newest where there is none. States are never written again:
    /// age is counted from what stays.
    pub(super) reached: Option<Timestamp>,
}

/// An assignment and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The drone.
    pub drone: DroneId,
    /// Whether the drone took it.
    pub accepted: bool,
    /// Whether a controller took it back.
    pub withdrawn: bool,
    /// The entry's sequence.
    pub sequence: u64,
    /// The log's time when it took it.
    pub time: Timestamp,
    /// Most have none, and there are many of them.
    terms: Option<Box<Terms>>,
}

/// What an assignment says beside who runs the backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Terms {
    bearer_token: Option<BearerToken>,
    lock: Option<HeldLock>,
    memory_bytes: Option<u64>,
    cpu_percent: Option<u32>,
}

impl Assigned {
    pub(super) fn new(drone: DroneId, assignment: Assignment, sequence: u64, time: Timestamp) -> Self {
        let Assignment { bearer_token, lock, accepted, withdrawn, memory_bytes, cpu_percent, .. } = assignment;
        let terms = Terms { bearer_token, lock, memory_bytes, cpu_percent };
        let terms = (terms != Terms::default()).then(|| Box::new(terms));
        Self { drone, accepted, withdrawn, sequence, time, terms }
    }

    /// What requests to the backend must carry.
    pub fn bearer_token(&self) -> Option<&BearerToken> {
        self.terms.as_ref()?.bearer_token.as_ref()
    }

    /// The lock that the backend holds, or is to hold.
    pub fn lock(&self) -> Option<&HeldLock> {
        self.terms.as_ref()?.lock.as_ref()
    }

    /// The limit of the backend's memory, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.terms.as_ref()?.memory_bytes
    }

    /// The limit of the backend's processor time, in percent of one processor.
    pub fn cpu_percent(&self) -> Option<u32> {
        self.terms.as_ref()?.cpu_percent
    }

    /// The same assignment to write anew, neither accepted nor withdrawn.
    pub fn again(&self) -> Assignment {
        let Terms { bearer_token, lock, memory_bytes, cpu_percent } =
            self.terms.as_deref().cloned().unwrap_or_default();
        Assignment { lock, memory_bytes, cpu_percent, ..Assignment::to(self.drone.clone(), bearer_token) }
    }
}

/// A state of a backend, and the sequence of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSeen {
    /// The state.
    pub state: BackendState,
    /// The writer's time.
    pub timestamp: Millis,
    /// The entry's sequence.
    pub sequence: u64,
    /// Most states have none.
    detail: Option<Box<Detail>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Detail {
    reason: Option<String>,
    exit_code: Option<i64>,
}

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it.
    pub holder: Option<Holder>,
    /// The token of its holder, or of the last one; 0 where there was none.
    pub token: u64,
    /// The entry's sequence.
    pub sequence: u64,
    /// The log's time when it took it.
    pub time: Timestamp,
}

impl StateSeen {
    /// Why, where it ended.
    pub fn reason(&self) -> Option<&str> {
        self.detail.as_ref()?.reason.as_deref()
    }

    /// The exit status of its process.
    pub fn exit_code(&self) -> Option<i64> {
        self.detail.as_ref()?.exit_code
    }
}

impl Drone {
    /// Its state: the one with the highest sequence.
    pub fn state(&self) -> Option<&Reached<DroneState>> {
        self.states.last()
    }

    /// Whether it declared a feature when it registered.
    pub fn has_feature(&self, feature: &str) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.features.iter().any(|known| known == feature))
    }

    /// Whether controllers have given it up, and it has not come back.
    pub fn is_lost(&self) -> bool {
        self.keep_alive.as_ref().is_some_and(|keep_alive| keep_alive.lost)
    }

    /// The newest timestamp of its entries; what is written next must be above it.
    pub fn newest_timestamp(&self) -> Option<Millis> {
        let states = self.states.iter().map(|reached| reached.timestamp);
        states.chain(self.keep_alive.as_ref().map(|lease| lease.timestamp)).max()
    }

    pub(super) fn reach(&mut self, reached: Reached<DroneState>, time: Timestamp) {
        self.states.retain(|before| before.state != reached.state);
        self.states.push(reached);
        self.since = Some(time);
    }
}

impl Backend {
    /// The state that counts: the first final one, else the furthest.
    pub fn current(&self) -> Option<&StateSeen> {
        let mut finals = self.states.iter().filter(|seen| seen.state.is_final());
        finals.next().or_else(|| self.states.iter().max_by_key(|seen| seen.state.rank()))
    }

    /// The state that counts, alone.
    pub fn state(&self) -> Option<BackendState> {
        self.current().map(|seen| seen.state)
    }

    /// Whether it reached its final state.
    pub fn has_ended(&self) -> bool {
        self.states.iter().any(|seen| seen.state.is_final())
    }

    /// Whether it may still run: assigned, not taken back, not ended.
    pub fn is_live(&self) -> bool {
        !self.has_ended() && self.assignment.as_ref().is_some_and(|assigned| !assigned.withdrawn)
    }

    /// Whether a drone took it and it has not ended.
    pub fn is_accepted(&self) -> bool {
        self.is_live() && self.assignment.as_ref().is_some_and(|assigned| assigned.accepted)
    }

    /// Whether its assignment was taken back before anything was started.
    pub fn is_withdrawn(&self) -> bool {
        self.assignment.as_ref().is_some_and(|assigned| assigned.withdrawn)
    }

    /// Its history as the world is to see it: forward only, ending with the final state that counts.
    pub fn history(&self) -> Vec<&StateSeen> {
        let mut history: Vec<&StateSeen> = self.states.iter().filter(|seen| !seen.state.is_final()).collect();
        history.sort_by_key(|seen| seen.state.rank());
        history.extend(self.states.iter().find(|seen| seen.state.is_final()));
        history
    }

    /// The newest timestamp of its entries; what is written next must be above it.
    pub fn newest_timestamp(&self) -> Option<Millis> {
        self.states.iter().map(|seen| seen.timestamp).max()
    }

    /// Whether an assignment says nothing but that this live backend was accepted as it was assigned.
    pub(super) fn accepts(&self, new: &Assignment) -> bool {
        let stays = self.assignment.as_ref().is_some_and(|old| {
            old.drone == new.drone && old.memory_bytes() == new.memory_bytes && old.cpu_percent() == new.cpu_percent
        });
        self.is_live() && stays && new.accepted && !new.withdrawn
    }

    /// Since when nothing of it can run any more, or nothing was heard of what nobody was given.
    pub(super) fn over_since(&self) -> Option<Timestamp> {
        match &self.assignment {
            _ if self.has_ended() => self.reached,
            Some(assigned) => assigned.withdrawn.then_some(assigned.time),
            None => self.reached,
        }
    }

    pub(super) fn reach(&mut self, reached: ReachedState, sequence: u64, time: Timestamp) {
        let ReachedState { state, timestamp, reason, exit_code } = reached;
        let detail = (reason.is_some() || exit_code.is_some()).then(|| Box::new(Detail { reason, exit_code }));
        if !self.has_ended() {
            self.reached = Some(time);
        }
        self.states.retain(|seen| seen.state != state);
        self.states.push(StateSeen { state, timestamp, sequence, detail });
    }
}

impl Cluster {
    /// One backend.
    pub fn backend(&self, id: &BackendId) -> Option<&Backend> {
        self.backends.get(id.as_str())
    }

    /// The backend that goes by this name, which need not be one that a backend can have.
    pub fn backend_named(&self, name: &str) -> Option<&Backend> {
        self.backends.get(name)
    }

    /// Its backends, in no particular order.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendId, &Backend)> {
        self.backends.iter()
    }

    /// How many backends are known.
    pub fn backend_count(&self) -> usize {
        self.backends.len()
    }

    /// What of a drone is in use.
    pub fn load(&self, drone: &DroneId) -> Option<&Load> {
        self.loads.get(drone)
    }

    /// The backends that have not ended and that no drone has taken yet, in no particular order.
    pub fn unaccepted(&self) -> impl Iterator<Item = &BackendId> {
        self.unaccepted.iter()
    }
}
