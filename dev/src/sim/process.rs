//! Simulated processes: groups of tasks that can be stopped, resumed and killed between two steps of theirs.
//!
//! All tasks are polled here, in rounds: those that were woken since the last round, in an order that the seed decides.
//! So what a run does rests on the seed alone, however the wakers were called.

use super::dice::Dice;
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// One run of a process; a restarted one is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProcessId(pub(super) u32);

/// The process of the simulation itself: never stopped, never killed.
pub(super) const ENVIRONMENT: ProcessId = ProcessId(0);

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Its tasks are polled.
    Running,
    /// Its tasks wait, as after SIGSTOP.
    Stopped,
    /// Its tasks are gone, as after SIGKILL.
    Killed,
}

/// Runs the tasks of all processes.
pub(super) struct Processes {
    woken: Arc<Woken>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    tasks: BTreeMap<u64, Task>,
    modes: BTreeMap<ProcessId, Mode>,
    next_task: u64,
    next_process: u32,
}

struct Task {
    process: ProcessId,
    /// Absent while it is polled.
    future: Option<BoxFuture<'static, ()>>,
    flag: Arc<Flag>,
    /// Woken while its process was stopped.
    held: bool,
}

#[derive(Default)]
struct Woken {
    tasks: Mutex<Vec<u64>>,
    /// Who polls [`Processes::round`].
    main: Mutex<Option<Waker>>,
}

struct Flag {
    task: u64,
    raised: AtomicBool,
    woken: Arc<Woken>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            lock(&self.woken.tasks).push(self.task);
            if let Some(main) = lock(&self.woken.main).take() {
                main.wake();
            }
        }
    }
}

thread_local! {
    static CURRENT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// The process whose task is polled now.
pub(super) fn current() -> ProcessId {
    ProcessId(CURRENT.get())
}

impl Processes {
    pub(super) fn new() -> Self {
        let mut all = All { next_process: 1, ..All::default() };
        all.modes.insert(ENVIRONMENT, Mode::Running);
        Self { woken: Arc::default(), all: Mutex::new(all) }
    }

    /// A new process without tasks.
    pub(super) fn add(&self) -> ProcessId {
        let mut all = lock(&self.all);
        let id = ProcessId(all.next_process);
        all.next_process += 1;
        all.modes.insert(id, Mode::Running);
        id
    }

    pub(super) fn mode(&self, process: ProcessId) -> Mode {
        lock(&self.all).modes.get(&process).copied().unwrap_or(Mode::Killed)
    }

    /// Adds a task; in a killed process it never runs.
    pub(super) fn spawn(&self, process: ProcessId, future: impl Future<Output = ()> + Send + 'static) {
        if self.mode(process) == Mode::Killed {
            return;
        }
        let mut all = lock(&self.all);
        let task = all.next_task;
        all.next_task += 1;
        let flag = Arc::new(Flag { task, raised: AtomicBool::new(false), woken: self.woken.clone() });
        all.tasks.insert(task, Task { process, future: Some(Box::pin(future)), flag: flag.clone(), held: false });
        drop(all);
        flag.wake();
    }

    pub(super) fn stop(&self, process: ProcessId) {
        self.set(process, Mode::Stopped);
    }

    pub(super) fn resume(&self, process: ProcessId) {
        self.set(process, Mode::Running);
        let mut flags = Vec::new();
        for task in lock(&self.all).tasks.values_mut().filter(|task| task.process == process && task.held) {
            task.held = false;
            flags.push(task.flag.clone());
        }
        flags.into_iter().for_each(Wake::wake);
    }

    pub(super) fn kill(&self, process: ProcessId) {
        self.set(process, Mode::Killed);
    }

    fn set(&self, process: ProcessId, mode: Mode) {
        if let Some(known) = lock(&self.all).modes.get_mut(&process)
            && *known != Mode::Killed
        {
            *known = mode;
        }
    }

    /// How many tasks a process has.
    pub(super) fn count(&self, process: ProcessId) -> usize {
        lock(&self.all).tasks.values().filter(|task| task.process == process).count()
    }

    /// Drops the tasks of killed processes; they may wake others while they go.
    pub(super) fn bury(&self) {
        let mut all = lock(&self.all);
        let All { tasks, modes, .. } = &mut *all;
        let is_dead = |task: &Task| modes.get(&task.process) == Some(&Mode::Killed) && task.future.is_some();
        let dead: Vec<u64> = tasks.iter().filter(|(_, task)| is_dead(task)).map(|(id, _)| *id).collect();
        let dropped: Vec<Option<Task>> = dead.into_iter().map(|id| tasks.remove(&id)).collect();
        drop(all);
        drop(dropped);
    }

    /// Drops all tasks.
    pub(super) fn clear(&self) {
        for mode in lock(&self.all).modes.values_mut() {
            *mode = Mode::Killed;
        }
        self.bury();
    }

    /// Polls what was woken, once each, and gives how many tasks that were.
    pub(super) fn round(&self, context: &Context<'_>, dice: &Dice) -> usize {
        *lock(&self.woken.main) = Some(context.waker().clone());
        let mut woken = std::mem::take(&mut *lock(&self.woken.tasks));
        woken.sort_unstable();
        woken.dedup();
        dice.shuffle(&mut woken);
        let mut killed = false;
        for id in &woken {
            killed |= self.poll(*id);
        }
        if killed {
            self.bury();
        }
        woken.len()
    }

    /// Polls a task; true where its process was killed meanwhile.
    fn poll(&self, id: u64) -> bool {
        let (mut future, flag, process) = {
            let mut all = lock(&self.all);
            let All { tasks, modes, .. } = &mut *all;
            let Some(task) = tasks.get_mut(&id) else { return false };
            task.flag.raised.store(false, Ordering::Release);
            match modes.get(&task.process) {
                Some(Mode::Running) => {}
                Some(Mode::Stopped) => {
                    task.held = true;
                    return false;
                }
                Some(Mode::Killed) | None => return true,
            }
            let Some(future) = task.future.take() else { return false };
            (future, task.flag.clone(), task.process)
        };
        CURRENT.set(process.0);
        let done = future.as_mut().poll(&mut Context::from_waker(&Waker::from(flag))).is_ready();
        CURRENT.set(ENVIRONMENT.0);
        let mut all = lock(&self.all);
        let killed = all.modes.get(&process) == Some(&Mode::Killed);
        if done || killed {
            let task = all.tasks.remove(&id);
            drop(all);
            drop((task, future));
        } else if let Some(task) = all.tasks.get_mut(&id) {
            task.future = Some(future);
        }
        killed
    }
}
