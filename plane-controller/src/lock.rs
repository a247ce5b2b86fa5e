//! Where a lock stands, and when it may be freed: pure functions of the world.

use plane_core::{
    id::{BackendId, BearerToken, ClusterName, DroneId, LockName},
    message::state::Holder,
    world::{Backend, World},
};

/// Where a lock stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A backend that runs holds it.
    Held {
        /// The backend.
        backend: BackendId,
        /// Its drone.
        drone: DroneId,
        /// What requests to it must carry.
        bearer_token: Option<BearerToken>,
    },
    /// It is being decided for a backend that no drone has taken yet, or its holder has ended and is being cleared
    /// away. It will be held or free shortly.
    Undecided,
    /// Nobody holds it.
    Free {
        /// The sequence of its entry; 0 where it has none.
        sequence: u64,
        /// What the next holder's token has to be at least.
        next_token: u64,
    },
}

/// Where a lock stands in the world.
pub fn standing(world: &World, cluster: &ClusterName, lock: &LockName) -> Standing {
    let micros = world.newest_time().map_or(0, |time| u64::try_from(time.as_microsecond()).unwrap_or(0));
    let free = |sequence, token: u64| Standing::Free { sequence, next_token: micros.max(token.saturating_add(1)) };
    let Some(known) = world.lock(cluster, lock) else { return free(0, 0) };
    let Some(holder) = &known.holder else { return free(known.sequence, known.token) };
    let Some(backend) = world.backend(cluster, &holder.backend) else { return Standing::Undecided };
    match &backend.assignment {
        Some(assigned) if backend.is_accepted() && holds(backend, lock, holder) => {
            if world.drone(cluster, &assigned.drone).is_some_and(plane_core::world::Drone::is_lost) {
                return Standing::Undecided;
            }
            Standing::Held {
                backend: holder.backend.clone(),
                drone: assigned.drone.clone(),
                bearer_token: assigned.bearer_token().cloned(),
            }
        }
        _ => Standing::Undecided,
    }
}

/// Whether a backend's assignment is the one that a lock's entry names.
pub(crate) fn holds(backend: &Backend, lock: &LockName, holder: &Holder) -> bool {
    let held = backend.assignment.as_ref().and_then(|assigned| assigned.lock());
    held.is_some_and(|held| held.name == *lock && held.token == holder.token)
}

/// Whether a lock may be taken from the backend that holds it, whose public history is complete: it has ended, or its
/// assignment was taken back before anything was started, or it has got another one since.
pub fn may_free(backend: &Backend, lock: &LockName, holder: &Holder) -> bool {
    backend.has_ended() || backend.is_withdrawn() || !holds(backend, lock, holder)
}

#[cfg(test)]
mod tests;
