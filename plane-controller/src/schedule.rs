//! Answers `schedule` and `fetch`: the assignment stands in the log before a drone is asked.

use crate::{
    QUEUE_GROUP,
    drones::HeardDrones,
    intake::unavailable,
    placement::{Candidate, rank},
    view::View,
};
use plane_core::{
    id::{BackendId, BearerToken, ClusterName, DroneId},
    message::{
        Answer, Fault, FaultCode,
        schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse, SpawnRequest},
        state::{Assignment, BackendMessage, StateEntry},
    },
    nats::{Nats, NatsError, Serving},
    task::Tasks,
};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A request is answered within this time.
const BUDGET: Duration = Duration::from_secs(8);
/// How long one drone may take to answer.
const DRONE_TIMEOUT: Duration = Duration::from_secs(2);
/// A controller that has just started waits this long for the drones' signs of life before it says that there are none.
const FIRST_SIGNS: Duration = Duration::from_secs(5);
/// The label that the cluster's own name server has by default.
const NAME_SERVER_LABEL: &str = "ns1";

struct Scheduler {
    nats: Nats,
    view: Arc<View>,
    drones: Arc<HeardDrones>,
    placed: Mutex<HashMap<BackendId, (ClusterName, DroneId)>>,
    started: Instant,
    chance: RandomState,
}

/// Serves clients for as long as the result is kept.
pub(crate) async fn serve(
    nats: &Nats,
    view: Arc<View>,
    drones: Arc<HeardDrones>,
    tasks: &Tasks,
) -> Result<[Serving; 2], NatsError> {
    let scheduler = Arc::new(Scheduler {
        nats: nats.clone(),
        view,
        drones,
        placed: Mutex::default(),
        started: Instant::now(),
        chance: RandomState::new(),
    });
    let schedule = nats
        .serve(tasks, "cluster.*.schedule", Some(QUEUE_GROUP), move |request| {
            let scheduler = scheduler.clone();
            async move { scheduler.schedule(request).await }
        })
        .await?;
    let fetch = nats
        .serve(tasks, "cluster.*.fetch", Some(QUEUE_GROUP), |_: FetchRequest| async {
            Ok(FetchResponse::NoBackendForLock)
        })
        .await?;
    Ok([schedule, fetch])
}

/// What a drone said to a spawn request.
enum Said {
    Accepted,
    Refused,
    Nothing,
}

impl Scheduler {
    async fn schedule(&self, request: ScheduleRequest) -> Answer<ScheduleResponse> {
        let deadline = Instant::now() + BUDGET;
        if request.lock.is_some() {
            return Err(Fault::bad_request("lock: expected null; this version of Plane has no locks yet"));
        }
        let chosen = request.backend_id.clone();
        if chosen.as_ref().is_some_and(|id| id.as_str() == NAME_SERVER_LABEL) {
            return Err(Fault::bad_request("backend_id: expected another name; ns1 is the cluster's own name server"));
        }
        let backend = chosen.unwrap_or_else(BackendId::random);
        if self.view.read(|world| world.backend(&request.cluster, &backend).is_some()) {
            return Err(in_use(&backend));
        }
        let candidates = self.candidates(&request, deadline).await;
        let answer = self.place(&request, &backend, candidates, deadline).await;
        if !matches!(answer, Ok(ScheduleResponse::Scheduled { .. })) {
            self.placed().remove(&backend);
        }
        answer
    }

    async fn place(
        &self,
        request: &ScheduleRequest,
        backend: &BackendId,
        candidates: Vec<DroneId>,
        deadline: Instant,
    ) -> Answer<ScheduleResponse> {
        let token = request.require_bearer_token.then(BearerToken::random);
        let mut sequence = 0;
        let mut last = None;
        for drone in candidates {
            if Instant::now() + DRONE_TIMEOUT > deadline {
                break;
            }
            self.placed().insert(backend.clone(), (request.cluster.clone(), drone.clone()));
            let assignment = Assignment::to(drone.clone(), token.clone());
            sequence = match self.assign(&request.cluster, backend, assignment.clone(), sequence).await {
                Ok(sequence) => sequence,
                Err(NatsError::WrongSequence(_)) => return Err(in_use(backend)),
                Err(error) => return Err(unavailable(&error)),
            };
            last = Some(assignment);
            match self.ask(request, backend, &drone, token.clone(), sequence, deadline).await {
                Said::Accepted => {
                    let (cluster, backend_id) = (&request.cluster, backend.clone());
                    tracing::info!(%cluster, backend = %backend_id, %drone, "scheduled");
                    return Ok(ScheduleResponse::Scheduled { drone, backend_id, bearer_token: token, spawned: true });
                }
                Said::Refused => {
                    tracing::info!(%drone, %backend, "the drone refused; trying the next");
                }
                Said::Nothing => {
                    let message =
                        format!("drone {drone} did not say whether it took backend {backend}; its status will tell");
                    return Err(Fault::new(FaultCode::Unavailable, message));
                }
            }
        }
        if let Some(mut assignment) = last {
            assignment.withdrawn = true;
            self.assign(&request.cluster, backend, assignment, sequence).await.map_err(|e| unavailable(&e))?;
        }
        Ok(ScheduleResponse::NoDroneAvailable)
    }

    async fn assign(
        &self,
        cluster: &ClusterName,
        backend: &BackendId,
        assignment: Assignment,
        expected: u64,
    ) -> Result<u64, NatsError> {
        let entry = StateEntry::backend(cluster.clone(), backend.clone(), BackendMessage::Assignment(assignment));
        self.nats.publish_expecting(entry.subject(), &entry, expected).await
    }

    /// Asks one drone, again while it stays silent: it starts a backend once, however often it is asked, and nobody
    /// else may be asked while it might.
    async fn ask(
        &self,
        request: &ScheduleRequest,
        backend: &BackendId,
        drone: &DroneId,
        token: Option<BearerToken>,
        sequence: u64,
        deadline: Instant,
    ) -> Said {
        let spawn = SpawnRequest {
            cluster: request.cluster.clone(),
            drone_id: drone.clone(),
            max_idle_secs: request.max_idle_secs,
            backend_id: backend.clone(),
            metadata: request.metadata.clone(),
            executable: request.executable.clone(),
            bearer_token: token,
            lock: None,
            fencing_token: None,
            assignment_seq: Some(sequence),
        };
        let mut asked = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(DRONE_TIMEOUT);
            if left.is_zero() {
                return Said::Nothing;
            }
            match self.nats.request(&spawn, left).await {
                Ok(true) => return Said::Accepted,
                Ok(false) | Err(NatsError::Fault(_)) => return Said::Refused,
                Err(NatsError::NoResponders(_)) if !asked => return Said::Refused,
                Err(error) => {
                    tracing::warn!(%drone, %backend, %error, "the drone did not answer; asking again");
                    asked = true;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn candidates(&self, request: &ScheduleRequest, deadline: Instant) -> Vec<DroneId> {
        let mut news = self.drones.news();
        let patience = (self.started + FIRST_SIGNS).min(deadline);
        loop {
            let (fit, passed) = self.rank(request);
            if !fit.is_empty() {
                return fit;
            }
            if !matches!(tokio::time::timeout_at(patience, news.changed()).await, Ok(Ok(()))) {
                tracing::warn!(cluster = %request.cluster, ?passed, "no drone available");
                return fit;
            }
        }
    }

    fn rank(&self, request: &ScheduleRequest) -> (Vec<DroneId>, Vec<(DroneId, crate::placement::PassedOver)>) {
        let cluster = &request.cluster;
        let audible = self.drones.audible(cluster);
        let mut placed = self.placed();
        let candidates = self.view.read(|world| {
            placed.retain(|backend, (cluster, _)| world.backend(cluster, backend).is_none());
            let mut load: HashMap<&DroneId, usize> = HashMap::new();
            let known = world.cluster(cluster);
            for backend in known.iter().flat_map(|known| known.backends.values()).filter(|backend| backend.is_live()) {
                if let Some(assigned) = &backend.assignment {
                    *load.entry(&assigned.drone).or_default() += 1;
                }
            }
            for (_, drone) in placed.values().filter(|(of, _)| of == cluster) {
                *load.entry(drone).or_default() += 1;
            }
            let registered =
                |id: &DroneId| known.and_then(|known| known.drones.get(id)).is_some_and(|drone| drone.meta.is_some());
            let fit = audible.into_iter().filter(|status| registered(&status.drone_id));
            fit.map(|status| Candidate { load: load.get(&status.drone_id).copied().unwrap_or(0), status }).collect()
        });
        drop(placed);
        let chance = self.chance.hash_one(Instant::now());
        rank(candidates, &request.require_labels, |drone| self.chance.hash_one((chance, drone)))
    }

    fn placed(&self) -> std::sync::MutexGuard<'_, HashMap<BackendId, (ClusterName, DroneId)>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_use(backend: &BackendId) -> Fault {
    let message = format!("backend_id: expected one that is not in use; {backend} is, or was lately");
    Fault::new(FaultCode::BackendIdInUse, message)
}
