//! What a drone does with the bucket of its cluster: takes newer pairs out, puts its own newer one in, and orders for all
//! where it is its turn.

use super::{Arc, BUCKET_EVERY, BUCKET_WAITING, Duration, Nats, Pair, Refresher, State};
use crate::cert::{
    seal::{ClusterKey, SealError, Sealed},
    share::{Found, Held, abandoned, may_put},
};

/// Tries to put in what was ordered while the lease is held, each after [`BUCKET_WAITING`].
const GIVE_TRIES: u32 = 60;
/// How much is kept of what a CA says, in characters.
const MOST_PROBLEM: usize = 1024;

impl Refresher {
    /// Takes from the bucket what is newer, and puts in what is newer there. Gives what was found, `None` where drones do
    /// not share. An error is a time to wait: then nothing may be ordered.
    pub(super) async fn exchange(&mut self, nats: &Nats) -> Result<Option<Found>, Duration> {
        let Some((share, source)) = &mut self.share else { return Ok(None) };
        let mut found = match share.look(nats).await {
            Ok(found) => found,
            Err(error) => {
                self.fault(&format!(
                    "the bucket plane_certificates cannot be read: {error}; check NATS and what drones may do there"
                ));
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
        if let Some(sealed) = found.sealed.take() {
            // That of another authority is not for this drone. It stays until something newer was ordered.
            if sealed.server != self.authority.server() || self.open(&key, &sealed).await? {
                found.sealed = Some(sealed);
            }
        }
        let Some(own) = self.usable() else { return Ok(Some(found)) };
        if may_put(&own, self.ordered.as_ref() == Some(&own), found.sealed.as_ref())
            && let Some((share, _)) = &self.share
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
            Ok(None) => return BUCKET_WAITING,
            Err(error) => {
                self.fault(&format!("the lease for ordering cannot be taken: {error}; check NATS"));
                return BUCKET_WAITING;
            }
        };
        tracing::info!("this drone orders for the cluster");
        self.begin();
        let issuing = || self.authority.is_issuing();
        let Some((share, _)) = &self.share else { return BUCKET_WAITING };
        let Some(outcome) = share.hold(nats, &mut held, self.order(nats, current), issuing).await else {
            tracing::warn!("another drone takes over the ordering, or may do so: the lease was not renewed in time");
            return BUCKET_WAITING;
        };
        self.trying.failures = held.failures;
        let failures = held.failures.saturating_add(1);
        let resting = |pause: Duration, problem: &str| {
            let problem = problem.chars().take(MOST_PROBLEM).collect();
            State::Resting { failures, pause_secs: pause.as_secs(), problem }
        };
        let state = match outcome {
            Ok(pair) => {
                let pair = self.take_up(pair, "ordered for the cluster").await;
                self.ordered = Some(pair.clone());
                let pause = self.judge(&pair);
                if let Err(error) = self.give(nats, found, &pair, &mut held).await {
                    // The lease ends by itself, and a look that can puts the pair in.
                    tracing::warn!(error, "the certificate could not be put where the other drones find it");
                    return BUCKET_WAITING;
                }
                match pause {
                    Duration::ZERO => State::Free,
                    // By others' clocks it may well be of use: then they do not order before it is due.
                    pause => resting(pause, "what was issued has ended already or is to be renewed; check the clocks"),
                }
            }
            Err(error) => resting(self.failed_order(&error), &error.to_string()),
        };
        if let Some((share, _)) = &self.share {
            share.leave(nats, held, state).await;
        }
        BUCKET_WAITING
    }

    /// Puts what was ordered into the bucket; the lease is kept meanwhile.
    async fn give(&self, nats: &Nats, found: &Found, pair: &Arc<Pair>, held: &mut Held) -> Result<(), String> {
        let Some((share, source)) = &self.share else { return Ok(()) };
        let put = async || {
            let source = source.clone();
            let key = self.blocking(move |_| source.read()).await?;
            share.put(nats, found, &key, pair).await.map_err(|error| error.to_string())
        };
        let giving = async {
            for _ in 1..GIVE_TRIES {
                match put().await {
                    Ok(()) => return Ok(()),
                    Err(error) => tracing::debug!(error, "the certificate is not where the other drones find it"),
                }
                tokio::time::sleep(BUCKET_WAITING).await;
            }
            put().await
        };
        share.hold(nats, held, giving, || true).await.unwrap_or(Ok(()))
    }

    /// How long until the next look while all is well, different for each drone.
    pub(super) fn bucket_pause(&self) -> Duration {
        BUCKET_EVERY / 2 + BUCKET_EVERY.mul_f64(self.chance.below(1000) as f64 / 2000.0)
    }

    /// Says an error once, and again after a while.
    fn complain(&mut self, what: &str) {
        if self.complaint.is_news(what, self.clock.boot()) {
            tracing::error!(error = what, "the drones of the cluster cannot share a certificate");
        }
    }
}
