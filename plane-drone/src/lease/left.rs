//! Whether what an earlier process of the drone left still holds its locks, by the log. While no process of the drone
//! ran, controllers may have given the drone up and the locks to others; and the log may have lost that again. So its
//! word counts only where a controller vouches for it: for this very server, which loses nothing while it runs. In a
//! cluster of servers the log may lose what it had while the one that the drone is connected to runs on; there, and
//! while controllers doubt, they say what is certain when what runs here is announced.

use crate::{agent::Agent, host::HostError};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use plane_core::{
    id::{BackendId, LockName},
    message::{
        schedule::SpawnRequest,
        state::{EntryBody, HEARTBEAT_SUBJECT, Heartbeat, Holder, StateEntry, lock_subject},
    },
    nats::{NatsError, StreamName},
};
use std::time::Duration;

/// The pause before the log is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Locks that are asked for at once.
const READERS: usize = 64;

/// Whether any backend that runs here, or may yet begin by an earlier offer, was given a lock.
pub(super) async fn left_locked(agent: &Agent) -> bool {
    match locks(agent).await {
        Ok(locks) => !locks.is_empty(),
        Err(error) => {
            tracing::error!(%error, "what an earlier process left is not known; it is looked at again with the next lease");
            true
        }
    }
}

/// Whether it is certain that all backends that run here, or may yet begin by an earlier offer, hold the locks that they
/// were given. Waits until the log can be asked.
pub(super) async fn hold_their_locks(agent: &Agent) -> bool {
    let held = super::keeper::patiently(agent, || locks(agent)).await;
    if held.is_empty() {
        return true;
    }
    // From before the first look to after the last it was one log, of one server.
    let server = agent.nats.server();
    let made = patiently(|| made(agent)).await;
    let holds = stream::iter(held).map(|(lock, given)| is_held(agent, lock, given)).buffer_unordered(READERS);
    let all_hold = holds.all(std::future::ready).await;
    let vouched = patiently(|| vouched(agent)).await;
    let certain = made.is_some() && vouched == made && agent.nats.server() == server;
    if all_hold && !certain {
        tracing::info!(
            "no controller vouches for who holds the locks of what an earlier process left; it is announced first"
        );
    }
    all_hold && certain
}

async fn patiently<T, F: Future<Output = Result<T, NatsError>>>(look: impl Fn() -> F) -> T {
    loop {
        match look().await {
            Ok(found) => return found,
            Err(error) => tracing::debug!(%error, "who holds a lock is not known yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// When the log was made; nothing where the word of one server does not count.
async fn made(agent: &Agent) -> Result<Option<Timestamp>, NatsError> {
    let info = agent.nats.info(StreamName::State).await?;
    Ok(info.filter(|info| info.cluster.is_none()).map(|info| info.created))
}

/// The same of a log that a controller vouches for.
async fn vouched(agent: &Agent) -> Result<Option<Timestamp>, NatsError> {
    let newest = agent.nats.last(StreamName::State, HEARTBEAT_SUBJECT).await?;
    let heartbeat = newest.and_then(|newest| serde_json::from_slice::<Heartbeat>(&newest.payload).ok());
    let made = made(agent).await?;
    let (Some(heartbeat), Some(made)) = (heartbeat, made) else { return Ok(None) };
    Ok(heartbeat.vouches(&agent.nats.server(), made).then_some(made))
}

/// The locks that were given to what runs here, and to what was offered to an earlier process and may yet begin.
async fn locks(agent: &Agent) -> Result<Vec<(LockName, Holder)>, HostError> {
    // Looked at first: what is begun meanwhile is among one of the two.
    let undecided = agent.host.undecided().await?;
    let live = agent.host.live();
    let requests = live.iter().map(|live| &*live.request).chain(&undecided);
    Ok(requests.filter_map(given).collect())
}

/// The lock that a backend was given.
fn given(request: &SpawnRequest) -> Option<(LockName, Holder)> {
    let backend: &BackendId = &request.backend_id;
    let lock = request.lock.clone()?;
    // Without a token it holds nothing that the log could tell of.
    let token = request.fencing_token.unwrap_or_default();
    Some((lock, Holder { backend: backend.clone(), token }))
}

async fn is_held(agent: &Agent, lock: LockName, given: Holder) -> bool {
    let subject = lock_subject(&agent.identity.cluster, &lock);
    let found = patiently(|| agent.nats.last(StreamName::State, &subject)).await;
    let held = found.is_some_and(|found| holder(&found.payload).as_ref() == Some(&given));
    if !held {
        tracing::warn!(backend = %given.backend, "the log does not have it as its lock's holder");
    }
    held
}

fn holder(payload: &[u8]) -> Option<Holder> {
    match serde_json::from_slice::<StateEntry>(payload).ok()?.body {
        EntryBody::LockMessage(entry) => entry.holder,
        EntryBody::DroneMessage(_) | EntryBody::BackendMessage(_) | EntryBody::AcmeMessage(_) => None,
    }
}
