//! How long a controller takes from its start to its first answer over a long log, beside a bare reading of it.

use super::{memory, millis, process};
use crate::harness::{Cluster, PATIENCE, Settings};
use anyhow::Result;
use futures_util::{StreamExt, stream};
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        backend::{BackendState, PublicStatus},
        schedule::{FetchRequest, FetchResponse},
        state::{Assignment, BackendMessage, ReachedState, StateEntry},
    },
    nats::{Event, Nats, NatsError, StreamName},
};
use std::time::{Duration, Instant};

/// Entries of each backend: its assignment and three states.
const ENTRIES: usize = 4;
const DRONES: usize = 100;
/// Publishes under way at once while the log is filled.
const UNDER_WAY: usize = 2000;

async fn fill(cluster: &Cluster, nats: &Nats, backends: usize) -> Result<()> {
    let now = jiff::Timestamp::now().as_millisecond();
    let ids: Vec<BackendId> = (0..backends).map(|_| BackendId::random()).collect();
    let entries = ids.iter().enumerate().flat_map(|(number, backend)| {
        let drone: Option<DroneId> = format!("drone-{:03}", number % DRONES).parse().ok();
        let states = [BackendState::Loading, BackendState::Starting, BackendState::Ready];
        let assignment =
            drone.map(|drone| BackendMessage::Assignment(Assignment { accepted: true, ..Assignment::to(drone, None) }));
        let states = states.into_iter().map(move |state| {
            BackendMessage::State(ReachedState { state, timestamp: now, reason: None, exit_code: None })
        });
        let name = cluster.name.clone();
        assignment
            .into_iter()
            .chain(states)
            .map(move |message| StateEntry::backend(name.clone(), backend.clone(), message))
    });
    let failed = stream::iter(entries)
        .map(|entry| async move { nats.publish_entry(entry.subject(), &entry).await })
        .buffer_unordered(UNDER_WAY)
        .filter_map(async |stored| stored.err())
        .collect::<Vec<_>>()
        .await;
    anyhow::ensure!(failed.is_empty(), "{} entries were not stored, such as {:?}", failed.len(), failed.first());
    // What the public history lacks, controllers would write now.
    let told = ids.iter().map(|backend| PublicStatus {
        cluster: cluster.name.clone(),
        state: BackendState::Ready,
        backend: backend.clone(),
        time: jiff::Timestamp::now(),
        reason: None,
        exit_code: None,
    });
    let failed = stream::iter(told)
        .map(|status| async move { nats.publish_stored(&status).await })
        .buffer_unordered(UNDER_WAY)
        .filter_map(async |stored| stored.err())
        .count()
        .await;
    anyhow::ensure!(failed == 0, "{failed} states were not stored");
    Ok(())
}

async fn first_answer(cluster: &mut Cluster, nats: &Nats) -> Result<Duration> {
    let request = FetchRequest { cluster: cluster.name.clone(), lock: "nobody's".parse()? };
    let began = Instant::now();
    cluster.controllers[0].start()?;
    loop {
        match nats.request(&request, PATIENCE).await {
            Ok(FetchResponse::NoBackendForLock | FetchResponse::Scheduled { .. }) => return Ok(began.elapsed()),
            Err(NatsError::NoResponders(_)) => tokio::time::sleep(Duration::from_millis(2)).await,
            // While it is not known whether the log is whole, a controller says so; that is an answer.
            Err(NatsError::Fault(_)) => return Ok(began.elapsed()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fills a log with `backends` backends and reads it in turns: bare, and by a controller that starts.
///
/// # Errors
/// Where NATS fails.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn replay(backends: usize, rounds: usize) -> Result<()> {
    let mut cluster = Cluster::start_as(Settings { drones: 0, ..Settings::default() }).await?;
    let nats = cluster.nats.connect().await?;
    let empty = memory(process(&cluster.controllers[0])?)?;
    fill(&cluster, &nats, backends).await?;
    // What a running controller makes of the log as it grows is not measured here.
    cluster.controllers[0].kill();
    let entries = backends * ENTRIES;
    println!("entries                    {entries} of {backends} backends");
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..rounds {
        let began = Instant::now();
        let mut reading = nats.replay(StreamName::State, "state.>").await?;
        let mut count = 0_usize;
        while let Event::Entry(_) = reading.next().await {
            count += 1;
        }
        let bare = began.elapsed();
        anyhow::ensure!(count >= entries, "read {count}");
        drop(reading);
        cluster.controllers[0].kill();
        let plane = first_answer(&mut cluster, &nats).await?;
        println!("  bare reading {:.0} ms, a controller's first answer {:.0} ms", millis(bare), millis(plane));
        best = (best.0.min(bare), best.1.min(plane));
    }
    let used = memory(process(&cluster.controllers[0])?)?.saturating_sub(empty);
    let rate = |time: Duration| entries as f64 / time.as_secs_f64();
    println!("bare reading, best         {:.0} entries/s", rate(best.0));
    println!("to the first answer, best  {:.0} entries/s", rate(best.1));
    println!("ratio                      {:.2}", rate(best.1) / rate(best.0));
    println!("memory a backend           {:.0} bytes", used as f64 / backends as f64);
    Ok(())
}
