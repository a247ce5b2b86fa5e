//! `plane dump-state` and `plane stream-state`: the state log, reduced or as it is.

use crate::{Failure, arguments::Output, command::list, output};
use jiff::Timestamp;
use plane_core::{
    id::{BackendId, ClusterName, DroneId, LockName},
    message::{backend::BackendState, drone::DroneState},
    nats::{Event, Nats, StreamName},
};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr};

#[derive(Serialize)]
struct Dump {
    sequence: u64,
    time: Option<Timestamp>,
    clusters: BTreeMap<ClusterName, ClusterDump>,
}

#[derive(Serialize)]
struct ClusterDump {
    drones: BTreeMap<DroneId, DroneDump>,
    backends: BTreeMap<BackendId, BackendDump>,
    locks: BTreeMap<LockName, LockDump>,
    acme: Vec<String>,
}

#[derive(Serialize)]
struct DroneDump {
    state: Option<DroneState>,
    ip: Option<IpAddr>,
    version: Option<String>,
    features: Vec<String>,
    lost: bool,
    backends: usize,
}

#[derive(Serialize)]
struct BackendDump {
    state: Option<BackendState>,
    drone: Option<DroneId>,
    accepted: bool,
    withdrawn: bool,
    lock: Option<LockName>,
    history: Vec<(BackendState, i64)>,
}

#[derive(Serialize)]
struct LockDump {
    backend: Option<BackendId>,
    token: u64,
}

pub(crate) async fn dump(nats: &Nats) -> Result<(), Failure> {
    let world = list::world(nats).await?;
    let clusters = world.clusters().map(|(name, cluster)| {
        let drones = cluster.drones.iter().map(|(id, drone)| {
            let meta = drone.meta.as_ref();
            let dump = DroneDump {
                state: drone.state().map(|reached| reached.state),
                ip: meta.map(|meta| meta.ip),
                version: meta.map(|meta| meta.version.clone()),
                features: meta.map(|meta| meta.features.clone()).unwrap_or_default(),
                lost: drone.is_lost(),
                backends: cluster.load(id).map_or(0, |load| load.backends.len()),
            };
            (id.clone(), dump)
        });
        let backends = cluster.backends().map(|(id, backend)| {
            let assigned = backend.assignment.as_ref();
            let dump = BackendDump {
                state: backend.state(),
                drone: assigned.map(|assigned| assigned.drone.clone()),
                accepted: assigned.is_some_and(|assigned| assigned.accepted),
                withdrawn: assigned.is_some_and(|assigned| assigned.withdrawn),
                lock: assigned.and_then(|assigned| Some(assigned.lock()?.name.clone())),
                history: backend.history().iter().map(|seen| (seen.state, seen.timestamp)).collect(),
            };
            (id.clone(), dump)
        });
        let locks = cluster.locks.iter().map(|(name, lock)| {
            let backend = lock.holder.as_ref().map(|holder| holder.backend.clone());
            (name.clone(), LockDump { backend, token: lock.token })
        });
        let dump = ClusterDump {
            drones: drones.collect(),
            backends: backends.collect(),
            locks: locks.collect(),
            acme: cluster.acme.clone(),
        };
        (name.clone(), dump)
    });
    let dump = Dump { sequence: world.sequence(), time: world.time(), clusters: clusters.collect() };
    let text = serde_json::to_string_pretty(&dump).map_err(std::io::Error::from)?;
    output::print(Output::Text, &dump, || text)
}

#[derive(Serialize)]
struct Line {
    sequence: u64,
    time: Timestamp,
    subject: String,
    entry: serde_json::Value,
}

pub(crate) async fn stream(nats: &Nats, snapshot: bool, output: Output) -> Result<(), Failure> {
    let mut replay = nats.replay(StreamName::State, "state.>").await?;
    loop {
        match replay.next().await {
            Event::CaughtUp if snapshot => return Ok(()),
            Event::CaughtUp => {}
            Event::Replaced => return Err(replay.replaced().into()),
            Event::Entry(entry) => {
                let content = serde_json::from_slice(&entry.payload).unwrap_or(serde_json::Value::Null);
                let line = Line { sequence: entry.sequence, time: entry.time, subject: entry.subject, entry: content };
                output::print(output, &line, || {
                    format!("{}  {:.3}  {}  {}", line.sequence, line.time, line.subject, line.entry)
                })?;
            }
        }
    }
}
