//! The controller: it keeps the world from the state log, turns what drones say into log entries, places backends on
//! drones, and writes the public history.
//!
//! Controllers are equal and many. What one decides stands in the log before it acts on it. `placement`, `lock`,
//! `forgotten` and `announce::judge` decide without input or clock; the other modules act.

mod acme;
pub mod announce;
mod caretaker;
pub mod config;
pub mod dns;
mod drones;
pub mod forgotten;
mod history;
mod hub;
mod intake;
pub mod lock;
mod log;
mod loss;
mod placed;
pub mod placement;
mod purge;
mod schedule;
mod steady;
mod view;

use config::{ControllerConfig, SchedulerConfig, Timing};
use dns::{
    ListenError,
    zone::{NAME_SERVER_LABEL, Zone},
};
use drones::HeardDrones;
use futures_util::{FutureExt, future::join_all};
use history::Historian;
use placement::Use;
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::{ClusterName, LockName},
    message::{
        Answer, Fault, FaultCode,
        log::Component,
        state::{HEARTBEAT_SUBJECT, Heartbeat, Holder},
    },
    nats::{Nats, NatsError, Serving, StreamConfig, StreamName},
    task::Tasks,
    telemetry::LogTap,
    world::Backend,
};
use schedule::Deciding;
use std::{sync::Arc, time::Duration};
use steady::{Grants, Pulse};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use view::View;

/// The queue group that requests to controllers arrive in.
pub const QUEUE_GROUP: &str = "plane-controller";
/// The prefix of a controller's inboxes.
pub const INBOX_PREFIX: &str = "controller.inbox";
/// How long a stopping controller waits for the requests that it works on.
pub const STOP_DEADLINE: Duration = Duration::from_secs(9);
/// After so long without all being read, the streams are made again: one may have been deleted meanwhile.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// When a request that hangs on a slow log is answered all the same, counted from its arrival.
const ANSWER_LIMIT: Duration = Duration::from_millis(7900);
/// How long a stopping controller follows the log for the requests that it has taken: all are answered by then.
const FINISH_LIMIT: Duration = Duration::from_secs(8);
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// How much longer a controller without a name server waits before it hands out a name: what it has read of the log the
/// others have read by then.
const OTHERS_READ: Duration = Duration::from_millis(50);

/// What the parts of a controller share.
#[derive(Debug)]
pub(crate) struct Core {
    nats: Nats,
    /// The streams as this controller makes them; nothing where it leaves that to those that schedule.
    streams: Option<[StreamConfig; 3]>,
    /// What its own name server serves, where it has one.
    zone: Option<Arc<Zone>>,
    timing: Timing,
    rules: Rules,
    clock: Clock,
    chance: Chance,
    tasks: Tasks,
    /// Cancelled once no request is worked on any more: until then the log is read and the public history written.
    idle: CancellationToken,
    view: Arc<View>,
    history: Arc<Historian>,
    drones: HeardDrones,
    deciding: Deciding,
    pulse: Pulse,
    grants: Arc<Grants>,
    started: Instant,
}

impl Core {
    async fn make_streams(&self) -> Result<(), NatsError> {
        match &self.streams {
            Some(streams) => {
                for stream in streams {
                    self.nats.ensure_stream(stream).await?;
                }
                Ok(())
            }
            // That it is there is all that is needed to read it.
            None => self.nats.last(StreamName::State, HEARTBEAT_SUBJECT).await.map(|_| ()),
        }
    }

    /// Waits until a name that the log has under a sequence can be asked for.
    async fn answerable(&self, sequence: u64, deadline: Instant) -> Result<(), Fault> {
        let waiting = async {
            self.view.has_read(sequence).await;
            // While the log is read again, no name is answered.
            self.view.caught_up().await;
            if self.zone.is_none() {
                tokio::time::sleep(OTHERS_READ).await;
            }
        };
        let waited = tokio::time::timeout_at(deadline, waiting).await;
        waited.map_err(|_| Fault::new(FaultCode::Unavailable, "the name is not served yet; ask again"))
    }

    /// The label that no backend of a cluster may have.
    fn reserved_label(&self, cluster: &ClusterName) -> Option<&str> {
        match &self.zone {
            Some(zone) => zone.reserved_label(cluster.as_str()),
            None => Some(NAME_SERVER_LABEL),
        }
    }

    /// Waits until the log has been read. Where that takes long it may have been deleted: it is made again.
    async fn catch_up(&self) {
        loop {
            if self.view.is_replaced()
                && let Err(error) = loss::compare(self).await
            {
                tracing::debug!(%error, "the state log cannot be looked at");
            }
            tokio::select! {
                biased;
                () = self.view.caught_up() => return,
                () = self.view.suspicion() => {}
                () = tokio::time::sleep(READ_PATIENCE) => {}
            }
            patiently("waiting for JetStream", || self.make_streams()).await;
        }
    }

    async fn heartbeat(&self) -> Result<u64, NatsError> {
        let (trusted, made) = self.grants.trusted().unzip();
        let heartbeat = Heartbeat { heartbeat: (), trusted, made, newest: self.view.newest_time() };
        self.nats.publish_entry(HEARTBEAT_SUBJECT.to_owned(), &heartbeat).await
    }
}

/// Rules on which much rests, each a pure function. They are given from outside so that a simulation can show what
/// breaks with another one in its place.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Whether a lock may be freed although a backend holds it, whose public history is complete; see [`lock::may_free`].
    pub may_free: fn(&Backend, &LockName, &Holder) -> bool,
    /// Counts what is placed on a drone and not read back yet.
    pub count: fn(&mut Use, Use),
}

impl Default for Rules {
    fn default() -> Self {
        Self { may_free: lock::may_free, count: |used, in_flight| *used += in_flight }
    }
}

/// What a controller is made of beside its connection.
#[derive(Debug, Clone)]
pub struct Parts {
    /// How it schedules; nothing where it does not.
    pub scheduler: Option<SchedulerConfig>,
    /// What its own name server serves: where there is one, a name is handed out once it can be asked for there, else a
    /// little later than that.
    pub zone: Option<Arc<Zone>>,
    /// Its rules.
    pub rules: Rules,
    /// Where time comes from.
    pub clock: Clock,
    /// Where random numbers come from.
    pub chance: Chance,
}

/// Why a controller ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection cannot be configured, or NATS refuses a subscription.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The name server cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs a controller until its tasks are told to stop.
///
/// # Errors
/// Where it cannot listen, the connection cannot be configured or NATS refuses a subscription.
pub async fn run(config: &ControllerConfig, tasks: &Tasks, log: LogTap) -> Result<(), RunError> {
    let stop = tasks.stop_token();
    let zone = config.dns.as_ref().map(|dns| Arc::new(Zone::new(dns)));
    let parts = Parts {
        scheduler: config.scheduler.clone(),
        zone: zone.clone(),
        rules: Rules::default(),
        clock: Clock::machine(),
        chance: Chance::system(),
    };
    let view = parts.view();
    if let (Some(dns), Some(zone)) = (&config.dns, zone) {
        dns::serve(dns::listen(dns)?, dns, zone, view.clone(), tasks);
    }
    let connecting = Nats::connect(&config.nats, "plane-controller", INBOX_PREFIX);
    let nats = tokio::select! { () = stop.cancelled() => return Ok(()), nats = connecting => nats? };
    tasks.spawn("publish the log", {
        let (nats, stop) = (nats.clone(), stop.clone());
        async move {
            stop.run_until_cancelled(log.forward(Component::Controller, nats)).await;
        }
    });
    Ok(keep(nats, parts, view, tasks).await?)
}

impl Parts {
    fn view(&self) -> Arc<View> {
        let timing = self.scheduler.clone().unwrap_or_default().timing();
        Arc::new(View::new(timing.retention, self.clock.clone()))
    }
}

/// Runs a controller over a connection until its tasks are told to stop; all of it but the sockets of its name server.
///
/// # Errors
/// Where NATS refuses a subscription.
pub async fn control(nats: Nats, parts: Parts, tasks: &Tasks) -> Result<(), NatsError> {
    let view = parts.view();
    keep(nats, parts, view, tasks).await
}

async fn keep(nats: Nats, parts: Parts, view: Arc<View>, tasks: &Tasks) -> Result<(), NatsError> {
    let Parts { scheduler, zone, rules, clock, chance } = parts;
    let (stop, idle) = (tasks.stop_token(), CancellationToken::new());
    let end = idle.clone().drop_guard();
    let schedules = scheduler.is_some();
    let grants = Arc::<Grants>::default();
    let history = match schedules {
        true => history::start(&nats, &view, &grants, rules, tasks, &idle),
        false => history::none(),
    };
    let core = Arc::new(Core {
        nats: nats.clone(),
        streams: scheduler.as_ref().map(SchedulerConfig::streams),
        zone,
        timing: scheduler.unwrap_or_default().timing(),
        rules,
        clock,
        chance,
        tasks: tasks.clone(),
        idle,
        view,
        history,
        drones: HeardDrones::default(),
        deciding: Deciding::default(),
        pulse: Pulse::default(),
        grants,
        started: Instant::now(),
    });
    let starting = async { if schedules { start(&core).await } else { start_reading(&core).await } };
    let Some(ready) = stop.run_until_cancelled(starting).await else { return Ok(()) };
    let serving = ready?;
    tracing::info!("controller is ready");
    stop.cancelled().await;
    // What is asked from now on other controllers get; what has come is decided with a log that goes on to be read.
    tasks.spawn("answer what has been asked", async move {
        let finishing = async {
            join_all(serving.into_iter().map(Serving::finish)).await;
            // The last answers wait to be sent.
            if nats.is_connected() {
                let _ = tokio::time::timeout(FLUSH_LIMIT, nats.flush()).await;
            }
        };
        if tokio::time::timeout(FINISH_LIMIT, finishing).await.is_err() {
            tracing::warn!("not all requests were answered before the end");
        }
        drop(end);
    });
    Ok(())
}

async fn start(core: &Arc<Core>) -> Result<Vec<Serving>, NatsError> {
    let tasks = &core.tasks;
    patiently("waiting for JetStream", || core.make_streams()).await;
    let purge = purge::start(&core.nats, tasks);
    let server = core.nats.server();
    follow(core, purge).await;
    core.catch_up().await;
    patiently("waiting for the state log", || async {
        core.make_streams().await?;
        loss::doubt_at_start(core).await
    })
    .await;
    read_again_of_another(core, &server).await;
    tasks.spawn_essential("heartbeat", heartbeat(core.clone(), tasks.stop_token()));
    tasks.spawn_essential("beat", steady::beat(core.clone()));
    tasks.spawn_essential("watch the log", loss::watch(core.clone()));
    tasks.spawn_essential("call drones", loss::call_drones(core.clone()));
    tasks.spawn_essential("care", caretaker::care(core.clone()));
    drones::listen(core).await?;
    let mut serving = Vec::new();
    serving.extend(intake::serve(core).await?);
    serving.push(announce::serve(core).await?);
    // Values are asked for where they are served.
    if core.zone.is_some() {
        serving.push(acme::serve(core).await?);
    }
    serving.extend(schedule::serve(core).await?);
    Ok(serving)
}

/// Reads the log again where the server is not the one any more that it was read of first: that one may have lost what was
/// read, and have taken as much since.
async fn read_again_of_another(core: &Core, first: &str) {
    if !core.grants.know(first) {
        core.view.read_again();
        core.catch_up().await;
    }
}

async fn follow(core: &Core, purge: purge::Purger) {
    let reading = patiently("waiting for the state log", || async {
        // It may be deleted at any time.
        core.make_streams().await?;
        core.nats.replay(StreamName::State, view::FOLLOWED).await
    });
    let replay = reading.await;
    view::follow(replay, core.view.clone(), core.history.clone(), purge, &core.tasks, core.idle.clone());
}

/// Starts what a controller does that only serves names: it reads the log, and takes challenge values into it.
async fn start_reading(core: &Arc<Core>) -> Result<Vec<Serving>, NatsError> {
    patiently("waiting for the state log, which a controller with [scheduler] makes", || core.make_streams()).await;
    // Those that schedule purge.
    let purge = purge::Purger::none();
    let server = core.nats.server();
    follow(core, purge).await;
    core.catch_up().await;
    // It grants no locks, so it need not know whether the log lacks something from before.
    let info = patiently("waiting for the state log", || core.nats.info(StreamName::State)).await;
    core.grants.vouch(core.nats.server(), info.map(|info| info.created));
    read_again_of_another(core, &server).await;
    core.tasks.spawn_essential("watch the log", loss::watch(core.clone()));
    match core.zone {
        Some(_) => Ok(vec![acme::serve(core).await?]),
        None => Ok(Vec::new()),
    }
}

async fn patiently<T, F: Future<Output = Result<T, NatsError>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, "{what}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Answers a request that arrived then within 8 s, also where the log is slow. What was begun is brought to its end in a
/// task of its own where the answer cannot wait for that.
pub(crate) async fn answered_in_time<T: Send + 'static>(
    core: Arc<Core>,
    arrived: Instant,
    answering: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    // Boxed: it may be large, and would be moved about with each task that it is in.
    let mut answering = Box::pin(answering);
    match tokio::time::timeout_at(arrived + ANSWER_LIMIT, &mut answering).await {
        Ok(answer) => answer,
        Err(_) => {
            core.tasks.spawn("what was answered before it was done", answering.map(|_| ()));
            Err(Fault::new(FaultCode::Unavailable, "the state log is slow; ask again"))
        }
    }
}

async fn heartbeat(core: Arc<Core>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(core.heartbeat()).await {
            tracing::debug!(%error, "no heartbeat into the log");
            core.view.suspect();
        }
    }
}
