//! The one home of the NATS client: typed publishing, requests, serving, the state log's compare-and-set, and replay.
//!
//! Connections are made again for ever and subscriptions survive. What a message means is not known here.

use crate::message::{Fault, Publish, Request, decode_answer};
use futures_util::{Stream, StreamExt};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod connect;
mod jetstream;
mod ordered;
mod purge;
mod replay;
mod serve;
mod shared;
mod streams;
mod transport;

pub use connect::{LOST_CONNECTION_HINT, Unreached, install_crypto_provider};
pub use purge::Cleaned;
pub use replay::{Event, Replay};
pub use serve::Serving;
pub use shared::{Shared, SharedKey};
pub use streams::{Storage, StreamConfig, StreamName};
pub use transport::{Connection, From, Incoming, Stored, StreamInfo, Transport};

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
    transport: Arc<dyn Transport>,
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<bytes::Bytes, NatsError> {
    serde_json::to_vec(value).map(Into::into).map_err(|e| NatsError::other("writing JSON", e))
}

impl Nats {
    /// Speaks over a transport of the caller's.
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Publishes a message without acknowledgement.
    ///
    /// # Errors
    /// Where the connection's queue does not take it.
    pub async fn publish<M: Publish>(&self, message: &M) -> Result<(), NatsError> {
        self.transport.publish(message.subject(), to_json(message)?).await
    }

    /// Publishes a message into its stream and gives its sequence.
    ///
    /// # Errors
    /// [`NatsError::TimedOut`] means unknown: it may have been stored.
    pub async fn publish_stored<M: Publish>(&self, message: &M) -> Result<u64, NatsError> {
        self.transport.store(message.subject(), to_json(message)?, None).await
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
        self.transport.store(subject, to_json(value)?, Some(expected)).await
    }

    /// Publishes onto a subject of a stream, whatever stands there.
    ///
    /// # Errors
    /// [`NatsError::TimedOut`] means unknown: read the subject.
    pub async fn publish_entry<T: serde::Serialize>(&self, subject: String, value: &T) -> Result<u64, NatsError> {
        self.transport.store(subject, to_json(value)?, None).await
    }

    /// The last message on a subject of a stream; a wildcard gives the newest of all that match.
    ///
    /// # Errors
    /// Where the stream does not exist or does not answer.
    pub async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        self.transport.last(stream, subject).await
    }

    /// One message of a stream; `None` where it is not there, or not any more.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn get(&self, stream: StreamName, sequence: u64) -> Result<Option<Stored>, NatsError> {
        self.transport.get(stream, sequence).await
    }

    /// What a stream is and holds; `None` where it does not exist.
    ///
    /// # Errors
    /// Where JetStream does not answer.
    pub async fn info(&self, stream: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        self.transport.info(stream).await
    }

    /// Removes the messages on a subject of a stream up to and with a sequence.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn purge(&self, stream: StreamName, subject: &str, up_to: u64) -> Result<(), NatsError> {
        self.transport.purge(stream, subject, up_to).await
    }

    /// Asks, and waits for the answer at most `timeout`.
    ///
    /// # Errors
    /// [`NatsError::Fault`] is the other side's own refusal; [`NatsError::TimedOut`] means unknown.
    pub async fn request<M: Request>(&self, message: &M, timeout: Duration) -> Result<M::Reply, NatsError> {
        let subject = message.subject();
        let reply = self.transport.request(subject.clone(), to_json(message)?, timeout).await?;
        match decode_answer(&reply) {
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
        let inner = self.transport.subscribe(subject, None, CancellationToken::new()).await?;
        Ok(Box::pin(inner.filter_map(|message| async move {
            match serde_json::from_slice::<M>(&message.payload) {
                Ok(parsed) if parsed.subject() == message.subject => Some(parsed),
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
        self.transport.flush().await
    }

    /// Tells of the connection, as it is and as it changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.transport.connection()
    }

    /// Whether the connection stands now.
    pub fn is_connected(&self) -> bool {
        self.connection().borrow().up
    }

    /// The most bytes that one message may have.
    pub fn largest_message(&self) -> usize {
        self.transport.largest_message()
    }

    /// Which server this is connected to; another one after the server was restarted.
    pub fn server(&self) -> String {
        self.transport.server()
    }
}
