//! Tells what became of backends: every message of the store's outbox, in order per backend, until it is acknowledged.
//! Nothing but the messages themselves waits for that.

use crate::store::{Outgoing, Store};
use plane_core::{
    message::FaultCode,
    nats::{Nats, NatsError},
    task::Tasks,
};
use std::{collections::HashSet, time::Duration};

/// Messages that are looked at in one round.
const BATCH: u32 = 256;
/// How long a controller may take to acknowledge a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Empties the outbox for as long as the tasks run; at their end, what is left is tried once more.
pub(crate) fn start(nats: &Nats, store: &Store, tasks: &Tasks) {
    let (nats, store, stop) = (nats.clone(), store.clone(), tasks.stop_token());
    let wake = store.outbox_news();
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
    let waiting = match store.next_outgoing(BATCH).await {
        Ok(waiting) if waiting.is_empty() => return Round::Empty,
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::error!(%error, "the outbox cannot be read");
            return Round::Stuck;
        }
    };
    let mut backends = HashSet::new();
    let firsts = waiting.into_iter().filter(|(_, message)| backends.insert(message.backend().clone()));
    let sent = futures_util::future::join_all(firsts.map(|(number, message)| send(nats, number, message))).await;
    let sent: Vec<i64> = sent.into_iter().flatten().collect();
    if sent.is_empty() {
        return Round::Stuck;
    }
    match store.acknowledge(sent).await {
        Ok(()) => Round::Sent,
        Err(error) => {
            tracing::error!(%error, "what has been told cannot be struck off; it will be told again");
            Round::Stuck
        }
    }
}

/// Sends one message, and gives its number once it is acknowledged.
async fn send(nats: &Nats, number: i64, message: Outgoing) -> Option<i64> {
    let sent = match &message {
        Outgoing::Status(report) => nats.request(report, REPORT_TIMEOUT).await,
        Outgoing::Log(line) => nats.publish_stored(line).await.map(|_| ()),
    };
    match sent {
        Ok(()) => Some(number),
        Err(NatsError::Fault(fault)) if fault.code == FaultCode::BadRequest => {
            tracing::error!(backend = %message.backend(), %fault, "a report was refused for good; dropped");
            Some(number)
        }
        Err(error) => {
            tracing::debug!(backend = %message.backend(), %error, "a message of the outbox waits");
            None
        }
    }
}
