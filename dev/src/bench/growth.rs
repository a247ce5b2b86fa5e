//! Whether memory and log stay as they are once as much is forgotten as comes.

use super::{
    drones::{Life, SimulatedDrones},
    memory, process, processor_time,
};
use crate::harness::{Cluster, DNS, Settings};
use anyhow::Result;
use futures_util::{StreamExt, stream};
use plane_core::{
    clock::Clock,
    message::schedule::{ScheduleRequest, ScheduleResponse},
    nats::{Nats, StreamName},
    task::Tasks,
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::time::Instant;

mod simulated;

pub use simulated::simulated;

/// Requests that are under way at once, at most.
const UNDER_WAY: usize = 512;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How much is done, in how much time.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Simulated drones.
    pub drones: usize,
    /// Backends that are started, one after the other.
    pub backends: usize,
    /// How many are started each second.
    pub rate: f64,
    /// How long each lives, about.
    pub life: Duration,
    /// How long what ended is remembered.
    pub retention: Duration,
}

async fn measure(cluster: &Cluster, nats: &Nats) -> Result<(u64, u64, u64, u64)> {
    let memory = memory(process(&cluster.controllers[0])?)?;
    let mut sizes = [0; 2];
    for (size, stream) in sizes.iter_mut().zip([StreamName::State, StreamName::Status]) {
        *size = nats.info(stream).await?.map_or(0, |info| info.messages);
    }
    let bytes = nats.info(StreamName::State).await?.map_or(0, |info| info.bytes);
    Ok((memory, sizes[0], sizes[1], bytes))
}

/// Asks for all backends at the rate that is wanted, and counts what came of it.
async fn start_at_rate(
    nats: &Nats,
    request: &ScheduleRequest,
    growth: &Growth,
    done: &AtomicUsize,
    refused: &AtomicUsize,
) {
    let began = Instant::now();
    let paced = stream::iter(0..growth.backends).then(async |number| {
        tokio::time::sleep_until(began + Duration::from_secs_f64(number as f64 / growth.rate)).await;
    });
    let asking = paced.map(|()| async {
        match nats.request(request, ANSWER_LIMIT).await {
            Ok(ScheduleResponse::Scheduled { .. }) => done.fetch_add(1, Ordering::Relaxed),
            Ok(ScheduleResponse::NoDroneAvailable) | Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
    });
    asking.buffer_unordered(UNDER_WAY).count().await;
}

/// Starts and ends backends at a steady rate, and prints memory and log as they go.
///
/// # Errors
/// Where NATS fails.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn growth(growth: Growth) -> Result<()> {
    let tasks = Tasks::new();
    let scheduler = format!("retention_secs = {}\n{DNS}", growth.retention.as_secs());
    let cluster = Cluster::start_as(Settings { drones: 0, scheduler, ..Settings::default() }).await?;
    let drones_side = cluster.nats.connect().await?;
    let life = Life::Short(growth.life);
    let drones =
        SimulatedDrones::start(&drones_side, &cluster.name, growth.drones, life, &Clock::machine(), &tasks).await?;
    let nats = cluster.nats.connect().await?;
    let request = cluster.request(300, &[]);
    let (done, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    println!("seconds  started  running  controller MiB  state entries  state MiB  history entries");
    let starting = start_at_rate(&nats, &request, &growth, &done, &refused);
    let mut curve = Vec::new();
    let watching = async {
        let every = Duration::from_secs_f64(growth.backends as f64 / growth.rate / 20.0);
        loop {
            tokio::time::sleep(every).await;
            let (memory, state, status, bytes) = measure(&cluster, &nats).await?;
            let mib = |bytes: u64| bytes as f64 / 1048576.0;
            println!(
                "{:>7.0}  {:>7}  {:>7}  {:>14.1}  {state:>13}  {:>9.1}  {status:>15}",
                began.elapsed().as_secs_f64(),
                done.load(Ordering::Relaxed),
                drones.running.load(Ordering::Relaxed),
                mib(memory),
                mib(bytes),
            );
            curve.push((began.elapsed(), memory, state));
        }
        #[allow(unreachable_code, reason = "names the type of the errors")]
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! { _ = starting => {}, failed = watching => failed? }
    let flat = curve.iter().filter(|(time, ..)| *time > growth.retention + growth.life * 2);
    let flat: Vec<_> = flat.collect();
    let used = processor_time(process(&cluster.controllers[0])?)?;
    println!("not started                {}", refused.load(Ordering::Relaxed));
    println!("processor time a backend   {:.0} µs", used.as_secs_f64() * 1e6 / growth.backends as f64);
    if let (Some((_, memory, state)), Some((_, last_memory, last_state))) = (flat.first(), flat.last()) {
        println!("since the retention time   memory × {:.2}", *last_memory as f64 / *memory as f64);
        println!("                           state entries × {:.2}", *last_state as f64 / *state as f64);
    }
    tasks.shut_down(Duration::from_secs(5)).await;
    Ok(())
}
