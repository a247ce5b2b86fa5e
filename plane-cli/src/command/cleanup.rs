//! `plane cleanup`

use crate::{Failure, arguments::Output, output};
use jiff::SignedDuration;
use plane_core::{
    nats::{Event, Nats, StreamName},
    world::World,
};
use serde::Serialize;

#[derive(Serialize)]
struct Cleaned {
    backends: usize,
    drones_and_locks: usize,
}

pub(crate) async fn run(nats: &Nats, older_than: u32, output: Output) -> Result<(), Failure> {
    let mut replay = nats.replay(StreamName::State, "state.>").await?;
    let mut world = World::forgetting_after(SignedDuration::from_secs(older_than.into()));
    while let Event::Entry(entry) = replay.next().await {
        if let Err(error) = world.apply(&entry) {
            eprintln!("warning: {error}");
        }
    }
    let mut cleaned = Cleaned { backends: 0, drones_and_locks: 0 };
    for forgotten in world.take_forgotten() {
        if nats.purge_forgotten(&forgotten).await? {
            match forgotten.backend {
                Some(_) => cleaned.backends += 1,
                None => cleaned.drones_and_locks += 1,
            }
        }
    }
    output::print(output, &cleaned, || {
        format!("forgot {} backends, and {} drones and locks", cleaned.backends, cleaned.drones_and_locks)
    })
}
