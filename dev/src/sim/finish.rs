//! The end of a run: all is mended and started, nothing is lost any more, and after a while everything has to agree.

use super::{
    Rule,
    clients::Clients,
    host::Phase,
    machine::{Kind, cluster},
    process::Mode,
    run::{Sim, lock},
};
use jiff::SignedDuration;
use plane_core::{
    id::{BackendId, DroneId, LockName},
    message::backend::{BackendState, PublicStatus},
    nats::{From, StreamName},
    world::{Backend, Entry, World},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long a question of the end may be asked again.
const TRIES: usize = 25;

impl Sim {
    /// Nothing is in the way of anybody any more.
    pub(super) fn mend_all(self: &Arc<Self>) {
        self.note(format_args!("all is mended"));
        lock(&self.network).quiet = true;
        if lock(&self.network).server.is_none() {
            self.start_server();
        }
        let machines: Vec<usize> = (0..lock(&self.machines).len()).collect();
        for machine in machines {
            let process = lock(&self.machines)[machine].process.as_ref().map(|process| process.id);
            if let Some(process) = process {
                if self.processes.mode(process) == Mode::Stopped {
                    self.let_go_on(process);
                }
                self.mend(process);
            }
        }
    }

    /// Starts what has ended, from now on.
    pub(super) async fn keep_running(self: Arc<Self>) {
        loop {
            for machine in 0..self.options.controllers + self.options.drones {
                self.start(machine);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The world as the log tells it.
    pub(super) fn replayed(&self) -> World {
        let retention = self.options.scheduler().timing().retention;
        let mut world = World::forgetting_after(SignedDuration::max(retention, SignedDuration::from_hours(1)));
        let stored =
            lock(&self.network).streams.get(StreamName::State.as_str()).map(|log| log.read("state.>", From::After(0)));
        for message in stored.into_iter().flatten() {
            let plane_core::nats::Stored { subject, sequence, time, payload } = message;
            if let Err(error) = world.apply(&Entry { subject, sequence, time, payload }) {
                self.violated(Rule::Agreement, error.to_string());
            }
        }
        world
    }

    /// What does not agree; nothing where all does.
    fn disagreement(&self) -> Option<String> {
        let world = self.replayed();
        let known = world.cluster(&cluster());
        let given = |drone: &DroneId| -> BTreeSet<BackendId> {
            let all = known.into_iter().flat_map(plane_core::world::Cluster::backends);
            let given = all.filter(|(_, backend)| backend.assignment.as_ref().is_some_and(|one| one.drone == *drone));
            given.filter(|(_, backend)| backend.is_live()).map(|(id, _)| id.clone()).collect()
        };
        let mut live = BTreeSet::new();
        for machine in lock(&self.machines).iter().filter(|machine| !machine.retired) {
            let Kind::Drone { id, disk, .. } = &machine.kind else { continue };
            let disk = lock(disk);
            let going = disk.rows.iter().filter(|(_, row)| !matches!(row.phase, Phase::Ended { .. }));
            let going: BTreeSet<BackendId> = going.map(|(id, _)| id.clone()).collect();
            let given = given(id);
            if going != given {
                return Some(format!("{id} runs {going:?}, the log gives it {given:?}"));
            }
            if !disk.containers.is_subset(&going) {
                return Some(format!("{id} has containers {:?} for {going:?}", disk.containers));
            }
            let ready = disk.rows.iter().filter(|(_, row)| matches!(row.phase, Phase::Goes(state) if state.rank() > 0));
            if let Some((missing, _)) = ready.into_iter().find(|(id, _)| !disk.containers.contains(*id)) {
                return Some(format!("{id} has no container for {missing}"));
            }
            live.extend(going);
        }
        self.untold(&world, &live)
    }

    fn untold(&self, world: &World, live: &BTreeSet<BackendId>) -> Option<String> {
        let network = lock(&self.network);
        let history = network.streams.get(StreamName::Status.as_str())?;
        let told = |backend: &BackendId| {
            let last = history.last(&PublicStatus::subject_of(backend))?;
            serde_json::from_slice::<PublicStatus>(&last.payload).ok().map(|told| told.state)
        };
        let mut backends: Vec<_> = world.clusters().flat_map(|(_, cluster)| cluster.backends()).collect();
        backends.sort_by_key(|(id, _)| *id);
        let lost = lock(&self.checker).log_lost;
        for (id, backend) in backends {
            // Where the log lost an end that was told, the drone tells another one.
            let ended = |state: Option<BackendState>| state.is_some_and(BackendState::is_final);
            let twice = lost && ended(backend.state()) && ended(told(id));
            if backend.state() != told(id) && !twice {
                return Some(format!("{id} is {:?} in the log, was told to be {:?}", backend.state(), told(id)));
            }
        }
        let checker = lock(&self.checker);
        for (id, drone) in checker.begun() {
            let ended = told(id).is_some_and(BackendState::is_final);
            // What neither the drone nor the log remembers nobody can tell of.
            let forgotten = checker.wiped.contains(drone) && (checker.log_lost || told(id).is_none());
            if ended == live.contains(id) && !forgotten {
                return Some(format!(
                    "{id} began on {drone}, lives: {}, was told to be {:?}",
                    live.contains(id),
                    told(id)
                ));
            }
        }
        None
    }

    /// Who holds locks, by the log: a live backend each.
    fn holders(&self) -> BTreeMap<LockName, BackendId> {
        let world = self.replayed();
        let backends = world.clusters().flat_map(|(_, cluster)| cluster.backends());
        let live = backends.filter(|(_, backend)| Backend::is_live(backend));
        let held = live.filter_map(|(id, backend)| {
            let held = backend.assignment.as_ref()?.lock()?;
            Some((held.name.clone(), id.clone()))
        });
        held.collect()
    }

    /// Asks until everything agrees, or for too long.
    pub(super) async fn check_agreement(self: &Arc<Self>) {
        let mut found = None;
        for _ in 0..TRIES {
            found = self.disagreement();
            if found.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        if let Some(found) = found {
            self.violated(Rule::Agreement, found);
        }
    }

    /// Every lock is answered with its holder, or given to a new one.
    pub(super) async fn check_locks(self: &Arc<Self>, clients: &Arc<Clients>) {
        let holders = self.holders();
        for name in clients.locks() {
            let holder = holders.get(&name);
            for _ in 0..self.options.controllers {
                let fetched = clients.fetch(&name).await;
                // It may have ended by itself meanwhile.
                if !matches!(&fetched, Ok(found) if found.as_ref() == holder) && self.holders().get(&name) == holder {
                    self.violated(Rule::Agreement, format!("{name} is held by {holder:?}, fetch says {fetched:?}"));
                }
            }
            let got = clients.schedule(Some(name.clone()), None).await;
            let as_it_should = match (&got, holder) {
                (Ok(Some(got)), Some(holder)) => !got.spawned && got.backend == *holder,
                (Ok(Some(got)), None) => got.spawned,
                (Ok(None) | Err(_), _) => false,
            };
            if !as_it_should && self.holders().get(&name) == holder {
                self.violated(Rule::Agreement, format!("{name} is held by {holder:?}, schedule says {got:?}"));
            }
        }
    }

    /// At most one backend of a lock is reachable.
    pub(super) fn check_reach(&self) {
        let doubtful: Vec<(LockName, Vec<(BackendId, usize)>)> = {
            let checker = lock(&self.checker);
            let several = checker.locked.iter().filter(|(_, backends)| backends.len() > 1);
            several.map(|(name, all)| (name.clone(), all.iter().map(|(id, at)| (id.clone(), *at)).collect())).collect()
        };
        for (name, backends) in doubtful {
            let machines = lock(&self.machines);
            let is_reachable = |(backend, machine): &&(BackendId, usize)| {
                let machine = &machines[*machine];
                let Some(process) = &machine.process else { return false };
                let Kind::Drone { disk, .. } = &machine.kind else { return false };
                let goes = lock(disk).rows.get(backend).is_some_and(|row| matches!(row.phase, Phase::Goes(_)));
                let open = process.fence.as_ref().is_some_and(|fence| fence.is_open());
                goes && open && self.processes.mode(process.id) == Mode::Running
            };
            let reachable: Vec<_> = backends.iter().filter(is_reachable).cloned().collect();
            drop(machines);
            if reachable.len() > 1 {
                self.violated(Rule::Locks, format!("{name}: {reachable:?} are reachable at once"));
            }
        }
    }
}
