//! The same in virtual time: a real controller with its caretaker, its world and its purges, over the log of the
//! simulation. Drones are those of the other benchmarks. An hour passes in minutes.

use super::{
    super::{
        drones::{Life, SimulatedDrones},
        memory_of, millis, processor_time_of,
    },
    ANSWER_LIMIT, Growth, start_at_rate,
};
use crate::sim::{Loopback, virtual_clock};
use anyhow::{Context, Result};
use plane_controller::{Parts, Rules, config::SchedulerConfig};
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::ClusterName,
    message::schedule::{FetchRequest, ScheduleRequest},
    nats::{Nats, StreamName},
    task::Tasks,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// How many rows the curve has.
const ROWS: u32 = 12;

/// Starts and ends backends at a steady rate in virtual time, and prints memory and log as they go.
///
/// # Errors
/// Where the runtime or the controller does not come up.
pub fn simulated(growth: Growth) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(run(growth))
}

#[allow(clippy::print_stdout, reason = "this is what it is for")]
async fn run(growth: Growth) -> Result<()> {
    let (real, used) = (std::time::Instant::now(), processor_time_of(std::process::id())?);
    let clock = virtual_clock();
    let (nats, tasks) = (Loopback::connect(clock.clone()), Tasks::new());
    let cluster: ClusterName = "growth.test".parse()?;
    control(&nats, &growth, &clock, &cluster, &tasks).await?;
    let life = Life::Short(growth.life);
    let drones = SimulatedDrones::start(&nats, &cluster, growth.drones, life, &clock, &tasks).await?;
    let request: ScheduleRequest = serde_json::from_value(serde_json::json!({
        "cluster": cluster, "max_idle_secs": 300, "metadata": {}, "executable": {"image": "plane/demo", "env": {}},
    }))?;
    let (done, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (began, lasts) = (Instant::now(), Duration::from_secs_f64(growth.backends as f64 / growth.rate));
    println!("minutes  started  running  process MiB  state entries  state MiB  history entries  real seconds");
    let watching = async {
        let mut curve = Vec::new();
        for row in 1..=ROWS {
            sleep_until(began + lasts * row / ROWS).await;
            let memory = memory_of(std::process::id())?;
            let state = nats.info(StreamName::State).await?.context("no state log")?;
            let history = nats.info(StreamName::Status).await?.map_or(0, |info| info.messages);
            let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
            println!(
                "{:>7.1}  {:>7}  {:>7}  {:>11.1}  {:>13}  {:>9.1}  {history:>15}  {:>12.0}",
                began.elapsed().as_secs_f64() / 60.0,
                done.load(Ordering::Relaxed),
                drones.running.load(Ordering::Relaxed),
                mib(memory),
                state.messages,
                mib(state.bytes),
                real.elapsed().as_secs_f64(),
            );
            curve.push((began.elapsed(), memory, state.messages));
        }
        Ok::<_, anyhow::Error>(curve)
    };
    let ((), curve) = tokio::join!(start_at_rate(&nats, &request, &growth, &done, &refused), watching);
    let used = processor_time_of(std::process::id())?.saturating_sub(used);
    println!("not started                {}", refused.load(Ordering::Relaxed));
    println!("processor time a backend   {:.3} ms, of everything", millis(used) / growth.backends as f64);
    let curve = curve?;
    let settled = curve.iter().find(|(time, ..)| *time > growth.retention + growth.life * 2);
    if let (Some((from, memory, state)), Some((_, last_memory, last_state))) = (settled, curve.last()) {
        println!(
            "since minute {:<13.1} memory × {:.3}",
            from.as_secs_f64() / 60.0,
            *last_memory as f64 / *memory as f64
        );
        println!("                           state entries × {:.3}", *last_state as f64 / *state as f64);
    }
    // To wait for tasks that sleep would only let virtual time pass: they end with the runtime.
    tasks.stop_token().cancel();
    Ok(())
}

/// Starts the controller and returns once it answers.
async fn control(nats: &Nats, growth: &Growth, clock: &Clock, cluster: &ClusterName, tasks: &Tasks) -> Result<()> {
    let retention_secs = u32::try_from(growth.retention.as_secs()).context("the retention is too long")?;
    let scheduler = SchedulerConfig { retention_secs, ..SchedulerConfig::default() };
    let parts = Parts {
        scheduler: Some(scheduler),
        zone: Some(Arc::default()),
        rules: Rules::default(),
        clock: clock.clone(),
        chance: Chance::system(),
    };
    let (own, nats_of_it) = (tasks.clone(), nats.clone());
    tasks.spawn_essential("controller", async move {
        if let Err(error) = plane_controller::control(nats_of_it, parts, &own).await {
            own.fail(&error.to_string());
        }
    });
    let fetch = FetchRequest { cluster: cluster.clone(), lock: "none".parse()? };
    while nats.request(&fetch, ANSWER_LIMIT).await.is_err() {
        anyhow::ensure!(!tasks.failed(), "the controller does not start");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
