//! What this name server says of every cluster besides its backends, as the configuration has it.

use crate::config::DnsConfig;
use plane_core::id::MAX_LABEL_BYTES;
use std::{net::IpAddr, str::FromStr};

/// The label of a cluster's own name server, where none is configured.
pub const NAME_SERVER_LABEL: &str = "ns1";
/// The mailbox of a cluster's own, where none is configured.
const MAILBOX_LABEL: &str = "hostmaster";

/// What is the same for every cluster.
#[derive(Debug, Clone)]
pub struct Zone {
    /// How long answers may be kept, in seconds.
    pub(super) ttl: u32,
    /// The name of the name server in lower case, where it is the same for all clusters.
    name_server: Option<String>,
    pub(super) name_server_wire: Host,
    pub(super) mailbox: Host,
    /// The addresses of the name server.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) caa: Vec<Caa>,
}

/// A name as it is written into an answer: its labels on the wire without the root, and whether it lies in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) labels: Vec<u8>,
    pub(super) below_cluster: bool,
}

/// A record that says which certificate authorities may issue (RFC 8659).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caa {
    pub(super) flags: u8,
    pub(super) tag: String,
    pub(super) value: String,
}

/// The longest value of a [`Caa`] in bytes, so that several fit an answer.
const MAX_CAA_VALUE_BYTES: usize = 255;

impl FromStr for Caa {
    type Err = ();

    /// Reads `FLAGS TAG VALUE`, as in `0 issue "letsencrypt.org"`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().splitn(3, ' ');
        let (Some(flags), Some(tag), Some(value)) = (parts.next(), parts.next(), parts.next()) else { return Err(()) };
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let good_tag = (1..=15).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
        let good_value =
            value.len() <= MAX_CAA_VALUE_BYTES && value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"');
        if !good_tag || !good_value {
            return Err(());
        }
        Ok(Self { flags: flags.parse().map_err(|_| ())?, tag: tag.to_ascii_lowercase(), value: value.to_owned() })
    }
}

impl Host {
    fn new<'a>(labels: impl IntoIterator<Item = &'a str>, below_cluster: bool) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            // The configuration has checked the length.
            wire.push(u8::try_from(label.len().min(MAX_LABEL_BYTES)).unwrap_or_default());
            wire.extend(label.bytes().take(MAX_LABEL_BYTES));
        }
        Self { labels: wire, below_cluster }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::new(&DnsConfig::default())
    }
}

impl Zone {
    /// What the configuration says; entries of it that its checks would have refused are left out.
    pub fn new(config: &DnsConfig) -> Self {
        let name_server = config.domain_name.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let name_server_wire = match &name_server {
            Some(name) => Host::new(name.split('.'), false),
            None => Host::new([NAME_SERVER_LABEL], true),
        };
        let mailbox = match config.soa_email.as_deref().and_then(|email| email.split_once('@')) {
            // What stands before the @ is one label, dots and all (RFC 1035 section 8).
            Some((who, domain)) => {
                Host::new(std::iter::once(who).chain(domain.trim_end_matches('.').split('.')), false)
            }
            None => Host::new([MAILBOX_LABEL], true),
        };
        Self {
            ttl: config.ttl_secs,
            name_server,
            name_server_wire,
            mailbox,
            addresses: config.ns_ips.clone(),
            caa: config.caa.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }

    /// The name server relative to a cluster: empty where it is the cluster's own name, nothing where it lies elsewhere.
    pub(super) fn name_server_below(&self, cluster: &str) -> Option<&str> {
        match &self.name_server {
            None => Some(NAME_SERVER_LABEL),
            Some(name) if name == cluster => Some(""),
            Some(name) => name.strip_suffix(cluster)?.strip_suffix('.'),
        }
    }

    /// The label that no backend of a cluster may have, because the cluster's name server does.
    pub fn reserved_label(&self, cluster: &str) -> Option<&str> {
        self.name_server_below(cluster).filter(|below| !below.is_empty() && !below.contains('.'))
    }
}
