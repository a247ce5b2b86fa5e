//! The lists of a cluster that follow from what its backends and drones are: what is in use, waits, or is over.

use super::view::{Backend, Cluster};
use crate::{
    id::{BackendId, DroneId},
    message::drone::DroneState,
};
use jiff::Timestamp;

/// Which lists of its cluster a backend is in.
pub(super) enum Listing {
    /// It may run, and counts at its drone.
    Live { drone: DroneId, accepted: bool, memory_bytes: u64, cpu_percent: u64 },
    /// It is forgotten some time after this.
    Over { since: Timestamp },
}

impl Listing {
    pub(super) fn of(backend: &Backend) -> Option<Self> {
        let over = || backend.over_since().map(|since| Self::Over { since });
        let Some(assigned) = backend.assignment.as_ref().filter(|_| backend.is_live()) else { return over() };
        Some(Self::Live {
            drone: assigned.drone.clone(),
            accepted: assigned.accepted,
            memory_bytes: assigned.memory_bytes().unwrap_or(0),
            cpu_percent: assigned.cpu_percent().unwrap_or(0).into(),
        })
    }
}

impl Cluster {
    /// Takes a backend out of the lists that follow from what it was.
    pub(super) fn unlist(&mut self, id: &BackendId, was: Listing) {
        match was {
            Listing::Live { drone, memory_bytes, cpu_percent, .. } => {
                self.unaccepted.remove(id);
                let emptied = self.loads.get_mut(&drone).is_some_and(|load| {
                    load.backends.remove(id);
                    load.memory_bytes = load.memory_bytes.saturating_sub(memory_bytes);
                    load.cpu_percent = load.cpu_percent.saturating_sub(cpu_percent);
                    load.backends.is_empty()
                });
                if emptied {
                    self.loads.remove(&drone);
                    self.note_drone(&drone);
                }
            }
            Listing::Over { since } => {
                self.ended.remove(&(since, id.clone()));
            }
        }
    }

    /// Puts a backend into the lists that follow from what it is.
    pub(super) fn list(&mut self, id: &BackendId, is: Listing) {
        match is {
            Listing::Live { drone, accepted, memory_bytes, cpu_percent } => {
                if !accepted {
                    self.unaccepted.insert(id.clone());
                }
                let load = self.loads.entry(drone.clone()).or_default();
                load.memory_bytes = load.memory_bytes.saturating_add(memory_bytes);
                load.cpu_percent = load.cpu_percent.saturating_add(cpu_percent);
                load.backends.insert(id.clone());
                if load.backends.len() == 1 {
                    self.note_drone(&drone);
                }
            }
            Listing::Over { since } => {
                self.ended.insert((since, id.clone()));
            }
        }
    }

    /// Lists a drone as gone, or not, as it is now.
    pub(super) fn note_drone(&mut self, id: &DroneId) {
        let busy = self.loads.contains_key(id);
        let Some(drone) = self.drones.get_mut(id) else { return };
        if let Some(listed) = drone.listed.take() {
            self.gone.remove(&(listed, id.clone()));
        }
        let gone = drone.states.last().is_some_and(|s| matches!(s.state, DroneState::Lost | DroneState::Stopped));
        if let (true, false, Some(since)) = (gone, busy, drone.since) {
            drone.listed = Some(since);
            self.gone.insert((since, id.clone()));
        }
    }
}
