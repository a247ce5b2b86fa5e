//! Data threads. Each has a runtime of its own, its own listeners on the shared ports, its own connections to backends
//! and its own clock, so that nothing on a request's path is shared but the table of routes and who is connected.

use super::{
    Shared,
    counters::Counter,
    dial::Socket,
    listen::{self, Door},
    pool::Pools,
    timers::{Look, TICK, Timers, after},
    upstream::Link,
};
use futures_util::FutureExt;
use std::{cell::Cell, io, panic::AssertUnwindSafe, pin::pin, rc::Rc, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long requests under way and upgraded connections may go on once the drone stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long their tasks may take to notice that they may not go on.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Where a data thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It takes connections.
    Serving,
    /// It finishes what is under way.
    Draining,
    /// Everything ends now.
    Closing,
}

/// One data thread, seen from within.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) timers: Timers,
    /// What this thread counts.
    pub(super) counter: Counter,
    /// Connections to backends, as hyper has them and as the own loop has.
    pub(super) pools: Pools<Link>,
    pub(super) sockets: Pools<Socket>,
    stage: Cell<Stage>,
    tasks: TaskTracker,
}

impl Worker {
    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Runs a task on this thread. It has to look at the stage: its end is waited for when the drone stops.
    pub(super) fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + 'static) {
        // Not a block that waits for the task, which would hold it twice.
        self.tasks.spawn_local(AssertUnwindSafe(task).catch_unwind().map(move |outcome| {
            if outcome.is_err() {
                tracing::error!(task = what, "task panicked");
            }
        }));
    }

    /// Runs a future for a time, and no longer than connections are taken: for those that have asked for nothing yet.
    pub(super) async fn while_serving<F: Future + Unpin>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let until = after(self.timers.clock().now(), limit);
        let look = |now| match self.stage() {
            Stage::Serving if now < until => Look::Again(until),
            Stage::Serving | Stage::Draining | Stage::Closing => Look::Over(()),
        };
        self.timers.limit(future, look).await.ok()
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        if stage != Stage::Serving {
            self.pools.close();
            self.sockets.close();
        }
        self.timers.wake_all();
    }

    async fn keep_time(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.timers.tick();
            self.pools.sweep(self.timers.clock().now());
            self.sockets.sweep(self.timers.clock().now());
        }
    }

    async fn run(self: Rc<Self>, doors: Vec<Door>, stop: CancellationToken, mut owner: oneshot::Sender<()>) {
        for door in doors {
            self.spawn("accept", listen::accept(self.clone(), door));
        }
        tokio::select! {
            () = self.keep_time() => {}
            () = stop.cancelled() => {}
            () = owner.closed() => {}
        }
        self.enter(Stage::Draining);
        self.tasks.close();
        if !self.ended_within(DRAIN_LIMIT).await {
            self.enter(Stage::Closing);
            if !self.ended_within(CLOSE_LIMIT).await {
                tracing::warn!(tasks = self.tasks.len(), "connections still open at the deadline");
            }
        }
    }

    async fn ended_within(&self, limit: Duration) -> bool {
        tokio::select! {
            () = self.tasks.wait() => true,
            () = self.keep_time() => false,
            () = tokio::time::sleep(limit) => false,
        }
    }
}

/// A data thread, seen from outside.
pub(super) struct Thread {
    ended: oneshot::Receiver<()>,
}

impl Thread {
    /// Starts a thread that serves at these doors until it is told to stop.
    ///
    /// # Errors
    /// Where the system has no thread, or none of what a runtime needs.
    pub(super) fn start(
        number: usize,
        shared: Arc<Shared>,
        doors: Vec<listen::Bound>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let (owner, ended) = oneshot::channel();
        let (started, starting) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("proxy-{number}"));
        thread.spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = match builder.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            runtime.block_on(pin!(async move {
                let doors = doors.into_iter().map(listen::Bound::open).collect::<io::Result<Vec<_>>>();
                let doors = match doors {
                    Ok(doors) => doors,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                let worker = Rc::new(Worker {
                    pools: Pools::default(),
                    sockets: Pools::default(),
                    timers: Timers::new(),
                    counter: shared.counters.of_thread(number),
                    stage: Cell::new(Stage::Serving),
                    tasks: TaskTracker::new(),
                    shared,
                });
                let _ = started.send(Ok(()));
                worker.run(doors, stop, owner).await;
            }));
        })?;
        starting.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self { ended })
    }

    /// Resolves once the thread has ended.
    pub(super) async fn ended(self) {
        let _ = self.ended.await;
    }
}
