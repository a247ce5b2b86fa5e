//! A certificate and its key, sealed with the secret that the drones of a cluster share.
//!
//! AES-256-GCM with a random nonce. Bound to it, so that none of it can be exchanged: the cluster, the authority, the
//! version, and the times that are also readable without the secret.

use super::{Pair, PairError, Validity};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use plane_core::id::ClusterName;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};
use zeroize::{Zeroize, Zeroizing};

/// The bytes of the secret.
const KEY_BYTES: usize = 32;
/// What stands in front of everything that is bound, so that the secret may serve other purposes one day.
const PURPOSE: &[u8] = b"plane certificate 1";
/// Bytes of a secret's hash that tell one secret from another.
const ID_BYTES: usize = 6;

/// The secret of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why a text is no secret, or could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// It cannot be read.
    #[error("cert.shared_key_path {path} cannot be read: {cause}")]
    Unreadable {
        /// Where.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// It is something else.
    #[error(
        "the cluster's secret has to be {KEY_BYTES} bytes in base64, as `openssl rand -base64 {KEY_BYTES}` makes them"
    )]
    Malformed,
}

impl ClusterKey {
    /// Reads the secret from its text.
    ///
    /// # Errors
    /// Where it is not 32 bytes in base64 or base64url.
    pub fn parse(text: &str) -> Result<Self, ClusterKeyError> {
        let bytes = Zeroizing::new(lenient_base64(text).ok_or(ClusterKeyError::Malformed)?);
        let bytes = bytes.as_slice().try_into().map_err(|_| ClusterKeyError::Malformed)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Reads the secret from a file.
    ///
    /// # Errors
    /// As [`Self::parse`], and where the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ClusterKeyError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|cause| ClusterKeyError::Unreadable { path: path.display().to_string(), cause })?;
        Self::parse(&Zeroizing::new(text))
    }

    /// Tells this secret from others, and gives nothing away of one that was made by chance.
    pub fn id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &[PURPOSE, self.0.as_slice()].concat());
        hash.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Cipher)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterKey").field(&self.id()).finish()
    }
}

/// Base64 of either alphabet, padded or not, with white space or without: as CAs and people hand it out.
pub fn lenient_base64(text: &str) -> Option<Vec<u8>> {
    use base64::prelude::BASE64_STANDARD_NO_PAD;
    let mut plain: String = text.trim().trim_end_matches('=').chars().filter(|c| !c.is_whitespace()).collect();
    plain = plain.replace('-', "+").replace('_', "/");
    let bytes = BASE64_STANDARD_NO_PAD.decode(&plain).ok();
    plain.zeroize();
    bytes
}

/// A sealed pair, as it lies in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which pair of the cluster this is: each is one more than the one before it.
    pub version: u64,
    /// Since when the certificate is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// The URL of the authority that drones order from which put it in.
    pub server: String,
    /// The [`ClusterKey::id`] of the secret.
    pub secret: String,
    nonce: String,
    sealed: String,
}

/// Why a pair could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It was sealed with another secret.
    #[error(
        "it was sealed with another secret ({theirs}) than this drone has ({ours}); give all drones of the cluster the \
         same cert.shared_key"
    )]
    OtherSecret {
        /// Of the one that it was sealed with.
        theirs: String,
        /// Of this drone's.
        ours: String,
    },
    /// Somebody changed it, or it is another cluster's.
    #[error("it was not sealed for this cluster and version, or was changed since")]
    Tampered,
    /// What was sealed is no pair.
    #[error("what was sealed is no certificate with its key: {0}")]
    NoPair(String),
    /// The cipher refused.
    #[error("the cipher refused")]
    Cipher,
}

impl From<PairError> for SealError {
    fn from(error: PairError) -> Self {
        Self::NoPair(error.to_string())
    }
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Content<T> {
    key: T,
    chain: T,
}

impl Sealed {
    /// Seals a pair.
    ///
    /// # Errors
    /// Where the cipher refuses.
    pub fn seal(
        key: &ClusterKey,
        cluster: &ClusterName,
        server: &str,
        version: u64,
        pair: &Pair,
    ) -> Result<Self, SealError> {
        let Validity { not_before, not_after } = pair.validity();
        let content = Content { key: pair.key_pem(), chain: pair.chain_pem() };
        let mut bytes = Zeroizing::new(serde_json::to_vec(&content).map_err(|e| SealError::NoPair(e.to_string()))?);
        let bound = bound(cluster, server, version, not_before, not_after);
        let nonce = key.cipher()?.seal_in_place_append_tag(Aad::from(bound), &mut *bytes);
        let nonce = nonce.map_err(|_| SealError::Cipher)?;
        Ok(Self {
            version,
            not_before,
            not_after,
            server: server.to_owned(),
            secret: key.id(),
            nonce: BASE64_STANDARD.encode(nonce.as_ref()),
            sealed: BASE64_STANDARD.encode(bytes.as_slice()),
        })
    }

    /// Opens it, and checks that it holds a pair of the times that it tells.
    ///
    /// # Errors
    /// Where it was sealed with another secret, for another cluster, was changed, or holds no pair.
    pub fn open(&self, key: &ClusterKey, cluster: &ClusterName) -> Result<Pair, SealError> {
        if self.secret != key.id() {
            return Err(SealError::OtherSecret { theirs: self.secret.clone(), ours: key.id() });
        }
        let decoded = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| SealError::Tampered);
        let nonce: [u8; NONCE_LEN] = decoded(&self.nonce)?.try_into().map_err(|_| SealError::Tampered)?;
        let mut bytes = Zeroizing::new(decoded(&self.sealed)?);
        let bound = bound(cluster, &self.server, self.version, self.not_before, self.not_after);
        let opened = key.cipher()?.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut bytes);
        let opened = opened.map_err(|_| SealError::Tampered)?;
        let Content { key, chain }: Content<String> =
            serde_json::from_slice(opened).map_err(|e| SealError::NoPair(e.to_string()))?;
        let key = Zeroizing::new(key);
        let pair = Pair::parse(&key, &chain)?;
        if !pair.covers(cluster) {
            return Err(SealError::NoPair(format!("it is not for *.{cluster} and {cluster}")));
        }
        Ok(pair)
    }
}

fn bound(cluster: &ClusterName, server: &str, version: u64, not_before: Timestamp, not_after: Timestamp) -> Vec<u8> {
    // A cluster's name has no zero byte, and what follows the server has a fixed length.
    let times = [not_before, not_after].map(|time| time.as_nanosecond().to_be_bytes()).concat();
    [PURPOSE, cluster.as_str().as_bytes(), &[0], server.as_bytes(), &version.to_be_bytes(), &times].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing;

    const CA: &str = "https://ca.test/directory";

    fn cluster() -> ClusterName {
        "plane.test".parse().unwrap()
    }

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::parse(&BASE64_STANDARD.encode([byte; KEY_BYTES])).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_secret() {
        let pair = testing::pair("plane.test");
        let sealed = Sealed::seal(&key(1), &cluster(), CA, 7, &pair).unwrap();
        let text = serde_json::to_string(&sealed).unwrap();
        assert!(!text.contains("KEY"), "{text}");
        let read: Sealed = serde_json::from_str(&text).unwrap();
        assert_eq!((read.version, read.not_before), (7, pair.validity().not_before));
        assert_eq!(read.open(&key(1), &cluster()).unwrap(), pair);
        let again = Sealed::seal(&key(1), &cluster(), CA, 7, &pair).unwrap();
        assert_ne!(again.nonce, sealed.nonce);
    }

    #[test]
    fn nothing_else_opens() {
        let pair = testing::pair("plane.test");
        let sealed = Sealed::seal(&key(1), &cluster(), CA, 7, &pair).unwrap();
        let error = sealed.open(&key(2), &cluster()).unwrap_err().to_string();
        assert!(error.contains("cert.shared_key") && error.contains(&key(2).id()), "{error}");
        let lied = Sealed { secret: key(2).id(), ..sealed.clone() };
        assert!(matches!(lied.open(&key(2), &cluster()), Err(SealError::Tampered)));
        assert!(matches!(sealed.open(&key(1), &"other.test".parse().unwrap()), Err(SealError::Tampered)));
        let (version, later) = (8, Timestamp::MAX);
        for changed in [
            Sealed { version, ..sealed.clone() },
            Sealed { server: "https://staging.ca.test/directory".into(), ..sealed.clone() },
            Sealed { not_before: later, ..sealed.clone() },
            Sealed { not_after: later, ..sealed.clone() },
            Sealed { nonce: BASE64_STANDARD.encode([0; NONCE_LEN]), ..sealed.clone() },
            Sealed { nonce: String::new(), ..sealed.clone() },
            Sealed { sealed: "!".into(), ..sealed.clone() },
            Sealed { sealed: String::new(), ..sealed.clone() },
        ] {
            assert!(matches!(changed.open(&key(1), &cluster()), Err(SealError::Tampered)), "{changed:?}");
        }
        let mut bytes = BASE64_STANDARD.decode(&sealed.sealed).unwrap();
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            bytes[place] ^= 1;
            let changed = Sealed { sealed: BASE64_STANDARD.encode(&bytes), ..sealed.clone() };
            assert!(matches!(changed.open(&key(1), &cluster()), Err(SealError::Tampered)));
            bytes[place] ^= 1;
        }
        let narrow = Sealed::seal(&key(1), &cluster(), CA, 7, &testing::pair_for(&["plane.test"])).unwrap();
        assert!(matches!(narrow.open(&key(1), &cluster()), Err(SealError::NoPair(_))));
    }

    #[test]
    fn the_secret_is_read_as_people_write_it_and_never_shown() {
        let text = BASE64_STANDARD.encode([0xfb; KEY_BYTES]);
        for form in [text.clone(), format!("{text}\n"), text.replace('+', "-").replace('/', "_"), text.replace('=', "")]
        {
            assert_eq!(ClusterKey::parse(&form).unwrap(), key(0xfb), "{form}");
        }
        assert!(ClusterKey::parse("c2hvcnQ=").is_err() && ClusterKey::parse("").is_err());
        assert!(ClusterKey::parse(&"a".repeat(64)).is_err());
        assert!(!format!("{:?}", key(0xfb)).contains(&text[..9]));
        let missing = ClusterKey::read(Path::new("/no/such/secret")).unwrap_err().to_string();
        assert!(missing.contains("/no/such/secret"), "{missing}");
    }
}
