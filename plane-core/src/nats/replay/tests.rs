use super::*;
use crate::nats::{
    Nats, StreamConfig,
    transport::{From, Incoming, Stored, StreamInfo, Transport},
};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// A stream of which each reading gives one more message, and then nothing. All but the first take a moment to begin.
#[derive(Debug)]
struct OneMoreEachTime {
    readings: AtomicU64,
    /// The second in which it was made.
    made: AtomicI64,
    /// How many messages it says that it ever took.
    taken: AtomicU64,
    connection: watch::Receiver<Connection>,
}

fn not_here<T>() -> Result<T, NatsError> {
    Err(NatsError::other("a test", "it does not do this"))
}

#[async_trait]
impl Transport for OneMoreEachTime {
    async fn publish(&self, _: String, _: Bytes) -> Result<(), NatsError> {
        not_here()
    }
    async fn request(&self, _: String, _: Bytes, _: Duration) -> Result<Bytes, NatsError> {
        not_here()
    }
    async fn subscribe(
        &self,
        _: &str,
        _: Option<&str>,
        _: tokio_util::sync::CancellationToken,
    ) -> Result<BoxStream<'static, Incoming>, NatsError> {
        not_here()
    }
    async fn flush(&self) -> Result<(), NatsError> {
        not_here()
    }
    async fn store(&self, _: String, _: Bytes, _: Option<u64>) -> Result<u64, NatsError> {
        not_here()
    }
    async fn last(&self, _: StreamName, _: &str) -> Result<Option<Stored>, NatsError> {
        Ok(None)
    }
    async fn get(&self, _: StreamName, _: u64) -> Result<Option<Stored>, NatsError> {
        not_here()
    }
    async fn read(
        &self,
        _: StreamName,
        _: &str,
        from: From,
    ) -> Result<BoxStream<'static, Result<(Entry, u64), NatsError>>, NatsError> {
        if self.readings.fetch_add(1, Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        let From::After(after) = from else { return not_here() };
        let (subject, payload, time) = ("state.heartbeat".to_owned(), Bytes::new(), Timestamp::UNIX_EPOCH);
        let entry = Entry { subject, sequence: after + 1, time, payload };
        Ok(futures_util::stream::iter([Ok((entry, 0))]).chain(futures_util::stream::pending()).boxed())
    }
    async fn info(&self, _: StreamName) -> Result<Option<StreamInfo>, NatsError> {
        let created = Timestamp::from_second(self.made.load(Ordering::Relaxed)).unwrap();
        let last_sequence = self.taken.load(Ordering::Relaxed);
        let (messages, bytes, first_sequence, replicas, cluster) = (0, 0, 1, 1, None);
        Ok(Some(StreamInfo { created, messages, bytes, first_sequence, last_sequence, replicas, cluster }))
    }
    async fn purge(&self, _: StreamName, _: &str, _: u64) -> Result<(), NatsError> {
        not_here()
    }
    async fn ensure_stream(&self, _: &StreamConfig) -> Result<Option<String>, NatsError> {
        not_here()
    }
    fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }
    fn server(&self) -> String {
        "a server".to_owned()
    }
}

fn stream(connection: watch::Receiver<Connection>) -> Arc<OneMoreEachTime> {
    let (readings, made, taken) = (AtomicU64::new(0), AtomicI64::new(1), AtomicU64::new(u64::MAX));
    Arc::new(OneMoreEachTime { readings, made, taken, connection })
}

#[tokio::test(start_paused = true)]
async fn reading_again_goes_on_where_nobody_waited_for_its_end() {
    let (sender, connection) = watch::channel(Connection { up: true, generation: 1 });
    let nats = Nats::over(stream(connection));
    let mut replay = nats.replay(StreamName::State, "state.>").await.unwrap();
    assert!(matches!(replay.next().await, Event::CaughtUp));
    assert!(matches!(replay.next().await, Event::Entry(Entry { sequence: 1, .. })));
    sender.send_modify(|connection| connection.generation += 1);
    // It begins to read over the new connection, and is dropped before that stands.
    assert!(replay.next().now_or_never().is_none());
    let next = tokio::time::timeout(Duration::from_secs(10), replay.next()).await;
    assert!(matches!(next, Ok(Event::Entry(Entry { sequence: 2, .. }))), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_the_one_that_was_read_is_read_from_its_beginning_only() {
    let (sender, connection) = watch::channel(Connection { up: true, generation: 1 });
    let stream = stream(connection);
    let nats = Nats::over(stream.clone());
    let mut replay = nats.replay(StreamName::State, "state.>").await.unwrap();
    assert!(matches!(replay.next().await, Event::CaughtUp));
    assert!(matches!(replay.next().await, Event::Entry(Entry { sequence: 1, .. })));
    let changes: [fn(&OneMoreEachTime); 2] =
        [|stream| stream.made.store(2, Ordering::Relaxed), |stream| stream.taken.store(0, Ordering::Relaxed)];
    for change in changes {
        change(&stream);
        sender.send_modify(|connection| connection.generation += 1);
        assert!(matches!(replay.next().await, Event::Replaced));
        let next = tokio::time::timeout(Duration::from_secs(10), replay.next()).await;
        assert!(next.is_err(), "{next:?}");
        replay.rewind().await;
        assert!(matches!(replay.next().await, Event::CaughtUp));
        assert!(matches!(replay.next().await, Event::Entry(Entry { sequence: 1, .. })));
    }
}
