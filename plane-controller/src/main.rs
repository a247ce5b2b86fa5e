//! The program `plane-controller`.

use clap::Parser;
use plane_controller::{STOP_DEADLINE, config::ControllerConfig};
use plane_core::{config::DaemonArgs, daemon, version};
use std::process::ExitCode;

/// A decision takes some hundred small allocations, which one thread makes and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Plane's controller: picks a drone for each session backend and keeps the history of all.
#[derive(Debug, Parser)]
#[command(name = "plane-controller", version = version::LONG)]
struct Arguments {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    daemon::run(&arguments.daemon, STOP_DEADLINE, async |config: &ControllerConfig, tasks, log| {
        plane_controller::run(config, tasks, log).await
    })
}
