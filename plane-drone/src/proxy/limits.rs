//! What clients may ask of the proxy at most, and for how long it waits for them and for backends.

use std::time::Duration;

/// The limits of a proxy.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Open connections in all.
    pub(super) connections: usize,
    /// Open connections of one address.
    pub(super) connections_per_address: usize,
    /// Requests at one time on a connection with HTTP/2.
    pub(super) streams: u32,
    /// Bytes of a request's head.
    pub(super) header_bytes: usize,
    /// Fields in a request's head.
    pub(super) header_count: usize,
    /// Bytes of a request's target.
    pub(super) target_bytes: usize,
    /// Bytes of a request's body.
    pub(super) body_bytes: u64,
    /// Requests held for one backend that starts.
    pub(super) held: usize,
    /// From the connection to the end of the TLS handshake.
    pub(super) handshake: Duration,
    /// From the first byte of a head to its last.
    pub(super) header: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// Without a byte of a request's body.
    pub(super) body: Duration,
    /// Without taking a byte of an answer.
    pub(super) send: Duration,
    /// For a backend to start.
    pub(super) start: Duration,
    /// For a backend to begin its answer, since it had the last byte of the request.
    pub(super) answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            connections: 20_000,
            connections_per_address: usize::MAX,
            streams: 128,
            header_bytes: 65_536,
            header_count: 100,
            target_bytes: 16_384,
            body_bytes: u64::MAX,
            held: 100,
            handshake: secs(10),
            header: secs(30),
            idle: secs(75),
            body: secs(60),
            send: secs(60),
            start: secs(30),
            answer: secs(60),
        }
    }
}
