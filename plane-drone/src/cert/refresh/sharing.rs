//! What a drone does with the bucket of its cluster: takes newer pairs out, puts its own newer one in, and orders for all
//! where it is its turn.

use super::{BUCKET_EVERY, BUCKET_WAITING, Duration, Kind, Nats, Pair, RATE_LIMITED_PAUSE, Refresher, State, timing};
use crate::cert::{
    seal::{ClusterKey, SealError, Sealed},
    share::{Found, is_newer},
};
use jiff::Timestamp;

impl Refresher {
    /// Takes from the bucket what is newer, and puts in what is newer there. Gives what was found, `None` where drones do
    /// not share. An error is a time to wait: then nothing may be ordered.
    pub(super) async fn exchange(&mut self, nats: &Nats) -> Result<Option<Found>, Duration> {
        let Some((share, source)) = &mut self.share else { return Ok(None) };
        let mut found = match share.look(nats).await {
            Ok(found) => found,
            Err(error) => {
                self.say(format!("the bucket plane_certificates cannot be read: {error}"));
                return Err(BUCKET_WAITING);
            }
        };
        let source = source.clone();
        let key = match self.blocking(move |_| source.read()).await {
            Ok(key) => key,
            Err(error) => {
                self.complain(&error);
                return Err(BUCKET_EVERY);
            }
        };
        if let Some(sealed) = found.sealed.take()
            && self.open(&key, &sealed).await?
        {
            found.sealed = Some(sealed);
        }
        let Some(own) = self.usable() else { return Ok(Some(found)) };
        if found.sealed.as_ref().is_none_or(|sealed| is_newer(&own, sealed))
            && let Some((share, _)) = &mut self.share
            && let Err(error) = share.put(nats, &found, &key, &own).await
        {
            tracing::warn!(%error, "the certificate could not be put where the other drones find it");
        }
        Ok(Some(found))
    }

    /// Serves what is sealed, if it is newer than what there is. False where it may be replaced by anything.
    async fn open(&mut self, key: &ClusterKey, sealed: &Sealed) -> Result<bool, Duration> {
        let now = self.clock.wall();
        let newer = self.usable().is_none_or(|own| sealed.not_before > own.validity().not_before);
        let foreign = sealed.secret != key.id();
        if sealed.not_after <= now || !(newer || foreign) {
            return Ok(true);
        }
        match sealed.open(key, &self.cluster) {
            Ok(pair) => {
                self.take_up(pair, "from another drone of the cluster").await;
                Ok(true)
            }
            // Those who have the other secret keep it up to date, until nobody does.
            Err(error @ SealError::OtherSecret { .. }) if now < abandoned(sealed) => {
                self.complain(&format!("the certificate in the bucket plane_certificates cannot be opened: {error}"));
                Err(BUCKET_EVERY)
            }
            Err(error) => {
                self.complain(&format!("the certificate in the bucket plane_certificates cannot be opened: {error}"));
                Ok(false)
            }
        }
    }

    /// Orders for all drones of the cluster.
    pub(super) async fn order_for_all(
        &mut self,
        nats: &Nats,
        found: &Found,
        failures: u32,
        current: Option<&Pair>,
    ) -> Duration {
        let Some((share, _)) = &self.share else { return BUCKET_WAITING };
        let mut held = match share.take(nats, found, failures).await {
            Ok(Some(held)) => held,
            Ok(None) => return Duration::ZERO,
            Err(error) => {
                self.say(format!("the lease for ordering cannot be taken: {error}"));
                return BUCKET_WAITING;
            }
        };
        tracing::info!("this drone orders for the cluster");
        let Some(outcome) = share.hold(nats, &mut held, self.order(nats, current)).await else {
            tracing::warn!("another drone took over the ordering");
            return BUCKET_WAITING;
        };
        self.trying.failures = held.failures;
        let failures = held.failures.saturating_add(1);
        let resting = |pause: Duration, problem| State::Resting { failures, pause_secs: pause.as_secs(), problem };
        let state = match outcome {
            Ok(pair) => {
                self.take_up(pair, "ordered for the cluster").await;
                let pause = self.judge();
                if let Err(error) = self.give(nats, found).await {
                    // The next look puts it in; until then nobody else is to order.
                    tracing::warn!(error, "the certificate could not be put where the other drones find it");
                    return BUCKET_WAITING;
                }
                match (pause, self.usable()) {
                    // What is of no use by this machine's clock may well be by others'.
                    (Duration::ZERO, _) | (_, None) => State::Free,
                    (pause, Some(_)) => resting(pause, "what was issued is to be renewed already".to_owned()),
                }
            }
            Err(error) => {
                let least = (error.kind == Kind::RateLimited).then_some(RATE_LIMITED_PAUSE);
                resting(self.failed(&error, least), error.to_string())
            }
        };
        if let Some((share, _)) = &self.share {
            share.leave(nats, held, state).await;
        }
        BUCKET_WAITING
    }

    /// Puts what is served into the bucket.
    async fn give(&mut self, nats: &Nats, found: &Found) -> Result<(), String> {
        let (Some(own), Some((share, source))) = (self.served.current(), &mut self.share) else { return Ok(()) };
        let source = source.clone();
        let read = tokio::task::spawn_blocking(move || source.read().map_err(|error| error.to_string())).await;
        let key = read.map_err(|error| error.to_string()).and_then(|key| key)?;
        share.put(nats, found, &key, &own).await.map_err(|error| error.to_string())
    }

    /// How long until the next look while all is well, different for each drone.
    pub(super) fn bucket_pause(&self) -> Duration {
        BUCKET_EVERY / 2 + BUCKET_EVERY.mul_f64(self.chance.below(1000) as f64 / 2000.0)
    }

    /// Says an error once.
    fn complain(&mut self, what: &str) {
        if self.said.as_deref() != Some(what) {
            tracing::error!(error = what, "the drones of the cluster cannot share a certificate");
            self.said = Some(what.to_owned());
        }
    }
}

/// When a pair that was sealed with another secret counts as nobody's: halfway between the moment when those who have
/// the secret renew it and its end.
fn abandoned(sealed: &Sealed) -> Timestamp {
    let validity = crate::cert::Validity { not_before: sealed.not_before, not_after: sealed.not_after };
    let due = timing::due(validity, None, u64::MAX);
    let half = timing::span(due, sealed.not_after) / 2;
    due.saturating_add(jiff::SignedDuration::try_from(half).unwrap_or_default()).unwrap_or(Timestamp::MAX)
}
