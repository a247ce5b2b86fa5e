//! What drones say of themselves.

use super::{Fault, Publish, Request, backend::BackendState, subject};
use crate::id::{BackendId, BearerToken, ClusterName, DroneId, LockName};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr};

/// The life of a drone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DroneState {
    /// It has registered and takes nothing yet.
    Starting,
    /// It takes backends.
    #[default]
    Ready,
    /// It takes no more backends; those it has go on.
    Draining,
    /// It was draining, and its last backend has ended.
    Drained,
    /// Its process ended cleanly.
    Stopped,
    /// It fell silent and was given up.
    Lost,
}

impl DroneState {
    /// Its name, as messages and subjects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::Drained => "Drained",
            Self::Stopped => "Stopped",
            Self::Lost => "Lost",
        }
    }

    /// Every state.
    pub const ALL: [Self; 6] = [Self::Starting, Self::Ready, Self::Draining, Self::Drained, Self::Stopped, Self::Lost];
}

impl fmt::Display for DroneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes a drone known. Subject `cluster.C.drone.register`, drone to controller, answered `true` once it is in the
/// log. A duplicate changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The drone.
    pub drone_id: DroneId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The address that its proxy is reached at.
    pub ip: IpAddr,
    /// The version of its software.
    #[serde(default)]
    pub version: Option<String>,
    /// The commit that it was built from.
    #[serde(default)]
    pub git_hash: Option<String>,
    /// What it can beyond 0.3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl Request for RegisterRequest {
    type Reply = bool;

    fn subject(&self) -> String {
        subject::register(&self.cluster)
    }
}

/// Tells a drone to take no more backends, or to take them again. Subject `cluster.C.drone.D.drain`, client to drone,
/// answered `null`. A duplicate changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// The drone.
    pub drone: DroneId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// True to drain, false to cancel.
    pub drain: bool,
}

impl Request for DrainRequest {
    type Reply = ();

    fn subject(&self) -> String {
        subject::drone(&self.cluster, &self.drone, "drain")
    }
}

/// A drone's sign of life. Subject `cluster.C.drone.D.status`, every 4 s, drone to every controller, no reply. A
/// duplicate changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DroneStatus {
    /// The drone.
    pub drone_id: DroneId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The version of its software.
    pub drone_version: String,
    /// Whether it takes backends, for readers that do not know `state`.
    #[serde(default = "yes", deserialize_with = "yes_where_null")]
    pub ready: bool,
    /// Where it is in its life.
    #[serde(default, deserialize_with = "default_where_null")]
    pub state: DroneState,
    /// How many backends it runs: a hint.
    #[serde(default)]
    pub running_backends: Option<u32>,
    /// What it has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Its labels, from its configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

fn yes_where_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(yes))
}

fn default_where_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a drone has room for; `None` is not declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// How many backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backends: Option<u32>,
    /// Bytes of memory for all backends together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
}

impl Publish for DroneStatus {
    fn subject(&self) -> String {
        subject::drone(&self.cluster, &self.drone_id, "status")
    }
}

/// Tells again what a drone runs. Subject `cluster.C.drone.D.announce`, drone to controller, at most
/// [`AnnounceRequest::MAX_BACKENDS`] a message. A duplicate changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceRequest {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The drone.
    pub drone_id: DroneId,
    /// Live backends, and those that ended in the last 10 minutes.
    pub backends: Vec<AnnouncedBackend>,
    /// Whether this is the last message of the announcement.
    pub last: bool,
}

impl AnnounceRequest {
    /// How many backends one message carries at most.
    pub const MAX_BACKENDS: usize = 500;
}

impl Request for AnnounceRequest {
    type Reply = AnnounceReply;

    fn subject(&self) -> String {
        subject::drone(&self.cluster, &self.drone_id, "announce")
    }
}

/// One backend of an announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedBackend {
    /// The backend.
    pub backend_id: BackendId,
    /// Its state.
    pub state: BackendState,
    /// Since when.
    pub time: Timestamp,
    /// What requests to it must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<BearerToken>,
    /// The lock that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// The fencing token of its hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
}

/// What the log gives to the drone that announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceReply {
    /// Its backends, as the log has them.
    pub backends: Vec<KnownBackend>,
    /// Whether the controller knows of nothing that this log may lack. Where it does, another drone may yet turn out to
    /// have what the log gives to this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certain: bool,
}

/// One backend of an [`AnnounceReply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBackend {
    /// The backend.
    pub backend_id: BackendId,
    /// Its state in the log.
    pub state: BackendState,
}

/// Asks all drones of a cluster to announce themselves. Subject `cluster.C.announce`, controller to drones, no reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceCall {
    /// The cluster.
    pub cluster: ClusterName,
    /// A name of this call. Once a drone's announcement is complete, its lease says which calls that answers: all
    /// controllers read leases, while one of them gets the announcement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

impl Publish for AnnounceCall {
    fn subject(&self) -> String {
        format!("cluster.{}.announce", self.cluster.subject_token())
    }
}

/// Asks for a TXT value at `_acme-challenge.<cluster>`. Subject `cluster.C.set_acme_record`, drone to controller,
/// answered `true` once it is in the log and the answering controller's name server serves it; the others follow within
/// a second. The newest ten values are served; one that is set again is the newest again. The newest one set again changes
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAcmeRecord {
    /// The cluster.
    pub cluster: ClusterName,
    /// The value.
    pub value: String,
}

impl SetAcmeRecord {
    /// The longest value in bytes: one string of a TXT record (RFC 1035 section 3.3).
    pub const MAX_VALUE_BYTES: usize = 255;
}

impl Request for SetAcmeRecord {
    type Reply = bool;

    fn subject(&self) -> String {
        format!("cluster.{}.set_acme_record", self.cluster.subject_token())
    }

    fn check(&self) -> Result<(), Fault> {
        if (1..=Self::MAX_VALUE_BYTES).contains(&self.value.len()) && self.value.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(());
        }
        Err(Fault::bad_request("value: expected 1 to 255 printable ASCII characters without spaces"))
    }
}
