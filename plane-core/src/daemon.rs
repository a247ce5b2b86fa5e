//! A daemon's way from its command line to its exit code, which both daemons share.

use crate::{
    config::{DaemonArgs, DaemonConfig, Launch},
    nats::install_crypto_provider,
    task::{Tasks, stop_signal},
    telemetry::{self, LogTap},
};
use std::{fmt::Display, process::ExitCode, time::Duration};

/// Reads the configuration, and runs the daemon until it ends by itself or a signal stops it; then its tasks have
/// `deadline` to finish. The exit code is 0 where the daemon was asked to end and did so in time.
pub fn run<C: DaemonConfig, E: Display>(
    arguments: &DaemonArgs,
    deadline: Duration,
    daemon: impl AsyncFnOnce(&C, &Tasks, LogTap) -> Result<(), E>,
) -> ExitCode {
    let config = match arguments.launch::<C>() {
        Launch::Run(config) => config,
        Launch::Exit(code) => return code,
    };
    let log = telemetry::init();
    install_crypto_provider();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(until_stopped(&config, log, deadline, daemon)),
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            ExitCode::FAILURE
        }
    }
}

async fn until_stopped<C, E: Display>(
    config: &C,
    log: LogTap,
    deadline: Duration,
    daemon: impl AsyncFnOnce(&C, &Tasks, LogTap) -> Result<(), E>,
) -> ExitCode {
    let tasks = Tasks::new();
    let running = daemon(config, &tasks, log);
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
    let ended = tasks.shut_down(deadline).await;
    match outcome {
        Ok(()) if ended && !tasks.failed() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "the daemon ends");
            ExitCode::FAILURE
        }
    }
}
