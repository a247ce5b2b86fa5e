//! Identifiers that cannot be built wrong: each type checks its rule once, where text becomes a value.

use crate::chance::Chance;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::{borrow::Borrow, fmt, marker::PhantomData, str::FromStr, sync::Arc};

/// Longest cluster name in bytes, so that `<63-byte backend>.<cluster>` still fits a DNS name (RFC 1035 section 2.3.4).
pub const MAX_CLUSTER_BYTES: usize = 189;
/// Longest DNS label in bytes (RFC 1035 section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// Longest drone id in bytes.
pub const MAX_DRONE_BYTES: usize = 128;
/// Longest lock in bytes of UTF-8.
pub const MAX_LOCK_BYTES: usize = 2048;

/// A text that broke the rule of an identifier; the message names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: expected {expected}")]
pub struct IdError {
    what: &'static str,
    value: String,
    expected: &'static str,
}

impl IdError {
    fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self { what, value, expected }
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=MAX_LABEL_BYTES).contains(&bytes.len())
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Makes an identifier of a text without copying the text first.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> serde::de::Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// So that tables by identifier can be asked with a text that need not be one.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    };
}

text_id! {
    /// A cluster: the DNS name under which its backends get their subdomains, such as `plane.test`.
    ClusterName
}

text_id! {
    /// A session backend: one lower-case DNS label.
    BackendId
}

text_id! {
    /// A drone: `[A-Za-z0-9_-]+`.
    DroneId
}

text_id! {
    /// A lock: any UTF-8 of 1 to [`MAX_LOCK_BYTES`] bytes.
    LockName
}

impl ClusterName {
    fn check(text: &str) -> Result<(), IdError> {
        let labels = text.split('.').count();
        if text.len() <= MAX_CLUSTER_BYTES && labels >= 2 && text.split('.').all(is_label) {
            return Ok(());
        }
        Err(IdError::new(
            "cluster",
            text,
            "a lower-case DNS name of two labels or more, without '_', labels of at most 63 and in all at most 189 bytes",
        ))
    }

    /// The name as one token of a NATS subject: every `.` replaced by `_`.
    pub fn subject_token(&self) -> String {
        self.0.replace('.', "_")
    }
}

impl BackendId {
    /// Whether a text is the name of a backend, found out without making one.
    pub fn is_valid(text: &str) -> bool {
        is_label(text)
    }

    fn check(text: &str) -> Result<(), IdError> {
        if is_label(text) {
            return Ok(());
        }
        Err(IdError::new(
            "backend id",
            text,
            "one DNS label of at most 63 bytes: lower-case letters, digits and '-', no '-' at either end",
        ))
    }

    /// A new id: a random UUID (version 4), whose 122 random bits may serve as a secret.
    pub fn random() -> Self {
        Self::drawn(&Chance::system())
    }

    /// A new id, as [`Self::random`], from a source of the caller's.
    pub fn drawn(chance: &Chance) -> Self {
        Self(chance.uuid().to_string().into())
    }
}

impl DroneId {
    fn check(text: &str) -> Result<(), IdError> {
        let ok = (1..=MAX_DRONE_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if ok {
            return Ok(());
        }
        Err(IdError::new("drone id", text, "letters, digits, '_' and '-', at most 128 bytes"))
    }

    /// A new random id.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }
}

impl LockName {
    fn check(text: &str) -> Result<(), IdError> {
        if (1..=MAX_LOCK_BYTES).contains(&text.len()) {
            return Ok(());
        }
        Err(IdError::new("lock", text, "1 to 2048 bytes of UTF-8"))
    }

    /// The lock as one token of a NATS subject: the hex of its SHA-256.
    pub fn subject_token(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A secret that a request to a backend must carry. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BearerToken(Arc<str>);

impl BearerToken {
    /// A new token of 122 random bits.
    pub fn drawn(chance: &Chance) -> Self {
        Self(chance.uuid().simple().to_string().into())
    }

    /// The secret itself, for comparison or for handing to its owner; never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for BearerToken {
    fn from(secret: String) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn clusters_follow_their_rule() {
        for good in ["plane.test", "a.b", "plane.localhost", "x-1.y.z"] {
            assert_eq!(good.parse::<ClusterName>().unwrap().as_str(), good);
        }
        let long = format!("{}.{}", "a".repeat(63), vec!["b".repeat(63); 2].join("."));
        for bad in ["", "plane", "Plane.test", "a_b.test", "a..b", ".a.b", "a.b.", "-a.b", "a-.b", "a b.c", &long] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        assert_eq!("a.b.c".parse::<ClusterName>().unwrap().subject_token(), "a_b_c");
    }

    #[test]
    fn backends_follow_their_rule() {
        for good in ["a", "0", "a-b", BackendId::random().as_str(), &"x".repeat(63)] {
            assert!(good.parse::<BackendId>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a.b", "a_b", "-a", "a-", "é", "a*", ">", &"x".repeat(64)] {
            assert!(bad.parse::<BackendId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn drones_and_locks_follow_their_rules() {
        assert!("Drone_1-b".parse::<DroneId>().is_ok());
        for bad in ["", "a.b", "a b", "*", &"x".repeat(129)] {
            assert!(bad.parse::<DroneId>().is_err(), "{bad}");
        }
        assert!("any thing → at all".parse::<LockName>().is_ok());
        assert!("".parse::<LockName>().is_err());
        assert!("x".repeat(2049).parse::<LockName>().is_err());
    }

    #[test]
    fn a_lock_is_the_hex_of_its_sha256_in_subjects() {
        let lock: LockName = "abc".parse().unwrap();
        assert_eq!(lock.subject_token(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn debug_does_not_show_a_token() {
        assert_eq!(format!("{:?}", BearerToken::from("secret".to_owned())), "BearerToken(***)");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_subject_token(text in ".{0,80}") {
            if let Ok(id) = text.parse::<BackendId>() {
                prop_assert!(!id.as_str().contains(['.', '*', '>', ' ']));
            }
            if let Ok(id) = text.parse::<DroneId>() {
                prop_assert!(!id.as_str().contains(['.', '*', '>', ' ']));
            }
            if let Ok(id) = text.parse::<ClusterName>() {
                prop_assert!(!id.subject_token().contains(['.', '*', '>', ' ']));
            }
        }
    }
}
