//! Reading a stream from its beginning and on: an ordered push consumer, taken up again where it stopped.

use super::{
    Nats, NatsError, StreamName,
    transport::{Connection, From},
};
use crate::world::Entry;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;

/// What a [`Replay`] gives.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message of the stream.
    Entry(Entry),
    /// All that was stored when the replay began has been given; comes once.
    CaughtUp,
    /// The reading broke off, and the stream that is there now is not the one that was read: it was made anew, or has lost
    /// some of what was given. Nothing more comes before [`Replay::rewind`].
    Replaced,
}

type Messages = BoxStream<'static, Result<(Entry, u64), NatsError>>;

/// A reading of a stream. It goes on for ever.
#[allow(missing_debug_implementations, reason = "a stream of messages has no Debug")]
pub struct Replay {
    nats: Nats,
    stream: StreamName,
    filter: String,
    messages: Messages,
    connection: watch::Receiver<Connection>,
    generation: u64,
    /// Why the reading has to begin again. Whoever waits for a message may stop waiting meanwhile: it is not forgotten.
    broken: Option<String>,
    /// When the stream was made that is read.
    made: Timestamp,
    is_replaced: bool,
    last: u64,
    target: Option<u64>,
}

/// A reading that has just begun.
struct Begun {
    messages: Messages,
    /// When the stream was made that it reads.
    made: Timestamp,
    /// The newest sequence that the stream ever gave.
    newest: u64,
    /// That of the newest message that matches.
    target: u64,
}

async fn begin(nats: &Nats, stream: StreamName, filter: &str, from: From) -> Result<Begun, NatsError> {
    let gone = || NatsError::other(stream.as_str(), "there is no such stream");
    let before = nats.info(stream).await?.ok_or_else(gone)?;
    let target = nats.last(stream, filter).await?.map_or(0, |stored| stored.sequence);
    let messages = nats.transport().read(stream, filter, from).await?;
    // The reading is of the stream that there is both before and after it began.
    let after = nats.info(stream).await?.ok_or_else(gone)?;
    if after.created != before.created {
        return Err(NatsError::other(stream.as_str(), "it was made anew meanwhile"));
    }
    Ok(Begun { messages, made: after.created, newest: after.last_sequence, target })
}

impl Nats {
    /// Reads a stream from its beginning, the messages whose subject matches `filter`.
    ///
    /// # Errors
    /// Where the stream does not exist or JetStream does not answer.
    pub async fn replay(&self, stream: StreamName, filter: &str) -> Result<Replay, NatsError> {
        self.replay_from(stream, filter, From::After(0)).await
    }

    /// Reads the newest message of each subject that matches `filter`, then what is new.
    ///
    /// # Errors
    /// As [`Self::replay`].
    pub async fn replay_newest(&self, stream: StreamName, filter: &str) -> Result<Replay, NatsError> {
        self.replay_from(stream, filter, From::LastPerSubject).await
    }

    async fn replay_from(&self, stream: StreamName, filter: &str, from: From) -> Result<Replay, NatsError> {
        let mut connection = self.connection();
        let generation = connection.borrow_and_update().generation;
        let Begun { messages, made, target, .. } = begin(self, stream, filter, from).await?;
        let (nats, filter) = (self.clone(), filter.to_owned());
        let (broken, is_replaced, target) = (None, false, Some(target));
        Ok(Replay {
            nats,
            stream,
            filter,
            messages,
            connection,
            generation,
            broken,
            made,
            is_replaced,
            last: 0,
            target,
        })
    }
}

impl Replay {
    /// The next message, or the news that all stored ones have been given. Waits for ever; safe to cancel.
    pub async fn next(&mut self) -> Event {
        loop {
            if self.is_replaced {
                std::future::pending::<()>().await;
            }
            if self.broken.is_some() {
                let begun = self.begin_again().await;
                self.is_replaced = begun.made != self.made || begun.newest < self.last;
                if self.is_replaced {
                    return Event::Replaced;
                }
                self.messages = begun.messages;
                self.broken = None;
            }
            if self.target.is_some_and(|target| self.last >= target) {
                self.target = None;
                return Event::CaughtUp;
            }
            let read = match self.messages.next().now_or_never() {
                Some(read) => read,
                None => tokio::select! {
                    biased;
                    read = self.messages.next() => read,
                    changed = self.connection.changed() => {
                        let connection = *self.connection.borrow_and_update();
                        if changed.is_err() {
                            // The connection is closed for good: what was received is all there is.
                            std::future::pending::<()>().await;
                        }
                        if connection.up && connection.generation != self.generation {
                            self.generation = connection.generation;
                            self.broken = Some("there is a new connection".to_owned());
                        }
                        continue;
                    }
                },
            };
            match read {
                Some(Ok((entry, pending))) => {
                    if pending == 0 && self.target.is_some() {
                        self.target = Some(entry.sequence);
                    }
                    if entry.sequence <= self.last {
                        continue;
                    }
                    self.last = entry.sequence;
                    return Event::Entry(entry);
                }
                Some(Err(error)) => self.broken = Some(error.to_string()),
                None => self.broken = Some("the consumer ended".to_owned()),
            }
        }
    }

    /// Reads again from the beginning of the stream; [`Event::CaughtUp`] comes anew.
    pub async fn rewind(&mut self) {
        self.last = 0;
        self.broken = Some("what was read is not what the log has".to_owned());
        let Begun { messages, made, target, .. } = self.begin_again().await;
        (self.messages, self.made, self.target) = (messages, made, Some(target));
        (self.broken, self.is_replaced) = (None, false);
    }

    /// What [`Event::Replaced`] means to whoever reads a stream once.
    pub fn replaced(&self) -> NatsError {
        NatsError::other(self.stream.as_str(), "it was made anew, or lost some of what it had, while it was read")
    }

    /// Begins to read where the reading stopped; tried until it does.
    async fn begin_again(&mut self) -> Begun {
        let cause = self.broken.as_deref().unwrap_or_default();
        tracing::info!(stream = self.stream.as_str(), after = self.last, cause, "reading again from where it stopped");
        let mut pause = Duration::from_millis(50);
        loop {
            match begin(&self.nats, self.stream, &self.filter, From::After(self.last)).await {
                Ok(begun) => return begun,
                Err(error) => tracing::debug!(%error, "not yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

#[cfg(test)]
mod tests;
