//! Which id a new backend may have. One is given out once, for as long as anything tells of it.

use crate::{Core, history, intake::unavailable};
use plane_core::{
    id::{BackendId, ClusterName},
    message::{Answer, Fault, FaultCode, schedule::ScheduleRequest},
};

/// The id of a new backend, and what its assignment has to expect. One that the client chose may have been used before
/// the log lost something: the public history tells of that.
pub(super) async fn id_for(core: &Core, request: &ScheduleRequest) -> Answer<(BackendId, u64)> {
    let backend = match &request.backend_id {
        Some(chosen) => chosen.clone(),
        None => BackendId::drawn(&core.chance),
    };
    let expected = free_id(core, &request.cluster, &backend)?;
    if request.backend_id.is_some() {
        let told = history::told(&core.nats, &backend).await.map_err(|e| unavailable(&e))?;
        if told.is_some() {
            return Err(in_use(&backend));
        }
    }
    Ok((backend, expected))
}

/// What a new assignment of this id has to expect: 0, or the sequence under which it was taken back before anything of
/// it came to be.
fn free_id(core: &Core, cluster: &ClusterName, backend: &BackendId) -> Result<u64, Fault> {
    core.view.read(|world| {
        let Some(known) = world.backend(cluster, backend) else { return Ok(0) };
        let Some(assigned) = known.assignment.as_ref().filter(|assigned| assigned.withdrawn) else {
            return Err(in_use(backend));
        };
        let holds = assigned
            .lock()
            .and_then(|held| world.lock(cluster, &held.name))
            .is_some_and(|lock| lock.holder.as_ref().is_some_and(|holder| holder.backend == *backend));
        if holds || known.current().is_some() { Err(in_use(backend)) } else { Ok(assigned.sequence) }
    })
}

pub(super) fn in_use(backend: &BackendId) -> Fault {
    let message = format!("backend_id: expected one that is not in use; {backend} is, or was lately");
    Fault::new(FaultCode::BackendIdInUse, message)
}
