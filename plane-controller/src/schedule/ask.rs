//! Asks one drone to take a backend, and says what came of that.

use super::decision::Decision;
use plane_core::{id::DroneId, message::schedule::SpawnRequest, nats::NatsError};
use std::time::Duration;
use tokio::time::Instant;

/// How long one drone may take to answer.
pub(super) const DRONE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before a silent drone is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// The variable that tells a container the fencing token of its lock.
const FENCING_TOKEN: &str = "PLANE_FENCING_TOKEN";

/// What a drone said to a spawn request.
pub(super) enum Said {
    Accepted,
    Refused,
    Nothing,
}

impl Decision<'_> {
    /// Asks one drone. One that does not write its acceptance is asked again while it stays silent: it starts a backend
    /// once, however often it is asked, and nobody else may be asked while it might.
    pub(super) async fn ask(&self, drone: &DroneId, accepts: bool, deadline: Instant) -> Said {
        let mut executable = self.request.executable.clone();
        if let Some(held) = &self.lock {
            executable.env.insert(FENCING_TOKEN.to_owned(), held.token.to_string());
        }
        let spawn = SpawnRequest {
            cluster: self.request.cluster.clone(),
            drone_id: drone.clone(),
            max_idle_secs: self.request.max_idle_secs,
            backend_id: self.backend.clone(),
            metadata: self.request.metadata.clone(),
            executable,
            bearer_token: self.bearer_token.clone(),
            lock: self.lock.as_ref().map(|held| held.name.clone()),
            fencing_token: self.lock.as_ref().map(|held| held.token),
            assignment_seq: Some(self.sequence),
        };
        let mut asked = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(DRONE_TIMEOUT);
            if left.is_zero() {
                return Said::Nothing;
            }
            match self.core.nats.request(&spawn, left).await {
                Ok(true) => return Said::Accepted,
                Ok(false) | Err(NatsError::Fault(_)) => return Said::Refused,
                Err(NatsError::NoResponders(_)) if !asked => return Said::Refused,
                Err(error) => {
                    tracing::debug!(%drone, backend = %self.backend, %error, "the drone did not answer");
                    if accepts {
                        return Said::Nothing;
                    }
                    asked = true;
                    tokio::time::sleep(ASK_PAUSE).await;
                }
            }
        }
    }
}
