//! The drone's lease: an entry of the state log that the drone rewrites, each time expecting the one that it wrote
//! before. Only that, acknowledged, is contact with the control plane; it counts from when it was sent. A drone that is
//! given up finds another entry there. A drone without contact gives up what it holds locks with, by itself, before
//! anybody else may have given it up.
//!
//! The lease also says which process is the drone. Nothing is said or done in the drone's name before this process holds
//! it; `found` tells its entries apart, `keeper` writes it, `fence` says what may be served meanwhile, `left`
//! whether what an earlier process began may be.

mod fence;
mod found;
mod keeper;
mod left;

pub use fence::Fence;
pub use found::Instance;
pub(crate) use keeper::keep;

use crate::host::Host;
use plane_core::task::Tasks;
use std::{sync::Arc, time::Duration};

/// How often the deadline is looked at; each request looks at it too.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Gives locked backends up when there was no contact for too long, for as long as the tasks run. It begins with the
/// process, before there is a connection: what an earlier process left behind has no more time than what this one runs.
pub fn watch(host: Arc<dyn Host>, fence: Arc<Fence>, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn_essential("fence", async move {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if fence.is_overdue() {
                let reason = "its drone had no contact with the control plane, and it holds a lock";
                give_up_locked(&*host, reason).await;
            }
        }
    });
}

/// Gives all backends up that hold a lock.
async fn give_up_locked(host: &dyn Host, reason: &str) {
    let live = host.live();
    let locked = live.iter().filter(|live| live.request.lock.is_some());
    let given_up = locked.map(|live| host.give_up(&live.request.backend_id, reason));
    futures_util::future::join_all(given_up).await;
}
