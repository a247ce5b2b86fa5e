//! `plane status`: the public history, as it is written.

use crate::{Failure, arguments::Output, output};
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

pub(crate) async fn run(nats: &Nats, backend: Option<&BackendId>, output: Output) -> Result<(), Failure> {
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
