//! Puts the counters into the drone's log: now and then, and when it stops.

use super::Counters;
use plane_core::task::Tasks;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How often, where something changed.
const EVERY: Duration = Duration::from_secs(600);
/// How long the last connections are waited for before the last word, and how often they are looked at.
const LAST_CONNECTIONS: Duration = Duration::from_secs(7);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Counters {
    /// Has the counters logged every ten minutes in which something changed, and once more when the tasks are told to stop.
    pub(in crate::proxy) fn tell(&self, tasks: &Tasks) {
        let (counters, stop) = (self.clone(), tasks.stop_token());
        tasks.spawn("tell the proxy's counters", async move {
            let mut told = counters.snapshot();
            while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
                let now = counters.snapshot();
                if now != told {
                    tracing::info!(counters = %now, "proxy");
                    told = now;
                }
            }
            let all_closed = async {
                while counters.snapshot().connections > 0 {
                    sleep(LOOK_EVERY).await;
                }
            };
            // Those that are still open then are told as open.
            let _ = timeout_at(Instant::now() + LAST_CONNECTIONS, all_closed).await;
            tracing::info!(counters = %counters.snapshot(), "proxy stops");
        });
    }
}
