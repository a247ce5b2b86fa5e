//! The entries of the state log, stream `plane_state`: the decisions from which every controller builds its world.
//!
//! Entries are written by controllers (the lease and the acceptance of an assignment by drones). What holds only
//! against a certain past is published expecting the last sequence of its subject, so a duplicate loses and learns it.

use super::{backend::BackendState, drone::DroneState};
use crate::id::{BackendId, BearerToken, ClusterName, DroneId, LockName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

mod read;

pub(crate) use read::BackendText;

/// Milliseconds since 1970 (UTC) on the writer's clock.
pub type Millis = i64;

/// The version that stands for a drone that did not tell its own.
pub const MISSING_VERSION: &str = "missing_drone_version";

/// The subject of the log's own clock.
pub const HEARTBEAT_SUBJECT: &str = "state.heartbeat";

/// The log's own clock, `state.heartbeat`, every second by each controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Always null.
    pub heartbeat: (),
    /// The server of which its writer knows that the log lacks nothing; none while it is in doubt. A server that
    /// restarts has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<String>,
    /// Beside it: when the log was made that its writer has read. One that was deleted and made anew has another time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    /// The newest time that its writer has read in the log or in a heartbeat: after the clock of a server was set back, no
    /// other entry may tell of it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
}

impl Heartbeat {
    /// Whether its writer knew that the log of this server, made then, lacks nothing. Who has not noticed yet that the log
    /// was deleted goes on in the new one, and vouches for the old one.
    pub fn vouches(&self, server: &str, made: Timestamp) -> bool {
        self.trusted.as_deref() == Some(server) && self.made == Some(made)
    }
}

/// An entry about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "read::Entry")]
pub struct StateEntry {
    /// The cluster.
    pub cluster: ClusterName,
    /// What is said.
    #[serde(flatten)]
    pub body: EntryBody,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum EntryBody {
    /// A drone.
    DroneMessage(DroneEntry),
    /// A backend.
    BackendMessage(BackendEntry),
    /// A lock.
    LockMessage(LockEntry),
    /// The challenge values of certificate orders.
    AcmeMessage(AcmeEntry),
}

/// An entry about a drone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "read::Drone")]
pub struct DroneEntry {
    /// The drone.
    pub drone: DroneId,
    /// What is said of it.
    #[serde(flatten)]
    pub message: DroneMessage,
    /// Beside `KeepAlive`: a nonce of the drone's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Beside `KeepAlive`: the drone was given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Beside `KeepAlive`: the newest calls for announcements that the drone has answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
}

/// What a drone's lease says beside its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// A nonce of the drone's process; none where a controller writes for a drone that cannot.
    pub instance: Option<String>,
    /// The drone was given up.
    pub lost: bool,
    /// The newest calls for announcements that the drone has answered.
    pub answers: Vec<String>,
}

/// What is said of a drone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum DroneMessage {
    /// `…drone.D.meta`: how to reach it, and what it is.
    Metadata {
        /// The address of its proxy.
        ip: IpAddr,
        /// Its version, or [`MISSING_VERSION`].
        version: String,
        /// The commit that it was built from.
        git_hash: Option<String>,
        /// What it can beyond 0.3.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
    },
    /// `…drone.D.status.STATE`: the one with the highest sequence counts.
    State {
        /// When it was reached.
        timestamp: Millis,
        /// The state.
        state: DroneState,
    },
    /// `…drone.D.keep_alive`: the drone's lease.
    KeepAlive {
        /// When it was written.
        timestamp: Millis,
    },
}

/// An entry about a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "read::Backend")]
pub struct BackendEntry {
    /// The backend.
    pub backend: BackendId,
    /// What is said of it.
    #[serde(flatten)]
    pub message: BackendMessage,
}

/// What is said of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum BackendMessage {
    /// `…backend.B.assignment`: the drone that may start it.
    Assignment(Assignment),
    /// `…backend.B.state.STATE`: a state that it reached.
    State(ReachedState),
}

/// The drone that may start a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The drone.
    pub drone: DroneId,
    /// What requests to the backend must carry.
    #[serde(default)]
    pub bearer_token: Option<BearerToken>,
    /// Always null on our wire; 0.3 expected another subject where it was not.
    #[serde(default)]
    pub lock_assignment: (),
    /// The lock that the backend holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<HeldLock>,
    /// The drone has persisted the request and may start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Beside `accepted`: a nonce of the process of the drone that did. Of several that go by its id, only that one may
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// A controller took it back; nobody may start it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The bytes of memory that its request set as its limit: they count against the drone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The share of one processor that its request set as its limit, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

impl Assignment {
    /// An assignment that nobody has accepted yet.
    pub fn to(drone: DroneId, bearer_token: Option<BearerToken>) -> Self {
        Self {
            drone,
            bearer_token,
            lock_assignment: (),
            lock: None,
            accepted: false,
            instance: None,
            withdrawn: false,
            memory_bytes: None,
            cpu_percent: None,
        }
    }
}

/// A lock as a backend holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// The lock.
    pub name: LockName,
    /// The fencing token of the hold.
    pub token: u64,
}

/// A state that a backend reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachedState {
    /// The state.
    pub state: BackendState,
    /// When it was reached.
    pub timestamp: Millis,
    /// Why, where it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit status of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

/// `state.cluster.C.lock.HASH`: the one truth of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEntry {
    /// The lock.
    pub lock: LockName,
    /// Who holds it; nobody where null.
    pub holder: Option<Holder>,
    /// Beside a null holder: the token of the last one, so that the next is above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_token: Option<u64>,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The backend.
    pub backend: BackendId,
    /// The fencing token.
    pub token: u64,
}

/// `state.cluster.C.acme`: TXT values for `_acme-challenge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeEntry {
    /// The newest value.
    pub value: String,
    /// The newest ten values.
    #[serde(default)]
    pub values: Vec<String>,
}

impl StateEntry {
    /// An entry about a drone.
    pub fn drone(cluster: ClusterName, drone: DroneId, message: DroneMessage) -> Self {
        let entry = DroneEntry { drone, message, instance: None, lost: false, answers: Vec::new() };
        Self { cluster, body: EntryBody::DroneMessage(entry) }
    }

    /// An entry about a backend.
    pub fn backend(cluster: ClusterName, backend: BackendId, message: BackendMessage) -> Self {
        Self { cluster, body: EntryBody::BackendMessage(BackendEntry { backend, message }) }
    }

    /// An entry about a lock.
    pub fn lock(cluster: ClusterName, entry: LockEntry) -> Self {
        Self { cluster, body: EntryBody::LockMessage(entry) }
    }

    /// The challenge values of a cluster.
    pub fn acme(cluster: ClusterName, entry: AcmeEntry) -> Self {
        Self { cluster, body: EntryBody::AcmeMessage(entry) }
    }

    /// A drone's lease, in the name of `instance`; with what else it says.
    pub fn lease(cluster: ClusterName, drone: DroneId, timestamp: Millis, lease: Lease) -> Self {
        let message = DroneMessage::KeepAlive { timestamp };
        let Lease { instance, lost, answers } = lease;
        Self { cluster, body: EntryBody::DroneMessage(DroneEntry { drone, message, instance, lost, answers }) }
    }

    /// The subject that this entry stands on.
    pub fn subject(&self) -> String {
        match &self.body {
            EntryBody::DroneMessage(entry) => {
                let drone = &entry.drone;
                match &entry.message {
                    DroneMessage::Metadata { .. } => meta_subject(&self.cluster, drone),
                    DroneMessage::State { state, .. } => drone_state_subject(&self.cluster, drone, *state),
                    DroneMessage::KeepAlive { .. } => keep_alive_subject(&self.cluster, drone),
                }
            }
            EntryBody::BackendMessage(entry) => match &entry.message {
                BackendMessage::Assignment(_) => assignment_subject(&self.cluster, &entry.backend),
                BackendMessage::State(reached) => state_subject(&self.cluster, &entry.backend, reached.state),
            },
            EntryBody::LockMessage(entry) => lock_subject(&self.cluster, &entry.lock),
            EntryBody::AcmeMessage(_) => format!("state.cluster.{}.acme", self.cluster.subject_token()),
        }
    }
}

impl StateEntry {
    /// Whether [`Self::subject`] is this, found out without making it: every entry of a log is asked.
    pub fn stands_on(&self, subject: &str) -> bool {
        let Some(mut rest) = behind_cluster(subject, self.cluster.as_str()) else { return false };
        if let EntryBody::BackendMessage(entry) = &self.body {
            return is_of_backend(rest, entry.backend.as_str(), &entry.message);
        }
        let mut next = || rest.next().unwrap_or_default();
        let belongs = match &self.body {
            EntryBody::DroneMessage(entry) => {
                let drone = next() == "drone" && next() == entry.drone.as_str();
                drone
                    && match &entry.message {
                        DroneMessage::Metadata { .. } => next() == "meta",
                        DroneMessage::State { state, .. } => next() == "status" && next() == state.as_str(),
                        DroneMessage::KeepAlive { .. } => next() == "keep_alive",
                    }
            }
            EntryBody::BackendMessage(_) => false,
            EntryBody::LockMessage(entry) => next() == "lock" && next() == entry.lock.subject_token(),
            EntryBody::AcmeMessage(_) => next() == "acme",
        };
        belongs && rest.next().is_none()
    }
}

/// The tokens of an entry's subject behind its cluster, where that is this one.
fn behind_cluster<'a>(subject: &'a str, cluster: &str) -> Option<std::str::Split<'a, char>> {
    let mut tokens = subject.split('.');
    let of_cluster = tokens.next() == Some("state") && tokens.next() == Some("cluster");
    let token = tokens.next().unwrap_or_default();
    let same = token.len() == cluster.len()
        && token.bytes().zip(cluster.bytes()).all(|(token, name)| token == if name == b'.' { b'_' } else { name });
    (of_cluster && same).then_some(tokens)
}

/// Whether these tokens, behind the cluster, are where a message about a backend stands.
fn is_of_backend(mut tokens: std::str::Split<'_, char>, backend: &str, message: &BackendMessage) -> bool {
    let mut next = || tokens.next().unwrap_or_default();
    let named = next() == "backend" && next() == backend;
    let belongs = named
        && match message {
            BackendMessage::Assignment(_) => next() == "assignment",
            BackendMessage::State(reached) => next() == "state" && next() == reached.state.as_str(),
        };
    belongs && tokens.next().is_none()
}

/// The subject that decides who may start a backend.
pub fn assignment_subject(cluster: &ClusterName, backend: &BackendId) -> String {
    format!("state.cluster.{}.backend.{backend}.assignment", cluster.subject_token())
}

/// The subject of a drone's lease.
pub fn keep_alive_subject(cluster: &ClusterName, drone: &DroneId) -> String {
    format!("state.cluster.{}.drone.{drone}.keep_alive", cluster.subject_token())
}

/// The subject that decides who holds a lock.
pub fn lock_subject(cluster: &ClusterName, lock: &LockName) -> String {
    format!("state.cluster.{}.lock.{}", cluster.subject_token(), lock.subject_token())
}

/// The subject of a state of a backend.
pub fn state_subject(cluster: &ClusterName, backend: &BackendId, state: BackendState) -> String {
    format!("state.cluster.{}.backend.{backend}.state.{state}", cluster.subject_token())
}

/// The subject that says what a drone is.
pub fn meta_subject(cluster: &ClusterName, drone: &DroneId) -> String {
    format!("state.cluster.{}.drone.{drone}.meta", cluster.subject_token())
}

/// The subject of a state of a drone.
pub fn drone_state_subject(cluster: &ClusterName, drone: &DroneId, state: DroneState) -> String {
    format!("state.cluster.{}.drone.{drone}.status.{state}", cluster.subject_token())
}
