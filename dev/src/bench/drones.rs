//! Drones that are simulated: they keep leases, say that they are there, and accept whatever they are asked for at once.

use crate::harness::played;
use anyhow::Result;
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::{ClusterName, DroneId},
    message::{
        Fault, FaultCode,
        backend::{BackendState, StatusReport},
        drone::DroneState,
        schedule::SpawnRequest,
    },
    nats::{Nats, Serving},
    task::Tasks,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const STATUS_EVERY: Duration = Duration::from_secs(4);
const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How long a controller may take to register a drone.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a backend on a simulated drone does after it was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Life {
    /// Nothing.
    Still,
    /// It reports Loading, Starting and Ready, and ends as Swept after a while.
    Short(Duration),
}

/// Simulated drones; they end with this value's tasks.
pub(super) struct SimulatedDrones {
    /// Backends that have been accepted and not ended.
    pub(super) running: Arc<AtomicUsize>,
    _spawn: Serving,
}

impl SimulatedDrones {
    /// Starts `count` drones and returns once all are registered and have a lease.
    pub(super) async fn start(
        nats: &Nats,
        cluster: &ClusterName,
        count: usize,
        life: Life,
        clock: &Clock,
        tasks: &Tasks,
    ) -> Result<Self> {
        let running = Arc::new(AtomicUsize::new(0));
        let subject = format!("cluster.{}.drone.*.spawn", cluster.subject_token());
        let (own, alive, time, owner) = (nats.clone(), running.clone(), clock.clone(), tasks.clone());
        let spawn = nats
            .serve(tasks, &subject, None, move |request: SpawnRequest| {
                let (nats, running, clock, tasks) = (own.clone(), alive.clone(), time.clone(), owner.clone());
                async move { accept(nats, request, life, running, clock, &tasks).await }
            })
            .await?;
        for number in 0..count {
            let id: DroneId = format!("drone-{number:05}").parse()?;
            nats.request(&played::registration(cluster, &id, played::FEATURES), REGISTER_TIMEOUT).await?;
            let entry = played::lease(cluster, &id);
            let sequence = nats.publish_expecting(entry.subject(), &entry, 0).await?;
            // Spread over time, as those of real drones are.
            let share = move |every: Duration| every.mul_f64(number as f64 / count as f64);
            let (nats, cluster, id, stop) = (nats.clone(), cluster.clone(), id.clone(), tasks.stop_token());
            tasks.spawn(format!("lease of {id}"), {
                let (nats, cluster, id, stop) = (nats.clone(), cluster.clone(), id.clone(), stop.clone());
                async move {
                    let mut expected = sequence;
                    let mut pause = share(LEASE_EVERY);
                    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                        pause = LEASE_EVERY;
                        let entry = played::lease(&cluster, &id);
                        if let Ok(sequence) = nats.publish_expecting(entry.subject(), &entry, expected).await {
                            expected = sequence;
                        }
                    }
                }
            });
            tasks.spawn(format!("signs of life of {id}"), async move {
                let status = played::sign_of_life(&cluster, &id, DroneState::Ready);
                let mut pause = share(STATUS_EVERY);
                let _ = nats.publish(&status).await;
                while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                    pause = STATUS_EVERY;
                    let _ = nats.publish(&status).await;
                }
            });
        }
        Ok(Self { running, _spawn: spawn })
    }
}

async fn accept(
    nats: Nats,
    request: SpawnRequest,
    life: Life,
    running: Arc<AtomicUsize>,
    clock: Clock,
    tasks: &Tasks,
) -> Result<bool, Fault> {
    let accepted = played::accept(&nats, &request).await;
    if !accepted.map_err(|error| Fault::new(FaultCode::Unavailable, error.to_string()))? {
        return Ok(false);
    }
    running.fetch_add(1, Ordering::Relaxed);
    if let Life::Short(lasts) = life {
        tasks.spawn("life", async move {
            live(&nats, &request, lasts, &clock).await;
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(true)
}

async fn live(nats: &Nats, request: &SpawnRequest, lasts: Duration, clock: &Clock) {
    for state in [BackendState::Loading, BackendState::Starting, BackendState::Ready, BackendState::Swept] {
        if state.is_final() {
            tokio::time::sleep(lasts.mul_f64(0.5 + Chance::system().below(1000) as f64 / 1000.0)).await;
        }
        let report = StatusReport {
            cluster: request.cluster.clone(),
            state,
            backend: request.backend_id.clone(),
            time: clock.wall(),
            drone: request.drone_id.clone(),
            reason: state.is_final().then(|| "nobody was connected".to_owned()),
            exit_code: None,
        };
        while nats.request(&report, Duration::from_secs(10)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
