//! Telling of what was read: those who wait for a lock, the public history, and what is remembered beside the world.

use super::View;
use crate::history::Historian;
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    world::{Change, World},
};

/// What is to be told of an entry, as the world is with it.
pub(super) enum News {
    Backend {
        cluster: ClusterName,
        backend: BackendId,
        /// The drone that may run it.
        drone: Option<DroneId>,
        lock: Option<LockName>,
        /// Its public history, or the lock that it held, may lag.
        lags: bool,
    },
    Lock {
        cluster: ClusterName,
        lock: LockName,
        /// Who holds it, and whether an entry speaks of that backend.
        holder: Option<(BackendId, bool)>,
    },
}

impl News {
    /// Nothing where nobody is told of such a change.
    pub(super) fn of(world: &World, change: Change) -> Option<Self> {
        match change {
            Change::Backend(cluster, backend) => {
                let known = world.backend(&cluster, &backend)?;
                let assigned = known.assignment.as_ref();
                let lock = assigned.and_then(|assigned| Some(assigned.lock()?.name.clone()));
                let drone = assigned.filter(|_| known.is_live()).map(|assigned| assigned.drone.clone());
                let lags = known.current().is_some() || known.is_withdrawn();
                Some(Self::Backend { cluster, backend, drone, lock, lags })
            }
            Change::Lock(cluster, lock) => {
                let holder = world.lock(&cluster, &lock).and_then(|known| known.holder.clone()).map(|holder| {
                    let known = world.backend(&cluster, &holder.backend);
                    (holder.backend, known.is_some_and(|known| known.assignment.is_some()))
                });
                Some(Self::Lock { cluster, lock, holder })
            }
            Change::Nothing | Change::Drone(..) | Change::Lease(..) | Change::Acme(..) => None,
        }
    }
}

impl View {
    pub(super) fn tell(&self, news: News, history: &Historian) {
        match news {
            News::Backend { cluster, backend, drone, lock, lags } => {
                if let Some(drone) = drone {
                    self.in_flight.read_back(&backend, &drone);
                }
                if let Some(lock) = lock {
                    self.reading().unexplained.remove(&(cluster.clone(), lock.clone()));
                    self.hub.tell(&cluster, &lock);
                }
                if lags {
                    history.changed(cluster, backend);
                }
            }
            News::Lock { cluster, lock, holder } => {
                self.hub.tell(&cluster, &lock);
                match holder {
                    None => {
                        self.reading().unexplained.remove(&(cluster, lock));
                    }
                    Some((_, false)) => {
                        let now = self.clock.boot();
                        self.reading().unexplained.insert((cluster, lock), now);
                    }
                    Some((backend, true)) => history.changed(cluster, backend),
                }
            }
        }
    }

    /// All that was there has been read: what other controllers may have left undone is looked for.
    pub(super) fn settle(&self, history: &Historian) {
        let now = self.clock.boot();
        let (sequence, locks) = self.read(|world| {
            let held = world.clusters().flat_map(|(name, cluster)| {
                cluster.locks.iter().filter_map(move |(lock, known)| {
                    let holder = known.holder.as_ref()?;
                    let backend = cluster.backend(&holder.backend).filter(|backend| backend.assignment.is_some());
                    let live = backend.is_some_and(plane_core::world::Backend::is_live);
                    (!live).then(|| (name.clone(), lock.clone(), holder.backend.clone(), backend.is_some()))
                })
            });
            let mut held: Vec<_> = held.collect();
            held.sort();
            (world.sequence(), held)
        });
        tracing::info!(sequence, "caught up with the state log");
        self.reading().caught_up = now;
        self.in_flight.read_back_where(|cluster, backend, drone| {
            self.read(|world| {
                let known = world.backend(cluster, backend).filter(|known| known.is_live());
                known.and_then(|known| known.assignment.as_ref()).is_some_and(|assigned| assigned.drone == *drone)
            })
        });
        for (cluster, lock, backend, explained) in locks {
            if explained {
                history.changed(cluster, backend);
            } else {
                self.reading().unexplained.insert((cluster, lock), now);
            }
        }
        self.read_to.send_replace(sequence);
        self.caught_up.send_replace(true);
        history.compare_all();
    }
}
