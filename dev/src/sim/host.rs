//! The simulated host of a drone: a disk and containers that survive the drone's process, and backends that go their
//! way on them.

use super::{
    process::ProcessId,
    run::{Sim, lock},
    transport::Strike,
};
use async_trait::async_trait;
use futures_util::future::join_all;
use jiff::Timestamp;
use plane_core::{
    clock::Clock,
    id::{BackendId, ClusterName, DroneId},
    message::{
        backend::{BackendState, StatusReport},
        drone::AnnouncedBackend,
        schedule::SpawnRequest,
    },
    nats::Nats,
    task::Tasks,
};
use plane_drone::host::{Host, HostError, LiveBackend, Offered};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a controller may take to acknowledge a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often containers without a backend are looked for.
const REAP_EVERY: Duration = Duration::from_secs(5);

/// What survives the process of a drone.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) nonce: String,
    /// The processes that had it, oldest first.
    processes: Vec<String>,
    pub(super) draining: bool,
    pub(super) rows: BTreeMap<BackendId, Row>,
    refused: BTreeSet<BackendId>,
    outbox: VecDeque<(u64, StatusReport)>,
    numbers: u64,
    /// The containers that run; they survive the loss of all else.
    pub(super) containers: BTreeSet<BackendId>,
}

impl Disk {
    pub(super) fn new(nonce: String) -> Self {
        Self { nonce, ..Self::default() }
    }

    /// All but the containers is gone.
    pub(super) fn wipe(&mut self, nonce: String) {
        *self = Self { nonce, containers: std::mem::take(&mut self.containers), ..Self::default() };
    }
}

/// A backend as it is remembered.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) request: Arc<SpawnRequest>,
    pub(super) phase: Phase,
    reported: (BackendState, Timestamp),
}

/// How far a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Offered, not begun.
    New,
    /// In a state that is not final.
    Goes(BackendState),
    /// To be ended as this; the way to it is closed.
    Ends { state: BackendState, reason: String, at_once: bool },
    /// Ended as this.
    Ended { state: BackendState, reason: String },
}

/// The host as a process of the drone has it.
pub(super) struct SimHost {
    pub(super) sim: Arc<Sim>,
    pub(super) process: ProcessId,
    pub(super) machine: usize,
    pub(super) cluster: ClusterName,
    pub(super) drone: DroneId,
    pub(super) clock: Clock,
    pub(super) disk: Arc<Mutex<Disk>>,
    tasks: Tasks,
    own: Weak<Self>,
    handles: Mutex<BTreeMap<BackendId, Handle>>,
    news: Notify,
    told: Notify,
}

/// Speaks to the task that drives a backend.
#[derive(Debug, Clone, Default)]
struct Handle {
    signal: Arc<Notify>,
    ended: CancellationToken,
}

impl SimHost {
    #[allow(clippy::too_many_arguments, reason = "these are what a host stands on")]
    pub(super) fn new(
        sim: Arc<Sim>,
        process: ProcessId,
        machine: usize,
        cluster: ClusterName,
        drone: DroneId,
        clock: Clock,
        disk: Arc<Mutex<Disk>>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let (handles, news, told) = (Mutex::default(), Notify::new(), Notify::new());
        Arc::new_cyclic(|own| {
            let own = own.clone();
            Self { sim, process, machine, cluster, drone, clock, disk, tasks, own, handles, news, told }
        })
    }

    /// Runs something until the process is told to stop.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stop_token();
        self.sim.processes.spawn(self.process, async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Takes up what an earlier process had begun.
    pub(super) fn resume(self: &Arc<Self>) {
        let rows = lock(&self.disk).rows.clone();
        for (backend, row) in rows {
            if matches!(row.phase, Phase::Goes(_) | Phase::Ends { .. }) {
                self.drive(backend);
            }
        }
        self.spawn(self.clone().reap());
    }

    /// Sends what is to be told.
    pub(super) fn tell(self: &Arc<Self>, nats: Nats) {
        self.spawn(self.clone().empty_outbox(nats));
    }

    /// Changes what is remembered. The process may die before or after.
    async fn write<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        let strike = self.sim.strike(self.process);
        if strike == Strike::Before {
            self.sim.kill(self.process);
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.sim.dice.millis(0, 3)).await;
        let done = change(&mut lock(&self.disk));
        if strike == Strike::After {
            self.sim.kill(self.process);
            std::future::pending::<()>().await;
        }
        done
    }

    fn report(&self, backend: &BackendId, state: BackendState, reason: Option<String>) -> StatusReport {
        StatusReport {
            cluster: self.cluster.clone(),
            state,
            backend: backend.clone(),
            time: self.clock.wall(),
            drone: self.drone.clone(),
            reason,
            exit_code: None,
        }
    }

    fn drive(&self, backend: BackendId) {
        let Some(host) = self.own.upgrade() else { return };
        let handle = Handle::default();
        lock(&self.handles).insert(backend.clone(), handle.clone());
        self.spawn(async move {
            host.clone().go(&backend, &handle.signal).await;
            handle.ended.cancel();
            lock(&host.handles).remove(&backend);
        });
    }

    /// Brings a backend to its end.
    async fn go(self: Arc<Self>, backend: &BackendId, signal: &Notify) {
        loop {
            let phase = lock(&self.disk).rows.get(backend).map(|row| row.phase.clone());
            let dice = &self.sim.dice;
            let (wait, next) = match phase {
                Some(Phase::Goes(BackendState::Loading)) => (dice.millis(5, 800), Phase::Goes(BackendState::Starting)),
                Some(Phase::Goes(BackendState::Starting)) => (dice.millis(5, 500), Phase::Goes(BackendState::Ready)),
                Some(Phase::Goes(_)) => {
                    let lasts = if dice.hit(300_000) { dice.millis(500, 60_000) } else { Duration::from_secs(100_000) };
                    let state = if dice.hit(500_000) { BackendState::Exited } else { BackendState::Swept };
                    (lasts, Phase::Ends { state, reason: "it ended".to_owned(), at_once: true })
                }
                Some(Phase::Ends { state, reason, at_once }) => {
                    tokio::time::sleep(dice.millis(0, if at_once { 900 } else { 3000 })).await;
                    lock(&self.disk).containers.remove(backend);
                    self.advance(backend, Phase::Ended { state, reason }).await;
                    return;
                }
                Some(Phase::New | Phase::Ended { .. }) | None => return,
            };
            tokio::select! {
                biased;
                () = signal.notified() => {}
                () = tokio::time::sleep(wait) => {
                    if next == Phase::Goes(BackendState::Starting) {
                        lock(&self.disk).containers.insert(backend.clone());
                    }
                    self.advance(backend, next).await;
                }
            }
        }
    }

    /// Remembers that a backend is further, where it is, and what is to be told of that.
    async fn advance(&self, backend: &BackendId, next: Phase) {
        let told = match &next {
            Phase::Goes(state) => Some(self.report(backend, *state, None)),
            Phase::Ended { state, reason } => Some(self.report(backend, *state, Some(reason.clone()))),
            Phase::New | Phase::Ends { .. } => None,
        };
        self.write(|disk| {
            let Some(row) = disk.rows.get_mut(backend) else { return };
            let further = match (&row.phase, &next) {
                (Phase::New, _) | (Phase::Goes(_), Phase::Ends { .. }) | (Phase::Ends { .. }, Phase::Ended { .. }) => {
                    true
                }
                (Phase::Goes(before), Phase::Goes(after)) => before.may_precede(*after),
                (Phase::Ends { at_once: false, .. }, Phase::Ends { at_once: true, .. }) => true,
                _ => false,
            };
            if !further {
                return;
            }
            if row.phase == Phase::New {
                self.sim.check_begin(&self.drone, self.machine, &row.request);
            }
            if matches!(next, Phase::Ends { .. }) {
                self.sim.note_unreachable(&row.request);
            }
            self.sim.note(format_args!("{} on {}: {next:?}", backend, self.drone));
            row.phase = next;
            if let Some(told) = told {
                row.reported = (told.state, told.time);
                disk.numbers += 1;
                disk.outbox.push_back((disk.numbers, told));
            }
        })
        .await;
        self.news.notify_one();
    }

    async fn end(&self, backend: &BackendId, state: BackendState, reason: &str, at_once: bool) {
        let handle = lock(&self.handles).get(backend).cloned();
        if let Some(handle) = handle {
            self.advance(backend, Phase::Ends { state, reason: reason.to_owned(), at_once }).await;
            handle.signal.notify_one();
        }
    }

    async fn say(&self, report: StatusReport, refuse: bool) {
        self.write(|disk| {
            if refuse {
                disk.refused.insert(report.backend.clone());
            }
            disk.numbers += 1;
            disk.outbox.push_back((disk.numbers, report));
        })
        .await;
        self.news.notify_one();
    }

    async fn empty_outbox(self: Arc<Self>, nats: Nats) {
        let mut pause = Duration::from_millis(50);
        loop {
            let mut backends = BTreeSet::new();
            let first: Vec<(u64, StatusReport)> = {
                let disk = lock(&self.disk);
                disk.outbox.iter().filter(|(_, report)| backends.insert(report.backend.clone())).cloned().collect()
            };
            if first.is_empty() {
                self.news.notified().await;
                continue;
            }
            let sent = join_all(first.iter().map(|(number, report)| {
                let nats = &nats;
                async move { nats.request(report, REPORT_TIMEOUT).await.is_ok().then_some(*number) }
            }));
            let sent: BTreeSet<u64> = sent.await.into_iter().flatten().collect();
            if sent.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
                continue;
            }
            pause = Duration::from_millis(50);
            self.write(|disk| disk.outbox.retain(|(number, _)| !sent.contains(number))).await;
            self.told.notify_waiters();
        }
    }

    fn strays(&self) -> BTreeSet<BackendId> {
        let found = lock(&self.disk).containers.clone();
        let handles = lock(&self.handles);
        found.into_iter().filter(|id| !handles.contains_key(id)).collect()
    }

    /// Removes containers that belong to no backend.
    async fn reap(self: Arc<Self>) {
        let mut suspects = BTreeSet::new();
        loop {
            let strays = self.strays();
            for stray in strays.intersection(&suspects) {
                lock(&self.disk).containers.remove(stray);
            }
            suspects = strays;
            tokio::time::sleep(REAP_EVERY).await;
        }
    }
}

fn announced(row: &Row) -> AnnouncedBackend {
    let (state, time) = row.reported;
    AnnouncedBackend {
        backend_id: row.request.backend_id.clone(),
        state,
        time,
        bearer_token: row.request.bearer_token.clone(),
        lock: row.request.lock.clone(),
        fencing_token: row.request.fencing_token,
    }
}

#[async_trait]
impl Host for SimHost {
    async fn nonce(&self) -> Result<String, HostError> {
        Ok(lock(&self.disk).nonce.clone())
    }

    async fn processes(&self) -> Result<Vec<String>, HostError> {
        Ok(lock(&self.disk).processes.clone())
    }

    async fn follow(&self, process: &str) -> Result<(), HostError> {
        self.write(|disk| disk.processes.push(process.to_owned())).await;
        Ok(())
    }

    async fn draining(&self) -> Result<bool, HostError> {
        Ok(lock(&self.disk).draining)
    }

    async fn set_draining(&self, draining: bool) -> Result<(), HostError> {
        self.write(|disk| disk.draining = draining).await;
        Ok(())
    }

    async fn offer(&self, request: &SpawnRequest) -> Result<Offered, HostError> {
        let now = self.clock.wall();
        let driven = lock(&self.handles).contains_key(&request.backend_id);
        let offered = self.write(|disk| {
            let backend = &request.backend_id;
            if disk.refused.contains(backend) {
                return Offered::Refused;
            }
            let over = |row: &Row| {
                matches!(row.phase, Phase::Ended { .. })
                    && !driven
                    && disk.outbox.iter().all(|(_, report)| report.backend != *backend)
                    && row.request.assignment_seq < request.assignment_seq
            };
            if let Some(known) = disk.rows.get(backend).filter(|row| !over(row)) {
                return Offered::Known(Box::new((*known.request).clone()));
            }
            let (request, reported) = (Arc::new(request.clone()), (BackendState::Loading, now));
            disk.rows.insert(backend.clone(), Row { request, phase: Phase::New, reported });
            Offered::New
        });
        Ok(offered.await)
    }

    async fn discard(&self, backend: &BackendId) -> Result<(), HostError> {
        self.write(|disk| drop(disk.rows.remove(backend))).await;
        Ok(())
    }

    async fn begin(&self, request: SpawnRequest) -> Result<(), HostError> {
        let backend = request.backend_id.clone();
        if lock(&self.handles).contains_key(&backend) {
            return Ok(());
        }
        self.advance(&backend, Phase::Goes(BackendState::Loading)).await;
        let begun = matches!(lock(&self.disk).rows.get(&backend), Some(row) if matches!(row.phase, Phase::Goes(_)));
        if begun {
            self.drive(backend);
        }
        Ok(())
    }

    async fn undecided(&self) -> Result<Vec<SpawnRequest>, HostError> {
        let disk = lock(&self.disk);
        let undecided = disk.rows.values().filter(|row| row.phase == Phase::New);
        Ok(undecided.map(|row| (*row.request).clone()).collect())
    }

    fn live(&self) -> Vec<LiveBackend> {
        let handles = lock(&self.handles);
        let disk = lock(&self.disk);
        let live = handles.iter().filter(|(_, handle)| !handle.ended.is_cancelled());
        let rows = live.filter_map(|(id, _)| disk.rows.get(id));
        rows.map(|row| LiveBackend { request: row.request.clone(), announced: announced(row) }).collect()
    }

    fn is_live(&self, backend: &BackendId) -> bool {
        lock(&self.handles).get(backend).is_some_and(|handle| !handle.ended.is_cancelled())
    }

    async fn terminate(&self, backend: &BackendId) {
        self.end(backend, BackendState::Terminated, "it was asked for", false).await;
    }

    async fn give_up(&self, backend: &BackendId, reason: &str) {
        self.end(backend, BackendState::Lost, reason, true).await;
    }

    async fn ended(&self, backend: &BackendId) {
        let handle = lock(&self.handles).get(backend).cloned();
        if let Some(handle) = handle {
            handle.ended.cancelled().await;
        }
    }

    async fn ended_since(&self, since: Timestamp) -> Result<Vec<AnnouncedBackend>, HostError> {
        let disk = lock(&self.disk);
        let is_told = |row: &Row| disk.outbox.iter().all(|(_, report)| report.backend != row.request.backend_id);
        let ended = disk
            .rows
            .values()
            .filter(|row| matches!(row.phase, Phase::Ended { .. }) && row.reported.1 >= since && is_told(row));
        Ok(ended.map(announced).collect())
    }

    async fn disown(&self, backend: &BackendId) -> Result<(), HostError> {
        let phase = lock(&self.disk).rows.get(backend).map(|row| row.phase.clone());
        match phase {
            None => {
                let reason = Some("its drone does not know it".to_owned());
                self.say(self.report(backend, BackendState::Lost, reason), true).await;
            }
            Some(Phase::Ended { state, reason }) => self.say(self.report(backend, state, Some(reason)), false).await,
            Some(Phase::New | Phase::Goes(_) | Phase::Ends { .. }) => {}
        }
        Ok(())
    }

    async fn all_told(&self) {
        let newest = lock(&self.disk).outbox.back().map_or(0, |(number, _)| *number);
        loop {
            let told = self.told.notified();
            if lock(&self.disk).outbox.front().is_none_or(|(oldest, _)| *oldest > newest) {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        }
    }
}
