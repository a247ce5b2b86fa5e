//! Benchmarks; `dev/bench` builds and runs this in release.

use anyhow::Result;
use clap::{Parser, Subcommand};
use plane_dev::bench::{self, Growth, Http1, Proxying, Row};
use std::time::Duration;

/// Measures the control plane with real NATS and simulated drones, and the proxy with a real container.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Decisions of one controller: throughput, latency, cost
    Schedule {
        /// How long each part lasts
        #[arg(long, default_value_t = 10)]
        secs: u64,
        /// Requests a second where latency is measured
        #[arg(long, default_value_t = 5000.0)]
        rate: f64,
    },
    /// Two and three controllers against one
    Controllers {
        /// How long each part lasts
        #[arg(long, default_value_t = 10)]
        secs: u64,
        /// Requests a second that one controller carries easily
        #[arg(long, default_value_t = 5000.0)]
        rate: f64,
    },
    /// From a controller's start to its first answer, beside a bare reading of the log
    Replay {
        /// Backends in the log, four entries each
        #[arg(long, default_value_t = 250_000)]
        backends: usize,
        /// How often each is measured; the best counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// The name server beside NSD with the same names, asked by dnsperf in turns
    Dns {
        /// Names
        #[arg(long, default_value_t = 10_000)]
        names: usize,
        /// How long each is asked in one turn
        #[arg(long, default_value_t = 5)]
        secs: u64,
        /// Turns
        #[arg(long, default_value_t = 5)]
        turns: usize,
    },
    /// The proxy beside nginx and haproxy, one container behind all, in turns
    Proxy {
        /// Rows, separated by commas; all where this is not given
        #[arg(long, value_delimiter = ',')]
        only: Vec<Row>,
        /// Rounds that count; in each, every contender has a turn
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Rounds before these, which do not count
        #[arg(long, default_value_t = 2)]
        thrown_away: usize,
        /// How long a turn lasts
        #[arg(long, default_value_t = 2)]
        secs: u64,
        /// Who speaks HTTP/1.1 to Plane's clients; its default where this is not given
        #[arg(long)]
        http1: Option<Http1>,
        /// The size of large bodies
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Quiet connections whose memory is measured
        #[arg(long, default_value_t = 2000)]
        idle: usize,
        /// WebSockets that echo at once
        #[arg(long, default_value_t = 1000)]
        sockets: usize,
    },
    /// Memory and log while backends come and go
    Growth {
        /// Simulated drones
        #[arg(long, default_value_t = 10_000)]
        drones: usize,
        /// Backends in all
        #[arg(long, default_value_t = 1_000_000)]
        backends: usize,
        /// Backends a second; 1,500, or in virtual time so many that all are started within an hour
        #[arg(long)]
        rate: Option<f64>,
        /// Seconds that a backend lives, about; 10, or in virtual time 120
        #[arg(long)]
        life: Option<u64>,
        /// Seconds for which what ended is remembered; 60, or in virtual time 900
        #[arg(long)]
        retention: Option<u64>,
        /// In virtual time, over the log of the simulation: an hour passes in minutes
        #[arg(long)]
        simulated: bool,
    },
}

/// How much comes and goes where nothing else is said: backends a second, seconds that each lives, and seconds for which
/// it is remembered.
const GROWTH: (f64, u64, u64) = (1500.0, 10, 60);
const SIMULATED_GROWTH: (f64, u64, u64) = (1_000_000.0 / 3600.0, 120, 900);

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Growth { drones, backends, rate, life, retention, simulated } => {
            let usual = if simulated { SIMULATED_GROWTH } else { GROWTH };
            let growth = Growth {
                drones,
                backends,
                rate: rate.unwrap_or(usual.0),
                life: Duration::from_secs(life.unwrap_or(usual.1)),
                retention: Duration::from_secs(retention.unwrap_or(usual.2)),
            };
            if simulated { bench::growth_simulated(growth) } else { block_on(bench::growth(growth)) }
        }
        What::Schedule { secs, rate } => block_on(bench::schedule(Duration::from_secs(secs), rate)),
        What::Controllers { secs, rate } => block_on(bench::controllers(Duration::from_secs(secs), rate)),
        What::Replay { backends, rounds } => block_on(bench::replay(backends, rounds)),
        What::Dns { names, secs, turns } => block_on(bench::dns(names, Duration::from_secs(secs), turns)),
        What::Proxy { only, rounds, thrown_away, secs, http1, mib, idle, sockets } => {
            let (lasts, large) = (Duration::from_secs(secs), mib * 1024 * 1024);
            block_on(bench::proxy(Proxying { only, rounds, thrown_away, lasts, http1, large, idle, sockets }))
        }
    }
}

fn block_on(bench: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(bench)
}
