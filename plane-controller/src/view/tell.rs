//! Telling of what was read: those who wait for a lock, the public history, and what is remembered beside the world.

use super::View;
use crate::history::Historian;
use plane_core::id::{BackendId, ClusterName, LockName};

impl View {
    pub(super) fn tell_of_backend(&self, cluster: ClusterName, backend: BackendId, history: &Historian) {
        let (lock, drone, has_news) = self.read(|world| {
            let Some(known) = world.backend(&cluster, &backend) else { return (None, None, false) };
            let assigned = known.assignment.as_ref();
            let lock = assigned.and_then(|assigned| Some(assigned.lock()?.name.clone()));
            let drone = assigned.filter(|_| known.is_live()).map(|assigned| assigned.drone.clone());
            (lock, drone, known.current().is_some() || known.is_withdrawn())
        });
        if let Some(drone) = drone {
            self.in_flight.read_back(&backend, &drone);
        }
        if let Some(lock) = lock {
            self.reading().unexplained.remove(&(cluster.clone(), lock.clone()));
            self.hub.tell(&cluster, &lock);
        }
        if has_news {
            history.changed(cluster, backend);
        }
    }

    pub(super) fn tell_of_lock(&self, cluster: ClusterName, lock: LockName, history: &Historian) {
        let holder = self.read(|world| {
            let holder = world.lock(&cluster, &lock)?.holder.clone()?;
            let known = world.backend(&cluster, &holder.backend);
            Some((holder.backend, known.is_some_and(|known| known.assignment.is_some())))
        });
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
