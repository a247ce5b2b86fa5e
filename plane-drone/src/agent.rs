//! The agent: makes the drone known, takes spawn requests, and hands each backend to its host.
//!
//! What runs goes on without NATS and without controllers: backends are taken up again before a connection is
//! sought, and reports wait in the outbox. Only backends that hold a lock end where there is no contact for long.
//!
//! Here is what an agent is made of and how it starts. Offers of backends are in `spawn.rs`, the entry that accepts one
//! in `acceptance.rs`, what is served for one that runs in `backends.rs`, signs of life and draining in `status.rs`,
//! calls for announcements in `calls.rs`.

mod acceptance;
mod backends;
mod calls;
mod lost;
mod spawn;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use crate::{
    announce,
    cert::Served,
    host::{Host, HostError, LiveBackend},
    lease::{self, Fence, Instance},
};
use calls::Calls;
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::{BackendId, ClusterName, DroneId},
    message::{drone::Capacity, schedule::SpawnRequest},
    nats::{Nats, NatsError, Serving},
    task::Tasks,
};
use spawn::{Asked, Room};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};

/// What a drone is, for all that it says of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its id.
    pub drone: DroneId,
    /// The address that its proxy is reached at.
    pub ip: IpAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it has room for.
    pub capacity: Option<Capacity>,
}

/// The deadlines of a drone's lease.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often the lease is renewed.
    pub lease: Duration,
    /// How long locked backends go on without contact.
    pub fence: Duration,
}

/// What an agent is made of.
#[allow(missing_debug_implementations, reason = "a host has no Debug")]
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// Its connection.
    pub nats: Nats,
    /// Its backends and its memory.
    pub host: Arc<dyn Host>,
    /// Its fence, which the proxy knows too. It has been watched since the process began ([`lease::watch`]).
    pub fence: Arc<Fence>,
    /// What its proxy serves through TLS, where that is configured: without it the drone takes no backends.
    pub certificate: Option<Served>,
    /// Its deadlines.
    pub timing: Timing,
    /// Where time comes from.
    pub clock: Clock,
    /// Where random numbers come from.
    pub chance: Chance,
}

/// The agent of a drone.
pub struct Agent {
    pub(crate) identity: Identity,
    pub(crate) nats: Nats,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) fence: Arc<Fence>,
    /// Which process this is, for entries of the log.
    pub(crate) instance: Instance,
    certificate: Option<Served>,
    pub(crate) timing: Timing,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    life: Mutex<Life>,
    /// Held while it is changed and told whether the drone drains: host, memory and controllers have to agree.
    drains: tokio::sync::Mutex<()>,
    /// Something of what signs of life tell is new.
    pub(crate) changed: Notify,
    /// A backend has been decided about.
    decided: Notify,
    /// The lease is to be written now.
    pub(crate) lease_now: Notify,
    /// The drone is to register and announce itself.
    pub(crate) report: Notify,
}

#[derive(Default)]
struct Life {
    draining: bool,
    stopping: bool,
    /// Another process is this drone: what is said in the drone's name is the other's to say.
    unheard: bool,
    terminate: HashMap<BackendId, Serving>,
    /// Backends whose acceptance is being decided, with what they take.
    deciding: HashMap<BackendId, Room>,
    /// Backends whose end is being announced.
    telling: HashSet<BackendId>,
    calls: Calls,
    /// How often what runs here was gathered to answer a call.
    announced: u64,
    /// What runs here was announced to a controller that knew of nothing that the log may lack, and what others have
    /// instead has been ended.
    is_certain: bool,
}

impl Agent {
    /// Takes the drone's lease, however long that takes, and starts serving. What an earlier process with the same memory
    /// left goes on meanwhile, and can be ended. Everything stops with the tasks; where they are stopped before there is
    /// a lease, nothing is served, and there is no agent: this process never was the drone.
    ///
    /// # Errors
    /// Where NATS refuses a subscription or the host cannot remember.
    pub async fn start(parts: Parts, tasks: &Tasks) -> Result<Option<Arc<Self>>, AgentError> {
        let Parts { identity, nats, host, fence, certificate, timing, clock, chance } = parts;
        let life = Life { draining: host.draining().await?, ..Life::default() };
        let instance = Instance::begun(host.nonce().await?, &chance);
        let agent = Arc::new(Self {
            identity,
            nats,
            host,
            fence,
            instance,
            certificate,
            timing,
            clock,
            tasks: tasks.clone(),
            life: Mutex::new(life),
            drains: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            decided: Notify::new(),
            lease_now: Notify::new(),
            report: Notify::new(),
        });
        for live in agent.host.live() {
            agent.listen_for_terminate(&live.request.backend_id).await?;
            agent.note_end(&live.request.backend_id);
        }
        // Before there can be another term: what was accepted in an earlier one does not count.
        let (undecided, term) = (agent.host.undecided().await?, agent.fence.term());
        let (held, holds) = oneshot::channel();
        tasks.spawn_essential("lease", lease::keep(agent.clone(), held));
        // Until then another process may be this drone: it is the one that registers, answers and tells what runs.
        if holds.await.is_err() {
            return Ok(None);
        }
        agent.take_up(undecided, term);
        agent.clone().serve().await?;
        Ok(Some(agent))
    }

    /// Finds out what came of the offers that an earlier process had not decided about.
    fn take_up(self: &Arc<Self>, undecided: Vec<SpawnRequest>, term: u64) {
        for request in undecided {
            let (agent, stop) = (self.clone(), self.tasks.stop_token());
            // Before a word is said of what runs here: a drone is not drained while it may still begin with something.
            let place = self.keep_room(&request);
            self.tasks.spawn(format!("what came of {}", request.backend_id), async move {
                let deciding = async {
                    if request.lock.is_some() {
                        agent.fence.settled().await;
                    }
                    agent.clone().decide(request, term, Asked::Earlier, Some(place)).await
                };
                if let Some(Err(error)) = stop.run_until_cancelled(deciding).await {
                    tracing::error!(%error, "it is decided at the next start");
                }
            });
        }
    }

    /// Speaks and answers in the drone's name.
    async fn serve(self: Arc<Self>) -> Result<(), AgentError> {
        announce::listen(self.clone()).await?;
        let spawn = self.clone().serve_spawn().await?;
        let drain = self.clone().serve_drain().await?;
        let (tasks, stop) = (&self.tasks, self.tasks.stop_token());
        tasks.spawn("agent", async move {
            stop.cancelled().await;
            drop((spawn, drain));
        });
        tasks.spawn_essential("register and announce", announce::keep(self.clone()));
        tasks.spawn_essential("signs of life", self.clone().give_signs_of_life());
        Ok(())
    }

    /// Stops as failed, without a word to anybody: another process is this drone.
    pub(crate) fn end_unheard(&self, reason: &str) {
        self.life().unheard = true;
        self.tasks.fail(reason);
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backends that have begun and not ended.
    pub fn live(&self) -> Vec<LiveBackend> {
        self.host.live()
    }
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// NATS refused.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The host cannot remember.
    #[error(transparent)]
    Host(#[from] HostError),
}
