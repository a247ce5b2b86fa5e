//! A server in memory that delays and loses nothing, with the streams of the simulation: for what runs through hours of
//! virtual time.

use super::{
    network::{Read, entry},
    run::lock,
    stream::{Refused, Stream, matches},
    transport::{endless, other, received, stream_of},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    clock::{Clock, TimeSource},
    nats::{Connection, From, Incoming, Nats, NatsError, Stored, StreamConfig, StreamInfo, StreamName, Transport},
};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// The clock of the runtime, which goes on when there is nothing to do.
struct VirtualClock {
    start: Instant,
    began: Timestamp,
}

impl TimeSource for VirtualClock {
    fn wall(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        self.began.saturating_add(since).unwrap_or(Timestamp::MAX)
    }

    fn boot(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The clock of the runtime, from now on.
pub(crate) fn virtual_clock() -> Clock {
    Clock::from_source(VirtualClock { start: Instant::now(), began: Timestamp::now() })
}

/// The prefix of the subjects that answers go to.
const INBOX: &str = "_INBOX.";

/// A server. Connections to it are made by [`Self::connect`].
pub(crate) struct Loopback {
    clock: Clock,
    connection: watch::Sender<Connection>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    streams: BTreeMap<&'static str, Stream>,
    subscriptions: Vec<Subscription>,
    readers: Vec<Reader>,
    inboxes: BTreeMap<u64, oneshot::Sender<Bytes>>,
    next: u64,
    /// Readers of what is no more: their streams of messages stay open.
    forgotten: Vec<Reader>,
    /// What readers are not given yet; nothing where they are given everything at once.
    held_back: Option<VecDeque<(StreamName, Stored)>>,
}

struct Subscription {
    pattern: String,
    /// Nothing where each member of a group is to hear everything.
    group: Option<String>,
    end: CancellationToken,
    sender: mpsc::UnboundedSender<Incoming>,
}

struct Reader {
    stream: StreamName,
    filter: String,
    sender: mpsc::UnboundedSender<Read>,
}

impl fmt::Debug for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loopback")
    }
}

impl Loopback {
    /// A server whose streams have the time of `clock`.
    pub(crate) fn connect(clock: Clock) -> Nats {
        Nats::over(Self::new(clock))
    }

    pub(super) fn new(clock: Clock) -> Arc<Self> {
        let connection = watch::Sender::new(Connection { up: true, generation: 1 });
        Arc::new(Self { clock, connection, inside: Mutex::default() })
    }

    /// From now on readers are not given what is stored.
    pub(super) fn hold_back(&self) {
        self.inside().held_back.get_or_insert_default();
    }

    /// Readers are given the oldest of what was held back.
    pub(super) fn release(&self, count: usize) {
        let mut inside = self.inside();
        let held_back = inside.held_back.iter_mut();
        let oldest: Vec<_> = held_back.flat_map(|held| held.drain(..count.min(held.len()))).collect();
        oldest.iter().for_each(|(stream, message)| inside.give(*stream, message));
    }

    /// Readers are given everything again.
    pub(super) fn release_all(&self) {
        let mut inside = self.inside();
        let held_back = inside.held_back.take().unwrap_or_default();
        held_back.iter().for_each(|(stream, message)| inside.give(*stream, message));
    }

    /// A stream is made anew; whoever read it is given nothing more, and is not told.
    pub(super) fn replace(&self, stream: StreamName) {
        let made = self.clock.wall();
        let mut inside = self.inside();
        inside.streams.insert(stream.as_str(), Stream::new(made, stream == StreamName::State));
        let readers: Vec<_> = inside.readers.extract_if(.., |reader| reader.stream == stream).collect();
        inside.forgotten.extend(readers);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        lock(&self.inside)
    }

    fn with<T>(&self, stream: StreamName, look: impl FnOnce(&mut Stream) -> T) -> Result<T, NatsError> {
        let mut inside = self.inside();
        let found = inside.streams.get_mut(stream.as_str());
        found.map(look).ok_or_else(|| other(stream.as_str(), "there is no such stream"))
    }
}

impl Inside {
    /// Gives a message to those that listen; of a group, to the first. False where nobody does.
    fn route(&mut self, subject: &str, payload: &Bytes, reply: Option<&str>) -> bool {
        self.subscriptions.retain(|one| !one.sender.is_closed() && !one.end.is_cancelled());
        let (mut served, mut heard): (Vec<&str>, bool) = (Vec::new(), false);
        for subscription in self.subscriptions.iter().filter(|one| matches(&one.pattern, subject)) {
            if let Some(group) = &subscription.group {
                if served.contains(&group.as_str()) {
                    continue;
                }
                served.push(group);
            }
            let (subject, payload, reply) = (subject.to_owned(), payload.clone(), reply.map(str::to_owned));
            heard |= subscription.sender.send(Incoming { subject, payload, reply }).is_ok();
        }
        heard
    }

    fn feed(&mut self, stream: StreamName, message: &Stored) {
        match &mut self.held_back {
            Some(held_back) => held_back.push_back((stream, message.clone())),
            None => self.give(stream, message),
        }
    }

    fn give(&mut self, stream: StreamName, message: &Stored) {
        self.readers.retain(|reader| !reader.sender.is_closed());
        let wanted = |reader: &&Reader| reader.stream == stream && matches(&reader.filter, &message.subject);
        for reader in self.readers.iter().filter(wanted) {
            // A reader that is gone is left out next time.
            let _ = reader.sender.send(Ok((entry(message.clone()), 0)));
        }
    }
}

/// What comes, and from `end` on what has come.
fn until(incoming: BoxStream<'static, Incoming>, end: CancellationToken) -> BoxStream<'static, Incoming> {
    let coming = stream::unfold((incoming, end), |(mut incoming, end)| async move {
        let next = tokio::select! {
            biased;
            next = incoming.next() => next,
            () = end.cancelled() => incoming.next().now_or_never().flatten(),
        };
        Some((next?, (incoming, end)))
    });
    coming.boxed()
}

#[async_trait]
impl Transport for Loopback {
    async fn publish(&self, subject: String, payload: Bytes) -> Result<(), NatsError> {
        let mut inside = self.inside();
        match subject.strip_prefix(INBOX).and_then(|number| number.parse().ok()) {
            Some(number) => {
                let waiting: Option<oneshot::Sender<Bytes>> = inside.inboxes.remove(&number);
                // Whoever asked may have stopped waiting.
                if let Some(waiting) = waiting {
                    let _ = waiting.send(payload);
                }
            }
            None => {
                inside.route(&subject, &payload, None);
            }
        }
        Ok(())
    }

    async fn request(&self, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, NatsError> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut inside = self.inside();
            inside.next += 1;
            let number = inside.next;
            if !inside.route(&subject, &payload, Some(&format!("{INBOX}{number}"))) {
                return Err(NatsError::NoResponders(subject));
            }
            inside.inboxes.insert(number, sender);
            number
        };
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => {
                self.inside().inboxes.remove(&number);
                Err(NatsError::TimedOut(subject))
            }
        }
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
        end: CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (pattern, group) = (subject.to_owned(), group.map(str::to_owned));
        self.inside().subscriptions.push(Subscription { pattern, group, end: end.clone(), sender });
        Ok(until(received(receiver), end))
    }

    async fn flush(&self) -> Result<(), NatsError> {
        Ok(())
    }

    async fn store(&self, subject: String, payload: Bytes, expected: Option<u64>) -> Result<u64, NatsError> {
        let Some(stream) = stream_of(&subject) else { return Err(other(&subject, "no stream takes it")) };
        let now = self.clock.wall();
        let mut inside = self.inside();
        let Some(found) = inside.streams.get_mut(stream.as_str()) else {
            return Err(other(&subject, "there is no such stream"));
        };
        match found.store(&subject, &payload, expected, now) {
            Ok(stored) => {
                inside.feed(stream, &stored);
                Ok(stored.sequence)
            }
            Err(Refused::WrongSequence) => Err(NatsError::WrongSequence(subject)),
            Err(Refused::NoStream) => Err(other(&subject, "there is no such stream")),
        }
    }

    async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        self.with(stream, |stream| stream.last(subject).cloned())
    }

    async fn get(&self, stream: StreamName, sequence: u64) -> Result<Option<Stored>, NatsError> {
        self.with(stream, |stream| stream.get(sequence).cloned())
    }

    async fn read(&self, stream: StreamName, filter: &str, from: From) -> Result<BoxStream<'static, Read>, NatsError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let first = self.with(stream, |stream| stream.read(filter, from))?;
        let count = first.len() as u64;
        for (message, number) in first.into_iter().zip(1..) {
            // The receiver is below.
            let _ = sender.send(Ok((entry(message), count - number)));
        }
        self.inside().readers.push(Reader { stream, filter: filter.to_owned(), sender });
        Ok(endless(receiver))
    }

    async fn info(&self, stream: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        Ok(self.inside().streams.get(stream.as_str()).map(Stream::info))
    }

    async fn purge(&self, stream: StreamName, subject: &str, up_to: u64) -> Result<(), NatsError> {
        self.with(stream, |stream| stream.purge(subject, up_to))
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<Option<String>, NatsError> {
        let newest_only = config.name == StreamName::State;
        let now = self.clock.wall();
        self.inside().streams.entry(config.name.as_str()).or_insert_with(|| Stream::new(now, newest_only));
        Ok(None)
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    fn server(&self) -> String {
        "loopback".to_owned()
    }
}
