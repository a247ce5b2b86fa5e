//! What nobody asks for and has to be done all the same: assignments that no drone takes are taken back, silent drones
//! given up, with what they ran. Every controller looks after everything; of several one writes.

use crate::{
    Core,
    config::Timing,
    lock::holds,
    log::{self, Written},
};
use futures_util::{StreamExt, stream};
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    message::{
        backend::BackendState,
        drone::DroneState,
        state::{Assignment, HeldLock, Lease, LockEntry, ReachedState, StateEntry},
    },
    nats::NatsError,
    world::{Assigned, Cluster, Drone},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Entries that are written at once.
const WRITERS: usize = 64;

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    /// Give a drone up, expecting its lease to have this sequence.
    GiveUp(ClusterName, DroneId, u64),
    /// Enter a drone as Lost.
    DroneLost(ClusterName, DroneId),
    /// Enter a backend as Lost.
    BackendLost(ClusterName, BackendId, &'static str),
    /// Take an assignment back.
    TakeBack(ClusterName, BackendId, Assigned),
    /// Note that a backend that holds a lock was never assigned to anybody.
    Nobody(ClusterName, BackendId, HeldLock),
    /// Free a lock, expecting its entry to have this sequence: the hold came late, its backend has another assignment.
    Free(ClusterName, HeldLock, u64),
    /// See to it that the lock of a backend that is over is freed.
    Over(ClusterName, BackendId),
}

/// Looks after everything for as long as the tasks run.
pub(crate) async fn care(core: Arc<Core>) {
    let stop = core.tasks.stop_token();
    let mut unaccepted = Unaccepted::default();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let now = core.clock.boot();
        core.drones.forget_silent(now, core.timing.silent);
        let Some(since) = core.pulse.beat(&core) else {
            unaccepted = Unaccepted::default();
            continue;
        };
        let due = look(&core, now, since, &mut unaccepted);
        let writing = stream::iter(due).for_each_concurrent(WRITERS, |due| {
            let core = core.clone();
            async move {
                if let Err(error) = act(&core, &due).await {
                    tracing::debug!(?due, %error, "it stays due");
                }
            }
        });
        if stop.run_until_cancelled(writing).await.is_none() {
            return;
        }
    }
}

/// Since when assignments have been seen that nobody accepted, by the sequences of their entries.
#[derive(Debug, Default)]
struct Unaccepted(BTreeMap<(ClusterName, BackendId), (u64, Duration)>);

fn look(core: &Core, now: Duration, since: Duration, unaccepted: &mut Unaccepted) -> Vec<Due> {
    let unexplained = core.view.unexplained_locks(core.timing.unaccepted);
    core.view.read(|world| {
        let mut due = Vec::new();
        let mut seen = BTreeMap::new();
        for (name, cluster) in world.clusters() {
            for (id, drone) in &cluster.drones {
                let read = core.view.lease_read(name, id).unwrap_or_default().max(since);
                look_at_drone(&core.timing, name, cluster, id, drone, now.saturating_sub(read), &mut due);
            }
            let mut waiting: Vec<&BackendId> = cluster.unaccepted().collect();
            waiting.sort();
            for id in waiting {
                let Some(assigned) = cluster.backend(id).and_then(|known| known.assignment.as_ref()) else { continue };
                let key = (name.clone(), id.clone());
                let first = unaccepted.0.get(&key).filter(|(sequence, _)| *sequence == assigned.sequence);
                let since = first.map_or(now, |(_, since)| *since);
                // A drone that does not write its acceptance may run the backend.
                let writes = cluster.drones.get(&assigned.drone).is_some_and(|drone| drone.has_feature("accept"));
                if writes && now.saturating_sub(since) >= core.timing.unaccepted {
                    due.push(Due::TakeBack(name.clone(), id.clone(), assigned.clone()));
                }
                seen.insert(key, (assigned.sequence, since));
            }
        }
        unaccepted.0 = seen;
        due.extend(
            unexplained.into_iter().filter_map(|(name, lock)| unexplained_hold(world.cluster(&name)?, name, lock)),
        );
        // Where the log may have lost an acceptance, its drone will tell.
        due.retain(|due| match due {
            Due::TakeBack(cluster, ..) | Due::Nobody(cluster, ..) | Due::Free(cluster, ..) => {
                core.grants.are_open(core, cluster)
            }
            Due::GiveUp(..) | Due::DroneLost(..) | Due::BackendLost(..) | Due::Over(..) => true,
        });
        due
    })
}

/// A lock's holder that does not live by an assignment with that lock. Who took the lock wrote such an assignment before:
/// it was lost or purged, or it was taken back while the hold was on its way, and another written since. After an
/// announcement the assignment may come behind the hold, so this is looked at only after a while.
fn unexplained_hold(cluster: &Cluster, name: ClusterName, lock: LockName) -> Option<Due> {
    let known = cluster.locks.get(&lock)?;
    let holder = known.holder.as_ref()?;
    let held = HeldLock { name: lock, token: holder.token };
    match cluster.backend(&holder.backend).filter(|backend| backend.assignment.is_some()) {
        None => Some(Due::Nobody(name, holder.backend.clone(), held)),
        Some(backend) if !holds(backend, &held.name, holder) => Some(Due::Free(name, held, known.sequence)),
        Some(backend) => (!backend.is_live()).then(|| Due::Over(name, holder.backend.clone())),
    }
}

fn look_at_drone(
    timing: &Timing,
    name: &ClusterName,
    cluster: &Cluster,
    id: &DroneId,
    drone: &Drone,
    silent: Duration,
    due: &mut Vec<Due>,
) {
    let state = drone.state().map(|reached| reached.state);
    if !drone.is_lost() {
        // Also one that took a lease and never came to register.
        let told = drone.meta.is_some() || drone.keep_alive.is_some();
        if silent >= timing.lost && (told || cluster.load(id).is_some()) {
            let sequence = drone.keep_alive.as_ref().map_or(0, |lease| lease.sequence);
            due.push(Due::GiveUp(name.clone(), id.clone(), sequence));
        }
        return;
    }
    if !matches!(state, Some(DroneState::Lost | DroneState::Stopped)) {
        due.push(Due::DroneLost(name.clone(), id.clone()));
    }
    let mut given: Vec<_> = cluster.load(id).into_iter().flat_map(|load| &load.backends).collect();
    given.sort();
    due.extend(given.into_iter().filter_map(|backend| of_lost_drone(timing, name, cluster, backend, silent)));
}

/// What is due of a backend whose drone was given up; nothing where that has come back, or is waited for.
fn of_lost_drone(
    timing: &Timing,
    name: &ClusterName,
    cluster: &Cluster,
    backend: &BackendId,
    silent: Duration,
) -> Option<Due> {
    let known = cluster.backend(backend).filter(|known| known.is_live())?;
    let assigned = known.assignment.as_ref()?;
    let drone = cluster.drones.get(&assigned.drone).filter(|drone| drone.is_lost())?;
    let stopped = drone.state().is_some_and(|reached| reached.state == DroneState::Stopped);
    let patience = if stopped { timing.stopped } else { timing.abandon };
    let (name, backend) = (name.clone(), backend.clone());
    match (assigned.accepted || !drone.has_feature("accept"), assigned.lock()) {
        (false, _) => Some(Due::TakeBack(name, backend, assigned.clone())),
        (true, Some(_)) => Some(Due::BackendLost(name, backend, "its drone was silent, and it holds a lock")),
        (true, None) if silent >= patience => {
            Some(Due::BackendLost(name, backend, "its drone was silent for too long"))
        }
        (true, None) => None,
    }
}

/// Whether a backend is still to be entered as Lost: what was due before it was written may have waited, and its drone
/// has come back meanwhile.
fn is_still_lost(core: &Core, name: &ClusterName, backend: &BackendId, due: &Due) -> bool {
    let (now, Some(since)) = (core.clock.boot(), core.pulse.beat(core)) else { return false };
    let still = core.view.read(|world| {
        let cluster = world.cluster(name)?;
        let drone = &cluster.backend(backend)?.assignment.as_ref()?.drone;
        let read = core.view.lease_read(name, drone).unwrap_or_default().max(since);
        of_lost_drone(&core.timing, name, cluster, backend, now.saturating_sub(read))
    });
    still.as_ref() == Some(due)
}

async fn act(core: &Core, due: &Due) -> Result<(), NatsError> {
    match due {
        Due::GiveUp(cluster, drone, expected) => {
            let lease = Lease { lost: true, ..Lease::default() };
            let entry = StateEntry::lease(cluster.clone(), drone.clone(), log::time_for(core, cluster, drone), lease);
            if let Written::Won(_) = log::write(&core.nats, &entry, *expected).await? {
                tracing::warn!(%cluster, %drone, "the drone is lost: its lease was not renewed");
            }
            Ok(())
        }
        Due::DroneLost(cluster, drone) => log::enter_drone_state(core, cluster, drone, DroneState::Lost).await,
        Due::BackendLost(cluster, backend, _) if !is_still_lost(core, cluster, backend, due) => Ok(()),
        Due::BackendLost(cluster, backend, reason) => {
            let newest = core.view.read(|world| world.backend(cluster, backend)?.newest_timestamp());
            let now = core.clock.wall().as_millisecond();
            let timestamp = newest.map_or(now, |newest| now.max(newest.saturating_add(1)));
            let reason = Some((*reason).to_owned());
            let reached = ReachedState { state: BackendState::Lost, timestamp, reason, exit_code: None };
            if let Written::Won(_) = core.history.enter(&core.nats, cluster, backend, reached).await? {
                tracing::warn!(%cluster, %backend, "the backend is lost");
            }
            Ok(())
        }
        Due::TakeBack(cluster, backend, assigned) => {
            let withdrawn = Assignment { withdrawn: true, ..assigned.again() };
            if let Written::Won(_) = log::assign(&core.nats, cluster, backend, withdrawn, assigned.sequence).await? {
                tracing::warn!(%cluster, %backend, drone = %assigned.drone, "no drone accepted it; taken back");
            }
            Ok(())
        }
        Due::Nobody(cluster, backend, held) => {
            let Ok(drone) = "none".parse() else { return Ok(()) };
            let withdrawn = Assignment { lock: Some(held.clone()), withdrawn: true, ..Assignment::to(drone, None) };
            log::assign(&core.nats, cluster, backend, withdrawn, 0).await.map(|_| ())
        }
        Due::Free(cluster, held, expected) => {
            let entry = LockEntry { lock: held.name.clone(), holder: None, last_token: Some(held.token) };
            if let Written::Won(_) = log::hold(&core.nats, cluster, entry, *expected).await? {
                tracing::warn!(%cluster, "a lock whose hold came late is free");
            }
            Ok(())
        }
        Due::Over(cluster, backend) => {
            core.history.changed(cluster.clone(), backend.clone());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SchedulerConfig;
    use jiff::Timestamp;
    use plane_core::{
        message::state::{BackendMessage, DroneMessage},
        world::{Entry, World},
    };

    #[test]
    fn a_drone_that_never_came_to_register_is_given_up_too() {
        let timing = SchedulerConfig::default().timing();
        let (name, id): (ClusterName, DroneId) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        let lease = StateEntry::lease(name.clone(), id.clone(), 1, Lease::default());
        let (subject, payload) = (lease.subject(), serde_json::to_vec(&lease).unwrap().into());
        let mut world = World::default();
        world.apply(&Entry { subject, sequence: 7, time: Timestamp::UNIX_EPOCH, payload }).unwrap();
        let cluster = world.cluster(&name).unwrap();
        let mut due = Vec::new();
        look_at_drone(&timing, &name, cluster, &id, &cluster.drones[&id], timing.lost, &mut due);
        assert_eq!(due, [Due::GiveUp(name, id, 7)]);
    }

    #[test]
    fn a_backend_whose_drone_has_come_back_is_not_lost() {
        let timing = SchedulerConfig::default().timing();
        let (name, backend): (ClusterName, BackendId) = ("plane.test".parse().unwrap(), "b".parse().unwrap());
        let drone: DroneId = "d".parse().unwrap();
        let (ip, version, git_hash) = ([127, 0, 0, 1].into(), "1".to_owned(), None);
        let features = vec!["accept".to_owned(), "lease".to_owned()];
        let meta = DroneMessage::Metadata { ip, version, git_hash, features };
        let taken = Assignment { accepted: true, ..Assignment::to(drone.clone(), None) };
        let lease = |lost| {
            let lease = Lease { lost, ..Lease::default() };
            StateEntry::lease(name.clone(), drone.clone(), 1, lease)
        };
        let mut log = vec![
            StateEntry::drone(name.clone(), drone.clone(), meta),
            StateEntry::backend(name.clone(), backend.clone(), BackendMessage::Assignment(taken)),
            lease(true),
        ];
        let due = |log: &[StateEntry], silent| {
            let mut world = World::default();
            for (message, sequence) in log.iter().zip(1..) {
                let payload = serde_json::to_vec(message).unwrap().into();
                let subject = message.subject();
                world.apply(&Entry { subject, sequence, time: Timestamp::UNIX_EPOCH, payload }).unwrap();
            }
            of_lost_drone(&timing, &name, world.cluster(&name).unwrap(), &backend, silent)
        };
        assert!(matches!(due(&log, timing.abandon), Some(Due::BackendLost(..))));
        assert_eq!(due(&log, timing.abandon - Duration::from_secs(1)), None);
        log.push(lease(false));
        assert_eq!(due(&log, timing.abandon), None);
    }
}
