//! Forgetting: what ended longer ago than the retention time, by the log's own clock, and what nobody was given and was
//! not heard of for so long. It is decided before the next entry is looked at, from entries alone, so that every reader
//! forgets the same; the purge of the log follows it.

use super::{StateSeen, World};
use crate::{
    id::{BackendId, ClusterName, DroneId},
    message::state::{
        assignment_subject, drone_state_subject, keep_alive_subject, lock_subject, meta_subject, state_subject,
    },
};
use jiff::Timestamp;

/// Something that was forgotten and can be purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Its cluster.
    pub cluster: ClusterName,
    /// What it was.
    pub what: Past,
    /// Its entries in the state log, subject and sequence, in the order in which they go: what says that it is over goes
    /// last, so that what an interrupted purge leaves is over too.
    pub entries: Vec<(String, u64)>,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// A backend: its public history and its logs go too.
    Backend(BackendId),
    /// A drone.
    Drone(DroneId),
    /// A lock.
    Lock,
}

impl World {
    /// What was forgotten since this was asked last.
    pub fn take_forgotten(&mut self) -> Vec<Forgotten> {
        std::mem::take(&mut self.forgotten)
    }

    pub(super) fn forget(&mut self) {
        let (Some(now), Some(retention)) = (self.time, self.retention) else { return };
        let before = now.saturating_sub(retention).unwrap_or(Timestamp::MIN);
        let is_old = |time: &Timestamp| *time < before;
        for (name, cluster) in &mut self.clusters {
            while cluster.ended.first().is_some_and(|(time, _)| is_old(time)) {
                let Some((_, id)) = cluster.ended.pop_first() else { break };
                let Some(backend) = cluster.backends.remove(id.as_str()) else { continue };
                let (ends, ways): (Vec<_>, Vec<_>) = backend.states.iter().partition(|seen| seen.state.is_final());
                let state = |seen: &&StateSeen| (state_subject(name, &id, seen.state), seen.sequence);
                let assignment = backend.assignment.as_ref();
                let assignment = assignment.map(|assigned| (assignment_subject(name, &id), assigned.sequence));
                let entries = ways.iter().map(state).chain(assignment).chain(ends.iter().map(state)).collect();
                self.forgotten.push(Forgotten { cluster: name.clone(), what: Past::Backend(id), entries });
            }
            while cluster.gone.first().is_some_and(|(time, _)| is_old(time)) {
                let Some((_, id)) = cluster.gone.pop_first() else { break };
                let Some(drone) = cluster.drones.remove(&id) else { continue };
                let states = drone.states.iter();
                let states = states.map(|reached| (drone_state_subject(name, &id, reached.state), reached.sequence));
                let lease = drone.keep_alive.as_ref().map(|lease| (keep_alive_subject(name, &id), lease.sequence));
                let meta = drone.meta.as_ref().map(|meta| (meta_subject(name, &id), meta.sequence));
                let entries = states.chain(lease).chain(meta).collect();
                self.forgotten.push(Forgotten { cluster: name.clone(), what: Past::Drone(id), entries });
            }
            while cluster.free.first().is_some_and(|(time, _)| is_old(time)) {
                let Some((_, name_of)) = cluster.free.pop_first() else { break };
                let Some(lock) = cluster.locks.remove(&name_of) else { continue };
                let entries = vec![(lock_subject(name, &name_of), lock.sequence)];
                self.forgotten.push(Forgotten { cluster: name.clone(), what: Past::Lock, entries });
            }
        }
    }
}
