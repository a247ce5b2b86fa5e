//! Tells the controllers what became of backends: every report in the store's outbox, in order per backend, until it
//! is acknowledged. Nothing here waits for a controller but the reports themselves.

use crate::store::Store;
use plane_core::{
    message::{FaultCode, backend::StatusReport},
    nats::{Nats, NatsError},
    task::Tasks,
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Reports that are looked at in one round.
const BATCH: usize = 256;
/// How long a controller may take to acknowledge a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Empties the outbox for as long as the tasks run; at their end, what is left is tried once more.
pub(crate) fn start(nats: &Nats, store: &Store, wake: Arc<Notify>, tasks: &Tasks) {
    let (nats, store, stop) = (nats.clone(), store.clone(), tasks.stop_token());
    tasks.spawn("outbox", async move {
        let mut pause = Duration::from_millis(50);
        loop {
            let round = send_round(&nats, &store).await;
            let wait = match round {
                Round::Empty => {
                    tokio::select! { () = stop.cancelled() => return, () = wake.notified() => {} }
                    continue;
                }
                Round::Sent => {
                    pause = Duration::from_millis(50);
                    continue;
                }
                Round::Stuck => pause,
            };
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(wait) => {} }
        }
        let _ = send_round(&nats, &store).await;
    });
}

enum Round {
    Empty,
    Sent,
    Stuck,
}

async fn send_round(nats: &Nats, store: &Store) -> Round {
    let reports = match store.next_reports(BATCH).await {
        Ok(reports) if reports.is_empty() => return Round::Empty,
        Ok(reports) => reports,
        Err(error) => {
            tracing::error!(%error, "the outbox cannot be read");
            return Round::Stuck;
        }
    };
    let mut backends = HashSet::new();
    let firsts = reports.into_iter().filter(|(_, report)| backends.insert(report.backend.clone()));
    let sent = futures_util::future::join_all(firsts.map(|(sequence, report)| send(nats, store, sequence, report))).await;
    if sent.into_iter().any(|sent| sent) { Round::Sent } else { Round::Stuck }
}

/// Sends one report and strikes it off once it is acknowledged. True where the outbox got shorter.
async fn send(nats: &Nats, store: &Store, sequence: i64, report: StatusReport) -> bool {
    match nats.request(&report, REPORT_TIMEOUT).await {
        Ok(()) => {}
        Err(NatsError::Fault(fault)) if fault.code == FaultCode::BadRequest => {
            tracing::error!(backend = %report.backend, state = %report.state, %fault, "a report was refused for good; dropped");
        }
        Err(error) => {
            tracing::debug!(backend = %report.backend, state = %report.state, %error, "a report waits");
            return false;
        }
    }
    match store.acknowledge(sequence).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "a report cannot be struck off; it will be sent again");
            false
        }
    }
}
