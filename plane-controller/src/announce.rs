//! Drones tell again what they run: what the log lacks of it is entered again, what the log knows better is answered.

use crate::{
    Core, QUEUE_GROUP, answered_in_time,
    forgotten::was_forgotten,
    history,
    intake::unavailable,
    log::{self, Written},
    loss,
};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{
        Answer, Fault, FaultCode,
        backend::{BackendState, PublicStatus},
        drone::{AnnounceReply, AnnounceRequest, AnnouncedBackend, KnownBackend},
        state::{Assignment, HeldLock, Holder, LockEntry, ReachedState},
    },
    nats::{NatsError, Serving, StreamName},
    world::{Assigned, World},
};
use std::{sync::Arc, time::Duration};

/// How long this controller may take to read the log up to an announcement.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How often one backend is looked at again because something else was written meanwhile.
const TRIES: usize = 5;

/// Serves drones for as long as the result is kept.
pub(crate) async fn serve(core: &Arc<Core>) -> Result<Serving, NatsError> {
    let own = core.clone();
    core.nats
        .serve_arrived(&core.tasks, "cluster.*.drone.*.announce", Some(QUEUE_GROUP), move |request, arrived| {
            let core = own.clone();
            answered_in_time(own.clone(), arrived, async move { take(&core, request).await })
        })
        .await
}

/// What becomes of an announced backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The log knows as much, or more: this is its state there.
    Known(BackendState),
    /// The log lacks that it holds its lock, and nobody else does: that is entered first, expecting this sequence.
    Hold(u64),
    /// The log gives it to the drone and lacks the acceptance: it is entered, expecting this sequence.
    Accept(u64),
    /// The log lacks the state.
    Reach,
    /// The log does not know it, and nothing stands against it.
    Enter,
    /// Another drone has it, or another backend its lock, or it was taken back: the drone has to end it.
    Lost,
}

/// How the log has the lock of an announced backend.
enum Claim {
    /// It needs none, or holds it.
    Holds,
    /// Nobody has it, or somebody had it before: it can be entered, expecting this sequence.
    Open(u64),
    /// Somebody else has it, or it was freed after this backend had taken it: somebody gave that up.
    Gone,
}

/// What becomes of a backend that a drone announces: a pure function of the world.
pub fn judge(world: &World, cluster: &ClusterName, drone: &DroneId, announced: &AnnouncedBackend) -> Verdict {
    let AnnouncedBackend { backend_id, state, .. } = announced;
    let known = world.backend(cluster, backend_id);
    let current = known.and_then(plane_core::world::Backend::state);
    if let Some(reached) = current.filter(|reached| reached.is_final()) {
        return Verdict::Known(reached);
    }
    let assigned = known.and_then(|known| known.assignment.as_ref());
    // Where another drone has not accepted it with the same hold, the log has lost that it was given on to this one.
    let given_away = |assigned: &Assigned| {
        assigned.drone != *drone && (assigned.accepted || assigned.lock() != hold(announced).as_ref())
    };
    // The log may have lost that it ran: it was taken back as one that nobody had. What it came to is told all the same.
    let came_to_an_end = state.is_final() && current.is_none_or(|current| current.may_precede(*state));
    if assigned.is_some_and(|assigned| assigned.withdrawn && came_to_an_end) {
        return Verdict::Reach;
    }
    if assigned.is_some_and(|assigned| assigned.withdrawn || given_away(assigned)) {
        return Verdict::Lost;
    }
    match (assigned, claim(world, cluster, announced)) {
        (_, Claim::Gone) => Verdict::Lost,
        (_, Claim::Open(sequence)) => Verdict::Hold(sequence),
        (None, Claim::Holds) => Verdict::Enter,
        (Some(assigned), Claim::Holds) if !assigned.accepted => Verdict::Accept(assigned.sequence),
        (Some(_), Claim::Holds) if current.is_none_or(|current| current.may_precede(*state)) => Verdict::Reach,
        (Some(_), Claim::Holds) => Verdict::Known(current.unwrap_or(*state)),
    }
}

fn claim(world: &World, cluster: &ClusterName, announced: &AnnouncedBackend) -> Claim {
    if announced.state.is_final() {
        return Claim::Holds;
    }
    let (lock, token) = match (&announced.lock, announced.fencing_token) {
        (Some(lock), Some(token)) => (lock, token),
        (None, None) => return Claim::Holds,
        (Some(_), None) | (None, Some(_)) => return Claim::Gone,
    };
    match world.lock(cluster, lock) {
        None => Claim::Open(0),
        Some(entry) => match &entry.holder {
            Some(holder) if holder.backend == announced.backend_id && holder.token == token => Claim::Holds,
            None if entry.token < token => Claim::Open(entry.sequence),
            Some(_) | None => Claim::Gone,
        },
    }
}

/// What is announced, as the public history has it: an end that was told stays, also where the log has lost it. That of
/// a backend of another cluster with the same id is not its end.
pub fn as_told(
    cluster: &ClusterName,
    announced: &AnnouncedBackend,
    told: Option<&PublicStatus>,
) -> Option<AnnouncedBackend> {
    let end = told.filter(|told| told.cluster == *cluster && told.state.is_final())?;
    Some(AnnouncedBackend { state: end.state, time: end.time, ..announced.clone() })
}

async fn take(core: &Core, request: AnnounceRequest) -> Answer<AnnounceReply> {
    let AnnounceRequest { cluster, drone_id, backends, last } = request;
    if backends.len() > AnnounceRequest::MAX_BACKENDS {
        let most = AnnounceRequest::MAX_BACKENDS;
        return Err(Fault::bad_request(format!("backends: expected at most {most}, found {}", backends.len())));
    }
    // Who has not noticed yet that the log lost something would answer from what it had.
    if !core.grants.know(&core.nats.server()) || !loss::compare(core).await.map_err(|e| unavailable(&e))? {
        return Err(late());
    }
    read_all(core).await?;
    let world = core.view.dropped();
    let mut reply = Vec::new();
    for announced in &backends {
        let state = enter(core, &cluster, &drone_id, announced).await?;
        reply.push(KnownBackend { backend_id: announced.backend_id.clone(), state });
    }
    if last {
        let told: std::collections::HashSet<&BackendId> = backends.iter().map(|told| &told.backend_id).collect();
        core.view.read(|world| {
            let Some(known) = world.cluster(&cluster) else { return };
            let given = known.load(&drone_id).into_iter().flat_map(|load| &load.backends);
            let mut untold: Vec<_> = given.filter(|id| !told.contains(id)).collect();
            untold.sort();
            for id in untold {
                let Some(backend) = known.backend(id).filter(|backend| backend.is_accepted()) else { continue };
                let state = backend.state().unwrap_or(BackendState::Loading);
                reply.push(KnownBackend { backend_id: id.clone(), state });
            }
        });
        tracing::info!(%cluster, drone = %drone_id, "the drone has told what it runs");
    }
    // All that was answered was looked up in one world, of a log that lacks nothing.
    let certain = core.grants.are_open(core, &cluster) && core.view.dropped() == world;
    Ok(AnnounceReply { backends: reply, certain })
}

fn late() -> Fault {
    Fault::new(FaultCode::Unavailable, "the state log is being read; announce again")
}

/// Reads the log as far as it goes now: an answer from the past would end what runs.
async fn read_all(core: &Core) -> Result<(), Fault> {
    let info = core.nats.info(StreamName::State).await.map_err(|e| unavailable(&e))?.ok_or_else(late)?;
    let reading = async {
        core.view.caught_up().await;
        core.view.has_read(info.last_sequence).await;
    };
    tokio::time::timeout(READ_LIMIT, reading).await.map_err(|_| late())
}

/// Brings the log up to what a drone announces of one backend, and gives the backend's state there.
async fn enter(
    core: &Core,
    cluster: &ClusterName,
    drone: &DroneId,
    announced: &AnnouncedBackend,
) -> Result<BackendState, Fault> {
    let backend = &announced.backend_id;
    let made = core.grants.made();
    if core.view.read(|world| was_forgotten(world, made, &core.timing, (cluster, backend), announced.time)) {
        tracing::warn!(%backend, %drone, "a drone was away for so long that its backend was given up and forgotten");
        return Ok(BackendState::Lost);
    }
    let mut announced = announced.clone();
    let mut compared = false;
    for _ in 0..TRIES {
        let verdict = core.view.read(|world| judge(world, cluster, drone, &announced));
        let writes = !matches!(verdict, Verdict::Known(_) | Verdict::Lost);
        if writes && !std::mem::replace(&mut compared, true) {
            let told = history::told(&core.nats, backend).await.map_err(|e| unavailable(&e))?;
            if let Some(ended) = as_told(cluster, &announced, told.as_ref()) {
                announced = ended;
                continue;
            }
        }
        let written = match verdict {
            Verdict::Known(state) => return Ok(state),
            Verdict::Lost => return Ok(BackendState::Lost),
            Verdict::Reach => reach(core, cluster, &announced).await,
            Verdict::Accept(sequence) => accept(core, cluster, drone, &announced, sequence).await,
            Verdict::Hold(sequence) => take_lock(core, cluster, &announced, sequence).await,
            // Over before it is known: the state goes first, so that it never counts as running.
            Verdict::Enter if announced.state.is_final() => {
                reach(core, cluster, &announced).await?;
                accept(core, cluster, drone, &announced, 0).await
            }
            Verdict::Enter => {
                tracing::warn!(%backend, %drone, "the log did not know a backend that runs; it is entered again");
                accept(core, cluster, drone, &announced, 0).await
            }
        };
        // What was written, here or by somebody else, is looked at as the log then has it.
        if let Written::Won(sequence) = written? {
            let _ = tokio::time::timeout(READ_LIMIT, core.view.has_read(sequence)).await;
        } else {
            read_all(core).await?;
        }
    }
    Err(Fault::new(FaultCode::Unavailable, format!("backend {backend} is being decided about; announce again")))
}

async fn take_lock(
    core: &Core,
    cluster: &ClusterName,
    announced: &AnnouncedBackend,
    expected: u64,
) -> Result<Written, Fault> {
    let Some(held) = hold(announced) else { return Ok(Written::Lost) };
    tracing::warn!(backend = %announced.backend_id, "the log did not know who holds a lock; it is entered again");
    let holder = Some(Holder { backend: announced.backend_id.clone(), token: held.token });
    let entry = LockEntry { lock: held.name, holder, last_token: None };
    log::hold(&core.nats, cluster, entry, expected).await.map_err(|e| unavailable(&e))
}

fn hold(announced: &AnnouncedBackend) -> Option<HeldLock> {
    Some(HeldLock { name: announced.lock.clone()?, token: announced.fencing_token? })
}

async fn accept(
    core: &Core,
    cluster: &ClusterName,
    drone: &DroneId,
    announced: &AnnouncedBackend,
    expected: u64,
) -> Result<Written, Fault> {
    let known = core
        .view
        .read(|world| world.backend(cluster, &announced.backend_id).and_then(|known| known.assignment.clone()));
    let assignment = Assignment {
        lock: hold(announced),
        accepted: true,
        memory_bytes: known.as_ref().and_then(Assigned::memory_bytes),
        cpu_percent: known.as_ref().and_then(Assigned::cpu_percent),
        ..Assignment::to(drone.clone(), announced.bearer_token.clone())
    };
    let written = log::assign(&core.nats, cluster, &announced.backend_id, assignment, expected).await;
    // Another lock that it was to hold stays behind.
    let before = known.as_ref().and_then(Assigned::lock).map(|before| &before.name);
    if let Some(before) = before.filter(|before| Some(*before) != announced.lock.as_ref()) {
        core.view.doubt_holder(cluster, before, &announced.backend_id);
    }
    written.map_err(|e| unavailable(&e))
}

async fn reach(core: &Core, cluster: &ClusterName, announced: &AnnouncedBackend) -> Result<Written, Fault> {
    let AnnouncedBackend { backend_id, state, time, .. } = announced;
    let newest = core.view.read(|world| world.backend(cluster, backend_id).and_then(|known| known.newest_timestamp()));
    let timestamp = newest.map_or(time.as_millisecond(), |newest| time.as_millisecond().max(newest.saturating_add(1)));
    let reached = ReachedState { state: *state, timestamp, reason: None, exit_code: None };
    core.history.enter(&core.nats, cluster, backend_id, reached).await.map_err(|e| unavailable(&e))
}
