//! `plane terminate`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, output};
use plane_core::{
    id::{BackendId, ClusterName},
    message::backend::TerminateRequest,
    nats::{Nats, NatsError},
};

pub(crate) async fn run(nats: &Nats, cluster: ClusterName, backend: BackendId, output: Output) -> Result<(), Failure> {
    let request = TerminateRequest { cluster_id: cluster.clone(), backend_id: backend.clone() };
    match nats.request(&request, ANSWER_LIMIT).await {
        Ok(()) => output::print(output, &request, || format!("{backend} is being ended")),
        Err(NatsError::NoResponders(_)) => Err(Failure::NoBackend { cluster, backend }),
        Err(error) => Err(error.into()),
    }
}
