//! The one home of the NATS client: typed publishing, requests, serving, the state log's compare-and-set, and replay.
//!
//! Connections are made again for ever and subscriptions survive. What a message means is not known here.

use crate::message::{Fault, Publish, Request, decode_answer};
use async_nats::jetstream::{self, context::PublishErrorKind, message::PublishMessage};
use futures_util::{Stream, StreamExt};
use std::{future::IntoFuture, time::Duration};

mod connect;
mod replay;
mod serve;
mod streams;

pub use connect::{LOST_CONNECTION_HINT, install_crypto_provider};
pub use replay::{Event, Replay};
pub use serve::Serving;
pub use streams::{StreamConfig, StreamName};

/// How long one JetStream publish may take until its outcome counts as unknown.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why something asked of NATS did not come about.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The other side answered with an error.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Nobody listens on the subject.
    #[error("nobody listens on {0}")]
    NoResponders(String),
    /// No answer came in time; what was asked may have happened.
    #[error("no answer on {0} in time")]
    TimedOut(String),
    /// The answer could not be read.
    #[error("the answer on {subject} is not readable: {cause}")]
    Malformed {
        /// Where it was asked.
        subject: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Somebody else wrote the subject first; read it.
    #[error("{0} was written by somebody else in the meantime")]
    WrongSequence(String),
    /// NATS or the network refused.
    #[error("NATS: {what}: {cause}")]
    Other {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: String,
    },
}

impl NatsError {
    fn other(what: impl Into<String>, cause: impl ToString) -> Self {
        Self::Other { what: what.into(), cause: cause.to_string() }
    }
}

/// A connection to NATS. Clones share it.
#[derive(Debug, Clone)]
pub struct Nats {
    client: async_nats::Client,
    jetstream: jetstream::Context,
}

/// A message as the log keeps it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its content.
    pub payload: bytes::Bytes,
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<bytes::Bytes, NatsError> {
    serde_json::to_vec(value).map(Into::into).map_err(|e| NatsError::other("writing JSON", e))
}

impl Nats {
    /// Publishes a message without acknowledgement.
    ///
    /// # Errors
    /// Where the connection's queue does not take it.
    pub async fn publish<M: Publish>(&self, message: &M) -> Result<(), NatsError> {
        let subject = message.subject();
        let payload = to_json(message)?;
        self.client.publish(subject.clone(), payload).await.map_err(|e| NatsError::other(subject, e))
    }

    /// Publishes a message into its stream and gives its sequence.
    ///
    /// # Errors
    /// [`NatsError::TimedOut`] means unknown: it may have been stored.
    pub async fn publish_stored<M: Publish>(&self, message: &M) -> Result<u64, NatsError> {
        self.store(message.subject(), to_json(message)?, None).await
    }

    /// Publishes onto a subject of a stream if the subject's last message has the sequence `expected` (0: there is none).
    ///
    /// # Errors
    /// [`NatsError::WrongSequence`] where somebody else was first. [`NatsError::TimedOut`] means unknown: read the subject.
    pub async fn publish_expecting<T: serde::Serialize>(
        &self,
        subject: String,
        value: &T,
        expected: u64,
    ) -> Result<u64, NatsError> {
        self.store(subject, to_json(value)?, Some(expected)).await
    }

    /// Publishes onto a subject of a stream, whatever stands there.
    ///
    /// # Errors
    /// [`NatsError::TimedOut`] means unknown: read the subject.
    pub async fn publish_entry<T: serde::Serialize>(&self, subject: String, value: &T) -> Result<u64, NatsError> {
        self.store(subject, to_json(value)?, None).await
    }

    async fn store(&self, subject: String, payload: bytes::Bytes, expected: Option<u64>) -> Result<u64, NatsError> {
        let mut message = PublishMessage::build().payload(payload);
        if let Some(expected) = expected {
            message = message.expected_last_subject_sequence(expected);
        }
        let acknowledged = async { self.jetstream.send_publish(subject.clone(), message).await?.into_future().await };
        let outcome = tokio::time::timeout(PUBLISH_TIMEOUT, acknowledged).await;
        match outcome {
            Err(_) => Err(NatsError::TimedOut(subject)),
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => NatsError::WrongSequence(subject),
                PublishErrorKind::TimedOut => NatsError::TimedOut(subject),
                _ => NatsError::other(subject, error),
            }),
        }
    }

    /// The last message on a subject of a stream; a wildcard gives the newest of all that match.
    ///
    /// # Errors
    /// Where the stream does not exist or does not answer.
    pub async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        use jetstream::stream::LastRawMessageErrorKind as Kind;
        let handle = self.stream_handle(stream).await?;
        match handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Stored { sequence: message.sequence, payload: message.payload })),
            Err(error) if error.kind() == Kind::NoMessageFound => Ok(None),
            Err(error) => Err(NatsError::other(subject, error)),
        }
    }

    async fn stream_handle(&self, stream: StreamName) -> Result<jetstream::stream::Stream<()>, NatsError> {
        self.jetstream.get_stream_no_info(stream.as_str()).await.map_err(|e| NatsError::other(stream.as_str(), e))
    }

    /// Asks, and waits for the answer at most `timeout`.
    ///
    /// # Errors
    /// [`NatsError::Fault`] is the other side's own refusal; [`NatsError::TimedOut`] means unknown.
    pub async fn request<M: Request>(&self, message: &M, timeout: Duration) -> Result<M::Reply, NatsError> {
        use async_nats::RequestErrorKind as Kind;
        let subject = message.subject();
        let request = async_nats::Request::new().payload(to_json(message)?).timeout(Some(timeout));
        let reply = self.client.send_request(subject.clone(), request).await.map_err(|error| match error.kind() {
            Kind::NoResponders => NatsError::NoResponders(subject.clone()),
            Kind::TimedOut => NatsError::TimedOut(subject.clone()),
            _ => NatsError::other(subject.clone(), error),
        })?;
        match decode_answer(&reply.payload) {
            Ok(answer) => Ok(answer?),
            Err(cause) => Err(NatsError::Malformed { subject, cause: cause.to_string() }),
        }
    }

    /// Listens to messages that nobody answers. Malformed ones, and those whose fields belong on another subject, are
    /// logged and skipped: what a sender may say rests on the subjects that it may publish on.
    ///
    /// # Errors
    /// Where the connection does not take the subscription.
    pub async fn subscribe<M: Publish>(
        &self,
        subject: &str,
    ) -> Result<impl Stream<Item = M> + Send + Unpin + 'static, NatsError> {
        let inner = self.client.subscribe(subject.to_owned()).await.map_err(|e| NatsError::other(subject, e))?;
        self.flush().await?;
        Ok(Box::pin(inner.filter_map(|message| async move {
            match serde_json::from_slice::<M>(&message.payload) {
                Ok(parsed) if parsed.subject() == message.subject.as_str() => Some(parsed),
                Ok(parsed) => {
                    let belongs = parsed.subject();
                    tracing::warn!(subject = %message.subject, belongs, "skipped a message of another subject");
                    None
                }
                Err(error) => {
                    tracing::warn!(subject = %message.subject, %error, "skipped an unreadable message");
                    None
                }
            }
        })))
    }

    /// Waits until the server has taken all that was sent before.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn flush(&self) -> Result<(), NatsError> {
        self.client.flush().await.map_err(|e| NatsError::other("flush", e))
    }

    /// Whether the connection stands now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}
