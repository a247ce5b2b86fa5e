//! `plane cleanup`

use crate::{Failure, arguments::Output, output};
use jiff::SignedDuration;
use plane_core::nats::Nats;
use serde::Serialize;

#[derive(Serialize)]
struct Cleaned {
    backends: usize,
    drones_and_locks: usize,
}

pub(crate) async fn run(nats: &Nats, older_than: u32, output: Output) -> Result<(), Failure> {
    let done = nats.clean_up(SignedDuration::from_secs(older_than.into())).await?;
    for error in &done.unreadable {
        eprintln!("warning: {error}");
    }
    let cleaned = Cleaned { backends: done.backends, drones_and_locks: done.drones_and_locks };
    output::print(output, &cleaned, || {
        format!("forgot {} backends, and {} drones and locks", cleaned.backends, cleaned.drones_and_locks)
    })
}
