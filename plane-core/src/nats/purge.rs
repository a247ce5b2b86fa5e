//! Taking out of the streams what is forgotten.

use super::{Nats, NatsError, StreamName};
use crate::{
    message::backend::{LogLine, PublicStatus},
    world::Forgotten,
};

impl Nats {
    /// Takes out of the streams what was forgotten: of a backend its public history and its lines of log, then the
    /// entries of the state log. False where another has done it already. What an interruption leaves is forgotten, and
    /// can be purged, again.
    ///
    /// # Errors
    /// Where JetStream does not answer.
    pub async fn purge_forgotten(&self, forgotten: &Forgotten) -> Result<bool, NatsError> {
        let Some((_, last)) = forgotten.entries.last() else { return Ok(false) };
        if self.get(StreamName::State, *last).await?.is_none() {
            return Ok(false);
        }
        if let Some(backend) = &forgotten.backend {
            let subjects = [
                (StreamName::Status, PublicStatus::subject_of(backend)),
                (StreamName::Logs, LogLine::subject_of(backend)),
            ];
            for (stream, subject) in subjects {
                if let Some(newest) = self.last(stream, &subject).await? {
                    self.purge(stream, &subject, newest.sequence).await?;
                }
            }
        }
        // By subject and up to a sequence: what was written anew stays, and it is much quicker than by sequence alone.
        for (subject, sequence) in &forgotten.entries {
            self.purge(StreamName::State, subject, *sequence).await?;
        }
        Ok(true)
    }
}
