//! The connection that simulated processes are given.

use super::{
    network::{INBOX, Parcel, Read},
    process::{Mode, ProcessId},
    run::{Sim, lock},
    stream::{Refused, Stream},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use plane_core::nats::{
    Connection, From, Incoming, NatsError, PUBLISH_TIMEOUT, Stored, StreamConfig, StreamInfo, StreamName, Transport,
};
use plane_core::world::Entry;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How long the client library waits for JetStream.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long a process makes sure of a subscription again: the library renews those that a broken connection had.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection of one process.
pub(super) struct SimTransport {
    sim: Arc<Sim>,
    process: ProcessId,
}

impl std::fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimTransport({})", self.process.0)
    }
}

/// What becomes of something that the server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The request does not arrive.
    RequestLost,
    /// The answer does not arrive.
    AnswerLost,
    /// The request arrives after nobody waits for it any more.
    Late,
}

/// When a process dies of what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    Never,
    Before,
    After,
}

pub(super) fn other(what: &str, cause: &str) -> NatsError {
    NatsError::Other { what: what.to_owned(), cause: cause.to_owned() }
}

impl SimTransport {
    pub(super) fn new(sim: Arc<Sim>, process: ProcessId) -> Self {
        Self { sim, process }
    }

    /// Decides whether the process dies before or after what it is about to do.
    async fn strike(&self) -> Strike {
        let strike = self.sim.strike(self.process);
        if strike == Strike::Before {
            self.sim.kill(self.process);
            std::future::pending::<()>().await;
        }
        strike
    }

    fn fate(&self) -> Fate {
        let weather = &self.sim.options.weather;
        if lock(&self.sim.network).quiet || !self.sim.dice.hit(weather.lost_calls) {
            return Fate::Done;
        }
        lock(&self.sim.checker).disturb(self.process);
        match self.sim.dice.below(3) {
            0 => Fate::RequestLost,
            1 => Fate::AnswerLost,
            _ => Fate::Late,
        }
    }

    /// Asks the server; `None` where no answer comes in time.
    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        question: impl FnOnce(&Arc<Sim>) -> T + Send + 'static,
    ) -> Option<T> {
        let strike = self.strike().await;
        let fate = self.fate();
        let (sender, receiver) = oneshot::channel();
        let process = self.process;
        let parcel: Parcel = Box::new(move |sim| {
            let answer = question(sim);
            if strike == Strike::After {
                sim.kill(process);
            }
            if matches!(fate, Fate::Done) {
                sim.send_down(process, Box::new(move |_| drop(sender.send(answer))));
            }
        });
        match fate {
            Fate::RequestLost => {}
            Fate::Late => {
                // Nothing that was under way to a server reaches the one that comes after it.
                let server = lock(&self.sim.network).server;
                self.sim.after(limit + self.sim.dice.millis(0, 4000), move |sim| {
                    if server == lock(&sim.network).server {
                        parcel(sim);
                    }
                });
            }
            Fate::Done | Fate::AnswerLost => self.sim.send_up(process, parcel),
        }
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) => {
                tokio::time::sleep(limit).await;
                None
            }
            Err(_) => None,
        }
    }

    async fn ask_stream<T: Send + 'static>(
        &self,
        stream: StreamName,
        question: impl FnOnce(&mut Stream) -> T + Send + 'static,
    ) -> Result<T, NatsError> {
        let name = stream.as_str();
        let asked =
            self.ask(JETSTREAM_TIMEOUT, move |sim| lock(&sim.network).streams.get_mut(name).map(question)).await;
        match asked {
            Some(Some(answer)) => Ok(answer),
            Some(None) => Err(other(name, "there is no such stream")),
            None => Err(other(name, "no answer in time")),
        }
    }
}

impl Sim {
    /// There and back: what was sent before comes before the end.
    fn end_subscription(self: &Arc<Self>, process: ProcessId, number: u64) {
        let end = move |sim: &Arc<Self>| {
            if let Some(subscription) = lock(&sim.network).subscriptions.get_mut(&number) {
                subscription.stands = false;
            }
            sim.send_down(process, Box::new(move |sim| drop(lock(&sim.network).subscriptions.remove(&number))));
        };
        self.send_up(process, Box::new(end));
    }

    /// Whether a process dies of its next step.
    pub(super) fn strike(&self, process: ProcessId) -> Strike {
        if lock(&self.network).quiet || self.processes.mode(process) != Mode::Running {
            return Strike::Never;
        }
        let deadly = lock(&self.checker).is_mortal(process) && self.dice.hit(self.options.weather.deaths);
        match (deadly, deadly && self.dice.hit(500_000)) {
            (false, _) => Strike::Never,
            (true, false) => Strike::Before,
            (true, true) => Strike::After,
        }
    }
}

#[async_trait]
impl Transport for SimTransport {
    async fn publish(&self, subject: String, payload: Bytes) -> Result<(), NatsError> {
        let strike = self.strike().await;
        if let Some(inbox) = subject.strip_prefix(INBOX) {
            super::check::answered(&self.sim, self.process, inbox, &payload);
        }
        self.sim.send_up(
            self.process,
            Box::new(move |sim| {
                sim.route(&subject, &payload, None);
            }),
        );
        if strike == Strike::After {
            self.sim.kill(self.process);
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn request(&self, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, NatsError> {
        let strike = self.strike().await;
        let (sender, receiver) = oneshot::channel();
        let inbox = format!("{}.{}", self.process.0, lock(&self.sim.network).await_answer(self.process, sender));
        let (sent, reply, process) = (subject.clone(), format!("{INBOX}{inbox}"), self.process);
        let twice = lock(&self.sim.checker).may_come_twice(&subject, &payload)
            && !lock(&self.sim.network).quiet
            && self.sim.dice.hit(self.sim.options.weather.duplicates);
        if twice {
            lock(&self.sim.checker).doubled(&reply, &payload);
            let (subject, payload, reply) = (subject.clone(), payload.clone(), reply.clone());
            self.sim.after(self.sim.dice.millis(0, 3000), move |sim| {
                sim.route(&subject, &payload, Some(&reply));
            });
        }
        self.sim.send_up(
            process,
            Box::new(move |sim| {
                if !sim.route(&sent, &payload, Some(&reply)) {
                    sim.answer(&inbox, Err(()));
                }
                if strike == Strike::After {
                    sim.kill(process);
                }
            }),
        );
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(()))) => Err(NatsError::NoResponders(subject)),
            Ok(Err(_)) | Err(_) => Err(NatsError::TimedOut(subject)),
        }
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
        end: CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError> {
        let (number, receiver) = lock(&self.sim.network).subscribe(self.process, subject, group);
        let stands = move |sim: &Arc<Sim>| {
            if let Some(subscription) = lock(&sim.network).subscriptions.get_mut(&number) {
                subscription.stands = true;
            }
        };
        while self.ask(SUBSCRIBE_TIMEOUT, stands).await.is_none() {}
        let (sim, process) = (Arc::downgrade(&self.sim), self.process);
        let mut incoming = received(receiver);
        let mut ending = Box::pin(async move {
            end.cancelled().await;
            if let Some(sim) = sim.upgrade() {
                sim.end_subscription(process, number);
            }
            std::future::pending::<()>().await;
        });
        let coming = stream::poll_fn(move |context| {
            let _ = ending.poll_unpin(context);
            incoming.poll_next_unpin(context)
        });
        Ok(coming.boxed())
    }

    async fn flush(&self) -> Result<(), NatsError> {
        while self.ask(JETSTREAM_TIMEOUT, |_| ()).await.is_none() {}
        Ok(())
    }

    async fn store(&self, subject: String, payload: Bytes, expected: Option<u64>) -> Result<u64, NatsError> {
        let Some(stream) = stream_of(&subject) else { return Err(other(&subject, "no stream takes it")) };
        if !self.connection().borrow().up {
            return Err(other(&subject, "there is no connection now"));
        }
        let expected = expected.filter(|_| !self.sim.options.ignore_expected);
        let (target, process) = (subject.clone(), self.process);
        let stored =
            self.ask(PUBLISH_TIMEOUT, move |sim| sim.store(process, stream, &target, &payload, expected)).await;
        match stored {
            Some(Ok(sequence)) => Ok(sequence),
            Some(Err(Refused::WrongSequence)) => Err(NatsError::WrongSequence(subject)),
            Some(Err(Refused::NoStream)) => Err(other(&subject, "there is no such stream")),
            None => Err(NatsError::TimedOut(subject)),
        }
    }

    async fn last(&self, stream: StreamName, subject: &str) -> Result<Option<Stored>, NatsError> {
        let subject = subject.to_owned();
        self.ask_stream(stream, move |stream| stream.last(&subject).cloned()).await
    }

    async fn get(&self, stream: StreamName, sequence: u64) -> Result<Option<Stored>, NatsError> {
        self.ask_stream(stream, move |stream| stream.get(sequence).cloned()).await
    }

    async fn read(
        &self,
        stream: StreamName,
        filter: &str,
        from: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError> {
        let (filter, process, name) = (filter.to_owned(), self.process, stream.as_str());
        let begun = self.ask(JETSTREAM_TIMEOUT, move |sim| {
            let (first, sender, receiver) = lock(&sim.network).read(process, stream, &filter, from)?;
            for read in first {
                let sender = sender.clone();
                sim.send_down(process, Box::new(move |_| drop(sender.send(read))));
            }
            Some(receiver)
        });
        match begun.await {
            Some(Some(receiver)) => Ok(endless(receiver)),
            Some(None) => Err(other(name, "there is no such stream")),
            None => Err(other(name, "no answer in time")),
        }
    }

    async fn info(&self, stream: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        let name = stream.as_str();
        let asked =
            self.ask(JETSTREAM_TIMEOUT, move |sim| lock(&sim.network).streams.get(name).map(Stream::info)).await;
        asked.ok_or_else(|| other(name, "no answer in time"))
    }

    async fn purge(&self, stream: StreamName, subject: &str, up_to: u64) -> Result<(), NatsError> {
        let subject = subject.to_owned();
        self.ask_stream(stream, move |stream| stream.purge(&subject, up_to)).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<Option<String>, NatsError> {
        let (name, newest_only) = (config.name.as_str(), config.name == StreamName::State);
        let asked = self.ask(JETSTREAM_TIMEOUT, move |sim| {
            let now = sim.time();
            lock(&sim.network).streams.entry(name).or_insert_with(|| Stream::new(now, newest_only));
        });
        asked.await.map(|()| None).ok_or_else(|| other(name, "no answer in time"))
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        match lock(&self.sim.network).links.get(&self.process) {
            Some(link) => link.told.subscribe(),
            None => watch::Sender::new(Connection::default()).subscribe(),
        }
    }

    fn server(&self) -> String {
        lock(&self.sim.network).links.get(&self.process).map_or(0, |link| link.server).to_string()
    }
}

pub(super) fn stream_of(subject: &str) -> Option<StreamName> {
    match subject.split('.').next() {
        Some("state") => Some(StreamName::State),
        Some("backend") if subject.ends_with(".status") => Some(StreamName::Status),
        Some("backend") => Some(StreamName::Logs),
        _ => None,
    }
}

pub(super) fn received(receiver: mpsc::UnboundedReceiver<Incoming>) -> BoxStream<'static, Incoming> {
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
}

/// What is read of a stream. Where the connection breaks nothing more comes, and nothing tells.
pub(super) fn endless(receiver: mpsc::UnboundedReceiver<Read>) -> BoxStream<'static, Read> {
    stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Some(read) => Some((read, receiver)),
            None => std::future::pending().await,
        }
    })
    .boxed()
}
