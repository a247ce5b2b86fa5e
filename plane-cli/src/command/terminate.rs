//! `plane terminate`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, output};
use plane_core::{
    id::{BackendId, ClusterName},
    message::backend::{PublicStatus, TerminateRequest},
    nats::{Nats, NatsError, StreamName},
};

pub(crate) async fn run(nats: &Nats, cluster: ClusterName, backend: BackendId, output: Output) -> Result<(), Failure> {
    let request = TerminateRequest { cluster_id: cluster.clone(), backend_id: backend.clone() };
    match nats.request(&request, ANSWER_LIMIT).await {
        Ok(()) => output::print(output, &request, || format!("{backend} is being ended")),
        Err(NatsError::NoResponders(_)) => Err(what_became_of_it(nats, cluster, backend).await?),
        Err(error) => Err(error.into()),
    }
}

/// Nobody runs it: its public history says why.
async fn what_became_of_it(nats: &Nats, cluster: ClusterName, backend: BackendId) -> Result<Failure, Failure> {
    let last = nats.last(StreamName::Status, &PublicStatus::subject_of(&backend)).await?;
    let last = last.and_then(|stored| serde_json::from_slice::<PublicStatus>(&stored.payload).ok());
    Ok(match last.filter(|last| last.cluster == cluster) {
        None => Failure::NoBackend { cluster, backend },
        Some(PublicStatus { state, time, reason, .. }) if state.is_final() => Failure::OverAlready {
            backend,
            state,
            time,
            reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
        },
        Some(PublicStatus { state, time, .. }) => Failure::DroneSilent { cluster, backend, state, time },
    })
}
