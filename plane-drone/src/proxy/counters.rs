//! What the proxy has done, in numbers, for metrics: by outcome, never by backend.
//!
//! Each thread counts in a shard of its own, on cache lines that no other thread writes to. Whoever reads adds them up.

mod snapshot;
mod tell;
#[cfg(test)]
mod tests;

pub(super) use snapshot::Snapshot;

use super::outcome::Outcome;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The upper bounds of the buckets for durations, in milliseconds; there is one more bucket for what took longer.
pub(super) const BOUNDS_MS: [u64; 15] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];
const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// There is a connection.
    Done,
    /// The client left, or broke the protocol, or there was no certificate.
    Failed,
    /// It took too long.
    TimedOut,
}

/// The counters of a proxy. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    shards: Arc<[Shard]>,
}

/// What one thread counts. Aligned so that no two shards share a cache line, nor the pair of lines that processors fetch.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    outcomes: [AtomicU64; Outcome::CODES.len()],
    durations: [AtomicU64; BUCKETS],
    duration_us: AtomicU64,
    connections: AtomicI64,
    tunnels: AtomicI64,
    connections_ever: AtomicU64,
    tunnels_ever: AtomicU64,
    handshakes: [AtomicU64; 3],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Counters {
    /// Counters for so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self { shards: (0..threads.max(1)).map(|_| Shard::default()).collect() }
    }

    /// The counter of one thread, by its number. Threads beyond those that were named share with others.
    pub(super) fn of_thread(&self, thread: usize) -> Counter {
        Counter { shards: self.shards.clone(), place: thread % self.shards.len() }
    }

    /// The sums over all threads. What is counted meanwhile may be in it or not.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut sums = Snapshot::default();
        for shard in &*self.shards {
            shard.add_to(&mut sums);
        }
        sums
    }
}

impl Shard {
    fn add_to(&self, sums: &mut Snapshot) {
        let add = |sums: &mut [u64], counts: &[AtomicU64]| {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count.load(Relaxed);
            }
        };
        add(&mut sums.outcomes, &self.outcomes);
        add(&mut sums.durations, &self.durations);
        add(&mut sums.handshakes, &self.handshakes);
        sums.duration += Duration::from_micros(self.duration_us.load(Relaxed));
        sums.connections += self.connections.load(Relaxed);
        sums.tunnels += self.tunnels.load(Relaxed);
        sums.connections_ever += self.connections_ever.load(Relaxed);
        sums.tunnels_ever += self.tunnels_ever.load(Relaxed);
        sums.bytes_in += self.bytes_in.load(Relaxed);
        sums.bytes_out += self.bytes_out.load(Relaxed);
    }
}

/// Where one thread counts.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    shards: Arc<[Shard]>,
    place: usize,
}

impl Counter {
    fn shard(&self) -> Option<&Shard> {
        self.shards.get(self.place)
    }

    /// Counts a request that is over, and how long it took.
    pub(super) fn request(&self, outcome: Outcome, took: Duration) {
        let Some(shard) = self.shard() else { return };
        if let Some(count) = shard.outcomes.get(outcome.place()) {
            count.fetch_add(1, Relaxed);
        }
        if let Some(count) = shard.durations.get(bucket(took)) {
            count.fetch_add(1, Relaxed);
        }
        shard.duration_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts bytes of bodies and upgraded connections: from clients, and to them.
    pub(super) fn bytes(&self, from_clients: u64, to_clients: u64) {
        let Some(shard) = self.shard() else { return };
        shard.bytes_in.fetch_add(from_clients, Relaxed);
        shard.bytes_out.fetch_add(to_clients, Relaxed);
    }

    /// Counts a handshake that is over.
    pub(super) fn handshake(&self, outcome: Handshake) {
        let place = match outcome {
            Handshake::Done => 0,
            Handshake::Failed => 1,
            Handshake::TimedOut => 2,
        };
        if let Some(count) = self.shard().and_then(|shard| shard.handshakes.get(place)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection of a client as open, until what is given is dropped.
    pub(super) fn connection(&self) -> Open {
        if let Some(shard) = self.shard() {
            shard.connections_ever.fetch_add(1, Relaxed);
        }
        Open::new(self.clone(), |shard| &shard.connections)
    }

    /// Counts an upgraded connection as open, until what is given is dropped.
    pub(super) fn tunnel(&self) -> Open {
        if let Some(shard) = self.shard() {
            shard.tunnels_ever.fetch_add(1, Relaxed);
        }
        Open::new(self.clone(), |shard| &shard.tunnels)
    }
}

/// The bucket of a duration.
fn bucket(took: Duration) -> usize {
    let us = took.as_micros();
    BOUNDS_MS.partition_point(|bound| u128::from(*bound) * 1000 < us)
}

/// Something that is open and counted.
#[derive(Debug)]
pub(super) struct Open {
    counter: Counter,
    gauge: fn(&Shard) -> &AtomicI64,
}

impl Open {
    fn new(counter: Counter, gauge: fn(&Shard) -> &AtomicI64) -> Self {
        if let Some(shard) = counter.shard() {
            gauge(shard).fetch_add(1, Relaxed);
        }
        Self { counter, gauge }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(shard) = self.counter.shard() {
            (self.gauge)(shard).fetch_sub(1, Relaxed);
        }
    }
}
