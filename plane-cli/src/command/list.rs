//! `plane list-drones` and `plane list-backends`: the world as the state log has it now.

use crate::{Failure, arguments::Output, output};
use jiff::Timestamp;
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::{backend::BackendState, drone::DroneState},
    nats::{Event, Nats, StreamName},
    world::World,
};
use serde::Serialize;
use std::net::IpAddr;

pub(crate) async fn world(nats: &Nats) -> Result<World, Failure> {
    let mut replay = nats.replay(StreamName::State, "state.>").await?;
    let mut world = World::default();
    loop {
        match replay.next().await {
            Event::Entry(entry) => {
                if let Err(error) = world.apply(&entry) {
                    eprintln!("warning: {error}");
                }
            }
            Event::CaughtUp => return Ok(world),
            Event::Replaced => return Err(replay.replaced().into()),
        }
    }
}

#[derive(Serialize)]
struct DroneRow {
    cluster: ClusterName,
    drone: DroneId,
    state: Option<DroneState>,
    ip: Option<IpAddr>,
    version: Option<String>,
    backends: usize,
}

pub(crate) async fn drones(nats: &Nats, only: Option<&ClusterName>, output: Output) -> Result<(), Failure> {
    let world = world(nats).await?;
    let mut rows = Vec::new();
    for (name, cluster) in world.clusters().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        for (drone, known) in &cluster.drones {
            rows.push(DroneRow {
                cluster: name.clone(),
                drone: drone.clone(),
                state: known.state().map(|reached| reached.state),
                ip: known.meta.as_ref().map(|meta| meta.ip),
                version: known.meta.as_ref().map(|meta| meta.version.clone()),
                backends: cluster.load(drone).map_or(0, |load| load.backends.len()),
            });
        }
    }
    rows.sort_by(|a, b| (&a.cluster, &a.drone).cmp(&(&b.cluster, &b.drone)));
    output::table(output, &rows, &["CLUSTER", "DRONE", "STATE", "ADDRESS", "BACKENDS", "VERSION"], |row| {
        vec![
            row.cluster.to_string(),
            row.drone.to_string(),
            or_dash(row.state),
            or_dash(row.ip),
            row.backends.to_string(),
            or_dash(row.version.as_ref()),
        ]
    })
}

#[derive(Serialize)]
struct BackendRow {
    cluster: ClusterName,
    backend: BackendId,
    state: Option<BackendState>,
    since: Option<Timestamp>,
    drone: Option<DroneId>,
    reason: Option<String>,
}

pub(crate) async fn backends(
    nats: &Nats,
    only: Option<&ClusterName>,
    all: bool,
    output: Output,
) -> Result<(), Failure> {
    let world = world(nats).await?;
    let mut rows = Vec::new();
    for (name, cluster) in world.clusters().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        for (backend, known) in cluster.backends().filter(|(_, known)| all || known.is_live()) {
            let reached = known.current();
            rows.push(BackendRow {
                cluster: name.clone(),
                backend: backend.clone(),
                state: known.state(),
                since: reached.and_then(|reached| Timestamp::from_millisecond(reached.timestamp).ok()),
                drone: known.assignment.as_ref().map(|assigned| assigned.drone.clone()),
                reason: reached.and_then(|reached| reached.reason().map(str::to_owned)),
            });
        }
    }
    rows.sort_by(|a, b| (&a.cluster, a.since, &a.backend).cmp(&(&b.cluster, b.since, &b.backend)));
    output::table(output, &rows, &["CLUSTER", "BACKEND", "STATE", "SINCE", "DRONE", "REASON"], |row| {
        vec![
            row.cluster.to_string(),
            row.backend.to_string(),
            or_dash(row.state),
            row.since.map_or_else(|| "-".to_owned(), |since| format!("{since:.0}")),
            or_dash(row.drone.as_ref()),
            row.reason.clone().unwrap_or_default(),
        ]
    })
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
