//! Takes out of the streams what the world has forgotten. Every controller does; what another has done is skipped.

use futures_util::{StreamExt, stream};
use plane_core::{nats::Nats, task::Tasks, world::Forgotten};
use std::time::Duration;
use tokio::sync::mpsc;

/// What is purged at once: each takes several exchanges with the server, one after the other.
const AT_ONCE: usize = 16;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So much waits at most to be purged: backends, drones and locks. What comes beyond that stays in the log until a
/// controller reads it from its beginning, or another one purges it.
const WAITING: usize = 100_000;

/// What is forgotten goes in here.
#[derive(Debug, Clone)]
pub(crate) struct Purger(Option<mpsc::Sender<Forgotten>>);

impl Purger {
    /// One that leaves what is forgotten to others.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn purge(&self, forgotten: Forgotten) {
        let Some(sender) = &self.0 else { return };
        if let Err(mpsc::error::TrySendError::Full(left)) = sender.try_send(forgotten) {
            tracing::debug!(cluster = %left.cluster, waiting = WAITING, "something forgotten stays in the log for now");
        }
    }
}

/// Purges what comes for as long as the tasks run. What is left at their end is forgotten, and purged, by the next run.
pub(crate) fn start(nats: &Nats, tasks: &Tasks) -> Purger {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (nats, stop) = (nats.clone(), tasks.stop_token());
    tasks.spawn_essential("purge", async move {
        let coming = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let purging = coming.for_each_concurrent(AT_ONCE, move |forgotten| purge(nats.clone(), forgotten));
        stop.run_until_cancelled(purging).await;
    });
    Purger(Some(sender))
}

async fn purge(nats: Nats, forgotten: Forgotten) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = nats.purge_forgotten(&forgotten).await {
        tracing::debug!(%error, "a purge waits");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
