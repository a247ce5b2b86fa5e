//! What a drone says, for drones that a test plays or a benchmark simulates over NATS.

use super::PATIENCE;
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        Answer,
        drone::{Capacity, DroneState, DroneStatus, RegisterRequest},
        schedule::SpawnRequest,
        state::{Assignment, BackendMessage, HeldLock, Lease, StateEntry},
        subject,
    },
    nats::{Nats, NatsError, Serving},
    task::Tasks,
};
use std::{collections::BTreeMap, time::Duration};

/// What today's drones declare when they register.
pub const FEATURES: &[&str] = &["accept", "lease"];

/// How often a played drone says that it is there, which is more often than a real one.
const SAY_EVERY: Duration = Duration::from_millis(200);

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

/// Plays a drone that keeps its lease and gives signs of life, for as long as the tasks run; what it does with a spawn
/// request is the caller's. Returns once both have been said; it is served until the second value is dropped.
///
/// # Errors
/// Where NATS does not take what it says.
pub async fn play<F, Fut>(
    nats: &Nats,
    tasks: &Tasks,
    cluster: &ClusterName,
    capacity: Option<Capacity>,
    spawn: F,
) -> Result<(DroneId, Serving), NatsError>
where
    F: Fn(SpawnRequest) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer<bool>> + Send + 'static,
{
    let id = DroneId::random();
    let serving = nats.serve(tasks, &subject::drone(cluster, &id, "spawn"), None, spawn).await?;
    while nats.request(&registration(cluster, &id, FEATURES), PATIENCE).await.is_err() {}
    let status = DroneStatus { capacity, ..sign_of_life(cluster, &id, DroneState::Ready) };
    let lease = lease(cluster, &id);
    nats.publish(&status).await?;
    nats.publish_entry(lease.subject(), &lease).await?;
    let (nats, stop) = (nats.clone(), tasks.stop_token());
    tasks.spawn("signs of life", async move {
        while stop.run_until_cancelled(tokio::time::sleep(SAY_EVERY)).await.is_some() {
            // A test that needs them fails without.
            let _ = nats.publish(&status).await;
            let _ = nats.publish_entry(lease.subject(), &lease).await;
        }
    });
    Ok((id, serving))
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
