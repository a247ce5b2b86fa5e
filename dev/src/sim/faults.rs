//! What goes wrong, when the seed says so.

use super::{
    machine::Kind,
    process::{Mode, ProcessId},
    run::{Sim, lock},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

impl Sim {
    /// The longest time for which something is away: mostly below the deadlines, sometimes above.
    fn a_while(&self) -> Duration {
        match self.dice.below(10) {
            0..5 => self.dice.millis(100, 3000),
            5..8 => self.dice.millis(3000, 9000),
            _ => self.dice.millis(9000, 25_000),
        }
    }

    /// Makes trouble for a while.
    pub(super) async fn make_trouble(self: Arc<Self>, until: Duration) {
        loop {
            tokio::time::sleep(self.dice.millis(100, self.options.fault_pace)).await;
            // From then on all is mended, and a link that is cut would stay so for longer than the end is waited for.
            if self.now() >= until {
                return;
            }
            self.raise_the_dead();
            self.one_fault();
        }
    }

    /// Starts what was killed, after a while.
    fn raise_the_dead(self: &Arc<Self>) {
        let count = lock(&self.machines).len();
        for machine in (0..count).filter(|machine| !self.lives(*machine)) {
            if self.dice.hit(500_000) {
                self.start(machine);
            }
        }
    }

    fn one_fault(self: &Arc<Self>) {
        let faults = self.options.faults;
        let count = lock(&self.machines).len() as u64;
        let machine = usize::try_from(self.dice.below(count)).unwrap_or(0);
        let process = lock(&self.machines)[machine].process.clone();
        let process = process.filter(|process| self.processes.mode(process.id) == Mode::Running);
        if let Some(process) = process {
            let id = process.id;
            if self.dice.hit(faults.stops) {
                return self.stop_for(id, self.a_while());
            }
            if self.dice.hit(faults.clean_ends) {
                // A controller answers what it has been asked.
                self.note(format_args!("tell {} to stop", id.0));
                return process.tasks.stop_token().cancel();
            }
            if self.dice.hit(faults.freezes) {
                self.freeze(id);
                return self.after(self.a_while(), move |sim| sim.mend(id));
            }
            if self.dice.hit(faults.cuts) {
                self.cut(id);
                return self.after(self.a_while(), move |sim| sim.mend(id));
            }
        }
        if self.dice.hit(faults.restarts) {
            self.restart_server(self.a_while(), None);
        } else if self.dice.hit(faults.tail_losses) {
            self.restart_server(self.dice.millis(100, 4000), Some(self.dice.millis(0, 3000)));
        } else if self.dice.hit(faults.deletions) {
            self.delete_log();
        } else if self.dice.hit(faults.clock_steps) {
            let step = i64::try_from(self.dice.below(120_000)).unwrap_or(0) - 60_000;
            self.note(format_args!("the clock of machine {machine} is off by {step} ms"));
            lock(&self.machines)[machine].offset.store(step, Ordering::Relaxed);
        } else if self.dice.hit(faults.wipes) {
            self.wipe(machine);
        }
    }

    fn stop_for(self: &Arc<Self>, process: ProcessId, time: Duration) {
        self.note(format_args!("stop {} for {time:?}", process.0));
        lock(&self.checker).disturb(process);
        self.processes.stop(process);
        self.after(time, move |sim| {
            if sim.processes.mode(process) == Mode::Stopped {
                sim.note(format_args!("resume {}", process.0));
                lock(&sim.checker).disturb(process);
                sim.let_go_on(process);
            }
        });
    }

    /// A drone's process is killed and its disk lost.
    fn wipe(self: &Arc<Self>, machine: usize) {
        let (kind, process) = {
            let machines = lock(&self.machines);
            (machines[machine].kind.clone(), machines[machine].process.clone())
        };
        let Kind::Drone { id, disk, .. } = kind else { return };
        if let Some(process) = process {
            self.kill(process.id);
        }
        self.note(format_args!("{id} loses its memory"));
        let nonce = format!("memory-{}", self.dice.number());
        lock(&disk).wipe(nonce);
        let mut checker = lock(&self.checker);
        for backends in checker.locked.values_mut() {
            backends.retain(|_, at| *at != machine);
        }
        checker.wiped.insert(id);
    }
}
