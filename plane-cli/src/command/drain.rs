//! `plane drain`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, output};
use plane_core::{
    id::{ClusterName, DroneId},
    message::drone::DrainRequest,
    nats::{Nats, NatsError},
};

pub(crate) async fn run(
    nats: &Nats,
    cluster: &ClusterName,
    drones: Vec<DroneId>,
    drain: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut failure = None;
    for drone in drones {
        let request = DrainRequest { drone: drone.clone(), cluster: cluster.clone(), drain };
        let failed = match nats.request(&request, ANSWER_LIMIT).await {
            Ok(()) => {
                let says = if drain { "takes no more backends" } else { "takes backends again" };
                output::print(output, &request, || format!("{drone} {says}"))?;
                continue;
            }
            Err(NatsError::NoResponders(_)) => Failure::NoDroneThere { cluster: cluster.clone(), drone },
            Err(error) => error.into(),
        };
        // The others are drained all the same; all failures are said.
        if let Some(earlier) = failure.replace(failed) {
            eprintln!("error: {earlier}");
        }
    }
    failure.map_or(Ok(()), Err)
}
