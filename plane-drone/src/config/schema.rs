//! The keys of the drone's configuration, and the rules between them.

use plane_core::{
    config::{Draft, Key, Kind, Part, is_http_url, is_ip, is_socket_addr},
    id::{ClusterName, DroneId},
};

/// A day, in seconds: nothing that is waited for takes longer.
const DAY: i64 = 86_400;

const DRONE_ID: Kind = Kind::Text("a drone id: letters, digits, '_' and '-', at most 128", is_drone);
const IP: Kind = Kind::Text("an IP address", is_ip);
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
    ],
    exclusive: &[("cert.shared_key", "cert.shared_key_path")],
    rules: |draft: &mut Draft| {
        if draft.has("cert") && !draft.has("proxy") {
            draft.fault("cert", "needs a section [proxy]: nothing else serves the certificate");
        }
        if draft.text("cert.key_path").is_some_and(|key| draft.text("cert.cert_path") == Some(key)) {
            draft.fault("cert.cert_path", "is the same file as cert.key_path; give two files");
        }
    },
};

/// `[acme]`
pub(super) static ACME: Part = Part {
    keys: &[
        Key::optional("acme", Kind::Section),
        Key::required("acme.server", Kind::String),
        Key::required("acme.admin_email", Kind::Text("an e-mail address", |text| text.contains('@'))),
        Key::optional("acme.ca_path", Kind::String),
        Key::required("acme.eab.key_id", Kind::String),
        Key::required("acme.eab.key", Kind::Secret),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| draft.refuse_section("acme"),
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

/// `[proxy]`
pub(super) static PROXY: Part = Part {
    keys: &[
        Key::optional("proxy", Kind::Section),
        Key::optional("proxy.bind_ip", IP),
        Key::optional("proxy.http_port", Kind::Port),
        Key::optional("proxy.https_port", Kind::Port),
        Key::optional("proxy.passthrough", Kind::Text("an IP address and a port", is_socket_addr)),
        Key::optional("proxy.allow_path_routing", Kind::Bool),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| {
        if draft.has("proxy.https_port") && !draft.has("cert") {
            draft.fault("proxy.https_port", "needs a section [cert]: without a certificate there is no HTTPS");
        }
        let (http, https) = (draft.int("proxy.http_port"), draft.int("proxy.https_port"));
        if draft.has("cert") && http.unwrap_or(80) == https.unwrap_or(443) && http != Some(0) {
            let path = if https.is_some() { "proxy.https_port" } else { "proxy.http_port" };
            draft.fault(path, "is the same port for HTTP and HTTPS; give two");
        }
    },
};

fn is_drone(text: &str) -> bool {
    text.parse::<DroneId>().is_ok()
}

fn is_cluster(text: &str) -> bool {
    text.parse::<ClusterName>().is_ok()
}

fn is_syslog(text: &str) -> bool {
    ["udp://", "tcp://", "tcp+tls://", "unix://", "unixgram://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}
