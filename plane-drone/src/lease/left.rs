//! Whether what an earlier process of the drone left still holds its locks, by the log. While no process of the drone
//! ran, the log may have lost that they were taken, and controllers given them to others once this drone had to be fenced.

use crate::{agent::Agent, host::LiveBackend};
use futures_util::{StreamExt, stream};
use plane_core::{
    id::{BackendId, LockName},
    message::state::{EntryBody, Holder, StateEntry, lock_subject},
    nats::StreamName,
};
use std::time::Duration;

/// The pause before the log is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Locks that are asked for at once.
const READERS: usize = 64;

/// Whether all backends that run here hold the locks that they were given. Waits until the log can be asked.
pub(super) async fn hold_their_locks(agent: &Agent) -> bool {
    let live = agent.host.live();
    let held: Vec<(LockName, Holder)> = live.iter().filter_map(given).collect();
    let holds = stream::iter(held).map(|(lock, given)| is_held(agent, lock, given)).buffer_unordered(READERS);
    holds.all(std::future::ready).await
}

/// The lock that a backend was given.
fn given(live: &LiveBackend) -> Option<(LockName, Holder)> {
    let backend: &BackendId = &live.request.backend_id;
    let lock = live.request.lock.clone()?;
    // Without a token it holds nothing that the log could tell of.
    let token = live.request.fencing_token.unwrap_or_default();
    Some((lock, Holder { backend: backend.clone(), token }))
}

async fn is_held(agent: &Agent, lock: LockName, given: Holder) -> bool {
    let subject = lock_subject(&agent.identity.cluster, &lock);
    loop {
        match agent.nats.last(StreamName::State, &subject).await {
            Ok(found) => {
                let held = found.is_some_and(|found| holder(&found.payload).as_ref() == Some(&given));
                if !held {
                    tracing::warn!(backend = %given.backend, "the log does not have it as its lock's holder");
                }
                return held;
            }
            Err(error) => tracing::debug!(%error, "who holds a lock is not known yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn holder(payload: &[u8]) -> Option<Holder> {
    match serde_json::from_slice::<StateEntry>(payload).ok()?.body {
        EntryBody::LockMessage(entry) => entry.holder,
        EntryBody::DroneMessage(_) | EntryBody::BackendMessage(_) | EntryBody::AcmeMessage(_) => None,
    }
}
