//! Requests of drones that become log entries: registration, and the states of backends. Only what changed is written.

use crate::{
    Core, QUEUE_GROUP, answered_in_time,
    forgotten::was_forgotten,
    log::{self, Written},
};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{
        Answer, Fault, FaultCode,
        backend::{BackendState, StatusReport, TerminateRequest},
        drone::{DroneState, RegisterRequest},
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
#[derive(Default)]
struct Met {
    current: Option<BackendState>,
    newest: Option<i64>,
    assigned: Option<Given>,
}

/// An assignment, and its sequence.
struct Given {
    assignment: Assignment,
    sequence: u64,
}

impl Given {
    fn of(assigned: &Assigned) -> Self {
        let Assigned { accepted, withdrawn, sequence, .. } = *assigned;
        Self { assignment: Assignment { accepted, withdrawn, ..assigned.again() }, sequence }
    }

    /// Whether a drone's report of the backend counts.
    fn admits(&self, drone: &DroneId, state: BackendState, reason: Option<&str>) -> bool {
        // The log may have lost that a backend ran after its id had been free again. What its drone ended is told.
        let by_its_drone = state != BackendState::Lost || reason.is_some();
        let ended = self.assignment.withdrawn && state.is_final() && by_its_drone;
        ended || (self.assignment.drone == *drone && !self.assignment.withdrawn)
    }
}

async fn enter(core: &Core, report: StatusReport) -> Answer<()> {
    let StatusReport { cluster, state, backend, time, drone, reason, exit_code } = report;
    let known = core.view.read(|world| {
        let found = world.backend(&cluster, &backend)?;
        let (newest, assigned) = (found.newest_timestamp(), found.assignment.as_ref().map(Given::of));
        Some(Met { current: found.state(), newest, assigned })
    });
    let Met { current, newest, mut assigned } = known.unwrap_or_default();
    if current.is_some_and(|current| !current.may_precede(state)) {
        return Ok(());
    }
    // What is answered is struck off the drone's list, so it is not judged by what this controller has not read yet.
    if !assigned.as_ref().is_some_and(|given| given.admits(&drone, state, reason.as_deref())) {
        let in_log = log::assignment(&core.nats, &cluster, &backend).await.map_err(|e| unavailable(&e))?;
        let read = assigned.as_ref().map_or(0, |given| given.sequence);
        let newer = in_log.filter(|(_, sequence)| *sequence > read);
        assigned = newer.map(|(assignment, sequence)| Given { assignment, sequence }).or(assigned);
    }
    let made = core.grants.made();
    let is_forgotten = |world: &_| was_forgotten(world, made, &core.timing, (&cluster, &backend), time);
    if assigned.is_none() && core.view.read(is_forgotten) {
        tracing::warn!(%backend, %drone, %state, "a report of a backend that was given up and forgotten; ignored");
        return Ok(());
    }
    if let Some(given) = assigned {
        if !given.admits(&drone, state, reason.as_deref()) {
            let assigned = given.assignment.drone;
            tracing::warn!(%backend, %drone, %assigned, %state, "a report of a drone that may not run the backend; ignored");
            return Ok(());
        }
        if state == BackendState::Lost && reason.is_none() {
            refuse_if_it_runs(core, TerminateRequest { cluster_id: cluster.clone(), backend_id: backend.clone() })
                .await?;
            refuse_if_it_may_be_served(core, &cluster, &backend, &given.assignment)?;
        }
        let Given { assignment, sequence } = given;
        if !assignment.accepted && !assignment.withdrawn {
            // A drone that does not write its acceptance runs it: its controller died before it could note that.
            let accepted = Assignment { accepted: true, ..assignment };
            let noted = log::assign(&core.nats, &cluster, &backend, accepted, sequence).await;
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

/// A drone that nobody hears may serve what holds locks until it fences itself. Once it is given up, whose locks these
/// were is Lost without anybody's doing.
fn refuse_if_it_may_be_served(
    core: &Core,
    cluster: &ClusterName,
    backend: &BackendId,
    assignment: &Assignment,
) -> Result<(), Fault> {
    let drone = &assignment.drone;
    let serves = core.view.read(|world| {
        world.drone(cluster, drone).is_some_and(|known| {
            let stopped = known.state().is_some_and(|reached| reached.state == DroneState::Stopped);
            known.has_feature("lease") && !known.is_lost() && !stopped
        })
    });
    if assignment.lock.is_none() || !serves {
        return Ok(());
    }
    let message = format!(
        "backend {backend} holds a lock, and drone {drone} may still serve it; it becomes Lost by itself once the drone \
         has not renewed its lease for lost_secs"
    );
    Err(Fault::new(FaultCode::Unavailable, message))
}
