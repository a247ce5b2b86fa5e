//! The section `[acme]`, and what kind of key certificates have.

use plane_core::config::Secret;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The `[acme]` section: certificates are ordered and renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// The `https://` URL of the certificate authority's directory.
    pub server: String,
    /// Whom the authority may write to.
    pub admin_email: String,
    /// The PEM roots that the authority's own certificate has to lead to; those of the system where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_path: Option<PathBuf>,
    /// The account outside of ACME that the authority wants to know, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab: Option<EabConfig>,
}

/// The `[acme.eab]` section: external account binding (RFC 8555, section 7.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EabConfig {
    /// The id of the key.
    pub key_id: String,
    /// The key, in base64 or base64url.
    pub key: Secret,
}

/// What kind of key a certificate that is ordered has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// ECDSA on the curve P-256: small and fast.
    #[default]
    EcdsaP256,
    /// ECDSA on the curve P-384.
    EcdsaP384,
    /// RSA with 2048 bits, for clients that know nothing else.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

impl KeyType {
    /// The names that a configuration may have, as one text.
    pub const NAMES: &'static str = "ecdsa-p256, ecdsa-p384, rsa-2048 or rsa-4096";
}
