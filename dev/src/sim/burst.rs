//! A burst of requests without faults.

use super::{Rule, clients::Clients, run::Sim};
use futures_util::future::join_all;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const REQUESTS: usize = 30;

/// Asks one controller for thirty backends at once, once it knows its drones; they are spread evenly.
pub(super) async fn ask_at_once(sim: Arc<Sim>) {
    let clients = Clients::new(&sim);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let answers = join_all((0..REQUESTS).map(|_| clients.schedule(None, None))).await;
    let mut spread: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        match answer {
            Ok(Some(got)) => *spread.entry(got.drone.to_string()).or_default() += 1,
            other => sim.violated(Rule::Balance, format!("no drone was had: {other:?}")),
        }
    }
    if spread.len() != 3 || spread.values().any(|count| !(8..=12).contains(count)) {
        sim.violated(Rule::Balance, format!("backends are spread unevenly: {spread:?}"));
    }
}
