//! Takes out of the streams what the world has forgotten. Every controller does; what another has done is skipped.

use plane_core::{
    message::backend::{LogLine, PublicStatus},
    nats::{Nats, NatsError, StreamName},
    task::Tasks,
    world::Forgotten,
};
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
                while let Err(error) = purge(&nats, &forgotten).await {
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

async fn purge(nats: &Nats, forgotten: &Forgotten) -> Result<(), NatsError> {
    let Some(last) = forgotten.sequences.last() else { return Ok(()) };
    if nats.get(StreamName::State, *last).await?.is_none() {
        return Ok(());
    }
    if let Some(backend) = &forgotten.backend {
        for (stream, subject) in
            [(StreamName::Status, PublicStatus::subject_of(backend)), (StreamName::Logs, LogLine::subject_of(backend))]
        {
            if let Some(newest) = nats.last(stream, &subject).await? {
                nats.purge(stream, &subject, newest.sequence).await?;
            }
        }
    }
    for sequence in &forgotten.sequences {
        nats.delete(StreamName::State, *sequence).await?;
    }
    Ok(())
}
