//! Writing decisions into the state log.

use crate::Core;
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    message::{
        drone::DroneState,
        state::{
            Assignment, BackendMessage, DroneMessage, EntryBody, LockEntry, Millis, ReachedState, StateEntry,
            assignment_subject, lock_subject,
        },
    },
    nats::{Nats, NatsError, StreamName},
    world::Drone,
};

/// What came of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is in the log, under this sequence.
    Won(u64),
    /// Something else is.
    Lost,
}

/// Writes an entry where its subject's newest has the sequence `expected`. An outcome that is not known is found out,
/// where the server is still the same: another may have taken the entry without knowing what it was decided on.
pub(crate) async fn write(nats: &Nats, entry: &StateEntry, expected: u64) -> Result<Written, NatsError> {
    let (subject, server) = (entry.subject(), nats.server());
    match nats.publish_expecting(subject.clone(), entry, expected).await {
        Ok(sequence) => Ok(Written::Won(sequence)),
        Err(NatsError::WrongSequence(_)) => Ok(Written::Lost),
        Err(unknown @ NatsError::TimedOut(_)) => match nats.last(StreamName::State, &subject).await {
            Ok(Some(stored)) if stored.sequence > expected && nats.server() == server => {
                let own = serde_json::from_slice::<StateEntry>(&stored.payload).is_ok_and(|found| found == *entry);
                Ok(if own { Written::Won(stored.sequence) } else { Written::Lost })
            }
            // It may still be on its way, or have come to another server.
            _ => Err(unknown),
        },
        Err(error) => Err(error),
    }
}

/// Writes who may start a backend.
pub(crate) async fn assign(
    nats: &Nats,
    cluster: &ClusterName,
    backend: &BackendId,
    assignment: Assignment,
    expected: u64,
) -> Result<Written, NatsError> {
    write(
        nats,
        &StateEntry::backend(cluster.clone(), backend.clone(), BackendMessage::Assignment(assignment)),
        expected,
    )
    .await
}

/// Writes a state that a backend reached, once.
pub(crate) async fn reach(
    nats: &Nats,
    cluster: &ClusterName,
    backend: &BackendId,
    reached: ReachedState,
) -> Result<Written, NatsError> {
    write(nats, &StateEntry::backend(cluster.clone(), backend.clone(), BackendMessage::State(reached)), 0).await
}

/// Writes who holds a lock.
pub(crate) async fn hold(
    nats: &Nats,
    cluster: &ClusterName,
    entry: LockEntry,
    expected: u64,
) -> Result<Written, NatsError> {
    write(nats, &StateEntry::lock(cluster.clone(), entry), expected).await
}

/// The assignment of a backend as the log has it now, with its sequence.
pub(crate) async fn assignment(
    nats: &Nats,
    cluster: &ClusterName,
    backend: &BackendId,
) -> Result<Option<(Assignment, u64)>, NatsError> {
    let stored = nats.last(StreamName::State, &assignment_subject(cluster, backend)).await?;
    Ok(stored.and_then(|stored| {
        let entry: StateEntry = serde_json::from_slice(&stored.payload).ok()?;
        match entry.body {
            EntryBody::BackendMessage(entry) => match entry.message {
                BackendMessage::Assignment(assignment) => Some((assignment, stored.sequence)),
                BackendMessage::State(_) => None,
            },
            EntryBody::DroneMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
        }
    }))
}

/// The entry of a lock as the log has it now, with its sequence; nothing where it has none.
///
/// # Errors
/// Also where there is one that cannot be read: a newer version may have written who holds it.
pub(crate) async fn lock_entry(
    nats: &Nats,
    cluster: &ClusterName,
    lock: &LockName,
) -> Result<Option<(LockEntry, u64)>, NatsError> {
    let subject = lock_subject(cluster, lock);
    let Some(stored) = nats.last(StreamName::State, &subject).await? else { return Ok(None) };
    let entry = serde_json::from_slice::<StateEntry>(&stored.payload).ok();
    match entry.map(|entry| entry.body) {
        Some(EntryBody::LockMessage(entry)) if entry.lock == *lock => Ok(Some((entry, stored.sequence))),
        _ => Err(NatsError::Other { what: subject, cause: "it is not an entry of the lock".to_owned() }),
    }
}

/// The time of the next entry about a drone: above that of all that has been read.
pub(crate) fn time_for(core: &Core, cluster: &ClusterName, drone: &DroneId) -> Millis {
    let newest = core.view.read(|world| world.drone(cluster, drone).and_then(Drone::newest_timestamp));
    let now = core.clock.wall().as_millisecond();
    newest.map_or(now, |newest| now.max(newest.saturating_add(1)))
}

/// Puts a drone's state into the log, unless the log has it already. Of several controllers one writes it.
pub(crate) async fn enter_drone_state(
    core: &Core,
    cluster: &ClusterName,
    drone: &DroneId,
    state: DroneState,
) -> Result<(), NatsError> {
    let nats = &core.nats;
    let any = format!("state.cluster.{}.drone.{drone}.status.*", cluster.subject_token());
    let newest = nats.last(StreamName::State, &any).await?.and_then(|stored| {
        let entry: StateEntry = serde_json::from_slice(&stored.payload).ok()?;
        match entry.body {
            EntryBody::DroneMessage(entry) => match entry.message {
                DroneMessage::State { timestamp, state } => Some((state, timestamp)),
                DroneMessage::Metadata { .. } | DroneMessage::KeepAlive { .. } => None,
            },
            EntryBody::BackendMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
        }
    });
    if newest.is_some_and(|(known, _)| known == state) {
        return Ok(());
    }
    let read = time_for(core, cluster, drone);
    let timestamp = newest.map_or(read, |(_, newest)| read.max(newest.saturating_add(1)));
    let entry = StateEntry::drone(cluster.clone(), drone.clone(), DroneMessage::State { timestamp, state });
    let last = nats.last(StreamName::State, &entry.subject()).await?.map_or(0, |stored| stored.sequence);
    if let Written::Won(_) = write(nats, &entry, last).await? {
        tracing::info!(%cluster, %drone, %state, "drone");
    }
    Ok(())
}
