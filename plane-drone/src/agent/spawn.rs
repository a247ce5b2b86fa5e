//! Offers of backends: whether there is room, what was remembered, and what is begun once the log says that it is this
//! drone's.

use super::{Agent, Life};
use crate::host::{HostError, Offered};
use plane_core::{
    id::BackendId,
    message::{Answer, Fault, FaultCode, drone::Capacity, schedule::SpawnRequest, subject},
    nats::{NatsError, Serving},
};
use std::sync::Arc;

/// When a backend was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// To this process, while it was connected to this server. Another one may have lost who was given it since.
    Now {
        /// The server.
        server: String,
    },
    /// To an earlier one.
    Earlier,
}

/// What backends take of a drone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    backends: u64,
    memory_bytes: u64,
    cpu_percent: u64,
}

impl Room {
    fn of(request: &SpawnRequest) -> Self {
        let limits = &request.executable.resource_limits;
        Self {
            backends: 1,
            memory_bytes: limits.memory_limit_bytes.map_or(0, std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map_or(0, |percent| percent.get().into()),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            backends: self.backends + other.backends,
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_percent: self.cpu_percent + other.cpu_percent,
        }
    }

    fn fits(self, capacity: &Capacity) -> bool {
        capacity.max_backends.is_none_or(|most| self.backends <= most.into())
            && capacity.memory_bytes.is_none_or(|most| self.memory_bytes <= most)
            && capacity.cpus.is_none_or(|cpus| self.cpu_percent <= (cpus * 100.0) as u64)
    }
}

/// The room that is kept for a backend while it is decided about; whatever becomes of that, it is given back.
pub(super) struct Place {
    agent: Arc<Agent>,
    backend: BackendId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.agent.life().deciding.remove(&self.backend);
        self.agent.decided.notify_waiters();
    }
}

impl Agent {
    pub(super) async fn serve_spawn(self: Arc<Self>) -> Result<Serving, NatsError> {
        let subject = subject::drone(&self.identity.cluster, &self.identity.drone, "spawn");
        let (nats, tasks) = (self.nats.clone(), self.tasks.clone());
        let handler = move |request| {
            let agent = self.clone();
            async move { agent.spawn(request).await }
        };
        nats.serve(&tasks, &subject, None, handler).await
    }

    pub(super) async fn spawn(self: Arc<Self>, request: SpawnRequest) -> Answer<bool> {
        let backend = request.backend_id.clone();
        let place = match self.make_room(&request) {
            Ok(place) => Some(place),
            Err(_) if self.host.is_live(&backend) => None,
            Err(why) => {
                tracing::info!(%backend, why, "refused a backend");
                return Ok(false);
            }
        };
        let (term, asked) = (self.fence.term(), Asked::Now { server: self.nats.server() });
        match self.host.offer(&request).await {
            Ok(Offered::New) => self.decide(request, term, asked, place).await.map_err(|e| internal(&e)),
            Ok(Offered::Known(known)) => {
                let same = *known == request;
                tracing::info!(%backend, same, "asked for a backend that is known here");
                Ok(same)
            }
            Ok(Offered::Refused) => Ok(false),
            Err(error) => Err(internal(&error)),
        }
    }

    /// Keeps room for a backend until it is decided about; or says why it cannot be taken.
    fn make_room(self: &Arc<Self>, request: &SpawnRequest) -> Result<Place, &'static str> {
        let mut life = self.life();
        if life.draining || life.stopping {
            return Err("draining");
        }
        if !self.is_served() {
            return Err("no certificate");
        }
        if request.lock.is_some() && !self.fence.is_open() {
            return Err("no lease");
        }
        if life.deciding.contains_key(&request.backend_id) {
            return Err("it is being decided about");
        }
        if life.telling.contains(&request.backend_id) {
            return Err("the end of one of its id is being announced");
        }
        // Looked at together: what begins meanwhile is among one of the two, and counted once.
        let live = self.host.live();
        let begun = live.iter().filter(|live| !life.deciding.contains_key(&live.request.backend_id));
        let used = begun.fold(Room::default(), |room, live| room.and(Room::of(&live.request)));
        let wanted = life.deciding.values().fold(used, |room, other| room.and(*other)).and(Room::of(request));
        if self.identity.capacity.is_some_and(|capacity| !wanted.fits(&capacity)) {
            return Err("full");
        }
        Ok(self.place(&mut life, request))
    }

    /// Keeps room for a backend that was taken already, whatever stands against others.
    pub(super) fn keep_room(self: &Arc<Self>, request: &SpawnRequest) -> Place {
        self.place(&mut self.life(), request)
    }

    fn place(self: &Arc<Self>, life: &mut Life, request: &SpawnRequest) -> Place {
        life.deciding.insert(request.backend_id.clone(), Room::of(request));
        Place { agent: self.clone(), backend: request.backend_id.clone() }
    }

    /// Accepts a backend that is remembered, and begins with it; or finds that somebody else decided otherwise, and
    /// forgets it. A backend with a lock is accepted for the term of the lease in which that began. What the log may have
    /// lost since it was accepted, and no announcement told, is not begun.
    pub(super) async fn decide(
        self: Arc<Self>,
        request: SpawnRequest,
        term: u64,
        asked: Asked,
        place: Option<Place>,
    ) -> Result<bool, HostError> {
        let backend = request.backend_id.clone();
        let announced = self.life().announced;
        let accepted = match asked {
            Asked::Now { server } => self.accept(&request, server).await,
            Asked::Earlier => match self.was_accepted(&request).await {
                Some(server) if !self.is_lost(&request).await => Some(server),
                Some(_) | None => None,
            },
        };
        if accepted.is_some()
            && let Err(error) = self.listen_for_terminate(&backend).await
        {
            tracing::warn!(%backend, %error, "it cannot be terminated through NATS");
        }
        let locked = request.lock.is_some();
        let missed = || self.life().announced != announced;
        let stale = || {
            let elsewhere = accepted.as_ref().is_some_and(|server| *server != self.nats.server());
            elsewhere || locked && (self.fence.term() != term || !self.fence.is_open() || missed())
        };
        let begins = accepted.is_some() && !stale();
        let done = if begins {
            let begun = self.host.begin(request).await;
            self.note_end(&backend);
            begun
        } else if accepted.is_some() {
            tracing::warn!(%backend, "not begun: the drone was given up, or NATS restarted, while it was being accepted");
            self.life().terminate.remove(&backend);
            match self.host.discard(&backend).await {
                Ok(()) => self.host.disown(&backend).await,
                Err(error) => Err(error),
            }
        } else {
            tracing::info!(%backend, "not accepted: somebody else was given it, or nobody");
            self.host.discard(&backend).await
        };
        // From here on it is among what has begun, or forgotten.
        drop(place);
        done?;
        if begins {
            self.changed.notify_one();
            if locked && stale() {
                self.host.give_up(&backend, "its drone was given up while it was being accepted").await;
            } else if stale() || missed() {
                self.report_anew();
            }
        }
        Ok(begins)
    }
}

pub(super) fn internal(error: &impl std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Internal, error.to_string())
}
