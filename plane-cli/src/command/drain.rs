//! `plane drain`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, output};
use futures_util::{Stream, StreamExt};
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::{DrainRequest, DroneState, DroneStatus},
        subject,
    },
    nats::{Nats, NatsError},
};

/// What drones are told, and whether to wait until that has come about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) drain: bool,
    pub(crate) wait: bool,
}

pub(crate) async fn run(
    nats: &Nats,
    cluster: &ClusterName,
    drones: Vec<DroneId>,
    wish: Wish,
    output: Output,
) -> Result<(), Failure> {
    let (mut failure, mut draining) = (None, Vec::new());
    for drone in drones {
        let request = DrainRequest { drone: drone.clone(), cluster: cluster.clone(), drain: wish.drain };
        // From before the request: a drone without backends is drained, and says so, before it answers.
        let statuses = nats.subscribe::<DroneStatus>(&subject::drone(cluster, &drone, "status")).await?;
        let failed = match nats.request(&request, ANSWER_LIMIT).await {
            Ok(()) => {
                let says = if wish.drain { "takes no more backends" } else { "takes backends again" };
                output::print(output, &request, || format!("{drone} {says}"))?;
                draining.push((drone, statuses));
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
    if wish.wait {
        for (drone, statuses) in draining {
            let status = until_drained(statuses).await;
            output::print(output, &status, || format!("{drone} is drained"))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn until_drained(mut statuses: impl Stream<Item = DroneStatus> + Unpin) -> DroneStatus {
    loop {
        match statuses.next().await {
            Some(status) if status.state == DroneState::Drained => return status,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
