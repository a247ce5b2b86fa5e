//! The certificate that the proxy serves: what a good pair is, where it lies on disk, and how a new one is taken up.
//!
//! `pair` checks, `files` reads and writes, `served` is what handshakes see, `watch` notices files that others change.
//! Nothing here serves connections: that is `proxy::tls`.

mod expiry;
pub mod files;
pub mod pair;
pub mod served;
mod steps;
#[cfg(test)]
mod testing;
pub mod watch;

pub use files::{Files, FilesError};
pub use pair::{Pair, PairError, Validity};
pub use served::Served;
