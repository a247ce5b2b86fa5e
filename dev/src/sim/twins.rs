//! Two processes under the id of one drone: a second one that was given the id by mistake, or one that has a copy of the
//! first one's disk, as a machine that was cloned has.

use super::{
    Rule,
    clients::Clients,
    host::Disk,
    machine::{Kind, Machine},
    options_end,
    process::ProcessId,
    run::{Sim, lock},
};
use std::{sync::Arc, time::Duration};

/// Both machines, of which one is to be done without.
#[derive(Debug, Clone, Copy)]
struct Twins {
    first: usize,
    second: usize,
}

impl Sim {
    /// A second machine of the first drone; its process is not started yet.
    fn add_twin(self: &Arc<Self>, copied: bool) -> Option<Twins> {
        let first = self.options.controllers;
        let mut machines = lock(&self.machines);
        let Kind::Drone { id, disk, capacity } = machines[first].kind.clone() else { return None };
        let memory = if copied { lock(&disk).clone() } else { Disk::new("another memory".to_owned()) };
        if copied {
            // What began after the copy was made is known to nobody once the copy is the drone.
            lock(&self.checker).wiped.insert(id.clone());
        }
        machines.push(Machine::with_disk(id, memory, capacity));
        Some(Twins { first, second: machines.len() - 1 })
    }

    fn process(&self, machine: usize) -> Option<ProcessId> {
        lock(&self.machines)[machine].process.as_ref().map(|process| process.id)
    }

    /// Starts both again whenever they have ended.
    async fn keep_both_running(self: Arc<Self>, Twins { first, second }: Twins) {
        loop {
            self.start(first);
            self.start(second);
            tokio::time::sleep(self.dice.millis(100, 3000)).await;
        }
    }
}

pub(super) async fn go(sim: Arc<Sim>, copied: bool) {
    let (clients, until) = (Clients::new(&sim), options_end(&sim));
    let asking = clients.clone();
    sim.spawn(async move { asking.ask_around(until).await });
    tokio::time::sleep(sim.dice.millis(2000, 20_000)).await;
    let original = sim.process(sim.options.controllers);
    let Some(twins) = sim.add_twin(copied) else { return };
    sim.spawn(sim.clone().keep_both_running(twins));
    // Long enough for a copy to be noticed by who had the lease.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (serving, ending) = if copied { (twins.second, twins.first) } else { (twins.first, twins.second) };
    let settled = sim.process(serving);
    if !copied && settled != original {
        sim.violated(Rule::OneProcess, "the drone was ended by a second process under its id");
    }
    tokio::time::sleep(until.saturating_sub(sim.now())).await;
    if sim.process(serving) != settled || !sim.lives(serving) {
        sim.violated(Rule::OneProcess, "two processes under one id end each other in turn");
    }
    if !sim.lives(ending) || sim.process(ending) != original {
        lock(&sim.checker).count("refused");
    } else {
        sim.violated(Rule::OneProcess, "two processes go by one id and none of them ends");
    }
    lock(&sim.machines)[ending].retired = true;
    if let Some(process) = sim.process(ending) {
        sim.kill(process);
    }
    sim.mend_all();
    tokio::time::sleep(Duration::from_secs(28)).await;
    sim.check_agreement().await;
    sim.check_locks(&clients).await;
    sim.check_agreement().await;
}
