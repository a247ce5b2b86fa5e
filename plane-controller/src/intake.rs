//! Requests of drones that become log entries: registration, and the states of backends. Only what changed is written.

use crate::{QUEUE_GROUP, view::View};
use plane_core::{
    message::{
        Answer, Fault, FaultCode,
        backend::StatusReport,
        drone::RegisterRequest,
        state::{BackendMessage, DroneMessage, MISSING_VERSION, ReachedState, StateEntry},
    },
    nats::{Nats, NatsError, Serving, StreamName},
    task::Tasks,
};
use std::sync::Arc;

/// Serves drones for as long as the result is kept.
pub(crate) async fn serve(nats: &Nats, view: Arc<View>, tasks: &Tasks) -> Result<[Serving; 2], NatsError> {
    let own = nats.clone();
    let register = nats
        .serve(tasks, "cluster.*.drone.register", Some(QUEUE_GROUP), move |request| {
            let nats = own.clone();
            async move { register(&nats, request).await }
        })
        .await?;
    let own = nats.clone();
    let status = nats
        .serve(tasks, "cluster.*.backend.*.status", Some(QUEUE_GROUP), move |report| {
            let (nats, view) = (own.clone(), view.clone());
            async move { enter(&nats, &view, report).await }
        })
        .await?;
    Ok([register, status])
}

pub(crate) fn unavailable(error: &NatsError) -> Fault {
    Fault::new(FaultCode::Unavailable, format!("the state log cannot be written now: {error}"))
}

async fn register(nats: &Nats, request: RegisterRequest) -> Answer<bool> {
    let RegisterRequest { drone_id, cluster, ip, version, git_hash, features } = request;
    let version = version.unwrap_or_else(|| MISSING_VERSION.to_owned());
    let message = DroneMessage::Metadata { ip, version, git_hash, features };
    let entry = StateEntry::drone(cluster.clone(), drone_id.clone(), message);
    let subject = entry.subject();
    let last = nats.last(StreamName::State, &subject).await.map_err(|e| unavailable(&e))?;
    let known = last.as_ref().and_then(|stored| serde_json::from_slice::<StateEntry>(&stored.payload).ok());
    if known.as_ref() == Some(&entry) {
        return Ok(true);
    }
    let expected = last.map_or(0, |stored| stored.sequence);
    nats.publish_expecting(subject, &entry, expected).await.map_err(|e| unavailable(&e))?;
    tracing::info!(%cluster, drone = %drone_id, %ip, "drone registered");
    Ok(true)
}

async fn enter(nats: &Nats, view: &View, report: StatusReport) -> Answer<()> {
    let StatusReport { cluster, state, backend, time, drone, reason, exit_code } = report;
    let known = view.read(|world| {
        world.backend(&cluster, &backend).map(|found| {
            (found.state(), found.newest_timestamp(), found.assignment.as_ref().map(|assigned| assigned.drone.clone()))
        })
    });
    let (current, newest, assigned) = known.unwrap_or((None, None, None));
    if current.is_some_and(|current| !current.may_precede(state)) {
        return Ok(());
    }
    if assigned.as_ref().is_some_and(|assigned| *assigned != drone) {
        tracing::warn!(%backend, %drone, ?assigned, %state, "a report of a drone that the backend is not assigned to; ignored");
        return Ok(());
    }
    let timestamp = newest.map_or(time.as_millisecond(), |newest| time.as_millisecond().max(newest + 1));
    let reached = ReachedState { state, timestamp, reason, exit_code };
    let entry = StateEntry::backend(cluster, backend.clone(), BackendMessage::State(reached));
    match nats.publish_expecting(entry.subject(), &entry, 0).await {
        Ok(_) => {
            tracing::info!(%backend, %drone, %state, "backend");
            Ok(())
        }
        Err(NatsError::WrongSequence(_)) => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}
