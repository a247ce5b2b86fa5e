//! The program `plane-drone`.

use clap::Parser;
use plane_core::{config::DaemonArgs, daemon, version};
use plane_drone::{STOP_DEADLINE, config::DroneConfig};
use std::process::ExitCode;

/// Plane's drone: runs session backends in containers and carries people's requests to them.
#[derive(Debug, Parser)]
#[command(name = "plane-drone", version = version::LONG)]
struct Arguments {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    daemon::run(&arguments.daemon, STOP_DEADLINE, async |config: &DroneConfig, tasks, log| {
        plane_drone::run(config, tasks, log).await
    })
}
