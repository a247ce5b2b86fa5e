//! A daemon's way from its command line to its exit code, which both daemons share.

use crate::{
    config::{DaemonArgs, DaemonConfig, Launch},
    nats::install_crypto_provider,
    task::{Tasks, stop_signal},
    telemetry::{self, LogTap},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
    allow_files();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(until_stopped(&config, log, deadline, daemon)),
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            ExitCode::FAILURE
        }
    }
}

/// Takes as many open files as the system lets this process have: each connection is one, and what is given at first is
/// meant for programs that count theirs with `select`.
fn allow_files() {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }) {
        Ok(()) => tracing::debug!(from = now.current, to = now.maximum, "more files may be open"),
        Err(error) => {
            tracing::warn!(%error, limit = now.current, "no more files may be open than at first; see ulimit -n");
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
