//! Entries as they are read. A log of a million entries is read at every start, and serde's flattening would buffer
//! each of them: here the variants are optional fields, of which one has to be there.

use super::{
    AcmeEntry, Assignment, BackendEntry, BackendMessage, DroneEntry, DroneMessage, EntryBody, LockEntry, Millis,
    ReachedState, StateEntry, behind_cluster, is_of_backend,
};
use crate::{
    id::{BackendId, ClusterName, DroneId},
    message::drone::DroneState,
};
use serde::{Deserialize, de::IgnoredAny};
use std::net::IpAddr;

mod plain;

#[derive(Deserialize)]
pub(super) struct Entry {
    cluster: ClusterName,
    #[serde(rename = "DroneMessage")]
    drone: Option<DroneEntry>,
    #[serde(rename = "BackendMessage")]
    backend: Option<BackendEntry>,
    #[serde(rename = "LockMessage")]
    lock: Option<LockEntry>,
    #[serde(rename = "AcmeMessage")]
    acme: Option<AcmeEntry>,
}

#[derive(Deserialize)]
pub(super) struct Drone {
    drone: DroneId,
    #[serde(rename = "Metadata")]
    metadata: Option<Metadata>,
    #[serde(rename = "State")]
    state: Option<State>,
    #[serde(rename = "KeepAlive")]
    keep_alive: Option<KeepAlive>,
    instance: Option<String>,
    #[serde(default)]
    lost: bool,
    #[serde(default)]
    answers: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    ip: IpAddr,
    version: String,
    git_hash: Option<String>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
struct State {
    timestamp: Millis,
    state: DroneState,
}

#[derive(Deserialize)]
struct KeepAlive {
    timestamp: Millis,
}

#[derive(Deserialize)]
pub(super) struct Backend {
    backend: BackendId,
    #[serde(rename = "Assignment")]
    assignment: Option<Assignment>,
    #[serde(rename = "State")]
    state: Option<ReachedState>,
}

impl TryFrom<Entry> for StateEntry {
    type Error = &'static str;

    fn try_from(entry: Entry) -> Result<Self, Self::Error> {
        let body = match (entry.drone, entry.backend, entry.lock, entry.acme) {
            (Some(drone), None, None, None) => EntryBody::DroneMessage(drone),
            (None, Some(backend), None, None) => EntryBody::BackendMessage(backend),
            (None, None, Some(lock), None) => EntryBody::LockMessage(lock),
            (None, None, None, Some(acme)) => EntryBody::AcmeMessage(acme),
            _ => return Err("expected one of DroneMessage, BackendMessage, LockMessage and AcmeMessage"),
        };
        Ok(Self { cluster: entry.cluster, body })
    }
}

impl TryFrom<Drone> for DroneEntry {
    type Error = &'static str;

    fn try_from(entry: Drone) -> Result<Self, Self::Error> {
        let message = match (entry.metadata, entry.state, entry.keep_alive) {
            (Some(Metadata { ip, version, git_hash, features }), None, None) => {
                DroneMessage::Metadata { ip, version, git_hash, features }
            }
            (None, Some(State { timestamp, state }), None) => DroneMessage::State { timestamp, state },
            (None, None, Some(KeepAlive { timestamp })) => DroneMessage::KeepAlive { timestamp },
            _ => return Err("DroneMessage: expected one of Metadata, State and KeepAlive"),
        };
        Ok(Self { drone: entry.drone, message, instance: entry.instance, lost: entry.lost, answers: entry.answers })
    }
}

impl TryFrom<Backend> for BackendEntry {
    type Error = &'static str;

    fn try_from(entry: Backend) -> Result<Self, Self::Error> {
        let message = match (entry.assignment, entry.state) {
            (Some(assignment), None) => BackendMessage::Assignment(assignment),
            (None, Some(state)) => BackendMessage::State(state),
            _ => return Err("BackendMessage: expected one of Assignment and State"),
        };
        Ok(Self { backend: entry.backend, message })
    }
}

/// An entry about a backend, its names still text: most entries of a log are of this kind, and what they name is known
/// already, so it need be neither checked nor copied.
#[derive(Debug)]
pub(crate) struct BackendText<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) message: BackendMessage,
}

#[derive(Deserialize)]
struct EntryText<'a> {
    cluster: &'a str,
    #[serde(rename = "BackendMessage", borrow)]
    backend: BackendMessageText<'a>,
    #[serde(rename = "DroneMessage")]
    drone: Option<IgnoredAny>,
    #[serde(rename = "LockMessage")]
    lock: Option<IgnoredAny>,
    #[serde(rename = "AcmeMessage")]
    acme: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct BackendMessageText<'a> {
    backend: &'a str,
    #[serde(rename = "Assignment")]
    assignment: Option<Assignment>,
    #[serde(rename = "State")]
    state: Option<ReachedState>,
}

impl<'a> BackendText<'a> {
    /// Reads an entry that stands where it belongs and is written as Plane writes it. `None` says nothing of any other:
    /// that one is read as a [`StateEntry`].
    pub(crate) fn read(subject: &str, payload: &'a [u8]) -> Option<Self> {
        if subject.split('.').nth(3) != Some("backend") {
            return None;
        }
        let read = plain::read(payload).or_else(|| Self::parse(payload))?;
        let stands =
            behind_cluster(subject, read.cluster).is_some_and(|rest| is_of_backend(rest, read.backend, &read.message));
        stands.then_some(read)
    }

    fn parse(payload: &'a [u8]) -> Option<Self> {
        let EntryText { cluster, backend: text, drone: None, lock: None, acme: None } =
            serde_json::from_slice(payload).ok()?
        else {
            return None;
        };
        let message = match (text.assignment, text.state) {
            (Some(assignment), None) => BackendMessage::Assignment(assignment),
            (None, Some(state)) => BackendMessage::State(state),
            _ => return None,
        };
        Some(Self { cluster, backend: text.backend, message })
    }
}
