//! What the drones of a cluster share: keys of a bucket, each written by compare-and-set.

use super::{Nats, NatsError, StreamConfig, StreamName};
use crate::id::ClusterName;

/// One key of one cluster in the bucket `plane_certificates`.
#[derive(Debug, Clone)]
pub struct SharedKey(String);

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The sequence of its entry, for the next write; 0 where it was never written.
    pub revision: u64,
    /// Its value; `None` where there is none, or it was deleted.
    pub value: Option<bytes::Bytes>,
}

impl SharedKey {
    /// The key `name` of a cluster.
    pub fn new(cluster: &ClusterName, name: &str) -> Self {
        Self(format!("$KV.plane_certificates.{}.{name}", cluster.subject_token()))
    }
}

impl Nats {
    /// Makes the bucket where it is missing, kept on as many servers as the state log is.
    ///
    /// # Errors
    /// Where JetStream refuses, or no controller has made the state log yet.
    pub async fn ensure_shared(&self) -> Result<(), NatsError> {
        if self.info(StreamName::Certificates).await?.is_some() {
            return Ok(());
        }
        let log = self.info(StreamName::State).await?;
        let log = log.ok_or_else(|| NatsError::other("plane_state", "no controller has made it yet"))?;
        self.ensure_stream(&StreamConfig::new(StreamName::Certificates, log.replicas)).await
    }

    /// What a key holds.
    ///
    /// # Errors
    /// Where the bucket does not exist or does not answer.
    pub async fn shared(&self, key: &SharedKey) -> Result<Shared, NatsError> {
        let found = self.last(StreamName::Certificates, &key.0).await?;
        Ok(found.map_or(Shared { revision: 0, value: None }, |stored| Shared {
            revision: stored.sequence,
            value: Some(stored.payload).filter(|payload| !payload.is_empty()),
        }))
    }

    /// Writes a key if nobody has written it since `revision`, and gives its new revision.
    ///
    /// # Errors
    /// [`NatsError::WrongSequence`] where somebody has. [`NatsError::TimedOut`] means unknown.
    pub async fn share<T: serde::Serialize>(
        &self,
        key: &SharedKey,
        value: &T,
        revision: u64,
    ) -> Result<u64, NatsError> {
        self.publish_expecting(key.0.clone(), value, revision).await
    }
}
