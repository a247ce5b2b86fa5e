//! Task supervision: every task has a name, an owner and a stop signal, and its end is noticed.

use futures_util::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of a daemon, or of one part of it. Clones speak of the same tasks.
#[derive(Debug, Clone)]
pub struct Tasks {
    stop: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, Arc<str>>>,
    next: AtomicU64,
    failed: AtomicBool,
    root: CancellationToken,
    around: Option<Around>,
}

/// What is laid around each task.
struct Around(Box<dyn Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync>);

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Around")
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        Self { stop: shared.root.clone(), shared }
    }

    /// No tasks yet; each will be run inside of what `around` makes of it. A simulation stops and kills processes so.
    pub fn inside(around: impl Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared { around: Some(Around(Box::new(around))), ..Shared::default() });
        Self { stop: shared.root.clone(), shared }
    }

    /// The signal that tells these tasks to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tasks that can be stopped by themselves, and stop with these.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), shared: self.shared.clone() }
    }

    /// Runs a task that may end when it likes. A panic of it is logged with its name, and harms nothing else.
    pub fn spawn(&self, name: impl Into<Arc<str>>, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name.into(), false, task);
    }

    /// Runs a task that the daemon cannot do without: its end before the stop signal stops the daemon as failed.
    pub fn spawn_essential(&self, name: impl Into<Arc<str>>, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name.into(), true, task);
    }

    fn start(&self, name: Arc<str>, essential: bool, task: impl Future<Output = ()> + Send + 'static) {
        let shared = self.shared.clone();
        let stop = self.stop.clone();
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.names().insert(id, name.clone());
        let task = async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            shared.names().remove(&id);
            if panicked {
                tracing::error!(task = %name, "task panicked");
            }
            if essential && !stop.is_cancelled() && !shared.failed.swap(true, Ordering::Relaxed) {
                tracing::error!(task = %name, "an essential task ended; stopping");
                shared.root.cancel();
            }
        };
        match &self.shared.around {
            None => self.shared.tracker.spawn(task),
            Some(Around(around)) => self.shared.tracker.spawn(around(task.boxed())),
        };
    }

    /// Stops everything as failed, for a reason that waiting cannot mend; it is logged. Nobody sees it logged, or a task
    /// stopped by it, who does not see that it failed.
    pub fn fail(&self, reason: &str) {
        self.shared.failed.store(true, Ordering::Relaxed);
        tracing::error!(reason, "stopping");
        self.shared.root.cancel();
    }

    /// Whether an essential task ended before its time, or a reason to stop was found.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Tells all tasks to end and waits for them, at most `deadline`. False where some still ran; they are named in the log.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.shared.root.cancel();
        self.shared.tracker.close();
        let ended = tokio::time::timeout(deadline, self.shared.tracker.wait()).await.is_ok();
        if !ended {
            let names: Vec<Arc<str>> = self.shared.names().values().take(20).cloned().collect();
            tracing::warn!(tasks = ?names, "tasks still running at the deadline");
        }
        ended
    }
}

impl Shared {
    fn names(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<str>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves at the first SIGTERM or SIGINT; from the second one on the process ends at once with status 1.
///
/// # Errors
/// Where the operating system refuses the signal handlers.
pub async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(1);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_end_stops_everything() {
        let tasks = Tasks::new();
        let stop = tasks.child().stop_token();
        tasks.spawn_essential("short", async {});
        stop.cancelled().await;
        assert!(tasks.failed());
        assert!(tasks.shut_down(Duration::from_secs(5)).await);
    }

    #[test]
    fn who_hears_of_a_failure_sees_that_there_is_one() {
        for essential in [false, true] {
            let tasks = Tasks::new();
            let (heard, seen) = (tasks.clone(), Arc::new(Mutex::new(Vec::new())));
            let told = seen.clone();
            let log = tracing_subscriber::fmt().with_writer(move || {
                told.lock().unwrap().push((heard.failed(), heard.stop_token().is_cancelled()));
                std::io::sink()
            });
            tracing::subscriber::with_default(log.finish(), || match essential {
                false => tasks.fail("on purpose"),
                true => {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        tasks.spawn_essential("short", async {});
                        tasks.stop_token().cancelled().await;
                    });
                }
            });
            assert_eq!(*seen.lock().unwrap(), [(true, false)]);
        }
    }

    #[tokio::test]
    async fn a_panic_of_one_task_leaves_the_others() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        let stop = tasks.stop_token();
        tasks.spawn("waits", async move { stop.cancelled().await });
        assert!(tasks.shut_down(Duration::from_secs(5)).await);
        assert!(!tasks.failed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_task_is_not_waited_for_beyond_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        assert!(!tasks.shut_down(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_child_stops_alone() {
        let tasks = Tasks::new();
        let child = tasks.child();
        child.stop_token().cancel();
        assert!(!tasks.stop_token().is_cancelled());
    }
}
