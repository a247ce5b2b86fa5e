//! Whether the log has given up a backend that an earlier process of this drone had accepted.

use super::Agent;
use plane_core::{
    message::{backend::BackendState, schedule::SpawnRequest, state::state_subject},
    nats::StreamName,
};
use std::time::Duration;

/// The pause before the log is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Agent {
    /// Whether the log says that a backend is lost. Its acceptance may stand there all the same: the process that wrote
    /// it ended before it began with the backend, and the drone was silent for long since. Another process may even have
    /// renewed the lease meanwhile, and ended too. Waits until the log can be asked.
    pub(super) async fn is_lost(&self, request: &SpawnRequest) -> bool {
        let subject = state_subject(&request.cluster, &request.backend_id, BackendState::Lost);
        loop {
            match self.nats.last(StreamName::State, &subject).await {
                Ok(found) => return found.is_some(),
                Err(error) => tracing::debug!(%error, "whether a backend is lost is not known yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}
