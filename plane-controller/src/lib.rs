//! The controller: it keeps the world from the state log, turns what drones say into log entries, places backends on
//! drones, and writes the public history.
//!
//! Controllers are equal and many. What one decides stands in the log before it acts on it; `placement` decides
//! without input or clock, the other modules act.

pub mod config;
mod drones;
mod history;
mod intake;
pub mod placement;
mod schedule;
mod view;

use config::ControllerConfig;
use plane_core::{
    message::{
        log::Component,
        state::{HEARTBEAT_SUBJECT, Heartbeat},
    },
    nats::{Nats, NatsError, StreamConfig, StreamName},
    task::Tasks,
    telemetry::LogTap,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use view::View;

/// The queue group that requests to controllers arrive in.
pub const QUEUE_GROUP: &str = "plane-controller";
/// The prefix of a controller's inboxes.
pub const INBOX_PREFIX: &str = "controller.inbox";
/// How long a stopping controller waits for the requests that it works on.
pub const STOP_DEADLINE: Duration = Duration::from_secs(9);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// Runs a controller until its tasks are told to stop.
///
/// # Errors
/// Where the connection cannot be configured or NATS refuses a subscription.
pub async fn run(config: &ControllerConfig, tasks: &Tasks, log: LogTap) -> Result<(), NatsError> {
    let stop = tasks.stop_token();
    let connecting = Nats::connect(&config.nats, "plane-controller", INBOX_PREFIX);
    let nats = tokio::select! { () = stop.cancelled() => return Ok(()), nats = connecting => nats? };
    tasks.spawn("publish the log", {
        let (nats, stop) = (nats.clone(), stop.clone());
        async move {
            stop.run_until_cancelled(log.forward(Component::Controller, nats)).await;
        }
    });
    let replicas = config.scheduler.clone().unwrap_or_default().stream_replicas;
    tokio::select! { () = stop.cancelled() => return Ok(()), () = ensure_streams(&nats, replicas) => {} }

    let view = Arc::new(View::default());
    let history = history::start(&nats, &view, tasks);
    view::follow(&nats, view.clone(), history, tasks).await?;
    tokio::select! { () = stop.cancelled() => return Ok(()), () = view.caught_up() => {} }
    tasks.spawn_essential("heartbeat", heartbeat(nats.clone(), stop.clone()));

    let drones = Arc::new(drones::HeardDrones::default());
    drones::listen(&nats, view.clone(), drones.clone(), tasks).await?;
    let intake = intake::serve(&nats, view.clone(), tasks).await?;
    let schedule = schedule::serve(&nats, view, drones, tasks).await?;
    tracing::info!("controller is ready");
    stop.cancelled().await;
    drop((intake, schedule));
    Ok(())
}

async fn ensure_streams(nats: &Nats, replicas: usize) {
    for name in StreamName::ALL {
        let mut pause = Duration::from_millis(100);
        while let Err(error) = nats.ensure_stream(&StreamConfig::new(name, replicas)).await {
            tracing::warn!(%error, "waiting for JetStream");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

async fn heartbeat(nats: Nats, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = nats.publish_entry(HEARTBEAT_SUBJECT.to_owned(), &Heartbeat { heartbeat: () }).await {
            tracing::debug!(%error, "no heartbeat into the log");
        }
    }
}
