//! The `[nats]` section, which both daemons share: where NATS is, and how to be let in.

use super::{Draft, Key, Kind, Part, Secret};
use serde::{Deserialize, Serialize, Serializer};
use std::path::PathBuf;

/// Where NATS is and how the daemon proves who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Addresses of one cluster's servers, such as `nats://10.0.0.1:4222`; any of them will do.
    #[serde(serialize_with = "hosts_masked")]
    pub hosts: Vec<String>,
    /// A token, or a user name and its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<NatsAuth>,
    /// A `.creds` file: a user JWT and its seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creds_path: Option<PathBuf>,
    /// A file with the seed of an nkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nkey_seed_path: Option<PathBuf>,
    /// TLS beyond what the system's roots give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<NatsTls>,
}

/// What the daemon tells NATS about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NatsAuth {
    /// One token that all share.
    Token {
        /// The token.
        token: Secret,
    },
    /// A user name and its password.
    UserPassword {
        /// The user.
        username: String,
        /// The user's password.
        password: Secret,
    },
}

/// How to check the server, and what to show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsTls {
    /// PEM roots to trust beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_path: Option<PathBuf>,
    /// The PEM certificate chain to show the server; needs `key_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_path: Option<PathBuf>,
    /// The PEM key of `cert_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_path: Option<PathBuf>,
}

/// The `[nats]` section: every daemon's configuration has it.
pub static NATS: Part = Part {
    keys: &[
        Key::always("nats.hosts", Kind::List("the address of a NATS server, such as nats://10.0.0.1:4222", is_host)),
        Key::optional("nats.auth.token", Kind::Secret),
        Key::optional("nats.auth.username", Kind::String),
        Key::optional("nats.auth.password", Kind::Secret),
        Key::optional("nats.creds_path", Kind::File),
        Key::optional("nats.nkey_seed_path", Kind::File),
        Key::optional("nats.tls.ca_path", Kind::File),
        Key::optional("nats.tls.cert_path", Kind::File),
        Key::optional("nats.tls.key_path", Kind::File),
    ],
    exclusive: &[
        ("nats.auth.token", "nats.auth.username"),
        ("nats.auth.token", "nats.auth.password"),
        ("nats.creds_path", "nats.auth.token"),
        ("nats.creds_path", "nats.auth.username"),
        ("nats.creds_path", "nats.auth.password"),
        ("nats.nkey_seed_path", "nats.auth.token"),
        ("nats.nkey_seed_path", "nats.auth.username"),
        ("nats.nkey_seed_path", "nats.auth.password"),
        ("nats.nkey_seed_path", "nats.creds_path"),
    ],
    rules,
};

fn rules(draft: &mut Draft) {
    if draft.list("nats.hosts").is_some_and(<[_]>::is_empty) {
        draft.fault("nats.hosts", "expected at least one address");
    }
    if draft.is_empty_table("nats.auth") {
        draft.fault("nats.auth", "expected a token, or a username and its password");
    }
    for (one, other) in [
        ("nats.auth.username", "nats.auth.password"),
        ("nats.auth.password", "nats.auth.username"),
        ("nats.tls.cert_path", "nats.tls.key_path"),
        ("nats.tls.key_path", "nats.tls.cert_path"),
    ] {
        if draft.has(one) && !draft.has(other) {
            draft.fault(one, format!("needs {other} beside it"));
        }
    }
}

/// An address as the client takes it: the scheme `nats` or `tls` or none, credentials, a host, and a port.
fn is_host(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let address = address.strip_suffix('/').unwrap_or(address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good_host = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    matches!(scheme, "nats" | "tls") && good_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn hosts_masked<S: Serializer>(hosts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hosts.iter().map(|host| mask_host(host)))
}

/// A host as it may be shown: what stands before an `@` is credentials.
pub(super) fn mask_host(host: &str) -> String {
    let (scheme, rest) = host.split_once("://").map_or(("", host), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((_, address)) if scheme.is_empty() => format!("***@{address}"),
        Some((_, address)) => format!("{scheme}://***@{address}"),
        None => host.to_owned(),
    }
}
