//! The [`Transport`] that speaks to NATS servers.

use super::{
    NatsError, PUBLISH_TIMEOUT, StreamConfig, StreamName,
    ordered::Ordered,
    transport::{Connection, From, Incoming, Stored, StreamInfo, Transport},
};
use crate::world::Entry;
use async_nats::{
    Message, Subscriber,
    connection::State,
    jetstream::{
        self,
        consumer::{DeliverPolicy, push},
        context::{GetStreamErrorKind, PublishErrorKind},
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream as Handle},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use std::{
    fmt,
    future::IntoFuture,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The first version in which the expected sequence of a subject counts for streams with several replicas: before, of
/// two writes at one time both were taken (<https://github.com/nats-io/nats-server/issues/4320>).
const SAFE_IN_CLUSTERS: (i64, i64, i64) = (2, 9, 21);

/// A connection to NATS servers.
pub(super) struct JetStream {
    pub(super) client: async_nats::Client,
    pub(super) context: jetstream::Context,
    pub(super) connection: watch::Receiver<Connection>,
    /// Which server the newest connection is to: what the library says of it is copied whole, and asked for at each write.
    settled: Mutex<Settled>,
}

/// The server of a connection that has been spoken on.
#[derive(Debug, Default)]
struct Settled {
    /// How many connections had been made with this one.
    connects: u64,
    server: String,
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStream").field("connection", &*self.connection.borrow()).finish_non_exhaustive()
    }
}

fn timestamp(nanoseconds: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn stored(message: jetstream::message::StreamMessage) -> Stored {
    Stored {
        subject: message.subject.to_string(),
        sequence: message.sequence,
        time: timestamp(message.time.unix_timestamp_nanos()),
        payload: message.payload,
    }
}

/// What comes on a subscription, which ends with what had come by `end`. The library forgets it with the next thing that
/// it does, so what the server sends before it knows is lost: what comes within one way there and back, at most.
fn listen(subscriber: Subscriber, end: CancellationToken) -> impl Stream<Item = Message> {
    stream::unfold((subscriber, Some(end)), |(mut subscriber, mut end)| async move {
        loop {
            let Some(ends) = &end else { return Some((subscriber.next().await?, (subscriber, None))) };
            tokio::select! {
                biased;
                () = ends.cancelled() => {
                    end = None;
                    subscriber.drain().await.ok()?;
                }
                message = subscriber.next() => return Some((message?, (subscriber, end))),
            }
        }
    })
}

impl JetStream {
    pub(super) fn new(
        client: async_nats::Client,
        context: jetstream::Context,
        connection: watch::Receiver<Connection>,
    ) -> Self {
        Self { client, context, connection, settled: Mutex::default() }
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections have been made. The library counts one before it says which server it is to.
    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Acquire)
    }

    /// A request that was sent after so many connections had been made was answered by this server. Where there are no
    /// more by now, it is that of the newest.
    fn settle(&self, connects: u64, server: String) {
        let mut settled = self.settled();
        if settled.connects != connects && self.connects() == connects {
            *settled = Settled { connects, server };
        }
    }

    async fn handle(&self, stream: StreamName) -> Result<Handle<()>, NatsError> {
        self.context.get_stream_no_info(stream.as_str()).await.map_err(|e| NatsError::other(stream.as_str(), e))
    }
}

#[async_trait]
impl Transport for JetStream {
    async fn publish(&self, subject: String, payload: Bytes) -> Result<(), NatsError> {
        self.client.publish(subject.clone(), payload).await.map_err(|e| NatsError::other(subject, e))
    }

    async fn request(&self, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, NatsError> {
        use async_nats::RequestErrorKind as Kind;
        let request = async_nats::Request::new().payload(payload).timeout(Some(timeout));
        let reply = self.client.send_request(subject.clone(), request).await;
        reply.map(|message| message.payload).map_err(|error| match error.kind() {
            Kind::NoResponders => NatsError::NoResponders(subject),
            Kind::TimedOut => NatsError::TimedOut(subject),
            _ => NatsError::other(subject, error),
        })
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
        end: CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError> {
        let subscribed = match group {
            Some(group) => self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await,
            None => self.client.subscribe(subject.to_owned()).await,
        };
        let inner = subscribed.map_err(|e| NatsError::other(subject, e))?;
        self.flush().await?;
        let incoming = listen(inner, end).map(|message| Incoming {
            subject: message.subject.to_string(),
            payload: message.payload,
            reply: message.reply.map(|reply| reply.to_string()),
        });
        Ok(incoming.boxed())
    }

    async fn flush(&self) -> Result<(), NatsError> {
        self.client.flush().await.map_err(|e| NatsError::other("flush", e))
    }

    async fn store(&self, subject: String, payload: Bytes, expected: Option<u64>) -> Result<u64, NatsError> {
        // The client library would keep it, and send it to a server that may have lost what it was decided on. Its own
        // word is asked too, since the event that tells of a lost connection comes a little later.
        let connects = self.connects();
        let (server, state) = (self.server(), self.client.connection_state());
        if state != State::Connected || !self.connection.borrow().up {
            return Err(NatsError::other(subject, "there is no connection now"));
        }
        let mut message = PublishMessage::build().payload(payload);
        if let Some(expected) = expected {
            message = message.expected_last_subject_sequence(expected);
        }
        let acknowledged = async { self.context.send_publish(subject.clone(), message).await?.into_future().await };
        match tokio::time::timeout(PUBLISH_TIMEOUT, acknowledged).await {
            Err(_) => Err(NatsError::TimedOut(subject)),
            // The connection may have broken between the two: what the library had not sent then went to the next one.
            Ok(Ok(_)) if self.server() != server => Err(NatsError::TimedOut(subject)),
            Ok(Ok(ack)) => {
                self.settle(connects, server);
                Ok(ack.sequence)
            }
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => NatsError::WrongSequence(subject),
                PublishErrorKind::TimedOut => NatsError::TimedOut(subject),
                _ => NatsError::other(subject, error),
            }),
        }
    }

    async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        match self.handle(stream).await?.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(stored(message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(NatsError::other(subject, error)),
        }
    }

    async fn get(&self, stream: StreamName, sequence: u64) -> Result<Option<Stored>, NatsError> {
        match self.handle(stream).await?.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(stored(message))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(NatsError::other(format!("{} {sequence}", stream.as_str()), error)),
        }
    }

    async fn read(
        &self,
        stream: StreamName,
        filter: &str,
        from: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError> {
        let name = stream.as_str();
        let deliver_policy = match from {
            From::After(0) => DeliverPolicy::All,
            From::After(after) => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            From::LastPerSubject => DeliverPolicy::LastPerSubject,
        };
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: filter.to_owned(),
            deliver_policy,
            ..push::OrderedConfig::default()
        };
        let subscribed = self.client.subscribe(config.deliver_subject.clone()).await;
        let messages = Ordered::new(subscribed.map_err(|e| NatsError::other(name, e))?, self.context.clone());
        let consumer = self.handle(stream).await?.create_consumer(config).await;
        consumer.map_err(|e| NatsError::other(name, e))?;
        Ok(messages.boxed())
    }

    async fn info(&self, stream: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        let found = match self.context.get_stream(stream.as_str()).await {
            Ok(found) => found,
            Err(error) => {
                return match error.kind() {
                    GetStreamErrorKind::JetStream(cause)
                        if cause.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(NatsError::other(stream.as_str(), error)),
                };
            }
        };
        let info = found.cached_info();
        Ok(Some(StreamInfo {
            created: timestamp(info.created.unix_timestamp_nanos()),
            messages: info.state.messages,
            bytes: info.state.bytes,
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            replicas: info.config.num_replicas,
            cluster: info.cluster.as_ref().and_then(|cluster| cluster.name.clone()).filter(|name| !name.is_empty()),
        }))
    }

    async fn purge(&self, stream: StreamName, subject: &str, up_to: u64) -> Result<(), NatsError> {
        let handle = self.handle(stream).await?;
        let purged = handle.purge().sequence(up_to + 1).filter(subject).await;
        purged.map(|_| ()).map_err(|e| NatsError::other(subject, e))
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<Option<String>, NatsError> {
        let name = config.name.as_str();
        let made = self.context.get_or_create_stream(config.to_server()).await;
        let mut stream = made.map_err(|e| NatsError::other(format!("stream {name}"), e))?;
        let found = stream.info().await.map_err(|e| NatsError::other(name, e))?;
        let (major, minor, patch) = SAFE_IN_CLUSTERS;
        if found.config.num_replicas > 1 && !self.client.is_server_compatible(major, minor, patch) {
            let version = self.client.server_info().version;
            return Err(NatsError::other(
                format!("stream {name}"),
                format!(
                    "it has several replicas, and nats-server {version} lets two writers of one be first: \
                     expected {major}.{minor}.{patch} or later on every server"
                ),
            ));
        }
        Ok(config.drift(&found.config))
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    fn server(&self) -> String {
        let connects = self.connects();
        let settled = self.settled();
        if settled.connects == connects { settled.server.clone() } else { self.client.server_info().server_id }
    }

    fn largest_message(&self) -> usize {
        self.client.max_payload()
    }
}
