//! What clients may ask of the proxy at most, and for how long it waits for them and for backends.

use super::files;
use crate::config::proxy::ProxyConfig;
use std::{num::NonZeroU64, time::Duration};

/// The limits of a proxy.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Open connections in all.
    pub(super) connections: usize,
    /// Open connections of one address.
    pub(super) connections_per_address: usize,
    /// Open connections to backends.
    pub(super) backend_connections: usize,
    /// Requests at one time on a connection with HTTP/2.
    pub(super) streams: u32,
    /// Bytes of a request's head.
    pub(super) header_bytes: usize,
    /// Fields in a request's head.
    pub(super) header_count: usize,
    /// Bytes of a request's first line.
    pub(super) request_line_bytes: usize,
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

impl Limits {
    /// As configured. What is not limited is limited by what the types hold.
    /// So many files may be open in all; `None`: no limit.
    pub(super) fn of(config: &ProxyConfig, files: Option<u64>) -> Self {
        let limits = &config.limits;
        let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
        let left = || files::left_for_backends(files, size(limits.connections));
        Self {
            connections: size(limits.connections),
            connections_per_address: limits.connections_per_address().map_or(usize::MAX, size),
            backend_connections: limits.backend_connections().map_or_else(left, size),
            streams: limits.streams_per_connection,
            header_bytes: size(limits.header_bytes),
            header_count: size(limits.header_count),
            request_line_bytes: size(limits.request_line_bytes),
            body_bytes: limits.body_bytes().map_or(u64::MAX, NonZeroU64::get),
            held: size(limits.held_per_backend),
            handshake: limits.handshake(),
            header: limits.header(),
            idle: limits.idle(),
            body: limits.body(),
            send: limits.send(),
            start: config.start_wait(),
            answer: config.answer(),
        }
    }
}
