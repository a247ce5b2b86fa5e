//! Proves to the authority that the names of an order are ours: the controllers serve values, and it looks at them.

use super::{
    POLL_EVERY, POLL_FACTOR, WORK_TIMEOUT,
    error::{AcmeError, At, Kind, Stage, kind_of},
    polling,
};
use instant_acme::{AuthorizationStatus, ChallengeType, Error, Order, OrderStatus, Problem};
use plane_core::{id::ClusterName, message::drone::SetAcmeRecord, nats::Nats};
use std::time::Duration;
use tokio::time::Instant;

/// How long a controller may take to serve a value.
const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(10);
/// After one controller's answer the others serve a value within this time.
const OTHER_CONTROLLERS: Duration = Duration::from_secs(1);

/// Proves to the authority that the names are ours.
pub(super) async fn prove(order: &mut Order, cluster: &ClusterName, nats: &Nats) -> Result<(), AcmeError> {
    match order.state().status {
        // Earlier proofs still count.
        OrderStatus::Ready => return Ok(()),
        // To poll would be to wait in vain.
        status @ (OrderStatus::Valid | OrderStatus::Invalid) => {
            return Err(format!("the order is {status:?} before it was proved")).at(Stage::Order);
        }
        OrderStatus::Pending | OrderStatus::Processing => {}
    }
    let mut values = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.at(Stage::Order)?;
        // An earlier proof may still count.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::Dns01);
        let challenge = challenge.ok_or("it offers no challenge over DNS (dns-01), which wildcards need");
        values.push(challenge.at(Stage::Order)?.key_authorization().dns_value());
    }
    for value in &values {
        let request = SetAcmeRecord { cluster: cluster.clone(), value: value.clone() };
        let served = nats.request(&request, CONTROLLER_TIMEOUT).await.map_err(|error| error.to_string());
        if !served.at(Stage::Challenge)? {
            return Err("a controller refused").at(Stage::Challenge);
        }
    }
    if !values.is_empty() {
        tokio::time::sleep(OTHER_CONTROLLERS).await;
    }
    for place in 0..order.state().authorizations.len() {
        set_ready(order, place).await?;
        // One after the other: where nobody sees the values, one look fails, and authorities count those.
        if looked_at(order, place).await? != AuthorizationStatus::Valid {
            break;
        }
    }
    match order.poll_ready(&polling()).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(status) => match refusal(order).await {
            Some(problem) => Err(Error::Api(problem)).at(Stage::Validation),
            None => Err(format!("the order is {status:?}")).at(Stage::Validation),
        },
        Err(error) if matches!(kind_of(&error), Kind::BadNonce | Kind::RateLimited) => Err(error).at(Stage::Validation),
        Err(error) => Err(refusal(order).await.map_or(error, Error::Api)).at(Stage::Validation),
    }
}

/// Lets the authority look at a challenge, unless an earlier proof counts.
async fn set_ready(order: &mut Order, place: usize) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    for _ in 0..place {
        authorizations.next().await;
    }
    let Some(authorization) = authorizations.next().await else { return Ok(()) };
    let mut authorization = authorization.at(Stage::Validation)?;
    if authorization.status != AuthorizationStatus::Valid
        && let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01)
    {
        challenge.set_ready().await.at(Stage::Validation)?;
    }
    Ok(())
}

/// Waits until the authority has looked at a challenge, or for as long as it may take.
async fn looked_at(order: &mut Order, place: usize) -> Result<AuthorizationStatus, AcmeError> {
    let mut authorizations = order.authorizations();
    for _ in 0..place {
        authorizations.next().await;
    }
    let Some(authorization) = authorizations.next().await else { return Ok(AuthorizationStatus::Valid) };
    let mut authorization = authorization.at(Stage::Validation)?;
    let (began, mut pause) = (Instant::now(), POLL_EVERY);
    while authorization.status == AuthorizationStatus::Pending && began.elapsed() < WORK_TIMEOUT {
        tokio::time::sleep(pause).await;
        authorization.refresh().await.at(Stage::Validation)?;
        pause = pause.mul_f32(POLL_FACTOR);
    }
    Ok(authorization.status)
}

/// Why the authority did not take the proof, in its own words.
async fn refusal(order: &mut Order) -> Option<Problem> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let found = state.challenges.iter().find_map(|challenge| challenge.error.clone());
        if found.is_some() {
            return found;
        }
    }
    None
}
