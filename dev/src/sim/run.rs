//! What the parts of one run share: its time, its dice, its trace, and what is to happen when.

use super::{
    Options, Rule, Violation,
    check::Checker,
    dice::Dice,
    logging,
    machine::Machine,
    network::Network,
    process::{ENVIRONMENT, ProcessId, Processes, current},
};
use jiff::{SignedDuration, Timestamp};
use plane_core::clock::{Clock, TimeSource};
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{
        Notify,
        oneshot::{self, error::TryRecvError},
    },
    time::Instant,
};

/// The time of day at which every run begins, in seconds since 1970.
const BEGINNING: i64 = 1_700_000_000;

/// So many rounds of tasks without time going on mean that something turns in a circle.
const MOST_ROUNDS: u64 = 20_000;

type Action = Box<dyn FnOnce(&Arc<Sim>) + Send>;

/// One run.
pub(super) struct Sim {
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) dice: Dice,
    pub(super) processes: Processes,
    pub(super) network: Mutex<Network>,
    pub(super) checker: Mutex<Checker>,
    pub(super) machines: Mutex<Vec<Machine>>,
    start: Instant,
    agenda: Mutex<BTreeMap<(Duration, u64), Action>>,
    entered: AtomicU64,
    news: Notify,
    trace: Mutex<u64>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    pub(super) fn new(seed: u64, options: Options) -> Arc<Self> {
        Arc::new(Self {
            seed,
            options,
            dice: Dice::new(seed),
            processes: Processes::new(),
            network: Mutex::default(),
            checker: Mutex::default(),
            machines: Mutex::default(),
            start: Instant::now(),
            agenda: Mutex::default(),
            entered: AtomicU64::new(0),
            news: Notify::new(),
            trace: Mutex::new(0xcbf2_9ce4_8422_2325),
        })
    }

    /// The time since the run began.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time of day on a clock that nobody sets.
    pub(super) fn time(&self) -> Timestamp {
        wall(self.now(), 0)
    }

    /// Does something later; what is due at the same time is done in the order in which it was entered.
    pub(super) fn at(&self, due: Duration, action: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        lock(&self.agenda).insert((due, number), Box::new(action));
        self.news.notify_one();
    }

    pub(super) fn after(&self, delay: Duration, action: impl FnOnce(&Arc<Self>) + Send + 'static) {
        self.at(self.now() + delay, action);
    }

    /// Does what is due, for ever.
    pub(super) async fn follow_agenda(self: Arc<Self>) {
        loop {
            let next = lock(&self.agenda).first_key_value().map(|((due, _), _)| *due);
            match next {
                Some(due) if due <= self.now() => {
                    let action = lock(&self.agenda).pop_first();
                    if let Some((_, action)) = action {
                        action(&self);
                    }
                }
                Some(due) => {
                    tokio::select! {
                        biased;
                        () = self.news.notified() => {}
                        () = tokio::time::sleep_until(self.start + due) => {}
                    }
                }
                None => self.news.notified().await,
            }
        }
    }

    /// Runs something that is part of no process.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.processes.spawn(ENVIRONMENT, future);
    }

    /// Notes what happened: in the trace's hash, and where that is wanted, for people.
    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let mut hash = lock(&self.trace);
        let _ = fmt::write(&mut Hasher(&mut hash), format_args!("{} {what}", self.now().as_micros()));
        drop(hash);
        if self.options.trace {
            self.print(what);
        }
    }

    /// Prints a line of the trace.
    #[allow(clippy::print_stdout, reason = "a trace is asked for to be read")]
    pub(super) fn print(&self, what: fmt::Arguments<'_>) {
        println!("{:>10.3} {:>3} {what}", self.now().as_secs_f64(), current().0);
    }

    /// The hash of all that was noted.
    pub(super) fn trace(&self) -> u64 {
        *lock(&self.trace)
    }

    /// A rule was broken.
    pub(super) fn violated(&self, rule: Rule, what: impl Into<String>) {
        let violation = Violation { seed: self.seed, at: self.now(), rule, what: what.into() };
        self.note(format_args!("VIOLATION {violation}"));
        lock(&self.checker).violation.get_or_insert(violation);
    }

    /// Kills a process; its connection is gone with it.
    pub(super) fn kill(self: &Arc<Self>, process: ProcessId) {
        self.note(format_args!("kill {}", process.0));
        self.processes.kill(process);
        lock(&self.network).remove(process);
        lock(&self.checker).disturb(process);
        // Its tasks are dropped outside of what called this.
        self.after(Duration::ZERO, |sim| sim.processes.bury());
    }

    /// Runs all tasks until the scenario has ended or a rule was broken.
    pub(super) async fn go(self: Arc<Self>, mut ended: oneshot::Receiver<()>) {
        let (mut rounds, mut at, panics) = (0_u64, self.now(), logging::panics());
        let going = std::future::poll_fn(move |context| {
            loop {
                if lock(&self.checker).violation.is_some() || !matches!(ended.try_recv(), Err(TryRecvError::Empty)) {
                    return Poll::Ready(());
                }
                if self.processes.round(context, &self.dice) == 0 {
                    return Poll::Pending;
                }
                self.check_reach();
                if logging::panics() > panics {
                    self.violated(Rule::Progress, "a task panicked");
                }
                let now = self.now();
                rounds = if now == at { rounds + 1 } else { 0 };
                at = now;
                if rounds > MOST_ROUNDS {
                    self.violated(Rule::Progress, "time stands still");
                }
            }
        });
        tokio::task::unconstrained(going).await;
    }

    /// Drops all tasks, and what waits to happen.
    pub(super) fn tear_down(&self) {
        self.processes.clear();
        let waiting = std::mem::take(&mut *lock(&self.agenda));
        drop(waiting);
        let network = std::mem::take(&mut *lock(&self.network));
        drop(network);
        let machines = std::mem::take(&mut *lock(&self.machines));
        drop(machines);
    }

    /// A clock whose time of day is off by as many milliseconds as `offset` says.
    pub(super) fn clock(&self, offset: Arc<AtomicI64>) -> Clock {
        Clock::from_source(SimClock { start: self.start, offset })
    }
}

fn wall(since: Duration, offset_millis: i64) -> Timestamp {
    let base = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
    let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::ZERO);
    base.saturating_add(since + SignedDuration::from_millis(offset_millis)).unwrap_or(base)
}

struct SimClock {
    start: Instant,
    offset: Arc<AtomicI64>,
}

impl TimeSource for SimClock {
    fn wall(&self) -> Timestamp {
        wall(self.start.elapsed(), self.offset.load(Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        self.start.elapsed()
    }
}

/// FNV-1a (Fowler, Noll, Vo).
struct Hasher<'a>(&'a mut u64);

impl fmt::Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
