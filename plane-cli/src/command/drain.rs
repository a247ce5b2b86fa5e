//! `plane drain`

use crate::{ANSWER_LIMIT, Failure, arguments::Output, output};
use futures_util::{FutureExt, Stream, StreamExt, future::join_all};
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::{DrainRequest, DroneState, DroneStatus},
        subject,
    },
    nats::{Nats, NatsError},
};
use std::time::Duration;

/// A drone that drains and gives no sign of life for so long is not waited for; they come every 4 s.
const SILENT: Duration = Duration::from_secs(20);

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
        let mut statuses = nats.subscribe::<DroneStatus>(&subject::drone(cluster, &drone, "status")).await?;
        match nats.request(&request, ANSWER_LIMIT).await {
            Ok(()) => {
                let says = if wish.drain { "takes no more backends" } else { "takes backends again" };
                output::print(output, &request, || format!("{drone} {says}"))?;
                // What it said before tells nothing, unless it is drained since.
                let mut drained = None;
                while let Some(Some(status)) = statuses.next().now_or_never() {
                    drained = Some(status).filter(|status| status.state == DroneState::Drained);
                }
                draining.push((drone, drained, statuses));
            }
            Err(NatsError::NoResponders(_)) => {
                say_earlier(failure.replace(Failure::NoDroneThere { cluster: cluster.clone(), drone }));
            }
            // The others are drained all the same; all failures are said.
            Err(error) => say_earlier(failure.replace(error.into())),
        }
    }
    if wish.wait {
        let waiting = draining.into_iter().map(|(drone, drained, statuses)| async move {
            let waited = match drained {
                Some(status) => Ok(status),
                None => until_drained(cluster, &drone, statuses).await,
            };
            match waited {
                Ok(status) => Ok(output::print(output, &status, || format!("{drone} is drained"))?),
                Err(failed) => Err(failed),
            }
        });
        for waited in join_all(waiting).await {
            if let Err(failed) = waited {
                say_earlier(failure.replace(failed));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn say_earlier(earlier: Option<Failure>) {
    if let Some(earlier) = earlier {
        eprintln!("error: {earlier}");
    }
}

async fn until_drained(
    cluster: &ClusterName,
    drone: &DroneId,
    mut statuses: impl Stream<Item = DroneStatus> + Unpin,
) -> Result<DroneStatus, Failure> {
    let (cluster, drone) = (cluster.clone(), drone.clone());
    // One may have been on its way when the drone was told.
    let mut takes = 0;
    loop {
        let Ok(Some(status)) = tokio::time::timeout(SILENT, statuses.next()).await else {
            return Err(Failure::DrainSilent { cluster, drone, silent: SILENT });
        };
        takes = if status.state == DroneState::Ready { takes + 1 } else { 0 };
        match status.state {
            DroneState::Drained => return Ok(status),
            DroneState::Stopped => return Err(Failure::DrainStopped { cluster, drone }),
            DroneState::Ready if takes > 1 => return Err(Failure::DrainCancelled { cluster, drone }),
            DroneState::Ready | DroneState::Starting | DroneState::Draining | DroneState::Lost => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::time::Instant;

    /// What becomes of a drone that says this, every 4 s, and then nothing more.
    async fn waited(states: &[DroneState]) -> Result<DroneState, Failure> {
        let (cluster, drone): (ClusterName, DroneId) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        let (name, id) = (cluster.clone(), drone.clone());
        let said = stream::iter(states.to_vec()).then(move |state| {
            let (cluster, drone_id) = (name.clone(), id.clone());
            async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                DroneStatus {
                    drone_id,
                    cluster,
                    drone_version: "1".to_owned(),
                    ready: false,
                    state,
                    running_backends: None,
                    capacity: None,
                    labels: std::collections::BTreeMap::new(),
                }
            }
        });
        let said = Box::pin(said.chain(stream::pending()));
        until_drained(&cluster, &drone, said).await.map(|status| status.state)
    }

    #[tokio::test(start_paused = true)]
    async fn a_drone_is_waited_for_until_it_is_drained_or_will_not_be() {
        use DroneState::{Drained, Draining, Ready, Stopped};
        let began = Instant::now();
        assert!(matches!(waited(&[Ready, Draining, Draining, Drained]).await, Ok(Drained)));
        assert!(matches!(waited(&[Draining, Ready, Ready]).await, Err(Failure::DrainCancelled { .. })));
        assert!(matches!(waited(&[Draining, Stopped]).await, Err(Failure::DrainStopped { .. })));
        assert_eq!(began.elapsed(), Duration::from_secs(16 + 12 + 8));
        assert!(matches!(waited(&[Draining]).await, Err(Failure::DrainSilent { .. })));
        assert_eq!(began.elapsed(), Duration::from_secs(36 + 4) + SILENT);
    }
}
