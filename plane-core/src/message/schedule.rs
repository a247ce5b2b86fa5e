//! Asking for a backend: `schedule`, `fetch`, and the `spawn` that a controller sends to the drone it chose.

use super::{Fault, Request, subject};
use crate::id::{BackendId, BearerToken, ClusterName, DroneId, LockName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, num::NonZeroU64};

/// Asks for a backend. Subject `cluster.C.schedule`, client to controller, one controller of the queue group answers.
/// A duplicate without lock and backend id starts a second backend; with either it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRequest {
    /// The cluster that the backend is to run in.
    pub cluster: ClusterName,
    /// The id of the backend to be; a random one where absent.
    #[serde(default)]
    pub backend_id: Option<BackendId>,
    /// Seconds without a connection after which the backend is swept.
    pub max_idle_secs: NonZeroU64,
    /// Free text of the caller's.
    pub metadata: BTreeMap<String, String>,
    /// What to run.
    pub executable: Executable,
    /// Whether requests to the backend must carry a token, made by the controller.
    #[serde(default)]
    pub require_bearer_token: bool,
    /// At most one live backend holds a lock.
    #[serde(default)]
    pub lock: Option<LockName>,
    /// Labels that the drone must carry, every one of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require_labels: BTreeMap<String, String>,
}

impl Request for ScheduleRequest {
    type Reply = ScheduleResponse;

    fn subject(&self) -> String {
        subject::schedule(&self.cluster)
    }

    fn check(&self) -> Result<(), Fault> {
        self.executable.check()
    }
}

/// What answers a [`ScheduleRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduleResponse {
    /// The backend exists; it may still be starting.
    Scheduled {
        /// The drone that runs it.
        drone: DroneId,
        /// The backend.
        backend_id: BackendId,
        /// What requests to it must carry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bearer_token: Option<BearerToken>,
        /// False where a running backend already held the lock.
        spawned: bool,
    },
    /// No drone could take it; the controller's log says why.
    NoDroneAvailable,
}

/// Asks who holds a lock. Subject `cluster.C.fetch`, client to controller. Reads only; a duplicate is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The cluster of the lock.
    pub cluster: ClusterName,
    /// The lock.
    pub lock: LockName,
}

impl Request for FetchRequest {
    type Reply = FetchResponse;

    fn subject(&self) -> String {
        subject::fetch(&self.cluster)
    }
}

/// What answers a [`FetchRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchResponse {
    /// The holder of the lock.
    Scheduled {
        /// The drone that runs it.
        drone: DroneId,
        /// The backend.
        backend_id: BackendId,
        /// What requests to it must carry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bearer_token: Option<BearerToken>,
    },
    /// Nobody holds it.
    NoBackendForLock,
}

/// Tells a drone to start a backend. Subject `cluster.C.drone.D.spawn`, controller to drone; `true` accepted, `false`
/// refused. A duplicate finds the backend known and starts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// The cluster.
    pub cluster: ClusterName,
    /// The drone that is asked.
    pub drone_id: DroneId,
    /// Seconds without a connection after which the backend is swept.
    pub max_idle_secs: NonZeroU64,
    /// The backend to start.
    pub backend_id: BackendId,
    /// Free text of the caller's.
    pub metadata: BTreeMap<String, String>,
    /// What to run.
    pub executable: Executable,
    /// What requests to the backend must carry.
    #[serde(default)]
    pub bearer_token: Option<BearerToken>,
    /// The lock that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// The fencing token of its hold on the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
    /// The sequence of its assignment in the state log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_seq: Option<u64>,
}

impl Request for SpawnRequest {
    type Reply = bool;

    fn subject(&self) -> String {
        subject::drone(&self.cluster, &self.drone_id, "spawn")
    }

    fn check(&self) -> Result<(), Fault> {
        self.executable.check()
    }
}

/// What a backend runs, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// The image, as the container engine names it.
    pub image: String,
    /// The environment of the container.
    pub env: BTreeMap<String, String>,
    /// The port that the backend listens on, 1 to 65535; 8080 where absent.
    #[serde(default)]
    pub port: Option<std::num::NonZeroU16>,
    /// When to fetch the image.
    #[serde(default)]
    pub pull_policy: Option<PullPolicy>,
    /// What the image's registry asks for.
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// Limits; none where absent.
    #[serde(default)]
    pub resource_limits: ResourceLimits,
    /// Bind mounts, `/host/path:/container/path` each or Docker's object form; drones refuse them unless configured to allow them.
    #[serde(default)]
    pub volume_mounts: Vec<serde_json::Value>,
}

/// The port of a backend that names none.
pub const DEFAULT_PORT: u16 = 8080;
/// The largest limit of memory, in bytes: 256 TiB. The limits of all backends of a drone are added up.
const MOST_MEMORY: u64 = 1 << 48;

impl Executable {
    /// The port that the backend listens on.
    pub fn port(&self) -> u16 {
        self.port.map_or(DEFAULT_PORT, std::num::NonZeroU16::get)
    }

    fn check(&self) -> Result<(), Fault> {
        if self.image.is_empty() {
            return Err(Fault::bad_request("executable.image: expected the name of an image, found an empty text"));
        }
        let port = self.port();
        if let Some(env) = self.env.get("PORT").filter(|env| **env != port.to_string()) {
            return Err(Fault::bad_request(format!(
                "executable.env.PORT: expected {port}, the request's port, or no PORT at all; found {env:?}"
            )));
        }
        if let Some(most) = self.resource_limits.memory_limit_bytes.filter(|most| most.get() > MOST_MEMORY) {
            return Err(Fault::bad_request(format!(
                "executable.resource_limits.memory_limit_bytes: expected at most {MOST_MEMORY}, found {most}"
            )));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Fault::bad_request(format!(
                    "executable.env: expected names without '=' and no NUL anywhere; {name:?} is not so"
                )));
            }
        }
        Ok(())
    }
}

/// When a drone fetches an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Only where the drone does not have it.
    #[default]
    IfNotPresent,
    /// Every time.
    Always,
    /// Never; a missing image ends the backend in `ErrorLoading`.
    Never,
}

/// What a registry asks for. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// A user's name and password.
    UsernamePassword {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry handed out.
    IdentityToken {
        /// The token.
        identity_token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsernamePassword { username, .. } => {
                write!(f, "UsernamePassword({username:?}, ***)")
            }
            Self::IdentityToken { .. } => f.write_str("IdentityToken(***)"),
        }
    }
}

/// Limits of a container; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Length of a scheduling period in microseconds; 100000 where only a percentage is given.
    pub cpu_period: Option<NonZeroU64>,
    /// Percent of each period that the container may run, 1 to 255.
    pub cpu_period_percent: Option<std::num::NonZeroU8>,
    /// Seconds of processor time (RLIMIT_CPU).
    pub cpu_time_limit: Option<NonZeroU64>,
    /// Bytes of memory.
    pub memory_limit_bytes: Option<NonZeroU64>,
    /// Bytes of disk, where the container engine's storage driver can limit them.
    pub disk_limit_bytes: Option<NonZeroU64>,
}
