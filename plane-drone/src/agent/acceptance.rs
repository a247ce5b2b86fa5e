//! The entry by which a drone takes a backend, and how it is found out whether it stands in the log.

use super::Agent;
use crate::lease::Instance;
use plane_core::{
    message::{
        schedule::SpawnRequest,
        state::{Assignment, BackendMessage, EntryBody, HeldLock, StateEntry},
    },
    nats::{NatsError, StreamName},
};
use std::time::Duration;

/// The pause before what came of an acceptance is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Agent {
    /// Writes that this drone has taken a backend, where the log still gives it to the drone. An outcome that is not
    /// known is found out, however long that takes. Gives the server in whose log it stands.
    pub(super) async fn accept(&self, request: &SpawnRequest, server: String) -> Option<String> {
        // A controller of 0.3 does not say what stands in the log.
        let Some(expected) = request.assignment_seq else { return Some(server) };
        let entry = self.acceptance(request);
        let subject = entry.subject();
        loop {
            if self.nats.server() != server {
                return self.was_accepted(request).await;
            }
            match self.nats.publish_expecting(subject.clone(), &entry, expected).await {
                Ok(_) => return Some(server),
                Err(NatsError::WrongSequence(_)) => match self.nats.last(StreamName::State, &subject).await {
                    Ok(found) => return found.filter(|found| self.wrote(&found.payload, &entry)).map(|_| server),
                    Err(error) => tracing::debug!(%error, "what came of an acceptance is not known yet"),
                },
                Err(error) => tracing::debug!(%error, "an acceptance is not written yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// What came of an acceptance of an earlier process, which is not repeated: the log may have changed since. Waits
    /// until somebody has decided; controllers take back what nobody accepts.
    pub(super) async fn was_accepted(&self, request: &SpawnRequest) -> Option<String> {
        let entry = self.acceptance(request);
        let subject = entry.subject();
        loop {
            let server = self.nats.server();
            match self.nats.last(StreamName::State, &subject).await {
                Ok(Some(found)) if Some(found.sequence) == request.assignment_seq => {}
                Ok(found) => {
                    return found.filter(|found| self.may_have_written(&found.payload, &entry)).map(|_| server);
                }
                Err(error) => tracing::debug!(%error, "what came of an acceptance is not known yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn acceptance(&self, request: &SpawnRequest) -> StateEntry {
        let limits = &request.executable.resource_limits;
        let lock = request.lock.clone().zip(request.fencing_token).map(|(name, token)| HeldLock { name, token });
        let assignment = Assignment {
            lock,
            accepted: true,
            instance: Some(self.instance.to_string()),
            memory_bytes: limits.memory_limit_bytes.map(std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map(|percent| percent.get().into()),
            ..Assignment::to(self.identity.drone.clone(), request.bearer_token.clone())
        };
        let message = BackendMessage::Assignment(assignment);
        StateEntry::backend(request.cluster.clone(), request.backend_id.clone(), message)
    }

    /// Whether what stands in the log is what this process wrote. Another one that goes by this drone's id writes the
    /// same, but for its own name.
    fn wrote(&self, found: &[u8], written: &StateEntry) -> bool {
        acceptance_in(found, written).is_some_and(|name| name.is_some_and(|name| name == self.instance.to_string()))
    }

    /// Whether it is what this process or an earlier one with its memory wrote. Drones that did not name themselves, and
    /// controllers that enter what was announced, name none.
    fn may_have_written(&self, found: &[u8], written: &StateEntry) -> bool {
        acceptance_in(found, written).is_some_and(|name| {
            name.is_none_or(|name| Instance::read(&name).is_some_and(|other| other.remembers_with(&self.instance)))
        })
    }
}

/// Who accepted, where what stands in the log is an acceptance of the same drone for the same hold.
fn acceptance_in(found: &[u8], written: &StateEntry) -> Option<Option<String>> {
    let found = assignment(serde_json::from_slice(found).ok()?)?;
    let written = assignment(written.clone())?;
    let same = found.drone == written.drone && found.lock == written.lock;
    (found.accepted && !found.withdrawn && same).then_some(found.instance)
}

fn assignment(entry: StateEntry) -> Option<Assignment> {
    match entry.body {
        EntryBody::BackendMessage(entry) => match entry.message {
            BackendMessage::Assignment(assignment) => Some(assignment),
            BackendMessage::State(_) => None,
        },
        EntryBody::DroneMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
    }
}
