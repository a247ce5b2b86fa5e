//! The controller's configuration. A section that is absent is not run.

use crate::dns::zone::Caa;
use jiff::SignedDuration;
use plane_core::{
    config::{DaemonConfig, Draft, Key, Kind, NATS, NatsConfig, Part, is_ip},
    id::MAX_LABEL_BYTES,
    nats::{Storage, StreamConfig, StreamName},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// What a controller is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerConfig {
    /// Where NATS is.
    pub nats: NatsConfig,
    /// Deciding where backends run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerConfig>,
    /// Answering the names of backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
}

/// The `[dns]` section. Its presence says that this controller is an authoritative name server for every cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// The port, for UDP and TCP.
    pub port: u16,
    /// The address to listen on; every one of the machine where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_ip: Option<IpAddr>,
    /// The mailbox of who is responsible; `hostmaster@<cluster>` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soa_email: Option<String>,
    /// The name of the name server; `ns1.<cluster>` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// The addresses of the name server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ns_ips: Vec<IpAddr>,
    /// How many seconds answers may be kept.
    pub ttl_secs: u32,
    /// Which certificate authorities may issue for the clusters: `FLAGS TAG VALUE` each, as in a zone file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caa: Vec<String>,
    /// How many connections over TCP there are at most; one more, and the longest idle one gives way.
    pub tcp_connections: usize,
    /// How many seconds a connection may be without a whole request.
    pub tcp_idle_secs: u32,
    /// How many answers a second one network, a /24 or a /56, gets over UDP; no limit where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_sec: Option<u32>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            port: 53,
            bind_ip: None,
            soa_email: None,
            domain_name: None,
            ns_ips: Vec::new(),
            ttl_secs: 60,
            caa: Vec::new(),
            tcp_connections: 1024,
            tcp_idle_secs: 10,
            rate_limit_per_sec: None,
        }
    }
}

/// The `[scheduler]` section. Its presence says that this controller schedules; whichever cluster is asked for is
/// served. All controllers of one NATS should have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// How many servers of a NATS cluster keep each stream that this controller makes; streams that are there already
    /// stay as they are.
    pub stream_replicas: usize,
    /// Where those streams are kept.
    pub stream_storage: Storage,
    /// How many bytes `plane_state` may take; no limit of its own where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_max_bytes: Option<i64>,
    /// How many bytes `backend_status` may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_max_bytes: Option<i64>,
    /// How many bytes `backend_logs` may take; the oldest lines go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs_max_bytes: Option<i64>,
    /// A drone that was silent for so many seconds gets no backends.
    pub silent_secs: u32,
    /// The seconds after which drones give locked backends up that they have no lease for: their `agent.fence_secs`.
    pub fence_secs: u32,
    /// A drone that was silent for so many seconds is Lost, with its locked backends.
    pub lost_secs: u32,
    /// The other backends of a drone are Lost once it was silent for so many seconds.
    pub abandon_secs: u32,
    /// The same for a drone that said that it stops.
    pub stopped_secs: u32,
    /// An assignment that no drone accepted for so many seconds is taken back.
    pub unaccepted_secs: u32,
    /// What ended is remembered for so many seconds.
    pub retention_secs: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            stream_replicas: 1,
            stream_storage: Storage::File,
            state_max_bytes: None,
            status_max_bytes: None,
            logs_max_bytes: None,
            silent_secs: 30,
            fence_secs: 45,
            lost_secs: 60,
            abandon_secs: 900,
            stopped_secs: 3600,
            unaccepted_secs: 5,
            retention_secs: 86_400,
        }
    }
}

impl SchedulerConfig {
    /// The streams as this has them.
    pub fn streams(&self) -> [StreamConfig; 3] {
        [
            (StreamName::State, self.state_max_bytes),
            (StreamName::Status, self.status_max_bytes),
            (StreamName::Logs, self.logs_max_bytes),
        ]
        .map(|(name, max_bytes)| StreamConfig {
            name,
            replicas: self.stream_replicas,
            storage: self.stream_storage,
            max_bytes,
        })
    }

    /// The deadlines as this has them.
    pub fn timing(&self) -> Timing {
        let secs = |secs: u32| Duration::from_secs(secs.into());
        Timing {
            silent: secs(self.silent_secs),
            fence: secs(self.fence_secs),
            lost: secs(self.lost_secs),
            abandon: secs(self.abandon_secs),
            stopped: secs(self.stopped_secs),
            unaccepted: secs(self.unaccepted_secs),
            retention: SignedDuration::from_secs(self.retention_secs.into()),
        }
    }
}

/// The deadlines of the control plane, as [`SchedulerConfig`] describes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the configuration's fields of the same names say it")]
pub struct Timing {
    pub silent: Duration,
    pub fence: Duration,
    pub lost: Duration,
    pub abandon: Duration,
    pub stopped: Duration,
    pub unaccepted: Duration,
    pub retention: SignedDuration,
}

impl DaemonConfig for ControllerConfig {
    const PARTS: &'static [&'static Part] = &[&NATS, &SECTIONS, &DNS, &HTTP];
}

static SECTIONS: Part = Part {
    keys: &[
        Key::optional("scheduler", Kind::Section),
        // JetStream keeps a stream on at most five servers.
        Key::optional("scheduler.stream_replicas", Kind::Int(1, 5)),
        Key::optional(
            "scheduler.stream_storage",
            Kind::Text("file or memory", |text| matches!(text, "file" | "memory")),
        ),
        Key::optional("scheduler.state_max_bytes", Kind::Int(1 << 20, i64::MAX)),
        Key::optional("scheduler.status_max_bytes", Kind::Int(1 << 20, i64::MAX)),
        Key::optional("scheduler.logs_max_bytes", Kind::Int(1 << 20, i64::MAX)),
        // Drones say that they are there every 4 s.
        Key::optional("scheduler.silent_secs", Kind::Int(5, DAY)),
        Key::optional("scheduler.fence_secs", Kind::Int(1, DAY)),
        Key::optional("scheduler.lost_secs", Kind::Int(1, DAY)),
        Key::optional("scheduler.abandon_secs", Kind::Int(1, DAY)),
        Key::optional("scheduler.stopped_secs", Kind::Int(1, DAY)),
        Key::optional("scheduler.unaccepted_secs", Kind::Int(3, DAY)),
        Key::optional("scheduler.retention_secs", Kind::Int(1, 365 * DAY)),
    ],
    exclusive: &[],
    rules: |draft| {
        check_order(draft);
        if !["scheduler", "dns", "http"].iter().any(|section| draft.has(section)) {
            draft.fault("scheduler", "there is nothing to run: expected a section [scheduler] or [dns]");
        }
    },
};

/// A day, in seconds.
const DAY: i64 = 86_400;

/// Each of these deadlines rests on the one before it having passed.
fn check_order(draft: &mut Draft) {
    let defaults = SchedulerConfig::default();
    let defaults = [defaults.silent_secs, defaults.fence_secs, defaults.lost_secs, defaults.abandon_secs];
    let names = ["silent_secs", "fence_secs", "lost_secs", "abandon_secs"].map(|name| format!("scheduler.{name}"));
    let values: Vec<i64> =
        names.iter().zip(defaults).map(|(name, default)| draft.int(name).unwrap_or(default.into())).collect();
    for (names, values) in names.windows(2).zip(values.windows(2)) {
        if let ([before, after], [less, more]) = (names, values)
            && less >= more
        {
            let (path, problem) = match draft.has(after) {
                true => (after, format!("expected more than {before}, which is {less}; found {more}")),
                false => (before, format!("expected less than {after}, which is {more}; found {less}")),
            };
            draft.fault(path, problem);
        }
    }
}

static DNS: Part = Part {
    keys: &[
        Key::optional("dns", Kind::Section),
        Key::optional("dns.port", Kind::Port),
        Key::optional("dns.bind_ip", Kind::Text("an IP address", is_ip)),
        Key::optional("dns.soa_email", Kind::Text("an e-mail address, such as admin@example.org", is_email)),
        Key::optional("dns.domain_name", Kind::Text("a DNS name", is_dns_name)),
        Key::optional("dns.ns_ips", Kind::List("an IP address", is_ip)),
        // A day at most: names come and go.
        Key::optional("dns.ttl_secs", Kind::Int(0, DAY)),
        Key::optional("dns.caa", Kind::List("FLAGS TAG VALUE, such as 0 issue letsencrypt.org", is_caa)),
        Key::optional("dns.tcp_connections", Kind::Int(1, 65_535)),
        Key::optional("dns.tcp_idle_secs", Kind::Int(1, 3600)),
        Key::optional("dns.rate_limit_per_sec", Kind::Int(1, 1_000_000)),
    ],
    exclusive: &[],
    rules: |_| {},
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

fn is_caa(text: &str) -> bool {
    text.parse::<Caa>().is_ok()
}

fn is_email(text: &str) -> bool {
    let sane = !text.contains(char::is_whitespace) && text.matches('@').count() == 1;
    // As a name it may have 253 bytes, as every one: the part before the @ is its first label.
    sane && text.trim_end_matches('.').len() <= MAX_NAME_BYTES
        && text
            .split_once('@')
            .is_some_and(|(who, domain)| (1..=MAX_LABEL_BYTES).contains(&who.len()) && is_dns_name(domain))
}

/// How long a DNS name may be as text, in bytes: on the wire it has two more (RFC 1035 section 3.1).
const MAX_NAME_BYTES: usize = 253;

/// A DNS name; the dot at its end may be there.
fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
