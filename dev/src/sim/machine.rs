//! The machines of a run: controllers and drones, whose processes come and go.

use super::{
    host::{Disk, SimHost},
    process::{Mode, ProcessId},
    run::{Sim, lock},
    transport::SimTransport,
};
use futures_util::FutureExt;
use plane_core::{
    chance::Chance,
    id::{ClusterName, DroneId},
    message::drone::Capacity,
    nats::Nats,
    task::Tasks,
};
use plane_drone::{
    agent::{Agent, Identity, Parts, Timing},
    lease::{self, Fence},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, atomic::AtomicI64},
    time::Duration,
};

/// How long a process that is told to stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(9);

/// A machine that runs one process at a time.
pub(super) struct Machine {
    pub(super) kind: Kind,
    /// By how many milliseconds its time of day is off.
    pub(super) offset: Arc<AtomicI64>,
    pub(super) process: Option<Process>,
    /// Nothing is started on it any more, and what is on it does not count.
    pub(super) retired: bool,
}

/// What runs on a machine.
#[derive(Clone)]
pub(super) enum Kind {
    Controller,
    Drone { id: DroneId, disk: Arc<Mutex<Disk>>, capacity: Option<Capacity> },
}

/// A process that was started.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) tasks: Tasks,
    /// Of a drone.
    pub(super) fence: Option<Arc<Fence>>,
}

/// The cluster of every run.
pub(super) fn cluster() -> ClusterName {
    #[allow(clippy::expect_used, reason = "the name is a good one")]
    "sim.test".parse().expect("a good name")
}

impl Machine {
    pub(super) fn controller() -> Self {
        Self { kind: Kind::Controller, offset: Arc::default(), process: None, retired: false }
    }

    pub(super) fn drone(number: usize, capacity: Option<Capacity>) -> Option<Self> {
        let id = format!("drone-{number}").parse().ok()?;
        let disk = Disk::new(format!("memory-{number}"));
        Some(Self::with_disk(id, disk, capacity))
    }

    /// A machine of a drone that remembers what is on a disk.
    pub(super) fn with_disk(id: DroneId, disk: Disk, capacity: Option<Capacity>) -> Self {
        let kind = Kind::Drone { id, disk: Arc::new(Mutex::new(disk)), capacity };
        Self { kind, offset: Arc::default(), process: None, retired: false }
    }
}

impl Sim {
    /// A connection for a new process.
    pub(super) fn connect(self: &Arc<Self>, process: ProcessId) -> Nats {
        lock(&self.network).add(process);
        Nats::over(Arc::new(SimTransport::new(self.clone(), process)))
    }

    fn tasks(self: &Arc<Self>, process: ProcessId) -> Tasks {
        let sim = Arc::downgrade(self);
        Tasks::inside(move |task| {
            if let Some(sim) = sim.upgrade() {
                sim.processes.spawn(process, task);
            }
            std::future::ready(()).boxed()
        })
    }

    /// Whether a machine's process lives.
    pub(super) fn lives(&self, machine: usize) -> bool {
        let process = lock(&self.machines)[machine].process.as_ref().map(|process| process.id);
        process.is_some_and(|process| self.processes.mode(process) != Mode::Killed)
    }

    /// Starts a machine's process, where none runs.
    pub(super) fn start(self: &Arc<Self>, machine: usize) {
        if self.lives(machine) || lock(&self.machines)[machine].retired {
            return;
        }
        let process = self.processes.add();
        let (kind, offset) = {
            let machines = lock(&self.machines);
            (machines[machine].kind.clone(), machines[machine].offset.clone())
        };
        let (nats, tasks, clock) = (self.connect(process), self.tasks(process), self.clock(offset));
        let chance = Chance::seeded(self.dice.number());
        lock(&self.checker).mortal.insert(process);
        let name = match &kind {
            Kind::Controller => "a controller".to_owned(),
            Kind::Drone { id, .. } => id.to_string(),
        };
        self.note(format_args!("start {} as {name} on machine {machine}", process.0));
        let (sim, own) = (self.clone(), tasks.clone());
        let fence = match kind {
            Kind::Controller => {
                let (scheduler, rules) = (self.options.scheduler(), self.options.rules);
                let (scheduler, zone) = (Some(scheduler), Some(Arc::default()));
                let parts = plane_controller::Parts { scheduler, zone, rules, clock, chance };
                self.processes.spawn(process, async move {
                    if let Err(error) = plane_controller::control(nats, parts, &own).await {
                        sim.note(format_args!("the controller ends: {error}"));
                    }
                    sim.exited(process);
                });
                None
            }
            Kind::Drone { id, disk, capacity } => {
                let timing = Timing { lease: Duration::from_secs(1), fence: self.options.scheduler().timing().fence };
                let fence = Arc::new(Fence::closed(clock.clone(), timing.fence));
                let (this, time, group) = (self.clone(), clock.clone(), tasks.clone());
                let host = SimHost::new(this, process, machine, cluster(), id.clone(), time, disk, group);
                host.resume();
                lease::watch(host.clone(), fence.clone(), &tasks);
                let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(machine).unwrap_or(0)));
                let identity = Identity { cluster: cluster(), drone: id, ip, labels: BTreeMap::new(), capacity };
                let gate = fence.clone();
                self.processes.spawn(process, async move {
                    let mut connection = nats.connection();
                    let _ = connection.wait_for(|connection| connection.up).await;
                    let (certificate, outbox, stop) = (None, nats.clone(), own.stop_token());
                    let (memory, fence) = (host.clone(), gate);
                    let parts = Parts { identity, nats, host, fence, certificate, timing, clock, chance };
                    match stop.run_until_cancelled(Agent::start(parts, &own)).await {
                        Some(Ok(Some(_))) => {
                            memory.tell(outbox);
                            stop.cancelled().await;
                        }
                        Some(Err(error)) => sim.note(format_args!("the drone ends: {error}")),
                        Some(Ok(None)) | None => {}
                    }
                    sim.exited(process);
                });
                Some(fence)
            }
        };
        lock(&self.machines)[machine].process = Some(Process { id: process, tasks, fence });
    }

    /// The main part of a process has ended: what is left of it has a while.
    fn exited(self: &Arc<Self>, process: ProcessId) {
        let deadline = self.now() + STOP_DEADLINE;
        self.check_exit(process, deadline);
    }

    fn check_exit(self: &Arc<Self>, process: ProcessId, deadline: Duration) {
        self.after(Duration::from_millis(100), move |sim| {
            if sim.processes.mode(process) == Mode::Killed {
                return;
            }
            if sim.processes.count(process) == 0 || sim.now() >= deadline {
                sim.kill(process);
            } else {
                sim.check_exit(process, deadline);
            }
        });
    }
}
