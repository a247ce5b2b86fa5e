//! What a drone says, for drones that a test plays or a benchmark simulates over NATS.

use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::{DroneState, DroneStatus, RegisterRequest},
        schedule::SpawnRequest,
        state::{Assignment, BackendMessage, HeldLock, Lease, StateEntry},
    },
    nats::{Nats, NatsError},
};
use std::collections::BTreeMap;

/// What today's drones declare when they register.
pub const FEATURES: &[&str] = &["accept", "lease"];

/// How a drone registers; without features it is one of 0.3.
pub fn registration(cluster: &ClusterName, drone: &DroneId, features: &[&str]) -> RegisterRequest {
    RegisterRequest {
        drone_id: drone.clone(),
        cluster: cluster.clone(),
        ip: [127, 0, 0, 1].into(),
        version: None,
        git_hash: None,
        features: features.iter().map(|&feature| feature.to_owned()).collect(),
    }
}

/// A sign of life, of a drone with room for everything.
pub fn sign_of_life(cluster: &ClusterName, drone: &DroneId, state: DroneState) -> DroneStatus {
    DroneStatus {
        drone_id: drone.clone(),
        cluster: cluster.clone(),
        drone_version: "1".to_owned(),
        ready: state == DroneState::Ready,
        state,
        running_backends: None,
        capacity: None,
        labels: BTreeMap::new(),
    }
}

/// The lease of a drone, as it is written again and again.
pub fn lease(cluster: &ClusterName, drone: &DroneId) -> StateEntry {
    let lease = Lease { instance: Some("played".to_owned()), ..Lease::default() };
    StateEntry::lease(cluster.clone(), drone.clone(), jiff::Timestamp::now().as_millisecond(), lease)
}

/// Writes that a drone has taken a backend. False where the log does not give it to the drone any more.
///
/// # Errors
/// Where the log cannot be written; whether it was is not known then.
pub async fn accept(nats: &Nats, request: &SpawnRequest) -> Result<bool, NatsError> {
    let expected = request.assignment_seq.unwrap_or(0);
    let lock = request.lock.clone().zip(request.fencing_token).map(|(name, token)| HeldLock { name, token });
    let assigned = Assignment::to(request.drone_id.clone(), request.bearer_token.clone());
    let message = BackendMessage::Assignment(Assignment { accepted: true, lock, ..assigned });
    let entry = StateEntry::backend(request.cluster.clone(), request.backend_id.clone(), message);
    match nats.publish_expecting(entry.subject(), &entry, expected).await {
        Ok(_) => Ok(true),
        Err(NatsError::WrongSequence(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
