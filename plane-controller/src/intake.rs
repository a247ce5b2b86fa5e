//! Requests of drones that become log entries: registration, and the states of backends. Only what changed is written.

use crate::{
    Core, QUEUE_GROUP, answered_in_time,
    log::{self, Written},
};
use plane_core::{
    message::{
        Answer, Fault, FaultCode,
        backend::{BackendState, StatusReport, TerminateRequest},
        drone::RegisterRequest,
        state::{Assignment, DroneMessage, MISSING_VERSION, ReachedState, StateEntry},
    },
    nats::{NatsError, Serving, StreamName},
    world::Assigned,
};
use std::{sync::Arc, time::Duration};

/// How long a drone may take to answer `terminate`.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves drones for as long as the result is kept.
pub(crate) async fn serve(core: &Arc<Core>) -> Result<[Serving; 2], NatsError> {
    let own = core.clone();
    let register = core
        .nats
        .serve_arrived(&core.tasks, "cluster.*.drone.register", Some(QUEUE_GROUP), move |request, arrived| {
            let core = own.clone();
            answered_in_time(own.clone(), arrived, async move { register(&core, request).await })
        })
        .await?;
    let own = core.clone();
    let status = core
        .nats
        .serve_arrived(&core.tasks, "cluster.*.backend.*.status", Some(QUEUE_GROUP), move |report, arrived| {
            let core = own.clone();
            answered_in_time(own.clone(), arrived, async move { enter(&core, report).await })
        })
        .await?;
    Ok([register, status])
}

pub(crate) fn unavailable(error: &NatsError) -> Fault {
    Fault::new(FaultCode::Unavailable, format!("the state log cannot be written now: {error}"))
}

async fn register(core: &Core, request: RegisterRequest) -> Answer<bool> {
    let RegisterRequest { drone_id, cluster, ip, version, git_hash, features } = request;
    let version = version.unwrap_or_else(|| MISSING_VERSION.to_owned());
    let message = DroneMessage::Metadata { ip, version, git_hash, features };
    let entry = StateEntry::drone(cluster.clone(), drone_id.clone(), message);
    let last = core.nats.last(StreamName::State, &entry.subject()).await.map_err(|e| unavailable(&e))?;
    let known = last.as_ref().and_then(|stored| serde_json::from_slice::<StateEntry>(&stored.payload).ok());
    // Where the drone was forgotten and its entries are not purged yet, they are about to be: they are written anew.
    let is_known = core.view.read(|world| world.drone(&cluster, &drone_id).is_some_and(|drone| drone.meta.is_some()));
    if is_known && known.as_ref() == Some(&entry) {
        return Ok(true);
    }
    let expected = last.map_or(0, |stored| stored.sequence);
    match log::write(&core.nats, &entry, expected).await.map_err(|e| unavailable(&e))? {
        Written::Won(_) => {
            tracing::info!(%cluster, drone = %drone_id, %ip, "drone registered");
            Ok(true)
        }
        Written::Lost => Err(Fault::new(FaultCode::Unavailable, "another registration came between; register again")),
    }
}

/// What a report meets.
struct Met {
    current: Option<BackendState>,
    newest: Option<i64>,
    assigned: Option<Assigned>,
}

async fn enter(core: &Core, report: StatusReport) -> Answer<()> {
    let StatusReport { cluster, state, backend, time, drone, reason, exit_code } = report;
    let known = core.view.read(|world| {
        let found = world.backend(&cluster, &backend)?;
        let (newest, assigned) = (found.newest_timestamp(), found.assignment.clone());
        Some(Met { current: found.state(), newest, assigned })
    });
    let Met { current, newest, assigned } = known.unwrap_or(Met { current: None, newest: None, assigned: None });
    if current.is_some_and(|current| !current.may_precede(state)) {
        return Ok(());
    }
    if let Some(assigned) = assigned {
        // The log may have lost that a backend ran after its id had been free again. What its drone ended is told.
        let ended = assigned.withdrawn && state == BackendState::Lost && reason.is_some();
        if !ended && (assigned.drone != drone || assigned.withdrawn) {
            let assigned = assigned.drone;
            tracing::warn!(%backend, %drone, %assigned, %state, "a report of a drone that may not run the backend; ignored");
            return Ok(());
        }
        if state == BackendState::Lost && reason.is_none() {
            refuse_if_it_runs(core, TerminateRequest { cluster_id: cluster.clone(), backend_id: backend.clone() })
                .await?;
        }
        if !assigned.accepted && !assigned.withdrawn {
            // A drone that does not write its acceptance runs it: its controller died before it could note that.
            let accepted = Assignment { accepted: true, ..assigned.again() };
            let noted = log::assign(&core.nats, &cluster, &backend, accepted, assigned.sequence).await;
            noted.map_err(|e| unavailable(&e))?;
        }
    }
    let timestamp = newest.map_or(time.as_millisecond(), |newest| time.as_millisecond().max(newest.saturating_add(1)));
    let reached = ReachedState { state, timestamp, reason, exit_code };
    match core.history.enter(&core.nats, &cluster, &backend, reached).await {
        Ok(Written::Won(_)) => {
            tracing::debug!(%backend, %drone, %state, "backend");
            Ok(())
        }
        Ok(Written::Lost) => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Somebody says of a backend that it is lost, and is not its drone, which gives a reason. If the drone can be reached,
/// the backend is not lost: it is ended there, and the drone reports what it then is.
async fn refuse_if_it_runs(core: &Core, request: TerminateRequest) -> Result<(), Fault> {
    let backend = request.backend_id.clone();
    match core.nats.request(&request, TERMINATE_TIMEOUT).await {
        Ok(()) => Err(Fault::new(
            FaultCode::Unavailable,
            format!("backend {backend} is not lost: its drone answers, and has been told to end it"),
        )),
        Err(_) => Ok(()),
    }
}
