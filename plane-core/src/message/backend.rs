//! What is said of a backend while it lives.

use super::{Publish, Request, subject};
use crate::id::{BackendId, ClusterName, DroneId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The life of a backend. It goes forward only, and ends in exactly one final state, which never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BackendState {
    /// Accepted; the image is being fetched, the container created.
    Loading,
    /// The image, the container or its start could not be had.
    ErrorLoading,
    /// The container runs; it does not answer yet.
    Starting,
    /// It ended, or could not be watched, before it answered.
    ErrorStarting,
    /// It did not answer in time.
    TimedOutBeforeReady,
    /// It answers; the proxy routes to it.
    Ready,
    /// It ended by itself with another status than 0, by a signal, out of memory, or was removed behind our back.
    Failed,
    /// It ended by itself with status 0.
    Exited,
    /// Ended by the drone after `max_idle_secs` without a connection.
    Swept,
    /// Its drone vanished, or gave it up to keep a lock exclusive.
    Lost,
    /// Ended through the API.
    Terminated,
}

impl BackendState {
    /// Its name, as messages and subjects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::ErrorLoading => "ErrorLoading",
            Self::Starting => "Starting",
            Self::ErrorStarting => "ErrorStarting",
            Self::TimedOutBeforeReady => "TimedOutBeforeReady",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
            Self::Exited => "Exited",
            Self::Swept => "Swept",
            Self::Lost => "Lost",
            Self::Terminated => "Terminated",
        }
    }

    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Loading,
        Self::ErrorLoading,
        Self::Starting,
        Self::ErrorStarting,
        Self::TimedOutBeforeReady,
        Self::Ready,
        Self::Failed,
        Self::Exited,
        Self::Swept,
        Self::Lost,
        Self::Terminated,
    ];

    /// How far along a life is: 0 Loading, 1 Starting, 2 Ready, 3 any final state.
    pub fn rank(self) -> u8 {
        match self {
            Self::Loading => 0,
            Self::Starting => 1,
            Self::Ready => 2,
            Self::ErrorLoading
            | Self::ErrorStarting
            | Self::TimedOutBeforeReady
            | Self::Failed
            | Self::Exited
            | Self::Swept
            | Self::Lost
            | Self::Terminated => 3,
        }
    }

    /// Whether nothing follows this state.
    pub fn is_final(self) -> bool {
        self.rank() == 3
    }

    /// Whether a history may go from `self` to `next`: forward only.
    pub fn may_precede(self, next: Self) -> bool {
        self.rank() < next.rank()
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for BackendState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.to_string() == text)
            .ok_or_else(|| format!("expected the name of a backend's state, found {text:?}"))
    }
}

/// A drone reports a state. Subject `cluster.C.backend.B.status`, drone to controller, answered `null` once it is
/// durable. A duplicate, or anything after the final state, is answered and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The cluster.
    pub cluster: ClusterName,
    /// The state that was reached.
    pub state: BackendState,
    /// The backend.
    pub backend: BackendId,
    /// When it was reached.
    pub time: Timestamp,
    /// The drone that runs it.
    pub drone: DroneId,
    /// Why, where it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit status of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

impl Request for StatusReport {
    type Reply = ();

    fn subject(&self) -> String {
        subject::backend(&self.cluster, &self.backend, "status")
    }
}

/// Ends a backend. Subject `cluster.C.backend.B.terminate`, client to the drone that runs it, answered `null` once
/// accepted; nobody listens for any other backend. A duplicate changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminateRequest {
    /// The cluster.
    pub cluster_id: ClusterName,
    /// The backend.
    pub backend_id: BackendId,
}

impl Request for TerminateRequest {
    type Reply = ();

    fn subject(&self) -> String {
        subject::backend(&self.cluster_id, &self.backend_id, "terminate")
    }
}

/// The public history of a backend. Subject `backend.B.status`, written to the stream `backend_status` by
/// controllers, expecting the sequence of the backend's last message, so that it has no duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicStatus {
    /// The cluster.
    pub cluster: ClusterName,
    /// The state that was reached.
    pub state: BackendState,
    /// The backend.
    pub backend: BackendId,
    /// When it was reached.
    pub time: Timestamp,
    /// Why, where it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit status of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

impl PublicStatus {
    /// The subject of a backend's public history.
    pub fn subject_of(backend: &BackendId) -> String {
        format!("backend.{backend}.status")
    }
}

impl Publish for PublicStatus {
    fn subject(&self) -> String {
        Self::subject_of(&self.backend)
    }
}

/// What a backend uses. Subject `cluster.C.backend.B.stats`, every 5 s or so, drone to whoever listens, no reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The cluster.
    pub cluster: ClusterName,
    /// The drone that runs it.
    pub drone_id: DroneId,
    /// The backend.
    pub backend_id: BackendId,
    /// Bytes of memory in use.
    pub mem_used: u64,
    /// Bytes of memory that it may use.
    pub mem_available: u64,
    /// Nanoseconds of processor time of the backend since the last message.
    pub cpu_used: u64,
    /// Nanoseconds of processor time of the whole machine since the last message.
    pub sys_cpu: u64,
}

impl Publish for Stats {
    fn subject(&self) -> String {
        subject::backend(&self.cluster, &self.backend_id, "stats")
    }
}

/// A line that a backend wrote, or that Plane wrote about it. Subject `backend.B.log`, drone to the stream
/// `backend_logs`, which keeps 500 lines a backend. A line may come twice around a restart of the drone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The backend.
    pub backend_id: BackendId,
    /// Where the line comes from.
    pub kind: LogKind,
    /// `"<RFC 3339 time> <line>\n"`.
    pub text: String,
}

impl LogLine {
    /// The subject of a backend's lines.
    pub fn subject_of(backend: &BackendId) -> String {
        format!("backend.{backend}.log")
    }
}

impl Publish for LogLine {
    fn subject(&self) -> String {
        Self::subject_of(&self.backend_id)
    }
}

/// Where a [`LogLine`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogKind {
    /// The container's standard output.
    Stdout,
    /// The container's standard error.
    Stderr,
    /// Plane itself.
    Meta,
}
