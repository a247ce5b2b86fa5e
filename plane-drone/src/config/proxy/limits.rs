//! The section `[proxy.limits]`: what clients may take of the proxy.

use serde::{Deserialize, Serialize};
use std::{num::NonZeroU64, time::Duration};

/// The `[proxy.limits]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections of clients in all.
    pub connections: u32,
    /// Open connections of one address; 0: no limit.
    pub connections_per_address: u32,
    /// Open connections to backends, those that wait for their next request too; 0: as many as the limit of open files
    /// leaves.
    pub backend_connections: u32,
    /// Requests at one time on a connection of HTTP/2.
    pub streams_per_connection: u32,
    /// The head of a request in all, in bytes.
    pub header_bytes: u32,
    /// Fields in the head of a request.
    pub header_count: u32,
    /// The first line of a request, in bytes.
    pub request_line_bytes: u32,
    /// The body of a request, in bytes; 0: no limit.
    pub body_bytes: u64,
    /// From a connection to the end of its TLS handshake, in seconds.
    pub handshake_secs: u32,
    /// From the first byte of a request's head to its last, in seconds.
    pub header_secs: u32,
    /// A connection that is kept open without a request, in seconds.
    pub idle_secs: u32,
    /// A request's body of which no byte comes, in seconds.
    pub body_secs: u32,
    /// An answer of which the client takes no byte, in seconds. Upgraded connections are not meant.
    pub send_secs: u32,
    /// Requests that are held for one backend that starts.
    pub held_per_backend: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 0,
            backend_connections: 0,
            streams_per_connection: 128,
            header_bytes: 65_536,
            header_count: 100,
            request_line_bytes: 16_384,
            body_bytes: 0,
            handshake_secs: 10,
            header_secs: 30,
            idle_secs: 75,
            body_secs: 60,
            send_secs: 60,
            held_per_backend: 100,
        }
    }
}

impl LimitsConfig {
    /// The most that a request's body may have, in bytes; `None`: no limit.
    pub fn body_bytes(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.body_bytes)
    }

    /// The most connections that one address may have open; `None`: no limit.
    pub fn connections_per_address(&self) -> Option<u32> {
        Some(self.connections_per_address).filter(|most| *most > 0)
    }

    /// The most connections to backends that may be open; `None`: what the limit of open files leaves.
    pub fn backend_connections(&self) -> Option<u32> {
        Some(self.backend_connections).filter(|most| *most > 0)
    }

    /// [`Self::handshake_secs`] as a duration.
    pub fn handshake(&self) -> Duration {
        secs(self.handshake_secs)
    }

    /// [`Self::header_secs`] as a duration.
    pub fn header(&self) -> Duration {
        secs(self.header_secs)
    }

    /// [`Self::idle_secs`] as a duration.
    pub fn idle(&self) -> Duration {
        secs(self.idle_secs)
    }

    /// [`Self::body_secs`] as a duration.
    pub fn body(&self) -> Duration {
        secs(self.body_secs)
    }

    /// [`Self::send_secs`] as a duration.
    pub fn send(&self) -> Duration {
        secs(self.send_secs)
    }
}

fn secs(secs: u32) -> Duration {
    Duration::from_secs(secs.into())
}
