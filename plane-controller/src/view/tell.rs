//! Telling of what was read: those who wait for a lock, the public history, and what is remembered beside the world.

use super::View;
use crate::{history::Historian, lock::holds};
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    world::{Change, Cluster, World},
};

/// What is to be told of an entry, as the world is with it.
pub(super) enum News {
    Backend {
        cluster: ClusterName,
        backend: BackendId,
        /// The drone that may run it.
        drone: Option<DroneId>,
        lock: Option<LockName>,
        /// How it holds that lock, where it does.
        held: Option<Held>,
        /// Its public history, or the lock that it held, may lag.
        lags: bool,
    },
    Lock {
        cluster: ClusterName,
        lock: LockName,
        holder: Option<Held>,
    },
}

/// Who holds a lock, by the lock's entry.
pub(super) struct Held {
    backend: BackendId,
    /// Whether there is an assignment of that backend.
    assigned: bool,
    /// Whether it lives as the holder by that assignment.
    holds: bool,
}

impl Held {
    /// Nothing where nobody holds it.
    fn of(cluster: &Cluster, lock: &LockName) -> Option<Self> {
        let holder = cluster.locks.get(lock)?.holder.as_ref()?;
        let known = cluster.backend(&holder.backend).filter(|known| known.assignment.is_some());
        let holds = known.is_some_and(|known| known.is_live() && holds(known, lock, holder));
        Some(Self { backend: holder.backend.clone(), assigned: known.is_some(), holds })
    }
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
                let held = lock.as_ref().and_then(|lock| Held::of(world.cluster(&cluster)?, lock));
                let held = held.filter(|held| held.backend == backend);
                Some(Self::Backend { cluster, backend, drone, lock, held, lags })
            }
            Change::Lock(cluster, lock) => {
                let holder = world.cluster(&cluster).and_then(|known| Held::of(known, &lock));
                Some(Self::Lock { cluster, lock, holder })
            }
            Change::Nothing | Change::Drone(..) | Change::Lease(..) | Change::Acme(..) => None,
        }
    }
}

impl View {
    pub(super) fn tell(&self, news: News, history: &Historian) {
        match news {
            News::Backend { cluster, backend, drone, lock, held, lags } => {
                if let Some(drone) = drone {
                    self.in_flight.read_back(&backend, &drone);
                }
                if let Some(lock) = lock {
                    let key = (cluster.clone(), lock);
                    match held {
                        Some(held) if held.holds => drop(self.reading().unexplained.remove(&key)),
                        // Whoever is to free it may end before that.
                        Some(_) => {
                            let now = self.clock.boot();
                            self.reading().unexplained.entry(key.clone()).or_insert(now);
                        }
                        None => {}
                    }
                    self.hub.tell(&key.0, &key.1);
                }
                if lags {
                    history.changed(cluster, backend);
                }
            }
            News::Lock { cluster, lock, holder } => {
                self.hub.tell(&cluster, &lock);
                if holder.as_ref().is_none_or(|held| held.holds) {
                    self.reading().unexplained.remove(&(cluster.clone(), lock));
                } else {
                    let now = self.clock.boot();
                    self.reading().unexplained.insert((cluster.clone(), lock), now);
                }
                if let Some(held) = holder.filter(|held| held.assigned) {
                    history.changed(cluster, held.backend);
                }
            }
        }
    }

    /// All that was there has been read: what other controllers may have left undone is looked for.
    pub(super) fn settle(&self, history: &Historian) {
        let now = self.clock.boot();
        let (sequence, locks) = self.read(|world| {
            let held = world.clusters().flat_map(|(name, cluster)| {
                cluster.locks.keys().filter_map(move |lock| {
                    let held = Held::of(cluster, lock).filter(|held| !held.holds)?;
                    Some((name.clone(), lock.clone(), held.backend, held.assigned))
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
        for (cluster, lock, backend, assigned) in locks {
            self.reading().unexplained.insert((cluster.clone(), lock), now);
            if assigned {
                history.changed(cluster, backend);
            }
        }
        self.read_to.send_replace(sequence);
        self.caught_up.send_replace(true);
        history.compare_all();
    }
}
