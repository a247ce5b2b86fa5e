//! One decision: where a backend runs. Writes who may start it, writes what it holds, asks the drone, and goes on to the
//! next one where that does not take it. Each write expects the one before: where somebody else wrote, theirs counts.
//!
//! ```text
//! place ──► assign ──► hold the lock, read that back ──► ask ──► accepted
//!                                     │                   │
//!                           lost, or not the log       refused, silent ──► place ──► assign ──► ask …
//!                               that was read             │
//!                                     └───► take back ◄───┘ where none is left
//! ```

use super::{
    ask::{DRONE_TIMEOUT, Said},
    id::in_use,
};
use crate::{
    Core,
    intake::unavailable,
    log::{self, Written},
    view::View,
};
use plane_core::{
    id::{BackendId, BearerToken, DroneId},
    message::{
        Answer, Fault, FaultCode,
        schedule::{ScheduleRequest, ScheduleResponse},
        state::{Assignment, HeldLock, Holder, LockEntry},
    },
    world::World,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long reading back who holds a lock may take.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A lock that a backend is to hold, as this controller's world shows it.
pub(super) struct Hold {
    pub(super) held: HeldLock,
    /// The sequence of the lock's newest entry; 0 where it has none.
    pub(super) expected: u64,
    /// Which world that is, and how far it had been read.
    pub(super) world: u64,
    pub(super) read: u64,
}

impl Hold {
    /// Whether this is still the world that the lock was looked at in.
    fn is_of(&self, view: &View) -> bool {
        self.world == view.dropped() && !view.is_replaced()
    }
}

/// A decision that has come to its end, whatever that is.
pub(super) struct Decided {
    pub(super) outcome: Answer<Outcome>,
    /// The sequence of the newest entry that is known to have been written for it; 0 where none was.
    pub(super) written: u64,
}

/// How far a decision came.
pub(super) enum Outcome {
    /// A drone has it.
    Scheduled(ScheduleResponse),
    /// Somebody else got the lock; the sequence under which the assignment was taken back.
    LockTaken(u64),
    NoDrone,
}

/// Decides where a backend runs: writes, asks, and goes on to the next drone where one does not take it.
pub(super) async fn decide(
    core: &Arc<Core>,
    request: &ScheduleRequest,
    backend: &BackendId,
    expected: u64,
    hold: Option<Hold>,
    deadline: Instant,
) -> Decided {
    let mut decision = Decision {
        core,
        request,
        backend,
        bearer_token: request.require_bearer_token.then(|| BearerToken::drawn(&core.chance)),
        lock: hold.as_ref().map(|hold| hold.held.clone()),
        refused: Vec::new(),
        drone: None,
        sequence: expected,
        written: 0,
    };
    let outcome = decision.run(hold.as_ref(), deadline).await;
    if !matches!(outcome, Ok(Outcome::Scheduled(_))) {
        core.view.in_flight.remove(backend);
    }
    Decided { outcome, written: decision.written }
}

pub(super) struct Decision<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) request: &'a ScheduleRequest,
    pub(super) backend: &'a BackendId,
    pub(super) bearer_token: Option<BearerToken>,
    pub(super) lock: Option<HeldLock>,
    pub(super) refused: Vec<DroneId>,
    drone: Option<DroneId>,
    /// The sequence of the newest assignment.
    pub(super) sequence: u64,
    /// The sequence of the newest entry, be it an assignment or the hold; 0 before the first.
    written: u64,
}

impl Decision<'_> {
    async fn run(&mut self, hold: Option<&Hold>, deadline: Instant) -> Answer<Outcome> {
        let Some(first) = self.first_drone(deadline).await else { return Ok(Outcome::NoDrone) };
        if !self.assign(Some(first)).await? {
            return Err(in_use(self.backend));
        }
        if let Some(hold) = hold
            && let Some(taken) = self.take_lock(hold, deadline).await?
        {
            return Ok(taken);
        }
        loop {
            let Some(drone) = self.drone.clone() else { return Ok(Outcome::NoDrone) };
            let accepts = self.core.view.read(|world| {
                world.drone(&self.request.cluster, &drone).is_some_and(|known| known.has_feature("accept"))
            });
            tracing::debug!(%drone, backend = %self.backend, "asking the drone");
            match self.ask(&drone, accepts, deadline).await {
                Said::Accepted if accepts => return Ok(self.scheduled(drone)),
                Said::Accepted => return self.accept_for(drone).await,
                Said::Refused => {
                    tracing::info!(%drone, backend = %self.backend, "the drone refused; trying the next");
                }
                Said::Nothing if accepts => {
                    tracing::warn!(%drone, backend = %self.backend, "the drone did not answer; trying the next");
                }
                Said::Nothing => {
                    let backend = self.backend;
                    let message =
                        format!("drone {drone} did not say whether it took backend {backend}; its status will tell");
                    return Err(Fault::new(FaultCode::Unavailable, message));
                }
            }
            self.refused.push(drone);
            let time_left = Instant::now() + DRONE_TIMEOUT <= deadline;
            let next = if time_left { self.place().ok() } else { None };
            let Some(next) = next else {
                return Ok(match self.take_back().await? {
                    Some(drone) => self.scheduled(drone),
                    None => Outcome::NoDrone,
                });
            };
            if !self.assign(Some(next)).await? {
                return self.settled().await;
            }
        }
    }

    /// Reads the assignment back, writes that the backend holds the lock, and reads that back: where the log was deleted
    /// and made anew, and this controller has not noticed, nothing of what it has read says who holds locks, and the
    /// writes win all the same. Gives what came of it where the backend is not to start.
    async fn take_lock(&mut self, hold: &Hold, deadline: Instant) -> Answer<Option<Outcome>> {
        let another =
            || Fault::new(FaultCode::Unavailable, "the state log is slow, or not the one that was read; ask again");
        let (view, cluster, name) = (&self.core.view, &self.request.cluster, &hold.held.name);
        // Before it, that somebody else holds the lock in the other log is not written over.
        let given =
            |world: &World| world.backend(cluster, self.backend)?.assignment.as_ref().map(|given| given.sequence);
        if self.sequence <= hold.read || !self.has_read(hold, self.sequence, given, deadline).await {
            view.suspect();
            self.take_back().await?;
            return Err(another());
        }
        let holder = Some(Holder { backend: self.backend.clone(), token: hold.held.token });
        let entry = LockEntry { lock: name.clone(), holder, last_token: None };
        match log::hold(&self.core.nats, cluster, entry, hold.expected).await {
            Ok(Written::Won(sequence)) => {
                self.written = sequence;
                let held = |world: &World| world.lock(cluster, name).map(|lock| lock.sequence);
                if self.has_read(hold, sequence, held, deadline).await {
                    return Ok(None);
                }
                view.suspect();
                self.take_back().await?;
                Err(another())
            }
            Ok(Written::Lost) => {
                self.take_back().await?;
                Ok(Some(Outcome::LockTaken(self.sequence)))
            }
            // Whether it holds the lock is not known: it must not start, and whoever reads that frees the lock.
            Err(error) => {
                self.take_back().await?;
                Err(unavailable(&error))
            }
        }
    }

    /// Waits until what was written has been read, and gives whether the world shows it as what there is, in a log that
    /// lacks nothing.
    async fn has_read(
        &self,
        hold: &Hold,
        sequence: u64,
        newest: impl Fn(&World) -> Option<u64>,
        deadline: Instant,
    ) -> bool {
        let view = &self.core.view;
        let until = deadline.min(Instant::now() + READ_LIMIT);
        let _ = tokio::time::timeout_at(until, view.has_read(sequence)).await;
        view.read(newest) == Some(sequence)
            && hold.is_of(view)
            && self.core.grants.are_open(self.core, &self.request.cluster)
    }

    fn scheduled(&self, drone: DroneId) -> Outcome {
        let (cluster, backend_id) = (&self.request.cluster, self.backend.clone());
        tracing::debug!(%cluster, backend = %backend_id, %drone, "scheduled");
        let bearer_token = self.bearer_token.clone();
        Outcome::Scheduled(ScheduleResponse::Scheduled { drone, backend_id, bearer_token, spawned: true })
    }

    fn assignment(&self, drone: DroneId) -> Assignment {
        let limits = &self.request.executable.resource_limits;
        Assignment {
            lock: self.lock.clone(),
            memory_bytes: limits.memory_limit_bytes.map(std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map(|percent| percent.get().into()),
            ..Assignment::to(drone, self.bearer_token.clone())
        }
    }

    /// Writes that a drone may start the backend, or with `None` that none may. False where somebody else wrote.
    async fn assign(&mut self, drone: Option<DroneId>) -> Result<bool, Fault> {
        if self.drone.is_some() && !self.core.grants.are_open(self.core, &self.request.cluster) {
            // A drone may have accepted it, and the log have lost that.
            let message = "the state log may lack what was decided last; ask again";
            return Err(Fault::new(FaultCode::Unavailable, message));
        }
        let assignment = match (drone, &self.drone) {
            (Some(drone), _) => {
                self.drone = Some(drone.clone());
                self.assignment(drone)
            }
            (None, Some(drone)) => Assignment { withdrawn: true, ..self.assignment(drone.clone()) },
            (None, None) => return Ok(true),
        };
        self.write(assignment).await
    }

    async fn write(&mut self, assignment: Assignment) -> Result<bool, Fault> {
        let (nats, cluster) = (&self.core.nats, &self.request.cluster);
        match log::assign(nats, cluster, self.backend, assignment, self.sequence).await {
            Ok(Written::Won(sequence)) => {
                (self.sequence, self.written) = (sequence, sequence);
                Ok(true)
            }
            Ok(Written::Lost) => Ok(false),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Takes the assignment back. Gives the drone that had accepted it already, if one had.
    async fn take_back(&mut self) -> Result<Option<DroneId>, Fault> {
        if self.assign(None).await? {
            return Ok(None);
        }
        match self.settled().await? {
            Outcome::Scheduled(ScheduleResponse::Scheduled { drone, .. }) => Ok(Some(drone)),
            Outcome::Scheduled(_) | Outcome::LockTaken(_) | Outcome::NoDrone => Ok(None),
        }
    }

    /// Somebody else wrote the assignment: a drone that accepted it, or a controller that took it back.
    async fn settled(&mut self) -> Answer<Outcome> {
        // The backend is where the log has it, not where it was placed last.
        self.core.view.in_flight.remove(self.backend);
        let found = log::assignment(&self.core.nats, &self.request.cluster, self.backend).await;
        match found.map_err(|e| unavailable(&e))? {
            Some((assignment, sequence)) if assignment.accepted => {
                (self.sequence, self.written) = (sequence, self.written.max(sequence));
                Ok(self.scheduled(assignment.drone))
            }
            Some((assignment, sequence)) if assignment.withdrawn => {
                (self.sequence, self.written) = (sequence, self.written.max(sequence));
                Err(Fault::new(FaultCode::Unavailable, "the decision took too long and was taken back; ask again"))
            }
            Some(_) | None => Err(in_use(self.backend)),
        }
    }

    /// Notes for a drone that cannot that it has taken the backend.
    async fn accept_for(&mut self, drone: DroneId) -> Answer<Outcome> {
        let assignment = Assignment { accepted: true, ..self.assignment(drone.clone()) };
        match self.write(assignment).await {
            Ok(true) => Ok(self.scheduled(drone)),
            Ok(false) => self.settled().await,
            Err(fault) => Err(fault),
        }
    }
}
