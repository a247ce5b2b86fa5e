//! What Plane needs of NATS, as bytes: plain messages, and streams with compare-and-set. One implementation speaks to
//! servers; another is the simulated network that the control plane is tested on.

use super::{NatsError, StreamConfig, StreamName};
use crate::world::Entry;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use std::{fmt::Debug, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A message that came in on a subscription.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The subject that it was sent on.
    pub subject: String,
    /// Its content.
    pub payload: Bytes,
    /// Where the answer goes, if one is wanted.
    pub reply: Option<String>,
}

/// A message as a stream keeps it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the stream took it.
    pub time: Timestamp,
    /// Its content.
    pub payload: Bytes,
}

/// What a stream is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// When it was made.
    pub created: Timestamp,
    /// How many messages it holds.
    pub messages: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// The sequence of the oldest message.
    pub first_sequence: u64,
    /// The sequence of the newest message that it ever took.
    pub last_sequence: u64,
    /// On how many servers it is kept.
    pub replicas: usize,
    /// The cluster of these servers; `None` where there is one server, which belongs to none.
    pub cluster: Option<String>,
}

/// Where a reading of a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Behind a sequence; 0 is the beginning.
    After(u64),
    /// The newest message of each subject that is there now, then everything new.
    LastPerSubject,
}

/// The connection as it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    /// Whether there is one now.
    pub up: bool,
    /// How often one was made.
    pub generation: u64,
}

/// NATS with JetStream, as far as Plane uses it. What is said of errors is said at [`super::Nats`].
#[async_trait]
pub trait Transport: Debug + Send + Sync + 'static {
    /// Sends a message.
    async fn publish(&self, subject: String, payload: Bytes) -> Result<(), NatsError>;
    /// Sends a message and waits for one answer.
    async fn request(&self, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, NatsError>;
    /// Listens; with a group, one member of it gets each message. The subscription stands when this returns. From `end`
    /// on the server sends nothing more, and the stream ends with what it had sent.
    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
        end: CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError>;
    /// Waits until what was sent before has been taken.
    async fn flush(&self) -> Result<(), NatsError>;
    /// Puts a message into the stream of its subject, where `expected` is given only if it is the sequence of the
    /// subject's last message. Without a connection it fails, and is not kept for the next one. What another server
    /// acknowledges than the one that it was given to counts as unknown.
    async fn store(&self, subject: String, payload: Bytes, expected: Option<u64>) -> Result<u64, NatsError>;
    /// The newest message that matches a subject.
    async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError>;
    /// One message.
    async fn get(&self, stream: StreamName, sequence: u64) -> Result<Option<Stored>, NatsError>;
    /// The messages of a stream in order, without gaps; it ends, or gives an error, where that cannot be kept up. With
    /// each comes how many more there were then.
    async fn read(
        &self,
        stream: StreamName,
        filter: &str,
        from: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError>;
    /// What a stream is and holds; `None` where it does not exist.
    async fn info(&self, stream: StreamName) -> Result<Option<StreamInfo>, NatsError>;
    /// Removes the messages of a subject up to and with a sequence.
    async fn purge(&self, stream: StreamName, subject: &str, up_to: u64) -> Result<(), NatsError>;
    /// Makes a stream that is missing, and tells how one that is there differs.
    async fn ensure_stream(&self, config: &StreamConfig) -> Result<Option<String>, NatsError>;
    /// Tells of the connection.
    fn connection(&self) -> watch::Receiver<Connection>;
    /// Which server this is connected to.
    fn server(&self) -> String;
    /// The most bytes that a message may have there; what a server takes if nobody configures it.
    fn largest_message(&self) -> usize {
        1024 * 1024
    }
}
