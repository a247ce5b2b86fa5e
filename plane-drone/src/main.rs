//! The program `plane-drone`.

use clap::Parser;
use plane_core::{
    config::{DaemonArgs, Launch},
    task::{Tasks, stop_signal},
    telemetry, version,
};
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
    let config = match arguments.daemon.launch::<DroneConfig>() {
        Launch::Run(config) => config,
        Launch::Exit(code) => return code,
    };
    let log = telemetry::init();
    plane_core::nats::install_crypto_provider();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(config, log)),
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: DroneConfig, log: telemetry::LogTap) -> ExitCode {
    let tasks = Tasks::new();
    let running = plane_drone::run(&config, &tasks, log);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        signal = stop_signal() => {
            if let Err(error) = signal {
                tracing::error!(%error, "signals cannot be heard");
            }
            tracing::info!("stopping");
            tasks.stop_token().cancel();
            running.await
        }
    };
    let ended = tasks.shut_down(STOP_DEADLINE).await;
    match outcome {
        Ok(()) if ended && !tasks.failed() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "the drone ends");
            ExitCode::FAILURE
        }
    }
}
