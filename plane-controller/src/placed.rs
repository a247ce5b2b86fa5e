//! Backends that this controller has placed and not read back from the log yet: whoever chooses a drone counts them.

use crate::placement::Use;
use plane_core::id::{BackendId, ClusterName, DroneId};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What is in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    inner: Mutex<Inner>,
}

/// The same, held while one drone is chosen.
pub(crate) struct Guard<'a>(MutexGuard<'a, Inner>);

#[derive(Debug, Default)]
struct Inner {
    placed: HashMap<BackendId, (ClusterName, DroneId, Use)>,
    uses: BTreeMap<ClusterName, HashMap<DroneId, Use>>,
}

impl Inner {
    fn remove(&mut self, backend: &BackendId) {
        let Some((cluster, drone, used)) = self.placed.remove(backend) else { return };
        let Some(drones) = self.uses.get_mut(&cluster) else { return };
        if let Some(sum) = drones.get_mut(&drone) {
            *sum -= used;
            if sum.backends == 0 {
                drones.remove(&drone);
            }
        }
        if drones.is_empty() {
            self.uses.remove(&cluster);
        }
    }
}

impl InFlight {
    /// Holds what is in flight: a choice and its counting are one step.
    pub(crate) fn hold(&self) -> Guard<'_> {
        Guard(self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The log gives a backend to a drone: it counts as one of the world's there.
    pub(crate) fn read_back(&self, backend: &BackendId, drone: &DroneId) {
        let mut inner = self.hold().0;
        if inner.placed.get(backend).is_some_and(|(_, placed, _)| placed == drone) {
            inner.remove(backend);
        }
    }

    /// A backend is not placed anywhere after all.
    pub(crate) fn remove(&self, backend: &BackendId) {
        self.hold().0.remove(backend);
    }

    /// All of the log has been read: what it gives to the drone where it was placed counts as one of the world's there.
    pub(crate) fn read_back_where(&self, given: impl Fn(&ClusterName, &BackendId, &DroneId) -> bool) {
        let mut inner = self.hold().0;
        let placed = inner.placed.iter().filter(|(backend, (cluster, drone, _))| given(cluster, backend, drone));
        let read: Vec<BackendId> = placed.map(|(backend, _)| backend.clone()).collect();
        for backend in read {
            inner.remove(&backend);
        }
    }

    /// The log is read anew: what was decided before is in it, or lost.
    pub(crate) fn clear(&self) {
        *self.hold().0 = Inner::default();
    }
}

impl Guard<'_> {
    /// What is in flight to the drones of a cluster.
    pub(crate) fn of(&self, cluster: &ClusterName) -> Option<&HashMap<DroneId, Use>> {
        self.0.uses.get(cluster)
    }

    /// Counts a backend at a drone.
    pub(crate) fn place(&mut self, backend: BackendId, cluster: ClusterName, drone: DroneId, used: Use) {
        self.0.remove(&backend);
        *self.0.uses.entry(cluster.clone()).or_default().entry(drone.clone()).or_default() += used;
        self.0.placed.insert(backend, (cluster, drone, used));
    }

    /// Counts a backend nowhere, for now.
    pub(crate) fn lift(&mut self, backend: &BackendId) {
        self.0.remove(backend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_while_all_was_read_counts_once() {
        let (cluster, drone): (ClusterName, DroneId) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        let placed = InFlight::default();
        let used = Use { backends: 1, ..Use::default() };
        for backend in ["read", "not-yet"] {
            placed.hold().place(backend.parse().unwrap(), cluster.clone(), drone.clone(), used);
        }
        placed.read_back_where(|_, backend, _| backend.as_str() == "read");
        assert_eq!(placed.hold().of(&cluster).unwrap()[&drone].backends, 1);
        placed.read_back_where(|_, _, _| true);
        assert!(placed.hold().of(&cluster).is_none());
    }
}
