//! `plane mark-backend-lost`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, command::list, output};
use plane_core::{
    id::BackendId,
    message::backend::{BackendState, StatusReport},
    nats::Nats,
};

pub(crate) async fn run(nats: &Nats, backend: BackendId, output: Output) -> Result<(), Failure> {
    let world = list::world(nats).await?;
    let known = world.clusters().find_map(|(name, cluster)| {
        let known = cluster.backend(&backend)?;
        let drone = known.assignment.as_ref()?.drone.clone();
        Some((name.clone(), drone, known.current().cloned(), known.is_withdrawn()))
    });
    let Some((cluster, drone, current, withdrawn)) = known else { return Err(Failure::UnknownBackend(backend)) };
    if let Some(ended) = current.filter(|current| current.state.is_final()) {
        let reason = ended.reason().unwrap_or("no reason given").to_owned();
        return Err(Failure::Ended { backend, state: ended.state.to_string(), reason });
    }
    // Controllers answer such a report and ignore it.
    if withdrawn {
        return Err(Failure::NeverStarted(backend));
    }
    // Without a reason, which a drone would give: controllers make sure first that the drone does not answer for it.
    let report = StatusReport {
        cluster,
        state: BackendState::Lost,
        backend,
        time: jiff::Timestamp::now(),
        drone,
        reason: None,
        exit_code: None,
    };
    nats.request(&report, ANSWER_LIMIT).await?;
    output::print(output, &report, || format!("{} is Lost", report.backend))
}
