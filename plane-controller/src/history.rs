//! Writes the public history, `backend.B.status`, from the log as read back: forward only, each message expecting the
//! one before it, so that of several controllers one writes and the others find it written.

use crate::view::View;
use jiff::Timestamp;
use plane_core::{
    id::{BackendId, ClusterName},
    message::backend::PublicStatus,
    nats::{Nats, NatsError, StreamName},
    task::Tasks,
    world::StateSeen,
};
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// Backends whose histories are written at once; one backend always has the same writer, so its order is kept.
const WRITERS: u64 = 8;
/// Changes that wait for a writer before the reading of the log waits too.
const QUEUE: usize = 4096;

/// Takes note of changed backends.
#[derive(Debug)]
pub(crate) struct Historian {
    writers: Vec<mpsc::Sender<(ClusterName, BackendId)>>,
    hasher: RandomState,
}

impl Historian {
    /// A backend has changed in the world: its public history may lag.
    pub(crate) async fn changed(&self, cluster: ClusterName, backend: BackendId) {
        let writer = self.hasher.hash_one(&backend) % WRITERS;
        if let Some(writer) = self.writers.get(usize::try_from(writer).unwrap_or(0)) {
            let _ = writer.send((cluster, backend)).await;
        }
    }
}

/// Starts the writers.
pub(crate) fn start(nats: &Nats, view: &Arc<View>, tasks: &Tasks) -> Historian {
    let writers = (0..WRITERS).map(|number| {
        let (sender, mut receiver) = mpsc::channel::<(ClusterName, BackendId)>(QUEUE);
        let (nats, view, stop) = (nats.clone(), view.clone(), tasks.stop_token());
        tasks.spawn(format!("public history {number}"), async move {
            while let Some(Some((cluster, backend))) = stop.run_until_cancelled(receiver.recv()).await {
                if stop.run_until_cancelled(bring_up_to_date(&nats, &view, &cluster, &backend)).await.is_none() {
                    return;
                }
            }
        });
        sender
    });
    Historian { writers: writers.collect(), hasher: RandomState::new() }
}

async fn bring_up_to_date(nats: &Nats, view: &View, cluster: &ClusterName, backend: &BackendId) {
    let mut pause = Duration::from_millis(20);
    loop {
        match write_missing(nats, view, cluster, backend).await {
            Ok(()) => return,
            Err(NatsError::WrongSequence(_)) => {}
            Err(error) => {
                tracing::warn!(%backend, %error, "the public history waits");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}

async fn write_missing(nats: &Nats, view: &View, cluster: &ClusterName, backend: &BackendId) -> Result<(), NatsError> {
    let history: Vec<StateSeen> = view.read(|world| {
        world.backend(cluster, backend).map(|found| found.history().into_iter().cloned().collect()).unwrap_or_default()
    });
    if history.is_empty() {
        return Ok(());
    }
    let subject = PublicStatus::subject_of(backend);
    let last = nats.last(StreamName::Status, &subject).await?;
    let mut sequence = last.as_ref().map_or(0, |stored| stored.sequence);
    let mut told =
        last.and_then(|stored| serde_json::from_slice::<PublicStatus>(&stored.payload).ok()).map(|m| m.state);
    for StateSeen { reached, .. } in history {
        if told.is_some_and(|told| !told.may_precede(reached.state)) {
            continue;
        }
        let message = PublicStatus {
            cluster: cluster.clone(),
            state: reached.state,
            backend: backend.clone(),
            time: Timestamp::from_millisecond(reached.timestamp).unwrap_or(Timestamp::UNIX_EPOCH),
            reason: reached.reason,
            exit_code: reached.exit_code,
        };
        sequence = nats.publish_expecting(subject.clone(), &message, sequence).await?;
        told = Some(reached.state);
    }
    Ok(())
}
