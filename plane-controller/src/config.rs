//! The controller's configuration. A section that is absent is not run.

use plane_core::config::{DaemonConfig, Draft, Key, Kind, NATS, NatsConfig, Part, is_ip};
use serde::{Deserialize, Serialize};

/// What a controller is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerConfig {
    /// Where NATS is.
    pub nats: NatsConfig,
    /// Deciding where backends run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerConfig>,
}

/// The `[scheduler]` section. Its presence says that this controller schedules; whichever cluster is asked for is
/// served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerConfig {
    /// How many servers of a NATS cluster keep each stream that this controller makes; streams that are there already
    /// stay as they are.
    #[serde(default = "one")]
    pub stream_replicas: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { stream_replicas: one() }
    }
}

fn one() -> usize {
    1
}

impl DaemonConfig for ControllerConfig {
    const PARTS: &'static [&'static Part] = &[&NATS, &SECTIONS, &DNS, &HTTP];
}

static SECTIONS: Part = Part {
    // JetStream keeps a stream on at most five servers.
    keys: &[Key::optional("scheduler", Kind::Section), Key::optional("scheduler.stream_replicas", Kind::Int(1, 5))],
    exclusive: &[],
    rules: |draft| {
        if !["scheduler", "dns", "http"].iter().any(|section| draft.has(section)) {
            draft.fault("scheduler", "there is nothing to run: expected a section [scheduler]");
        }
    },
};

static DNS: Part = Part {
    keys: &[
        Key::optional("dns", Kind::Section),
        Key::optional("dns.port", Kind::Port),
        Key::optional("dns.bind_ip", Kind::Text("an IP address", is_ip)),
        Key::optional("dns.soa_email", Kind::Text("an e-mail address, such as admin@example.org", is_email)),
        Key::optional("dns.domain_name", Kind::Text("a DNS name", is_dns_name)),
        Key::optional("dns.ns_ips", Kind::List("an IP address", is_ip)),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| draft.refuse_section("dns"),
};

static HTTP: Part = Part {
    keys: &[
        Key::optional("http", Kind::Section),
        Key::optional("http.port", Kind::Port),
        Key::optional("http.bind_ip", Kind::Text("an IP address", is_ip)),
        Key::required("http.cluster", Kind::Text("a cluster: a DNS name of two labels or more", is_cluster)),
        Key::optional("http.services", Kind::Map),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| draft.refuse_section("http"),
};

fn is_cluster(text: &str) -> bool {
    text.parse::<plane_core::id::ClusterName>().is_ok()
}

fn is_email(text: &str) -> bool {
    let sane = !text.contains(char::is_whitespace) && text.matches('@').count() == 1;
    sane && text.split_once('@').is_some_and(|(who, domain)| !who.is_empty() && is_dns_name(domain))
}

/// A DNS name; the dot at its end may be there.
fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
