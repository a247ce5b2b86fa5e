//! A private key and the certificate chain that belongs to it, parsed and checked.

use jiff::Timestamp;
use plane_core::id::ClusterName;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{fmt, sync::Arc};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};
use zeroize::Zeroizing;

/// The first line of a key that a password protects (RFC 5958, section 3, in PEM by RFC 7468, section 11).
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// A private key, and the chain of certificates whose first one is for this key.
pub struct Pair {
    key_pem: Zeroizing<String>,
    chain_pem: String,
    validity: Validity,
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

/// From when until when a certificate is valid (RFC 5280, section 4.1.2.5); both ends count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: Timestamp,
    /// The last moment.
    pub not_after: Timestamp,
}

/// Why a key and a chain are no pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// There is no key.
    #[error("there is no private key (expected PEM: PKCS#8, PKCS#1 or SEC1)")]
    NoKey,
    /// There is a key that nobody can use without its password.
    #[error("the private key is protected by a password; write it without one (`openssl pkey -in … -out …`)")]
    Encrypted,
    /// The key's PEM is broken, or the key is of a kind that is not served.
    #[error("the private key cannot be used: {0}")]
    BadKey(String),
    /// There is no certificate.
    #[error("there is no certificate (expected PEM, the server's own certificate first)")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("certificate {place} of the chain cannot be read: {cause}")]
    BadCertificate {
        /// Which one; the server's own is the first.
        place: usize,
        /// Why.
        cause: String,
    },
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate; give the files of one and the same certificate")]
    Mismatch,
    /// The key is for a certificate of the chain that is not its first.
    #[error("the private key belongs to certificate {0} of the chain; put that one first")]
    WrongOrder(usize),
}

impl Pair {
    /// Reads a key and a chain in PEM.
    ///
    /// # Errors
    /// Where one of them cannot be used, or they do not belong together. An expired pair is a pair.
    pub fn parse(key_pem: &str, chain_pem: &str) -> Result<Self, PairError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| match error {
            pem::Error::NoItemsFound if key_pem.contains(ENCRYPTED) => PairError::Encrypted,
            pem::Error::NoItemsFound => PairError::NoKey,
            error => PairError::BadKey(error.to_string()),
        })?;
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key);
        let key = key.map_err(|error| PairError::BadKey(error.to_string()))?;
        let chain = read_chain(chain_pem)?;
        let leaf = chain.first().ok_or(PairError::NoCertificate)?;
        let (validity, names) = read_leaf(leaf)?;
        let certified = CertifiedKey::new(chain, key);
        belongs(&certified)?;
        let (key_pem, chain_pem) = (Zeroizing::new(key_pem.to_owned()), chain_pem.to_owned());
        Ok(Self { key_pem, chain_pem, validity, names, certified: Arc::new(certified) })
    }

    /// The key, as it was given; never for a log.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The chain, as it was given.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The server's own certificate.
    pub fn leaf_der(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |leaf| leaf.as_ref())
    }

    /// From when until when that certificate is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The DNS names that it is for, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it is for all backends of a cluster, and for the cluster's own name.
    pub fn covers(&self, cluster: &ClusterName) -> bool {
        let wildcard = format!("*.{cluster}");
        let has = |name: &str| self.names.iter().any(|other| other == name);
        has(&wildcard) && has(cluster.as_str())
    }

    /// Whether its issuer is itself: a placeholder, or an operator's own.
    pub(super) fn is_self_issued(&self) -> bool {
        X509Certificate::from_der(self.leaf_der()).is_ok_and(|(_, leaf)| leaf.issuer() == leaf.subject())
    }

    /// What a handshake needs.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.key_pem == other.key_pem
    }
}

impl Eq for Pair {}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("names", &self.names).field("validity", &self.validity).finish_non_exhaustive()
    }
}

fn read_chain(chain_pem: &str) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let mut chain = Vec::new();
    for (index, found) in CertificateDer::pem_slice_iter(chain_pem.as_bytes()).enumerate() {
        let bad = |cause| PairError::BadCertificate { place: index + 1, cause };
        let certificate = found.map_err(|error| bad(error.to_string()))?;
        X509Certificate::from_der(&certificate).map_err(|error| bad(error.to_string()))?;
        chain.push(certificate);
    }
    Ok(chain)
}

fn read_leaf(leaf: &CertificateDer<'_>) -> Result<(Validity, Vec<String>), PairError> {
    let bad = |cause: String| PairError::BadCertificate { place: 1, cause };
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| bad(error.to_string()))?;
    let time = |time: ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|error| bad(error.to_string()));
    let (not_before, not_after) = (time(leaf.validity().not_before)?, time(leaf.validity().not_after)?);
    let names = leaf.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((Validity { not_before, not_after }, names.collect()))
}

/// Checks that the key is the first certificate's.
fn belongs(certified: &CertifiedKey) -> Result<(), PairError> {
    let Err(error) = certified.keys_match() else { return Ok(()) };
    if !matches!(error, rustls::Error::InconsistentKeys(_)) {
        return Err(PairError::BadCertificate { place: 1, cause: error.to_string() });
    }
    let is_for = |place: &usize| {
        let alone = certified.cert.get(*place).cloned().into_iter().collect();
        CertifiedKey::new(alone, certified.key.clone()).keys_match().is_ok()
    };
    match (1..certified.cert.len()).find(is_for) {
        Some(place) => Err(PairError::WrongOrder(place + 1)),
        None => Err(PairError::Mismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing::{self, PEMS};

    #[test]
    fn a_pair_tells_what_it_is_for_and_until_when() {
        let made = testing::pair("plane.test");
        assert!(made.covers(&"plane.test".parse().unwrap()));
        assert!(!made.covers(&"other.test".parse().unwrap()));
        assert!(!testing::pair_for(&["plane.test"]).covers(&"plane.test".parse().unwrap()));
        assert!(!testing::pair_for(&["*.plane.test"]).covers(&"plane.test".parse().unwrap()));
        assert!(testing::pair_for(&["PLANE.test", "*.Plane.TEST"]).covers(&"plane.test".parse().unwrap()));
        let Validity { not_before, not_after } = made.validity();
        assert_eq!(not_before.to_string(), "1975-01-01T00:00:00Z");
        assert!(not_after > Timestamp::now());
        assert!(!made.leaf_der().is_empty());
        let again = Pair::parse(made.key_pem(), made.chain_pem()).unwrap();
        assert_eq!(again, made);
        assert_ne!(testing::pair("plane.test"), made);
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let made = testing::pair("plane.test");
        let shown = format!("{made:?}");
        assert!(shown.contains("plane.test") && !shown.contains("KEY"), "{shown}");
        let secret: String = made.key_pem().lines().nth(1).unwrap().chars().take(12).collect();
        assert!(!shown.contains(&secret));
    }

    #[test]
    fn each_fault_is_named() {
        let (one, other) = (testing::pair("plane.test"), testing::pair("plane.test"));
        let parse = |key: &str, chain: &str| Pair::parse(key, chain).unwrap_err();
        assert_eq!(parse("", one.chain_pem()), PairError::NoKey);
        assert_eq!(parse(one.chain_pem(), one.chain_pem()), PairError::NoKey);
        assert_eq!(parse(one.key_pem(), ""), PairError::NoCertificate);
        assert_eq!(parse(one.key_pem(), one.key_pem()), PairError::NoCertificate);
        assert_eq!(parse(one.key_pem(), other.chain_pem()), PairError::Mismatch);
        let both = format!("{}{}", other.chain_pem(), one.chain_pem());
        assert_eq!(parse(one.key_pem(), &both), PairError::WrongOrder(2));
        assert!(Pair::parse(other.key_pem(), &both).is_ok());
        let encrypted = one.key_pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(parse(&encrypted, one.chain_pem()), PairError::Encrypted);
        let torn = &one.key_pem()[..one.key_pem().len() / 2];
        assert!(matches!(parse(torn, one.chain_pem()), PairError::BadKey(_)));
        let torn = &one.chain_pem()[..one.chain_pem().len() / 2];
        assert!(matches!(parse(one.key_pem(), torn), PairError::BadCertificate { place: 1, .. }));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bad = parse(one.key_pem(), &format!("{}{nonsense}", one.chain_pem()));
        assert!(matches!(bad, PairError::BadCertificate { place: 2, .. }), "{bad:?}");
    }

    #[test]
    fn keys_of_each_form_are_read() {
        for (form, key, chain) in PEMS {
            let read = Pair::parse(key, chain);
            assert!(read.is_ok(), "{form}: {read:?}");
        }
    }
}
