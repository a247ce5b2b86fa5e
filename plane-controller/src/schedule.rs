//! Answers `schedule` and `fetch`. Every decision stands in the log before anybody acts on it: first who may start the
//! backend, then, where there is a lock, that the backend holds it; then a drone is asked.
//!
//! Here is what a client gets, and when. Whose turn it is to decide a lock is in `turn.rs`, what is done in a turn
//! in `locked.rs`, which id a backend may have in `id.rs`, one decision from its first entry to a drone's word in `decision.rs`.

mod ask;
mod decision;
mod id;
mod locked;
mod place;
mod turn;

use crate::{
    Core, QUEUE_GROUP, answered_in_time,
    dns::answer,
    history,
    lock::{Standing, standing},
};
use decision::{Decided, Outcome, decide};
use id::id_for;
use plane_core::{
    id::{BackendId, ClusterName},
    message::{
        Answer, Fault, FaultCode,
        schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse},
    },
    nats::{NatsError, Serving},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
pub(crate) use turn::Deciding;
use turn::{Turn, Waiting};

/// A request is decided within this time of its arrival, and answered within 8 s.
const BUDGET: Duration = Duration::from_millis(7500);

/// Serves clients for as long as the result is kept.
pub(crate) async fn serve(core: &Arc<Core>) -> Result<[Serving; 2], NatsError> {
    let own = core.clone();
    let schedule = core
        .nats
        .serve_arrived(&core.tasks, "cluster.*.schedule", Some(QUEUE_GROUP), move |request, arrived| {
            let deciding = schedule(own.clone(), request, arrived + BUDGET);
            answered_in_time(own.clone(), arrived, deciding)
        })
        .await?;
    let own = core.clone();
    let fetch = core
        .nats
        .serve_arrived(&core.tasks, "cluster.*.fetch", Some(QUEUE_GROUP), move |request, arrived| {
            let fetching = fetch(own.clone(), request, arrived + BUDGET);
            answered_in_time(own.clone(), arrived, fetching)
        })
        .await?;
    Ok([schedule, fetch])
}

async fn schedule(core: Arc<Core>, request: ScheduleRequest, deadline: Instant) -> Answer<ScheduleResponse> {
    let core = &core;
    let chosen = request.backend_id.clone();
    if let Some(id) = chosen.as_ref().filter(|id| core.reserved_label(&request.cluster) == Some(id.as_str())) {
        let message = format!("backend_id: expected another name; {id} is the cluster's own name server");
        return Err(Fault::bad_request(message));
    }
    caught_up(core, deadline).await?;
    let is_cluster = |id: &&BackendId| core.view.read(|world| answer::is_cluster(world, &request.cluster, id));
    if let Some(id) = chosen.as_ref().filter(is_cluster) {
        let message = format!("backend_id: expected another name; {id}.{} is a cluster", request.cluster);
        return Err(Fault::bad_request(message));
    }
    let Some(lock) = request.lock.clone() else {
        let (backend, sequence) = id_for(core, &request).await?;
        let Decided { outcome, written } = decide(core, &request, &backend, sequence, None, deadline).await;
        return match outcome? {
            Outcome::Scheduled(answer) => {
                core.answerable(written, deadline).await?;
                Ok(answer)
            }
            Outcome::NoDrone | Outcome::LockTaken(_) => Ok(ScheduleResponse::NoDroneAvailable),
        };
    };
    // The sequence of this request's own withdrawn assignment, where it had one for the id that it asks for.
    let mut withdrawn = None;
    loop {
        let mut waiting = Waiting::begin(core, &request.cluster, &lock);
        match core.view.read(|world| standing(world, &request.cluster, &lock)) {
            Standing::Held { backend, .. } if is_told_to_have_ended(core, &request.cluster, &backend).await => {}
            Standing::Held { backend, drone, bearer_token } => {
                // What its name rests on has been read.
                core.answerable(0, deadline).await?;
                return Ok(ScheduleResponse::Scheduled { drone, backend_id: backend, bearer_token, spawned: false });
            }
            Standing::Free { .. } if core.grants.are_open(core, &request.cluster) => {
                if let Some(turn) = Turn::take(core, &request.cluster, &lock)
                    && let Some(answer) = locked::decide_lock(core, &request, turn, &mut withdrawn, deadline).await?
                {
                    return Ok(answer);
                }
            }
            Standing::Free { .. } | Standing::Undecided => {}
        }
        waiting.until(deadline).await?;
    }
}

async fn fetch(core: Arc<Core>, request: FetchRequest, deadline: Instant) -> Answer<FetchResponse> {
    let core = &core;
    caught_up(core, deadline).await?;
    loop {
        let mut waiting = Waiting::begin(core, &request.cluster, &request.lock);
        match core.view.read(|world| standing(world, &request.cluster, &request.lock)) {
            Standing::Held { backend, .. } if is_told_to_have_ended(core, &request.cluster, &backend).await => {}
            Standing::Held { backend, drone, bearer_token } => {
                // What its name rests on has been read.
                core.answerable(0, deadline).await?;
                return Ok(FetchResponse::Scheduled { drone, backend_id: backend, bearer_token });
            }
            Standing::Free { .. } if core.grants.are_open(core, &request.cluster) => {
                return Ok(FetchResponse::NoBackendForLock);
            }
            Standing::Free { .. } | Standing::Undecided => {}
        }
        waiting.until(deadline).await?;
    }
}

/// Whether the public history says that a backend has ended, which this controller may not have read yet: whoever knows
/// of the end and asks again is not sent to that backend. Where the history cannot be asked, what was read counts.
async fn is_told_to_have_ended(core: &Core, cluster: &ClusterName, backend: &BackendId) -> bool {
    let told = history::told(&core.nats, backend).await;
    told.is_ok_and(|told| told.is_some_and(|status| status.cluster == *cluster && status.state.is_final()))
}

async fn caught_up(core: &Core, deadline: Instant) -> Result<(), Fault> {
    if core.view.is_caught_up() {
        return Ok(());
    }
    let caught_up = tokio::time::timeout_at(deadline, core.view.caught_up()).await;
    caught_up.map_err(|_| Fault::new(FaultCode::Unavailable, "the state log is being read; ask again"))
}
