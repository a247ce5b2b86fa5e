//! Who decides a lock: inside a controller one request at a time, while the others wait for the lock to change. Between
//! controllers the log decides.

use crate::Core;
use plane_core::{
    id::{ClusterName, LockName},
    message::{Fault, FaultCode},
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a turn waits at most until this controller has read what was decided in it.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// The locks that this controller is deciding now.
#[derive(Debug, Default)]
pub(crate) struct Deciding {
    locks: Mutex<HashSet<(ClusterName, LockName)>>,
}

impl Deciding {
    fn locks(&self) -> MutexGuard<'_, HashSet<(ClusterName, LockName)>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to decide a lock: one request of this controller at a time has it.
pub(super) struct Turn {
    core: Arc<Core>,
    key: (ClusterName, LockName),
}

impl Turn {
    pub(super) fn take(core: &Arc<Core>, cluster: &ClusterName, lock: &LockName) -> Option<Self> {
        let key = (cluster.clone(), lock.clone());
        core.deciding.locks().insert(key.clone()).then(|| Self { core: core.clone(), key })
    }

    pub(super) fn key(&self) -> &(ClusterName, LockName) {
        &self.key
    }

    /// Gives it back once this controller's own world shows what was decided: the next would decide on the past.
    /// With 0 nothing was.
    pub(super) fn end_after(self, sequence: u64) {
        if sequence == 0 {
            return;
        }
        let core = self.core.clone();
        core.clone().tasks.spawn("end of a turn", async move {
            let read = tokio::time::timeout(READ_LIMIT, core.view.has_read(sequence));
            let _ = core.idle.run_until_cancelled(read).await;
            drop(self);
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.core.deciding.locks().remove(&self.key);
        self.core.view.hub.tell(&self.key.0, &self.key.1);
    }
}

/// Waits for a lock to change, from before it was looked at.
pub(super) struct Waiting {
    lock: watch::Receiver<u64>,
    grants: watch::Receiver<u64>,
}

impl Waiting {
    pub(super) fn begin(core: &Core, cluster: &ClusterName, lock: &LockName) -> Self {
        Self { lock: core.view.hub.watch(cluster, lock), grants: core.grants.changes() }
    }

    /// # Errors
    /// At the deadline, however often the lock changes.
    pub(super) async fn until(&mut self, deadline: Instant) -> Result<(), Fault> {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => {
                Err(Fault::new(FaultCode::LockBusy, "lock: it is still being decided for somebody else; ask again"))
            }
            _ = self.lock.changed() => Ok(()),
            _ = self.grants.changed() => Ok(()),
        }
    }
}
