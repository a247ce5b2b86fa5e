//! Takes the challenge values of certificate authorities into the log, from where the name servers have them.

use crate::{
    Core, QUEUE_GROUP, answered_in_time,
    intake::unavailable,
    log::{self, Written},
};
use plane_core::{
    message::{
        Answer, Fault, FaultCode,
        drone::SetAcmeRecord,
        state::{AcmeEntry, EntryBody, StateEntry},
    },
    nats::{NatsError, Serving, StreamName},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How many values of a cluster are kept, the newest: an order needs two, and several drones may order at once.
const VALUES: usize = 10;
/// A request is decided within this time of its arrival.
const BUDGET: Duration = Duration::from_millis(7500);

/// Serves drones for as long as the result is kept.
pub(crate) async fn serve(core: &Arc<Core>) -> Result<Serving, NatsError> {
    let own = core.clone();
    let handler = move |request, arrived| {
        let core = own.clone();
        answered_in_time(own.clone(), arrived, async move { set(&core, request, arrived + BUDGET).await })
    };
    core.nats.serve_arrived(&core.tasks, "cluster.*.set_acme_record", Some(QUEUE_GROUP), handler).await
}

async fn set(core: &Core, request: SetAcmeRecord, deadline: Instant) -> Answer<bool> {
    let SetAcmeRecord { cluster, value } = request;
    let subject = StateEntry::acme(cluster.clone(), AcmeEntry { value: value.clone(), values: Vec::new() }).subject();
    let sequence = loop {
        let last = core.nats.last(StreamName::State, &subject).await.map_err(|e| unavailable(&e))?;
        let mut values = last.as_ref().map_or_else(Vec::new, |stored| values(&stored.payload));
        let expected = last.map_or(0, |stored| stored.sequence);
        if values.last() == Some(&value) {
            break expected;
        }
        // One that is set again is the newest again.
        values.retain(|other| *other != value);
        values.push(value.clone());
        values.drain(..values.len().saturating_sub(VALUES));
        let entry = StateEntry::acme(cluster.clone(), AcmeEntry { value: value.clone(), values });
        match log::write(&core.nats, &entry, expected).await.map_err(|e| unavailable(&e))? {
            Written::Won(sequence) => {
                tracing::info!(%cluster, "a challenge value is served");
                break sequence;
            }
            Written::Lost if Instant::now() < deadline => {}
            Written::Lost => {
                let message = format!("too many set values of {cluster} at once; ask again");
                return Err(Fault::new(FaultCode::Unavailable, message));
            }
        }
    };
    core.answerable(sequence, deadline).await?;
    Ok(true)
}

fn values(payload: &[u8]) -> Vec<String> {
    match serde_json::from_slice::<StateEntry>(payload).map(|entry| entry.body) {
        Ok(EntryBody::AcmeMessage(entry)) if entry.values.is_empty() => vec![entry.value],
        Ok(EntryBody::AcmeMessage(entry)) => entry.values,
        Ok(EntryBody::DroneMessage(_) | EntryBody::BackendMessage(_) | EntryBody::LockMessage(_)) | Err(_) => {
            Vec::new()
        }
    }
}
