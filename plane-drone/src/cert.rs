//! The certificate that the proxy serves: what a good pair is, where it lies on disk, and how a new one is taken up.
//!
//! `pair` checks, `files` reads and writes, `served` is what handshakes see, `watch` notices files that others change.
//! `refresh` renews it: `timing` says when, `acme` orders with the `account`, `share` lets one drone order for all of its
//! cluster, over NATS, where `seal` hides the key. Nothing here serves connections: that is `proxy::tls`.

mod account;
mod acme;
mod expiry;
pub mod files;
mod lease;
pub mod pair;
pub mod refresh;
mod rest;
pub mod seal;
pub mod served;
mod share;
mod steps;
#[cfg(test)]
pub(crate) mod testing;
mod timing;
pub mod watch;
mod web;

pub use files::{Files, FilesError};
pub use pair::{Pair, PairError, Validity};
pub use served::Served;
pub use share::KeySource;
