//! Pairs for tests.

use super::Pair;

/// Keys as other tools write them, with certificates for `plane.test` that last a hundred years: the form, the key,
/// the certificate.
pub(super) const PEMS: [(&str, &str, &str); 3] = [
    ("SEC1 (RFC 5915)", include_str!("testing/sec1.key.pem"), include_str!("testing/sec1.cert.pem")),
    ("PKCS#1 (RFC 8017)", include_str!("testing/pkcs1.key.pem"), include_str!("testing/pkcs1.cert.pem")),
    ("Ed25519 (RFC 8410)", include_str!("testing/ed25519.key.pem"), include_str!("testing/ed25519.cert.pem")),
];

/// A new pair for these names, which signed itself.
pub(crate) fn pair_for(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    Pair::parse(&made.signing_key.serialize_pem(), &made.cert.pem()).unwrap()
}

/// A new pair for a cluster.
pub(crate) fn pair(cluster: &str) -> Pair {
    pair_for(&[cluster, &format!("*.{cluster}")])
}

/// A pair for a cluster that is valid since later than those of [`pair`].
pub(crate) fn newer_pair(cluster: &str) -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([cluster.to_owned(), format!("*.{cluster}")]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    Pair::parse(&key.serialize_pem(), &params.self_signed(&key).unwrap().pem()).unwrap()
}

/// A pair for a cluster that has ended.
pub(crate) fn ended_pair(cluster: &str) -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([cluster.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    Pair::parse(&key.serialize_pem(), &params.self_signed(&key).unwrap().pem()).unwrap()
}
