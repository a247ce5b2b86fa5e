//! Runs many seeds of the simulation of the control plane on all cores; see `dev/soak`.

use anyhow::{Context, Result};
use clap::Parser;
use plane_dev::sim::{self, Options, Violation};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Runs the simulation of the control plane, one seed after the other.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(default_value_t = 1)]
    first: u64,
    /// How many to run at once; all cores where it is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Lets nothing go wrong.
    #[arg(long)]
    calm: bool,
    /// Lets the server lose nothing that it acknowledged.
    #[arg(long)]
    keep_log: bool,
    /// Goes on after a seed that fails.
    #[arg(long)]
    all: bool,
}

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[allow(clippy::print_stdout, reason = "a program for people")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().context("counting cores")?.get();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Vec<Violation>> = Mutex::default();
    let failures = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let told = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.unwrap_or(cores) {
            scope.spawn(|| {
                while arguments.all || failures().is_empty() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let seed = arguments.first + number;
                    let options = if arguments.calm { Options::calm() } else { Options::drawn(seed) };
                    let options = if arguments.keep_log { options.keeping_the_log() } else { options };
                    if let Err(violation) = sim::run(seed, &options) {
                        println!("{violation}");
                        failures().push(violation);
                    }
                    let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    if told.elapsed() >= TELL_EVERY {
                        *told = Instant::now();
                        let rate = count as f64 / began.elapsed().as_secs_f64();
                        println!(
                            "{count} of {} seeds, {rate:.0} a second, {} failed",
                            arguments.seeds,
                            failures().len()
                        );
                    }
                }
            });
        }
    });
    let count = done.load(Ordering::Relaxed);
    println!("{count} seeds from {} on in {:.1} s", arguments.first, began.elapsed().as_secs_f64());
    let failures = failures();
    let Some(first) = failures.iter().min_by_key(|violation| violation.seed) else { return Ok(()) };
    let seed = first.seed;
    anyhow::bail!(
        "{} failed; the first: {first}\nto look into it: PLANE_SIM_TRACE=1 dev/soak sim 1 {seed}",
        failures.len()
    )
}
