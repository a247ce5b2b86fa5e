//! One controller over a server in memory, in virtual time: for what has to happen in a certain order.

use super::{Loopback, virtual_clock};
use anyhow::{Result, ensure};
use plane_controller::{Parts, Rules, config::SchedulerConfig};
use plane_core::{
    chance::Chance,
    clock::Clock,
    id::ClusterName,
    message::schedule::FetchRequest,
    nats::{Nats, StreamName},
    task::Tasks,
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// How long whoever asks the controller waits.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A controller that answers, and its server.
#[derive(Debug)]
pub struct Stage {
    /// A connection to the server.
    pub nats: Nats,
    /// The cluster.
    pub cluster: ClusterName,
    /// What runs for as long as the stage stands.
    pub tasks: Tasks,
    controller: Tasks,
    clock: Clock,
    server: Arc<Loopback>,
}

/// Plays what has to happen, once the controller answers and has been up for as long as it waits for drones.
///
/// # Errors
/// Where the controller does not start.
pub fn play<T, F: Future<Output = T>>(scenario: impl FnOnce(Arc<Stage>) -> F) -> Result<T> {
    play_as(SchedulerConfig::default(), scenario)
}

/// The same with a controller that schedules as it is told.
///
/// # Errors
/// As [`play`].
pub fn play_as<T, F: Future<Output = T>>(
    scheduler: SchedulerConfig,
    scenario: impl FnOnce(Arc<Stage>) -> F,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let clock = virtual_clock();
        let server = Loopback::new(clock.clone());
        let tasks = Tasks::new();
        let stage = Arc::new(Stage {
            nats: Nats::over(server.clone()),
            cluster: "stage.test".parse()?,
            controller: tasks.child(),
            tasks,
            clock: clock.clone(),
            server,
        });
        stage.control(clock, scheduler).await?;
        sleep(Duration::from_secs(10)).await;
        let outcome = scenario(stage.clone()).await;
        // To wait for tasks that sleep would only let virtual time pass: they end with the runtime.
        stage.tasks.stop_token().cancel();
        Ok(outcome)
    })
}

impl Stage {
    async fn control(&self, clock: Clock, scheduler: SchedulerConfig) -> Result<()> {
        let parts = Parts {
            scheduler: Some(scheduler),
            zone: Some(Arc::default()),
            rules: Rules::default(),
            clock,
            chance: Chance::system(),
        };
        let (nats, tasks) = (self.nats.clone(), self.controller.clone());
        self.controller.spawn_essential("controller", async move {
            if let Err(error) = plane_controller::control(nats, parts, &tasks).await {
                tasks.fail(&error.to_string());
            }
        });
        let fetch = FetchRequest { cluster: self.cluster.clone(), lock: "none".parse()? };
        while self.nats.request(&fetch, PATIENCE).await.is_err() {
            ensure!(!self.tasks.failed(), "the controller does not start");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The clock of the server, and of the controller.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Tells the controller to stop.
    pub fn stop_controller(&self) {
        self.controller.stop_token().cancel();
    }

    /// From now on the controller does not read what is stored.
    pub fn hold_back(&self) {
        self.server.hold_back();
    }

    /// The controller reads so many of the oldest entries that were held back.
    pub fn release(&self, count: usize) {
        self.server.release(count);
    }

    /// The state log is deleted and made anew, and nothing tells the controller.
    pub fn replace_log(&self) {
        self.server.replace(StreamName::State);
    }

    /// The controller reads everything again.
    pub fn release_all(&self) {
        self.server.release_all();
    }
}
