//! This controller's own world: read from the state log, never written to by anything else.

use crate::history::Historian;
use plane_core::{
    nats::{Event, Nats, NatsError, StreamName},
    task::Tasks,
    world::{Change, World},
};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The world as far as this controller has read it.
#[derive(Debug)]
pub(crate) struct View {
    world: RwLock<World>,
    caught_up: watch::Sender<bool>,
}

impl Default for View {
    fn default() -> Self {
        Self { world: RwLock::default(), caught_up: watch::Sender::new(false) }
    }
}

impl View {
    /// Looks at the world. `look` must not wait for anything.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves once all that was in the log at the start has been read.
    pub(crate) async fn caught_up(&self) {
        let _ = self.caught_up.subscribe().wait_for(|done| *done).await;
    }
}

/// Follows the log for as long as the tasks run.
pub(crate) async fn follow(nats: &Nats, view: Arc<View>, history: Historian, tasks: &Tasks) -> Result<(), NatsError> {
    let mut replay = nats.replay(StreamName::State, "state.>").await?;
    let stop = tasks.stop_token();
    tasks.spawn_essential("follow the state log", async move {
        loop {
            let event = tokio::select! { () = stop.cancelled() => return, event = replay.next() => event };
            let entry = match event {
                Event::Entry(entry) => entry,
                Event::CaughtUp => {
                    let backends = view.read(|world| {
                        tracing::info!(sequence = world.sequence(), "caught up with the state log");
                        let all = world.clusters().flat_map(|(name, cluster)| {
                            cluster.backends.keys().map(|backend| (name.clone(), backend.clone()))
                        });
                        all.collect::<Vec<_>>()
                    });
                    view.caught_up.send_replace(true);
                    for (cluster, backend) in backends {
                        history.changed(cluster, backend).await;
                    }
                    continue;
                }
            };
            let change = view.world.write().unwrap_or_else(PoisonError::into_inner).apply(&entry);
            match change {
                Ok(Change::Backend(cluster, backend)) if *view.caught_up.borrow() => {
                    history.changed(cluster, backend).await;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "skipped an entry"),
            }
        }
    });
    Ok(())
}
