//! Who waits for which lock.

use plane_core::id::{ClusterName, LockName};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Above this many locks, those that nobody waits for any more are looked for.
const TIDY_ABOVE: usize = 1024;

/// Wakes whoever waits for a lock to change.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    locks: Mutex<HashMap<(ClusterName, LockName), watch::Sender<u64>>>,
}

impl Hub {
    fn locks(&self) -> MutexGuard<'_, HashMap<(ClusterName, LockName), watch::Sender<u64>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every change of a lock from now on.
    pub(crate) fn watch(&self, cluster: &ClusterName, lock: &LockName) -> watch::Receiver<u64> {
        let mut locks = self.locks();
        if locks.len() > TIDY_ABOVE {
            locks.retain(|_, sender| sender.receiver_count() > 0);
        }
        locks.entry((cluster.clone(), lock.clone())).or_default().subscribe()
    }

    /// A lock, or its holder, has changed.
    pub(crate) fn tell(&self, cluster: &ClusterName, lock: &LockName) {
        let key = (cluster.clone(), lock.clone());
        let mut locks = self.locks();
        let Some(sender) = locks.get(&key) else { return };
        if sender.receiver_count() == 0 {
            locks.remove(&key);
        } else {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// All locks may have changed.
    pub(crate) fn tell_all(&self) {
        for sender in self.locks().values() {
            sender.send_modify(|count| *count += 1);
        }
    }
}
