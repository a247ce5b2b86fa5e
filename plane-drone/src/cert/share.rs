//! The bucket in which the drones of a cluster share one certificate: reading it, taking the lease, putting a pair in.
//! What follows from what is found is decided in `lease` and `refresh`.

use super::{
    Pair, Validity,
    lease::{Lease, State, Turn, Writer, turn},
    seal::{ClusterKey, ClusterKeyError, SealError, Sealed},
    timing,
};
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    clock::Clock,
    config::Secret,
    id::ClusterName,
    nats::{Nats, NatsError, SharedKey},
};
use std::{path::PathBuf, time::Duration};

/// How often a lease is renewed while it lasts.
const RENEWALS: u32 = 4;
/// Tries to put a pair in whose outcome is unknown, or that another write was before.
const PUT_TRIES: usize = 4;

/// Where the cluster's secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// From the configuration.
    Given(Secret),
    /// From a file, which is read anew each time.
    File(PathBuf),
}

impl KeySource {
    /// The secret. Blocks on the disk.
    pub(super) fn read(&self) -> Result<ClusterKey, ClusterKeyError> {
        match self {
            Self::Given(secret) => ClusterKey::parse(secret.expose()),
            Self::File(path) => ClusterKey::read(path),
        }
    }
}

/// The bucket, as one drone sees it.
#[derive(Debug)]
pub(super) struct Share {
    cluster: ClusterName,
    /// The URL of the authority.
    server: String,
    own: Writer,
    limit: Duration,
    clock: Clock,
    pair: SharedKey,
    lease: SharedKey,
    /// The revision of the lease that was seen last, and since when.
    seen: Option<(u64, Duration)>,
    /// Nothing was seen before.
    fresh: bool,
    /// The bucket was there.
    made: bool,
}

/// What was found in the bucket.
#[derive(Debug)]
pub(super) struct Found {
    /// The sealed pair.
    pub(super) sealed: Option<Sealed>,
    version: u64,
    /// Whether it is this drone's turn to order.
    pub(super) turn: Turn,
    /// What the last order failed with, where it did.
    pub(super) problem: Option<String>,
    pair_revision: u64,
    lease_revision: u64,
}

/// Why a pair could not be put in.
#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Those who have another secret keep it up to date.
    #[error("one that was sealed with another secret was put in meanwhile; give all drones the same cert.shared_key")]
    Foreign,
    #[error("others wrote to the bucket each time")]
    Crowded,
}

impl Share {
    pub(super) fn new(cluster: ClusterName, server: String, own: Writer, limit: Duration, clock: Clock) -> Self {
        let (pair, lease) = (SharedKey::new(&cluster, "pair"), SharedKey::new(&cluster, "lease"));
        Self { cluster, server, own, limit, clock, pair, lease, seen: None, fresh: true, made: false }
    }

    /// Reads the bucket, which is made where it is missing.
    pub(super) async fn look(&mut self, nats: &Nats) -> Result<Found, NatsError> {
        let found = self.read(nats).await;
        if found.is_err() {
            // A holder may have renewed its lease unseen.
            self.seen = None;
            self.made = false;
        }
        found
    }

    async fn read(&mut self, nats: &Nats) -> Result<Found, NatsError> {
        if !self.made {
            nats.ensure_shared().await?;
            self.made = true;
        }
        // The lease first: who takes it as it was read here knows that no pair was put in since.
        let lease = nats.shared(&self.lease).await?;
        let now = self.clock.boot();
        let since = match self.seen {
            Some((revision, since)) if revision == lease.revision => since,
            _ => now,
        };
        self.seen = Some((lease.revision, since));
        let pair = nats.shared(&self.pair).await?;
        let sealed = pair.value.and_then(|value| readable::<Sealed>(&value, "pair"));
        let standing = lease.value.and_then(|value| readable::<Lease>(&value, "lease"));
        let turn = turn(standing.as_ref(), &self.own, now.saturating_sub(since), self.limit, self.fresh);
        self.fresh = false;
        let problem = match standing.map(|lease| lease.state) {
            Some(State::Resting { problem, .. }) => Some(problem),
            Some(State::Held { .. } | State::Free) | None => None,
        };
        let version = sealed.as_ref().map_or(0, |sealed| sealed.version);
        Ok(Found { sealed, version, turn, problem, pair_revision: pair.revision, lease_revision: lease.revision })
    }

    /// Takes the lease; `None` where somebody else was first.
    pub(super) async fn take(&self, nats: &Nats, found: &Found, failures: u32) -> Result<Option<Held>, NatsError> {
        match nats.share(&self.lease, &self.entry(State::Held { failures }), found.lease_revision).await {
            Ok(revision) => Ok(Some(Held { revision, failures, renewed: self.clock.boot() })),
            Err(NatsError::WrongSequence(_)) => Ok(None),
            // Where it was written after all, the next look finds it as this drone's own.
            Err(error) => Err(error),
        }
    }

    /// Works while the lease is kept. `None` where it was lost to somebody else or may have been, since it could not be
    /// renewed for long: that ends the work, unless it is `committed` to, and ends best by being done.
    pub(super) async fn hold<T>(
        &self,
        nats: &Nats,
        held: &mut Held,
        work: impl Future<Output = T>,
        committed: impl Fn() -> bool,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return Some(outcome),
                () = tokio::time::sleep(self.limit / RENEWALS) => {
                    if !self.renew(nats, held).await && !committed() {
                        return None;
                    }
                }
            }
        }
    }

    /// Renews the lease; false where it is another's, or may be before the next renewal: where NATS does not answer here it
    /// may well answer others.
    async fn renew(&self, nats: &Nats, held: &mut Held) -> bool {
        let entry = self.entry(State::Held { failures: held.failures });
        match nats.share(&self.lease, &entry, held.revision).await {
            Ok(revision) => (held.revision, held.renewed) = (revision, self.clock.boot()),
            Err(NatsError::WrongSequence(_)) => {
                let Ok(found) = nats.shared(&self.lease).await else { return self.is_fresh(held) };
                // It may be a renewal whose acknowledgement was lost.
                if found.value.and_then(|value| readable::<Lease>(&value, "lease")) != Some(entry) {
                    return false;
                }
                (held.revision, held.renewed) = (found.revision, self.clock.boot());
            }
            Err(error) => tracing::debug!(%error, "the lease for ordering was not renewed"),
        }
        self.is_fresh(held)
    }

    /// Whether nobody else can take the lease before it is time to renew it again.
    fn is_fresh(&self, held: &Held) -> bool {
        self.clock.boot().saturating_sub(held.renewed) + self.limit / RENEWALS < self.limit
    }

    /// Says what became of the order. Where that does not get through, the lease ends by itself.
    pub(super) async fn leave(&self, nats: &Nats, held: Held, state: State) {
        if let Err(error) = nats.share(&self.lease, &self.entry(state), held.revision).await {
            tracing::debug!(%error, "the lease for ordering ends by itself");
        }
    }

    /// Puts a pair in, unless one that is as new or newer is there.
    pub(super) async fn put(&self, nats: &Nats, found: &Found, key: &ClusterKey, pair: &Pair) -> Result<(), PutError> {
        let (mut revision, mut version, mut there) = (found.pair_revision, found.version, found.sealed.clone());
        for _ in 0..PUT_TRIES {
            match &there {
                Some(there) if there.secret != key.id() && self.clock.wall() < abandoned(there) => {
                    return Err(PutError::Foreign);
                }
                Some(there) if there.secret == key.id() && !is_newer(pair, there) => return Ok(()),
                Some(_) | None => {}
            }
            version = there.map_or(version, |there| version.max(there.version)).saturating_add(1);
            let sealed = Sealed::seal(key, &self.cluster, &self.server, version, pair)?;
            match nats.share(&self.pair, &sealed, revision).await {
                Ok(_) => {
                    tracing::info!(version, "put the certificate where the other drones of the cluster find it");
                    return Ok(());
                }
                Err(NatsError::WrongSequence(_) | NatsError::TimedOut(_)) => {
                    let now = nats.shared(&self.pair).await?;
                    revision = now.revision;
                    there = now.value.and_then(|value| readable(&value, "pair"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(PutError::Crowded)
    }

    fn entry(&self, state: State) -> Lease {
        Lease { writer: self.own.clone(), state }
    }
}

/// A lease that this drone holds.
#[derive(Debug)]
pub(super) struct Held {
    revision: u64,
    /// When, by the boot clock, it was renewed last.
    renewed: Duration,
    /// Orders that failed in a row before this one.
    pub(super) failures: u32,
}

/// When a pair that was sealed with another secret counts as nobody's: halfway between the moment when those who have
/// the secret renew it and its end.
pub(super) fn abandoned(sealed: &Sealed) -> Timestamp {
    let validity = Validity { not_before: sealed.not_before, not_after: sealed.not_after };
    let due = timing::due(validity, None, u64::MAX);
    let half = timing::span(due, sealed.not_after) / 2;
    due.saturating_add(SignedDuration::try_from(half).unwrap_or_default()).unwrap_or(Timestamp::MAX)
}

/// Whether a pair may be put into the bucket where `there` is. A file on one drone's disk does not replace what all
/// drones serve: that does only what this process `ordered`. Where nothing is, or nothing that can be read, a pair from a
/// disk will do, but no placeholder.
pub(super) fn may_put(pair: &Pair, ordered: bool, there: Option<&Sealed>) -> bool {
    match there {
        Some(there) => ordered && is_newer(pair, there),
        None => ordered || !pair.is_self_issued(),
    }
}

/// Whether a pair is newer than what is sealed.
pub(super) fn is_newer(pair: &Pair, sealed: &Sealed) -> bool {
    pair.validity().not_before > sealed.not_before
}

fn readable<T: serde::de::DeserializeOwned>(value: &[u8], what: &str) -> Option<T> {
    match serde_json::from_slice(value) {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::warn!(%error, what, "an entry of the bucket plane_certificates cannot be read, and counts as missing");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing;

    #[test]
    fn only_what_was_ordered_replaces_what_all_serve_and_no_placeholder_is_shared() {
        let (old, new) = (testing::pair("plane.test"), testing::newer_pair("plane.test"));
        let key = ClusterKey::parse(&"A".repeat(43)).unwrap();
        let cluster = "plane.test".parse().unwrap();
        let sealed = |pair| Sealed::seal(&key, &cluster, "https://ca.test/", 1, pair).unwrap();
        assert!(may_put(&new, true, Some(&sealed(&old))));
        assert!(!may_put(&new, false, Some(&sealed(&old))));
        assert!(!may_put(&old, true, Some(&sealed(&new))));
        assert!(!may_put(&old, true, Some(&sealed(&old))));
        assert!(may_put(&new, true, None));
        assert!(!may_put(&new, false, None));
    }
}
