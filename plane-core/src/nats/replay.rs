//! Reading a stream from its beginning and on: an ordered push consumer, which resumes by itself after a reconnect.

use super::{Nats, NatsError, StreamName};
use crate::world::Entry;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use futures_util::StreamExt;
use jiff::Timestamp;
use std::time::Duration;

/// What a [`Replay`] gives.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message of the stream.
    Entry(Entry),
    /// All that was stored when the replay began has been given; comes once.
    CaughtUp,
}

/// A reading of a stream. It goes on for ever.
#[allow(missing_debug_implementations, reason = "the library's consumer has no Debug")]
pub struct Replay {
    nats: Nats,
    stream: StreamName,
    filter: String,
    messages: push::Ordered,
    last: u64,
    target: Option<u64>,
}

impl Nats {
    /// Reads a stream from its beginning, the messages whose subject matches `filter`.
    ///
    /// # Errors
    /// Where the stream does not exist or JetStream does not answer.
    pub async fn replay(&self, stream: StreamName, filter: &str) -> Result<Replay, NatsError> {
        let target = self.last(stream, filter).await?.map_or(0, |stored| stored.sequence);
        let messages = self.ordered(stream, filter, 0).await?;
        let filter = filter.to_owned();
        Ok(Replay { nats: self.clone(), stream, filter, messages, last: 0, target: Some(target) })
    }

    async fn ordered(&self, stream: StreamName, filter: &str, after: u64) -> Result<push::Ordered, NatsError> {
        let what = || format!("reading {}", stream.as_str());
        let deliver_policy = match after {
            0 => DeliverPolicy::All,
            after => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        };
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: filter.to_owned(),
            deliver_policy,
            ..push::OrderedConfig::default()
        };
        let handle = self.stream_handle(stream).await?;
        let consumer = handle.create_consumer(config).await.map_err(|e| NatsError::other(what(), e))?;
        consumer.messages().await.map_err(|e| NatsError::other(what(), e))
    }
}

impl Replay {
    /// The next message, or the news that all stored ones have been given. Waits for ever; safe to cancel.
    pub async fn next(&mut self) -> Event {
        loop {
            if self.target.is_some_and(|target| self.last >= target) {
                self.target = None;
                return Event::CaughtUp;
            }
            match self.messages.next().await {
                Some(Ok(message)) => {
                    let Ok(info) = message.info() else { continue };
                    let (sequence, nanos) = (info.stream_sequence, info.published.unix_timestamp_nanos());
                    if info.pending == 0 && self.target.is_some() {
                        self.target = Some(sequence);
                    }
                    if sequence <= self.last {
                        continue;
                    }
                    self.last = sequence;
                    let time = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH);
                    let subject = message.subject.to_string();
                    let payload = message.payload.clone();
                    return Event::Entry(Entry { subject, sequence, time, payload });
                }
                Some(Err(error)) => self.begin_again(&error.to_string()).await,
                None => self.begin_again("the consumer ended").await,
            }
        }
    }

    async fn begin_again(&mut self, cause: &str) {
        tracing::warn!(stream = self.stream.as_str(), cause, "reading again from where it stopped");
        let mut pause = Duration::from_millis(50);
        loop {
            match self.nats.ordered(self.stream, &self.filter, self.last).await {
                Ok(messages) => {
                    self.messages = messages;
                    return;
                }
                Err(error) => tracing::debug!(%error, "not yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}
