//! Taking out of the streams what is forgotten.

use super::{Event, Nats, NatsError, StreamName};
use crate::{
    message::backend::{LogLine, PublicStatus},
    world::{Forgotten, Past, UnreadableEntry, World},
};
use jiff::SignedDuration;

/// What was taken out of the streams.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// How many backends.
    pub backends: usize,
    /// How many drones and locks.
    pub drones_and_locks: usize,
    /// Entries that could not be read, and stay.
    pub unreadable: Vec<UnreadableEntry>,
}

impl Nats {
    /// Takes out of the streams what has been over for longer than this, by the log's time.
    ///
    /// # Errors
    /// Where JetStream does not answer.
    pub async fn clean_up(&self, over_for: SignedDuration) -> Result<Cleaned, NatsError> {
        let mut replay = self.replay(StreamName::State, "state.>").await?;
        let (mut world, mut cleaned) = (World::forgetting_after(over_for), Cleaned::default());
        loop {
            match replay.next().await {
                Event::Entry(entry) => {
                    if let Err(error) = world.apply(&entry) {
                        cleaned.unreadable.push(error);
                    }
                }
                Event::CaughtUp => break,
                Event::Replaced => return Err(replay.replaced()),
            }
        }
        for forgotten in world.take_forgotten() {
            if self.purge_forgotten(&forgotten).await? {
                match forgotten.what {
                    Past::Backend(_) => cleaned.backends += 1,
                    Past::Drone(_) | Past::Lock => cleaned.drones_and_locks += 1,
                }
            }
        }
        Ok(cleaned)
    }

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
        if let Past::Backend(backend) = &forgotten.what {
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
