//! The keys of the drone's configuration, and the rules between them.

use super::acme::KeyType;
use crate::cert::seal::{ClusterKey, lenient_base64};
use plane_core::{
    config::{Draft, Key, Kind, Part, is_http_url, is_ip},
    id::{ClusterName, DroneId},
};

/// A day, in seconds: nothing that is waited for takes longer.
pub(super) const DAY: i64 = 86_400;

const DRONE_ID: Kind = Kind::Text("a drone id: letters, digits, '_' and '-', at most 128", is_drone);
pub(super) const IP: Kind = Kind::Text("an IP address", is_ip);
const HTTP_URL: Kind = Kind::Text("a URL that begins with http:// (https is not supported here)", is_http_url);

/// What stands outside of any section.
pub(super) static DRONE: Part = Part {
    keys: &[
        Key::optional("drone_id", DRONE_ID),
        Key::optional("db_path", Kind::String),
        Key::always(
            "cluster_domain",
            Kind::Text("a cluster: a lower-case DNS name of two labels or more, without '_'", is_cluster),
        ),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| {
        draft.rename("agent.drone_id", "drone_id");
        match (draft.has("agent"), draft.has("proxy")) {
            (false, false) => draft.fault("agent", "there is nothing to run: expected the sections [agent] and [proxy]"),
            (false, true) => draft.fault(
                "proxy",
                "the section [proxy] needs [agent] beside it: the proxy learns its routes from the agent in its own process",
            ),
            (true, _) => {}
        }
    },
};

/// `[cert]`
pub(super) static CERT: Part = Part {
    keys: &[
        Key::optional("cert", Kind::Section),
        Key::required("cert.key_path", Kind::String),
        Key::required("cert.cert_path", Kind::String),
        Key::optional("cert.account_key_path", Kind::String),
        Key::optional("cert.shared_key", Kind::Secret),
        Key::optional("cert.shared_key_path", Kind::String),
        // A renewal takes up to 2 s, and there are four in that time.
        Key::optional("cert.shared_lease_secs", Kind::Int(4, 3600)),
        Key::optional("cert.key_type", Kind::Text(KeyType::NAMES, is_key_type)),
    ],
    exclusive: &[("cert.shared_key", "cert.shared_key_path")],
    rules: |draft: &mut Draft| {
        if draft.has("cert") && !draft.has("proxy") {
            draft.fault("cert", "needs a section [proxy]: nothing else serves the certificate");
        }
        if draft.text("cert.key_path").is_some_and(|key| draft.text("cert.cert_path") == Some(key)) {
            draft.fault("cert.cert_path", "is the same file as cert.key_path; give two files");
        }
        for shared in ["cert.shared_key", "cert.shared_key_path"] {
            if draft.has(shared) && !draft.has("acme") {
                draft.fault(shared, "needs a section [acme]: drones share certificates that they order");
            }
        }
        if let Some(Err(error)) = draft.text("cert.shared_key").map(ClusterKey::parse) {
            draft.fault("cert.shared_key", error.to_string());
        }
    },
};

/// `[acme]`
pub(super) static ACME: Part = Part {
    keys: &[
        Key::optional("acme", Kind::Section),
        Key::required("acme.server", Kind::Text("the https:// URL of the CA's directory", is_https_url)),
        Key::required("acme.admin_email", Kind::Text("an e-mail address", is_email)),
        Key::optional("acme.ca_path", Kind::String),
        Key::required("acme.eab.key_id", Kind::String),
        Key::required("acme.eab.key", Kind::Secret),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| {
        if draft.has("acme") && !draft.has("cert") {
            draft.fault("acme", "needs a section [cert]: it says where the certificate is put");
        }
        if draft.text("acme.eab.key").is_some_and(|key| lenient_base64(key).is_none_or(|bytes| bytes.is_empty())) {
            draft.fault("acme.eab.key", "expected base64 or base64url, as the CA hands it out");
        }
    },
};

/// `[agent]`
pub(super) static AGENT: Part = Part {
    keys: &[
        Key::optional("agent.drone_id", DRONE_ID),
        Key::required("agent.ip", IP),
        Key::required("agent.ip.api", HTTP_URL),
        Key::optional("agent.ready_timeout_secs", Kind::Int(1, DAY)),
        Key::optional("agent.load_timeout_secs", Kind::Int(1, DAY)),
        Key::optional("agent.lease_secs", Kind::Int(1, DAY)),
        Key::optional("agent.fence_secs", Kind::Int(1, DAY)),
        Key::optional("agent.capacity.max_backends", Kind::Int(1, u32::MAX as i64)),
        Key::optional("agent.capacity.memory_bytes", Kind::Int(1, i64::MAX)),
        Key::optional("agent.capacity.cpus", Kind::Int(1, 1 << 16)),
        Key::optional("agent.labels", Kind::Map),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| {
        let lease = draft.int("agent.lease_secs").unwrap_or(10);
        let fence = draft.int("agent.fence_secs").unwrap_or(45);
        if fence < lease * 2 {
            let path = if draft.has("agent.fence_secs") { "agent.fence_secs" } else { "agent.lease_secs" };
            draft.fault(path, format!("expected agent.fence_secs ({fence}) to be at least twice agent.lease_secs ({lease}): one renewal may fail"));
        }
    },
};

/// `[agent.docker]`
pub(super) static DOCKER: Part = Part {
    keys: &[
        Key::optional("agent.docker.runtime", Kind::String),
        Key::optional("agent.docker.network", Kind::String),
        Key::optional("agent.docker.connection.socket", Kind::String),
        Key::optional("agent.docker.connection.http", HTTP_URL),
        Key::optional("agent.docker.insecure_gpu", Kind::Bool),
        Key::optional("agent.docker.allow_volume_mounts", Kind::Bool),
        Key::optional(
            "agent.docker.syslog",
            Kind::Text("an address such as udp://10.0.0.1:514, tcp://… or unix://…", is_syslog),
        ),
    ],
    exclusive: &[("agent.docker.connection.socket", "agent.docker.connection.http")],
    rules: |draft: &mut Draft| {
        if draft.is_empty_table("agent.docker.connection") {
            draft.fault("agent.docker.connection", "expected a socket (a path), or http (a URL)");
        }
    },
};

fn is_drone(text: &str) -> bool {
    text.parse::<DroneId>().is_ok()
}

fn is_https_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.host_str().is_some())
}

fn is_email(text: &str) -> bool {
    let whole = !text.contains(|c: char| c.is_whitespace() || c == ',');
    whole && text.split_once('@').is_some_and(|(who, domain)| !who.is_empty() && !domain.is_empty())
}

fn is_key_type(text: &str) -> bool {
    ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-4096"].contains(&text)
}

fn is_cluster(text: &str) -> bool {
    text.parse::<ClusterName>().is_ok()
}

fn is_syslog(text: &str) -> bool {
    ["udp://", "tcp://", "tcp+tls://", "unix://", "unixgram://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}
