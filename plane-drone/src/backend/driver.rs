//! The one task that changes a backend: it takes what has happened, steps the state machine, persists, then acts.
//! What its acts bring back comes in as new signals.

use super::{
    Entered, Parts,
    machine::{Action, Event, Report, State, What, step},
    probe, watch,
};
use crate::{engine::EngineError, route::Activity, store::Outgoing};
use futures_util::FutureExt;
use jiff::Timestamp;
use plane_core::{
    id::BackendId,
    message::{
        backend::{BackendState, LogKind, LogLine, StatusReport},
        schedule::SpawnRequest,
    },
    task::Tasks,
};
use std::{
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The pause before the database or the engine is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the removal of a container waits for its last lines to be passed on.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Something that has happened.
pub(super) struct Signal {
    /// What.
    pub(super) what: What,
    /// Told once it is persisted.
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// Where a backend comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is new, and waits for the word to begin.
    Request,
    /// It was driven before the drone restarted: what became of its container has to be seen.
    EarlierRun,
}

/// Drives one backend.
pub(super) struct Driver {
    parts: Arc<Parts>,
    request: Arc<SpawnRequest>,
    state: State,
    /// When that was entered: its deadline runs since then.
    entered: Entered,
    reported: Arc<std::sync::Mutex<(BackendState, Timestamp)>>,
    signals: mpsc::Sender<Signal>,
    waiting: mpsc::Receiver<Signal>,
    ended: CancellationToken,
    /// What of it goes on for as long as it is driven.
    life: Tasks,
    /// What of it ends with the present kind of state.
    phase: Tasks,
    /// The stops under way, which end where one without grace is begun.
    stops: Tasks,
    /// One call at a time changes the container: what was begun late must not undo what was decided after it.
    container: Arc<Mutex<()>>,
    /// Cancelled once what the container wrote is passed on.
    lines_done: Option<CancellationToken>,
    /// Who is connected, from the opening of the route until idleness is waited for.
    opened: Option<Arc<Activity>>,
}

impl Driver {
    pub(super) fn new(
        parts: Arc<Parts>,
        request: Arc<SpawnRequest>,
        (state, entered): (State, Entered),
        reported: Arc<std::sync::Mutex<(BackendState, Timestamp)>>,
        signals: mpsc::Sender<Signal>,
        waiting: mpsc::Receiver<Signal>,
        ended: CancellationToken,
    ) -> Self {
        let life = parts.tasks.child();
        let (phase, stops) = (life.child(), life.child());
        let container = Arc::default();
        Self {
            parts,
            request,
            state,
            entered,
            reported,
            signals,
            waiting,
            ended,
            life,
            phase,
            stops,
            container,
            lines_done: None,
            opened: None,
        }
    }

    fn id(&self) -> &BackendId {
        &self.request.backend_id
    }

    /// Runs until the container is gone, or the drone stops; then the next run of the drone goes on. So does this one
    /// after a panic: the state is what was written last, and what became of the container is looked at.
    pub(super) async fn run(mut self, mut origin: Origin) {
        while AssertUnwindSafe(self.go(origin)).catch_unwind().await.is_err() {
            tracing::error!(backend = %self.id(), state = ?self.state, "what drives it panicked; it is taken up again");
            self.life.stop_token().cancel();
            self.life = self.parts.tasks.child();
            (self.phase, self.stops) = (self.life.child(), self.life.child());
            self.parts.tasks.stop_token().run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await;
            origin = Origin::EarlierRun;
        }
    }

    async fn go(&mut self, origin: Origin) {
        let stop = self.parts.tasks.stop_token();
        if origin == Origin::EarlierRun {
            self.look();
        }
        while self.state.has_ended().is_none() {
            let left = self
                .state
                .deadline(&self.parts.limits)
                .map(|deadline| (deadline.kind, self.parts.clock.left(&self.entered, deadline.limit)));
            let passed = async {
                match left {
                    Some((kind, left)) => {
                        tokio::time::sleep(left).await;
                        kind
                    }
                    None => std::future::pending().await,
                }
            };
            let signal = tokio::select! {
                () = stop.cancelled() => return,
                Some(signal) = self.waiting.recv() => signal,
                kind = passed => Signal { what: What::DeadlinePassed(kind), done: None },
            };
            if stop.run_until_cancelled(self.take(signal)).await.is_none() {
                return;
            }
        }
        self.life.stop_token().cancel();
    }

    async fn take(&mut self, Signal { what, done }: Signal) {
        let (next, actions) = step(self.state.clone(), Event { time: Timestamp::now(), what });
        for action in &actions {
            self.route(action);
        }
        // Steps within a state go on with its time.
        let entered = if next.since() == self.state.since() { self.entered.clone() } else { self.parts.clock.now() };
        let say: Vec<Outgoing> = actions.iter().filter_map(|action| self.to_say(action)).collect();
        if !say.is_empty() || !self.state.is_as_durable_as(&next) {
            while let Err(error) = self.parts.store.persist(self.id(), &next, &entered, &say).await {
                tracing::error!(backend = %self.id(), %error, "a state cannot be written; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        if std::mem::discriminant(&next) != std::mem::discriminant(&self.state) {
            self.phase.stop_token().cancel();
            self.phase = self.life.child();
        }
        (self.state, self.entered) = (next, entered);
        if let Some(reported) = self.state.reported() {
            *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = reported;
        }
        if self.state.is_final() {
            self.ended.cancel();
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
        for action in actions {
            self.act(action);
        }
    }

    /// What changes a route is done before the state is visible: who sees Ready can reach it.
    fn route(&mut self, action: &Action) {
        match action {
            Action::OpenRoute(ip) => {
                let address = SocketAddr::new(*ip, self.request.executable.port());
                let (token, fence) = (self.request.bearer_token.clone(), self.parts.fence_of(&self.request));
                self.opened = Some(self.parts.routes.open(self.id(), address, token, fence));
            }
            Action::CloseRoute => self.parts.routes.close(self.id()),
            Action::PullImage
            | Action::CreateContainer
            | Action::StartContainer
            | Action::ProbeReadiness(_)
            | Action::WatchContainer
            | Action::FollowLogs
            | Action::MeasureUse
            | Action::WatchIdle
            | Action::StopContainer(_)
            | Action::RemoveContainer
            | Action::Report(_)
            | Action::SayMeta(_) => {}
        }
    }

    fn to_say(&self, action: &Action) -> Option<Outgoing> {
        match action {
            Action::Report(Report { state, time, reason, exit_code }) => {
                tracing::info!(backend = %self.id(), %state, reason, exit_code, "backend");
                Some(Outgoing::Status(StatusReport {
                    cluster: self.parts.cluster.clone(),
                    state: *state,
                    backend: self.id().clone(),
                    time: *time,
                    drone: self.parts.drone.clone(),
                    reason: reason.clone(),
                    exit_code: *exit_code,
                }))
            }
            Action::SayMeta(line) => Some(Outgoing::Log(LogLine {
                backend_id: self.id().clone(),
                kind: LogKind::Meta,
                text: format!("{} {line}\n", Timestamp::now()),
            })),
            Action::PullImage
            | Action::CreateContainer
            | Action::StartContainer
            | Action::ProbeReadiness(_)
            | Action::WatchContainer
            | Action::FollowLogs
            | Action::MeasureUse
            | Action::OpenRoute(_)
            | Action::CloseRoute
            | Action::WatchIdle
            | Action::StopContainer(_)
            | Action::RemoveContainer => None,
        }
    }

    fn act(&mut self, action: Action) {
        let (parts, id) = (self.parts.clone(), self.id().clone());
        let executable = self.request.executable.clone();
        let engine = parts.engine.clone();
        let container = self.container.clone();
        match action {
            Action::PullImage => self.in_phase("pull", async move {
                match engine.pull(&executable).await {
                    Ok(()) => What::ImagePulled,
                    Err(EngineError(error)) => What::PullFailed(format!("the image {}: {error}", executable.image)),
                }
            }),
            Action::CreateContainer => self.in_life("create", async move {
                let _turn = container.lock().await;
                match engine.create(&id, &executable).await {
                    Ok(()) => What::ContainerCreated,
                    Err(EngineError(error)) => What::StartFailed(error),
                }
            }),
            Action::StartContainer => self.in_life("start", async move {
                let _turn = container.lock().await;
                match engine.start(&id).await {
                    Ok(ip) => What::ContainerStarted(ip),
                    Err(EngineError(error)) => What::StartFailed(error),
                }
            }),
            Action::ProbeReadiness(ip) => self.in_phase("probe", async move {
                probe::until_it_answers(SocketAddr::new(ip, executable.port())).await;
                What::AnsweredHttp
            }),
            Action::WatchContainer => {
                self.in_life("watch", async move { What::ContainerEnded(watch::until_it_ends(&*engine, &id).await) });
            }
            Action::FollowLogs => {
                let done = CancellationToken::new();
                self.lines_done = Some(done.clone());
                self.beside("lines", async move {
                    let _done = done.drop_guard();
                    watch::pass_on_lines(&*engine, parts.nats.clone(), &id).await;
                });
            }
            Action::MeasureUse => self.beside("use", async move { watch::tell_use(&parts, &id).await }),
            Action::WatchIdle => {
                let limit = Duration::from_secs(self.request.max_idle_secs.get());
                if let Some(activity) = self.opened.take() {
                    self.in_phase("idle", async move {
                        activity.idle_for(limit).await;
                        What::WentIdle
                    });
                }
            }
            Action::StopContainer(grace) => {
                if grace.is_zero() {
                    self.stops.stop_token().cancel();
                    self.stops = self.life.child();
                }
                self.run_in(&self.stops, "stop", async move {
                    let _turn = container.lock().await;
                    match engine.stop(&id, grace).await {
                        Ok(code) => What::StopDone(code),
                        Err(EngineError(error)) => {
                            tracing::warn!(backend = %id, error, "a container does not stop; trying again");
                            What::StopFailed(error)
                        }
                    }
                });
            }
            Action::RemoveContainer => {
                let lines_done = self.lines_done.take();
                self.in_life("remove", async move {
                    if let Some(done) = lines_done {
                        let _ = tokio::time::timeout(LAST_LINES, done.cancelled()).await;
                    }
                    let _turn = container.lock().await;
                    match engine.remove(&id).await {
                        Ok(()) => What::Removed,
                        Err(EngineError(error)) => {
                            tracing::warn!(backend = %id, error, "a container stays; trying again");
                            What::RemoveFailed(error)
                        }
                    }
                });
            }
            Action::OpenRoute(_) | Action::CloseRoute | Action::Report(_) | Action::SayMeta(_) => {}
        }
    }

    /// Looks at the container after a restart of the drone.
    fn look(&self) {
        let (engine, id) = (self.parts.engine.clone(), self.id().clone());
        self.in_life("look", async move {
            loop {
                match engine.look(&id).await {
                    Ok(found) => return What::Resumed(found),
                    Err(error) => tracing::warn!(backend = %id, %error, "cannot look at its container; trying again"),
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        });
    }

    fn in_life(&self, name: &str, work: impl Future<Output = What> + Send + 'static) {
        self.run_in(&self.life, name, work);
    }

    fn in_phase(&self, name: &str, work: impl Future<Output = What> + Send + 'static) {
        self.run_in(&self.phase, name, work);
    }

    /// What has nothing to say when it ends.
    fn beside(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.life.stop_token();
        self.life.spawn(format!("{name} {}", self.id()), async move {
            stop.run_until_cancelled(work).await;
        });
    }

    fn run_in(&self, tasks: &Tasks, name: &str, work: impl Future<Output = What> + Send + 'static) {
        let (stop, signals) = (tasks.stop_token(), self.signals.clone());
        tasks.spawn(format!("{name} {}", self.id()), async move {
            if let Some(what) = stop.run_until_cancelled(work).await {
                // A driver that is gone has nothing left to do.
                let _ = signals.send(Signal { what, done: None }).await;
            }
        });
    }
}
