//! The proxy beside nginx and haproxy: the same container behind all, in turns, one row for each thing that users
//! notice. Rounds differ more than contenders do, so what counts is the middle of the rounds' own ratios.

mod bulk;
mod client;
mod connections;
mod echo;
mod figures;
mod idle;
mod latency;
mod peers;
mod rows;
mod stand;
mod tools;
mod turns;
mod watch;

pub use rows::Row;
pub use stand::Http1;

use anyhow::Result;
use clap::ValueEnum;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What is measured, and for how long.
#[derive(Debug, Clone)]
pub struct Proxying {
    /// The rows; all where there are none.
    pub only: Vec<Row>,
    /// Rounds that count; in each, every contender has a turn.
    pub rounds: usize,
    /// Rounds before these, which do not.
    pub thrown_away: usize,
    /// How long a turn lasts, in whole seconds.
    pub lasts: Duration,
    /// Which of Plane's ways to speak HTTP/1.1 take part; what is its default where this is not given.
    pub http1: Option<Http1>,
    /// The size of large bodies, in bytes.
    pub large: u64,
    /// Connections that are held where memory is measured.
    pub idle: usize,
    /// WebSockets that echo at once.
    pub sockets: usize,
}

/// Prints a table for each row.
///
/// # Errors
/// Where a part does not come up. A contender that does not do what a row asks is left out of it, and that is printed.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn proxy(proxying: Proxying) -> Result<()> {
    let rows = match proxying.only.as_slice() {
        [] => Row::value_variants(),
        only => only,
    };
    let measuring = async {
        for row in rows {
            for table in row.measure(&proxying).await? {
                println!("{table}");
            }
        }
        Ok(())
    };
    // What is asked to end takes its containers and peers with it.
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = measuring => outcome,
        _ = terminate.recv() => anyhow::bail!("told to end"),
        _ = tokio::signal::ctrl_c() => anyhow::bail!("told to end"),
    }
}
