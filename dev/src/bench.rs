//! Benchmarks. Of the control plane: real NATS, real controllers, drones that answer at once. Of the proxy: a real drone
//! and a real container. Each prints ratios to what it stands beside.

mod dns;
mod drones;
mod growth;
mod proxy;
mod replay;
mod schedule;

pub use dns::dns;
pub use growth::{Growth, growth, simulated as growth_simulated};
pub use proxy::{Http1, Proxying, Row, proxy};
pub use replay::replay;
pub use schedule::{controllers, schedule};

use crate::harness::{Daemon, Process};
use anyhow::{Context, Result};
use std::time::Duration;

/// Processor time that a process has used, in user and in kernel mode.
fn processor_time(process: &Process) -> Result<Duration> {
    processor_time_of(process.pid())
}

fn processor_time_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces. Fields 14 and 15 (proc(5)) are the 12th and 13th behind it, in ticks of
    // 10 ms.
    let behind = stat.rsplit_once(") ").context("no name in stat")?.1;
    let fields: Vec<&str> = behind.split(' ').collect();
    let ticks = |index: usize| Ok::<u64, anyhow::Error>(fields.get(index).context("too few fields")?.parse()?);
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Memory of a process that is in use, in bytes.
fn memory(process: &Process) -> Result<u64> {
    memory_of(process.pid())
}

fn memory_of(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

fn process(daemon: &Daemon) -> Result<&Process> {
    daemon.process.as_ref().context("it does not run")
}

/// The value below which a share of all lies.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
    sorted.get(index).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
