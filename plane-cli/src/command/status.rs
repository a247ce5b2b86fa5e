//! `plane status`: the public history, as it is written.

use crate::{Failure, arguments::Output, command::list, output};
use plane_core::{
    id::BackendId,
    message::backend::PublicStatus,
    nats::{Event, Nats, NatsError, Replay, StreamName},
};

/// Reads the public history on and on.
pub(crate) struct Follower {
    replay: Replay,
    /// Whether what was there before is of interest.
    from_the_start: bool,
}

impl Follower {
    /// Of one backend from its beginning, or of all from now on.
    pub(crate) async fn start(nats: &Nats, backend: Option<&BackendId>) -> Result<Self, Failure> {
        let subject = backend.map_or_else(|| "backend.*.status".to_owned(), PublicStatus::subject_of);
        Ok(Self { replay: nats.replay(StreamName::Status, &subject).await?, from_the_start: backend.is_some() })
    }

    /// The next message.
    ///
    /// # Errors
    /// Where the history that was read is gone.
    pub(crate) async fn next(&mut self) -> Result<PublicStatus, NatsError> {
        loop {
            match self.replay.next().await {
                Event::CaughtUp => self.from_the_start = true,
                Event::Entry(entry) if self.from_the_start => {
                    if let Ok(status) = serde_json::from_slice(&entry.payload) {
                        return Ok(status);
                    }
                }
                Event::Entry(_) => {}
                Event::Replaced => return Err(self.replay.replaced()),
            }
        }
    }
}

/// Why nothing is or will be told of a backend, where that is so. One that was assigned a moment ago has no history yet.
pub(crate) async fn nothing_of(nats: &Nats, backend: &BackendId) -> Result<Option<Failure>, Failure> {
    if nats.last(StreamName::Status, &PublicStatus::subject_of(backend)).await?.is_some() {
        return Ok(None);
    }
    let world = list::world(nats).await?;
    Ok(match world.clusters().find_map(|(_, cluster)| cluster.backend(backend)) {
        None => Some(Failure::UnknownBackend(backend.clone())),
        Some(known) if known.is_withdrawn() && !known.has_ended() => Some(Failure::NeverStarted(backend.clone())),
        Some(_) => None,
    })
}

pub(crate) async fn run(nats: &Nats, backend: Option<&BackendId>, output: Output) -> Result<(), Failure> {
    if let Some(backend) = backend
        && let Some(failure) = nothing_of(nats, backend).await?
    {
        return Err(failure);
    }
    let mut follower = Follower::start(nats, backend).await?;
    loop {
        let status = follower.next().await?;
        output::print(output, &status, || {
            let PublicStatus { time, backend, state, .. } = &status;
            let reason = status.reason.as_ref().map(|reason| format!("  {reason}")).unwrap_or_default();
            format!("{time:.3}  {backend}  {state}{reason}")
        })?;
        if backend.is_some() && status.state.is_final() {
            return Ok(());
        }
    }
}
