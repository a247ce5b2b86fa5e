//! What a contender uses of the machine, read from the kernel for its processes alone.

use anyhow::{Context, Result};
use std::{fs, time::Duration};

/// The processes of one contender.
#[derive(Debug, Clone)]
pub(super) struct Processes(Vec<u32>);

impl Processes {
    /// A process that leads a group, and all that it started.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub(super) fn of_group(leader: u32) -> Result<Self> {
        let mut found = Vec::new();
        for (pid, stat) in all()?.filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))) {
            // Behind the name: state, parent, group (proc(5)).
            let group = stat.rsplit_once(") ").and_then(|(_, behind)| behind.split(' ').nth(2)?.parse::<u32>().ok());
            if group == Some(leader) {
                found.push(pid);
            }
        }
        anyhow::ensure!(!found.is_empty(), "process {leader} has ended");
        Ok(Self(found))
    }

    /// Processor time of all their threads so far, to the nanosecond: the kernel samples what stat(5) says.
    ///
    /// # Errors
    /// Where one has ended.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        let mut nanos = 0;
        for pid in &self.0 {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} ended"))?;
            for thread in threads.flatten() {
                // A thread may end meanwhile.
                let Ok(stat) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
                nanos += stat.split(' ').next().context("an empty schedstat")?.parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Memory of their own that is in use, in KiB; what the kernel holds for their sockets is not in it.
    ///
    /// # Errors
    /// Where one has ended.
    pub(super) fn memory_kib(&self) -> Result<u64> {
        self.0.iter().try_fold(0, |sum, pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
            Ok(sum + line.trim().trim_end_matches("kB").trim().parse::<u64>()?)
        })
    }
}

/// Whether a child has ended, though nobody may have asked for its status yet.
pub(super) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, behind)| behind.starts_with('Z'))
}

/// Refuses where a proxy of an earlier run is left. It would take processor time, or by its port every other connection.
///
/// # Errors
/// Where there is one.
pub(super) fn nothing_left(folder_prefix: &str) -> Result<()> {
    let left = |pid: &u32| {
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(folder_prefix))
    };
    let left: Vec<String> = all()?.filter(left).map(|pid| pid.to_string()).collect();
    anyhow::ensure!(left.is_empty(), "proxies of an earlier run are left; end them first: kill {}", left.join(" "));
    Ok(())
}

/// The numbers of all processes.
fn all() -> Result<impl Iterator<Item = u32>> {
    Ok(fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// How busy the processors have been since they were started, in ticks: all of the time, and what of it was not idle.
fn ticks() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().context("an empty stat")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; the rest is in user and nice too.
    let fields: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: u64 = fields.iter().sum();
    Ok((all, all - fields.iter().skip(3).take(2).sum::<u64>()))
}

/// The share of the processors that others use, looked at for a moment.
///
/// # Errors
/// Where /proc cannot be read.
pub(super) async fn busy() -> Result<f64> {
    let before = ticks()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = ticks()?;
    Ok((after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64)
}
