//! What all threads have counted together.

use super::{BOUNDS_MS, BUCKETS};
use crate::proxy::outcome::Outcome;
use std::{fmt, time::Duration};

/// What all threads have counted together, since the proxy began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Snapshot {
    /// Requests, by the place of their outcome in [`Outcome::CODES`].
    pub(super) outcomes: [u64; Outcome::CODES.len()],
    /// Requests, by the bucket of their duration.
    pub(super) durations: [u64; BUCKETS],
    /// How long all requests took together.
    pub(super) duration: Duration,
    /// Connections of clients that are open.
    pub(super) connections: i64,
    /// Upgraded ones that are open.
    pub(super) tunnels: i64,
    /// Connections of clients that there were.
    pub(super) connections_ever: u64,
    /// Upgraded ones that there were.
    pub(super) tunnels_ever: u64,
    /// Handshakes: done, failed, timed out.
    pub(super) handshakes: [u64; 3],
    /// Bytes from clients, of bodies and upgraded connections.
    pub(super) bytes_in: u64,
    /// Bytes to clients, of bodies and upgraded connections.
    pub(super) bytes_out: u64,
}

impl Snapshot {
    /// How many requests there were.
    pub(super) fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// The outcomes that occurred, and how often.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::CODES.into_iter().zip(self.outcomes).filter(|(_, count)| *count > 0)
    }

    /// The upper bound of the bucket in which this share of all requests had ended, in milliseconds; `None` where there
    /// were no requests, or where they took longer than any bound.
    pub(super) fn within_ms(&self, hundredths: u64) -> Option<u64> {
        let wanted = (self.requests() * hundredths).div_ceil(100).max(1);
        let mut ended = 0;
        BOUNDS_MS.into_iter().zip(self.durations).find_map(|(bound, count)| {
            ended += count;
            (ended >= wanted).then_some(bound)
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests", self.requests())?;
        for (place, (code, count)) in self.outcomes().enumerate() {
            write!(f, "{}{code} {count}", if place == 0 { ": " } else { ", " })?;
        }
        if self.requests() > 0 {
            f.write_str("; half within ")?;
            within(f, self.within_ms(50))?;
            f.write_str(", 99 of 100 within ")?;
            within(f, self.within_ms(99))?;
        }
        let [done, failed, timed_out] = self.handshakes;
        write!(f, "; connections {} open, {} ever", self.connections, self.connections_ever)?;
        write!(f, "; upgraded {} open, {} ever", self.tunnels, self.tunnels_ever)?;
        write!(f, "; handshakes {done} done, {failed} failed, {timed_out} timed out")?;
        write!(f, "; bytes {} in, {} out", self.bytes_in, self.bytes_out)
    }
}

fn within(f: &mut fmt::Formatter<'_>, bound: Option<u64>) -> fmt::Result {
    match bound {
        Some(bound) => write!(f, "{bound} ms"),
        None => f.write_str("more than a minute"),
    }
}
