//! What Plane's daemons and its command share: identifiers, messages, the NATS client, the world state,
//! configuration and task supervision.
//!
//! This crate decides nothing about containers, proxies or DNS; those live in the daemons.

pub mod chance;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod id;
pub mod message;
pub mod nats;
pub mod task;
pub mod telemetry;
pub mod version;
pub mod world;
