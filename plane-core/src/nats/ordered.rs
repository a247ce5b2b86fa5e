//! The messages of an ordered push consumer, and nothing beside them: a gap, or silence, ends the reading, which
//! [`super::Replay`] takes up again where it stopped.
//!
//! The client library has such a reading too. It makes a context and sets a timer for each message, which costs a reader
//! of a long log as much as reading the entry does.

use super::NatsError;
use crate::world::Entry;
use async_nats::{
    Client, HeaderMap, StatusCode, Subject, Subscriber,
    jetstream::{self, Context},
};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use jiff::Timestamp;
use std::{
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// How often the server says that there is nothing to deliver; so the library asks it to for an ordered consumer.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// So many times that long without a word, and the consumer is gone.
const MISSED_HEARTBEATS: u32 = 2;
const LAST_CONSUMER: &str = "Nats-Last-Consumer";
/// A request for flow control that was lost is repeated here.
const STALLED: &str = "Nats-Consumer-Stalled";

pub(super) struct Ordered {
    subscriber: Subscriber,
    context: Context,
    /// The newest message: the library reads what it says of itself only from one that has a context.
    newest: Option<jetstream::Message>,
    /// The consumer's own count of what it has delivered.
    delivered: u64,
    alarm: Pin<Box<Sleep>>,
    /// Alarms since the last word of the server.
    silent: u32,
    /// An answer to a request for flow control that is being sent.
    answer: Option<BoxFuture<'static, ()>>,
}

impl Ordered {
    /// Reads what a consumer, made after this subscription, delivers to it.
    pub(super) fn new(subscriber: Subscriber, context: Context) -> Self {
        let alarm = Box::pin(sleep(HEARTBEAT_EVERY));
        Self { subscriber, context, newest: None, delivered: 0, alarm, silent: 0, answer: None }
    }

    fn read(&mut self, message: async_nats::Message) -> Result<Option<(Entry, u64)>, NatsError> {
        if let Some(status) = message.status {
            self.hear(status, message.headers.as_ref(), message.reply)?;
            return Ok(None);
        }
        let message = match &mut self.newest {
            Some(newest) => {
                newest.message = message;
                newest
            }
            none => none.insert(jetstream::Message { message, context: self.context.clone() }),
        };
        let info = message.info().map_err(|e| NatsError::other("an ordered consumer", e))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(gap());
        }
        self.delivered = info.consumer_sequence;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let (seconds, nanoseconds) = (info.published.unix_timestamp(), info.published.nanosecond());
        let time = Timestamp::new(seconds, nanoseconds.cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH);
        let subject = message.message.subject.as_str().to_owned();
        let payload = std::mem::take(&mut message.message.payload);
        Ok(Some((Entry { subject, sequence, time, payload }, pending)))
    }

    fn hear(
        &mut self,
        status: StatusCode,
        headers: Option<&HeaderMap>,
        reply: Option<Subject>,
    ) -> Result<(), NatsError> {
        if status != StatusCode::IDLE_HEARTBEAT {
            return Err(NatsError::other("an ordered consumer", format!("the server says {status}")));
        }
        let said = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
        if said(LAST_CONSUMER).is_some_and(|last| last.parse() != Ok(self.delivered)) {
            return Err(gap());
        }
        if let Some(wanted) = reply.or_else(|| said(STALLED).map(Subject::from)) {
            self.answer = Some(answer(self.context.client(), wanted).boxed());
        }
        Ok(())
    }
}

fn gap() -> NatsError {
    NatsError::other("an ordered consumer", "messages are missing")
}

async fn answer(client: Client, wanted: Subject) {
    // If it cannot be sent, the server asks again.
    let _ = client.publish(wanted, bytes::Bytes::new()).await;
}

impl Stream for Ordered {
    type Item = Result<(Entry, u64), NatsError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = &mut self.answer
                && answer.poll_unpin(cx).is_ready()
            {
                self.answer = None;
            }
            match self.subscriber.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => {
                    self.silent = 0;
                    if let Some(read) = self.read(message).transpose() {
                        return Poll::Ready(Some(read));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.alarm.poll_unpin(cx));
                    self.silent += 1;
                    if self.silent > MISSED_HEARTBEATS {
                        return Poll::Ready(Some(Err(NatsError::other("an ordered consumer", "it is silent"))));
                    }
                    self.alarm.set(sleep(HEARTBEAT_EVERY));
                }
            }
        }
    }
}
