//! The section `[proxy]`: where the proxy listens, whom it believes, what it waits for, and its limits.

mod limits;
mod network;
mod schema;

pub use limits::LimitsConfig;
pub use network::{Network, NetworkError};
pub(super) use schema::PROXY;

use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    thread::available_parallelism,
    time::Duration,
};

/// Where HTTP is, where nothing else is said (RFC 9110, section 4.2.1).
const DEFAULT_HTTP_PORT: u16 = 80;
/// What stands for standard output, where a file can be named.
const STANDARD_OUTPUT: &str = "-";

/// The `[proxy]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// The address that the proxy listens on.
    pub bind_ip: IpAddr,
    /// The port for HTTP; 0 lets the system choose. Where there is a `[cert]`, it only leads to HTTPS.
    pub http_port: u16,
    /// The port for HTTPS, 443 where it is not given; 0 lets the system choose. It needs a `[cert]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_port: Option<u16>,
    /// Where requests go whose name is no backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<SocketAddr>,
    /// Whether a backend is also found by the first part of the path.
    pub allow_path_routing: bool,
    /// Who speaks HTTP/1.1 to clients.
    pub http1: Http1,
    /// How many threads carry data; as many as there are processors where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroU16>,
    /// From where browsers send the cookie with the token.
    pub cookie_same_site: SameSite,
    /// The front proxies whose word about clients is believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether connections of [`Self::trusted_proxies`] begin with a header of the PROXY protocol, version 2. It is
    /// required of them then, and accepted from nobody else.
    pub proxy_protocol: bool,
    /// Whether browsers that ask for HTML of a backend that starts get a page that waits, instead of being held.
    pub waiting_page: bool,
    /// How long a request is held for a backend that starts, in seconds.
    pub start_wait_secs: u32,
    /// How long a backend may take to begin its answer once it has the whole request, in seconds.
    pub answer_secs: u32,
    /// Where a line about each request goes; nowhere where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogTarget>,
    /// What clients may take.
    pub limits: LimitsConfig,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            bind_ip: Ipv4Addr::UNSPECIFIED.into(),
            http_port: DEFAULT_HTTP_PORT,
            https_port: None,
            passthrough: None,
            allow_path_routing: false,
            http1: Http1::default(),
            threads: None,
            cookie_same_site: SameSite::default(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            waiting_page: false,
            start_wait_secs: 30,
            answer_secs: 60,
            access_log: None,
            limits: LimitsConfig::default(),
        }
    }
}

impl ProxyConfig {
    /// How many threads carry data: one at least.
    pub fn threads(&self) -> usize {
        let given = self.threads.map(|threads| usize::from(threads.get()));
        given.unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
    }

    /// [`Self::start_wait_secs`] as a duration.
    pub fn start_wait(&self) -> Duration {
        Duration::from_secs(self.start_wait_secs.into())
    }

    /// [`Self::answer_secs`] as a duration.
    pub fn answer(&self) -> Duration {
        Duration::from_secs(self.answer_secs.into())
    }
}

/// Whether what is sent to an address comes to who listens at another; `is_of_machine` says that the address is one of the
/// machine's. Nobody looks for programs between the two, such as those that translate addresses.
pub(crate) fn leads_to(address: SocketAddr, listens: SocketAddr, is_of_machine: bool) -> bool {
    let (ip, own) = (address.ip().to_canonical(), listens.ip().to_canonical());
    // Where no address is named, the system connects to the loopback one.
    let is_of_machine = is_of_machine || ip.is_loopback() || ip.is_unspecified();
    let is_own = ip == own || (ip.is_unspecified() && own.is_loopback());
    address.port() == listens.port() && (is_own || (own.is_unspecified() && is_of_machine))
}

/// Who speaks HTTP/1.1 to clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Http1 {
    /// The library hyper.
    Hyper,
    /// Plane's own loop.
    #[default]
    Plane,
}

/// From where browsers send a cookie (draft-ietf-httpbis-rfc6265bis, section 4.1.2.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SameSite {
    /// From pages of the same site, and by links from elsewhere.
    #[default]
    Lax,
    /// From pages of the same site.
    Strict,
    /// From everywhere, also inside of frames of other sites; through TLS only.
    None,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum AccessLogTarget {
    /// To standard output, where nothing else goes.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

impl From<PathBuf> for AccessLogTarget {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == STANDARD_OUTPUT { Self::Stdout } else { Self::File(path) }
    }
}

impl From<AccessLogTarget> for PathBuf {
    fn from(target: AccessLogTarget) -> Self {
        match target {
            AccessLogTarget::Stdout => STANDARD_OUTPUT.into(),
            AccessLogTarget::File(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_who_listens_there() {
        for (address, listens, leads) in [
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("10.0.0.1:80", "10.0.0.1:80", true),
            ("10.0.0.1:80", "10.0.0.2:80", false),
            ("127.0.0.1:81", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("10.0.0.1:80", "0.0.0.0:80", false),
        ] {
            assert_eq!(
                leads_to(address.parse().unwrap(), listens.parse().unwrap(), false),
                leads,
                "{address} {listens}"
            );
        }
        assert!(leads_to("10.0.0.1:80".parse().unwrap(), "0.0.0.0:80".parse().unwrap(), true));
    }
}
