//! What can go wrong, and what to try then.

use jiff::Timestamp;
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{FaultCode, backend::BackendState},
    nats::NatsError,
};
use std::time::Duration;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// NATS does not answer.
    #[error("NATS does not answer at {url}: {cause}")]
    Unreachable {
        /// The addresses, without secrets.
        url: String,
        /// What the last try failed with.
        cause: String,
    },
    /// NATS asks for another user, password or token.
    #[error("NATS at {url} does not let the command in: {cause}")]
    NotLetIn {
        /// The addresses, without secrets.
        url: String,
        /// What NATS says.
        cause: String,
    },
    /// The addresses are none. They are not shown: it may be a password that makes them unreadable.
    #[error("the address of NATS cannot be used: {0}")]
    BadAddress(String),
    /// No drone takes a backend.
    #[error("no drone of {0} takes a backend now")]
    NoDrone(ClusterName),
    /// Nobody runs the backend.
    #[error("no drone of {cluster} runs the backend {backend}")]
    NoBackend {
        /// The cluster.
        cluster: ClusterName,
        /// The backend.
        backend: BackendId,
    },
    /// The log does not know the backend.
    #[error("no backend {0} is known")]
    UnknownBackend(BackendId),
    /// The backend was assigned, and that was taken back.
    #[error("the backend {0} was never started")]
    NeverStarted(BackendId),
    /// The backend does not run any more.
    #[error("the backend {backend} does not run: it became {state} at {time:.0} ({reason})")]
    OverAlready {
        /// The backend.
        backend: BackendId,
        /// Its final state.
        state: BackendState,
        /// When it was reached.
        time: Timestamp,
        /// Why.
        reason: String,
    },
    /// The backend may run, and its drone cannot be reached.
    #[error("the drone of the backend {backend} does not answer; it was last {state}, since {time:.0}")]
    DroneSilent {
        /// The cluster.
        cluster: ClusterName,
        /// The backend.
        backend: BackendId,
        /// Its last state.
        state: BackendState,
        /// When that was reached.
        time: Timestamp,
    },
    /// The drone is not there.
    #[error("the drone {drone} of {cluster} does not answer")]
    NoDroneThere {
        /// The cluster.
        cluster: ClusterName,
        /// The drone.
        drone: DroneId,
    },
    /// A drone that is waited for gives no sign of life.
    #[error("the drone {drone} of {cluster} is not drained: it has not been heard for {} s", silent.as_secs())]
    DrainSilent {
        /// The cluster.
        cluster: ClusterName,
        /// The drone.
        drone: DroneId,
        /// For how long.
        silent: Duration,
    },
    /// A drone that is waited for was stopped.
    #[error("the drone {drone} of {cluster} is not drained: it was stopped")]
    DrainStopped {
        /// The cluster.
        cluster: ClusterName,
        /// The drone.
        drone: DroneId,
    },
    /// A drone that is waited for takes backends again.
    #[error("the drone {drone} of {cluster} is not drained: somebody cancelled that, and it takes backends again")]
    DrainCancelled {
        /// The cluster.
        cluster: ClusterName,
        /// The drone.
        drone: DroneId,
    },
    /// A backend ended before it was ready.
    #[error("the backend {backend} became {state}: {reason}")]
    Ended {
        /// The backend.
        backend: BackendId,
        /// Its final state.
        state: String,
        /// Why.
        reason: String,
    },
    /// Something asked of NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The result cannot be written.
    #[error("the result cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => {
                "give the right address with --nats or PLANE_NATS; `dev/up` starts one of its own"
            }
            Self::NotLetIn { .. } | Self::BadAddress(_) => {
                "--nats or PLANE_NATS is like nats://USER:PASSWORD@HOST:PORT, what is special in a password as %XX"
            }
            Self::NoDrone(cluster) => {
                return Some(format!("`plane list-drones {cluster}` shows drones and their states"));
            }
            Self::OverAlready { backend, .. } => return Some(format!("`plane logs {backend}` shows what it wrote")),
            Self::DroneSilent { cluster, .. } => {
                return Some(format!(
                    "`plane list-drones {cluster}` shows the drones; `plane mark-backend-lost` gives a backend up"
                ));
            }
            Self::UnknownBackend(_) => "`plane list-backends --all` shows what is known",
            Self::NeverStarted(_) => "no drone took it, and nothing of it runs; spawn another",
            Self::NoBackend { .. } => "`plane list-backends` shows what runs; what has ended need not be terminated",
            Self::DrainCancelled { .. } => "ask whoever cancelled it, or drain it again",
            Self::NoDroneThere { cluster, .. }
            | Self::DrainSilent { cluster, .. }
            | Self::DrainStopped { cluster, .. } => {
                return Some(format!("`plane list-drones {cluster}` shows the drones"));
            }
            Self::Ended { backend, .. } => return Some(format!("`plane logs {backend}` shows what it wrote")),
            Self::Nats(NatsError::NoResponders(_)) => "is a controller running on this NATS?",
            Self::Nats(NatsError::TimedOut(_)) => "it may have happened all the same: look with `plane list-backends`",
            Self::Nats(NatsError::Fault(fault)) => match fault.code {
                FaultCode::BackendIdInUse => "leave out --id, or choose another",
                FaultCode::LockBusy | FaultCode::Unavailable => "try again in a moment",
                FaultCode::BadRequest | FaultCode::Internal => return None,
            },
            Self::Nats(NatsError::Other { .. }) => "has a controller run on this NATS yet? It makes the streams",
            Self::Nats(NatsError::Malformed { .. } | NatsError::WrongSequence(_)) | Self::Output(_) => return None,
        };
        Some(hint.to_owned())
    }
}
