//! A drone comes back after the log has lost what it was given last, and somebody else has got its lock meanwhile.

use super::{
    Rule,
    clients::{Clients, Got},
    run::{Sim, lock},
};
use std::{sync::Arc, time::Duration};

/// How often the lock is asked for until another drone's backend has it.
const TRIES: usize = 12;

impl Sim {
    /// Asks for the lock until somebody has it.
    async fn ask_for_lock(&self, clients: &Arc<Clients>) -> Option<Got> {
        for _ in 0..TRIES {
            if let Ok(Some(got)) = clients.schedule(clients.locks().pop(), None).await {
                return Some(got);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.violated(Rule::Progress, "nobody gets the lock");
        None
    }
}

pub(super) async fn go(sim: Arc<Sim>, deleted: bool) {
    let clients = Clients::new(&sim);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let Some(first) = sim.ask_for_lock(&clients).await else { return };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let Some((machine, _)) = sim.drones().into_iter().find(|(_, id)| *id == first.drone) else { return };
    let process = {
        let mut machines = lock(&sim.machines);
        // It is not started again until it is to come back.
        machines[machine].retired = true;
        machines[machine].process.as_ref().map(|process| process.id)
    };
    if let Some(process) = process {
        sim.kill(process);
    }
    if deleted {
        sim.delete_log();
    } else {
        sim.restart_server(Duration::from_millis(500), Some(Duration::from_secs(3)));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let Some(second) = sim.ask_for_lock(&clients).await else { return };
    if second.backend != first.backend {
        lock(&sim.checker).count("given on");
    }
    lock(&sim.machines)[machine].retired = false;
    sim.start(machine);
    tokio::time::sleep(Duration::from_secs(10)).await;
    sim.mend_all();
    sim.check_agreement().await;
    sim.check_locks(&clients).await;
}
