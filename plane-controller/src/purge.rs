//! Takes out of the streams what the world has forgotten. Every controller does; what another has done is skipped.

use plane_core::{nats::Nats, task::Tasks, world::Forgotten};
use std::time::Duration;
use tokio::sync::mpsc;

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Purges what comes for as long as the tasks run. What is left at their end is forgotten, and purged, by the next run.
pub(crate) fn start(nats: &Nats, tasks: &Tasks) -> mpsc::UnboundedSender<Forgotten> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (nats, stop) = (nats.clone(), tasks.stop_token());
    tasks.spawn("purge", async move {
        let purging = async {
            while let Some(forgotten) = receiver.recv().await {
                let mut pause = Duration::from_millis(100);
                while let Err(error) = nats.purge_forgotten(&forgotten).await {
                    tracing::debug!(%error, "a purge waits");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        stop.run_until_cancelled(purging).await;
    });
    sender
}
