//! What a drone says of itself: its signs of life, and whether it takes backends.

use super::{Agent, spawn::internal};
use crate::cert::Served;
use plane_core::{
    message::{
        Answer,
        drone::{DrainRequest, DroneState, DroneStatus},
        subject,
    },
    nats::{NatsError, Serving},
    version,
};
use std::{sync::Arc, time::Duration};

/// How often a drone gives a sign of life.
const STATUS_EVERY: Duration = Duration::from_secs(4);
/// How long the last one of a drone that stops may take.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Agent {
    pub(super) async fn serve_drain(self: Arc<Self>) -> Result<Serving, NatsError> {
        let subject = subject::drone(&self.identity.cluster, &self.identity.drone, "drain");
        let (nats, tasks) = (self.nats.clone(), self.tasks.clone());
        let handler = move |request: DrainRequest| {
            let agent = self.clone();
            async move { agent.drain(request.drain).await }
        };
        nats.serve(&tasks, &subject, None, handler).await
    }

    pub(super) async fn drain(&self, drain: bool) -> Answer<()> {
        let turn = self.drains.lock().await;
        self.host.set_draining(drain).await.map_err(|e| internal(&e))?;
        self.life().draining = drain;
        tracing::info!(drain, "drain");
        // Whoever asked may ask for a backend next: controllers hear of it before the answer.
        self.say().await;
        drop(turn);
        if let Err(error) = self.nats.flush().await {
            tracing::debug!(%error, "controllers hear of it later");
        }
        Ok(())
    }

    /// The drone's state, and how many backends run.
    pub(super) fn state(&self) -> (DroneState, usize) {
        let life = self.life();
        // Looked at together: what begins meanwhile is among one of the two.
        let running = self.host.live().len();
        let state = match (life.stopping, life.draining, running + life.deciding.len()) {
            (true, _, _) => DroneState::Stopped,
            (false, true, 0) => DroneState::Drained,
            (false, true, _) => DroneState::Draining,
            (false, false, _) if self.is_served() => DroneState::Ready,
            (false, false, _) => DroneState::Starting,
        };
        (state, running)
    }

    /// Whether people can reach what this drone runs: where there is to be TLS, there is a certificate.
    pub(super) fn is_served(&self) -> bool {
        self.certificate.as_ref().is_none_or(Served::is_there)
    }

    /// Resolves when people can.
    async fn comes_to_be_served(&self) {
        if let Some(certificate) = &self.certificate {
            certificate.first().await;
        }
    }

    async fn say(&self) {
        let (state, running) = self.state();
        let status = DroneStatus {
            drone_id: self.identity.drone.clone(),
            cluster: self.identity.cluster.clone(),
            drone_version: version::VERSION.to_owned(),
            ready: state == DroneState::Ready,
            state,
            running_backends: u32::try_from(running).ok(),
            capacity: self.identity.capacity,
            labels: self.identity.labels.clone(),
        };
        if let Err(error) = self.nats.publish(&status).await {
            tracing::debug!(%error, "no sign of life");
        }
    }

    pub(super) async fn give_signs_of_life(self: Arc<Self>) {
        let stop = self.tasks.stop_token();
        loop {
            let served = self.is_served();
            if stop.run_until_cancelled(self.say()).await.is_none() {
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.comes_to_be_served(), if !served => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(STATUS_EVERY) => {}
            }
        }
        self.life().stopping = true;
        if self.life().unheard {
            return;
        }
        let last = async {
            self.say().await;
            let _ = self.nats.flush().await;
        };
        let _ = tokio::time::timeout(LAST_WORD, last).await;
    }
}
