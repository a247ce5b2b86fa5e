//! The keys of `[proxy]` and `[proxy.limits]`, and the rules between them.

use super::{
    super::schema::{DAY, IP},
    DEFAULT_HTTP_PORT, LimitsConfig, Network, ProxyConfig, leads_to,
};
use crate::config::DEFAULT_HTTPS_PORT;
use plane_core::config::{Draft, Key, Kind, Part, is_socket_addr};
use std::net::{IpAddr, SocketAddr};

/// The most of anything that is counted, such as connections: more than one machine can have.
const MANY: i64 = 1_000_000;
/// The least room for the head of a request, in bytes: browsers send cookies of 4 KiB, and hyper takes no less.
const LEAST_HEADER_BYTES: i64 = 8192;
/// The most room for the head of a request, in bytes: each connection may take it.
const MOST_HEADER_BYTES: i64 = 1 << 20;

const SECS: Kind = Kind::Int(1, DAY);
const NETWORKS: Kind =
    Kind::List("an IP address or a network such as 10.0.0.0/8, no bits set beyond its prefix", is_network);

/// `[proxy]`
pub(in crate::config) static PROXY: Part = Part {
    keys: &[
        Key::optional("proxy", Kind::Section),
        Key::optional("proxy.bind_ip", IP),
        Key::optional("proxy.http_port", Kind::Port),
        Key::optional("proxy.https_port", Kind::Port),
        Key::optional("proxy.passthrough", Kind::Text("an IP address and a port", is_socket_addr)),
        Key::optional("proxy.allow_path_routing", Kind::Bool),
        Key::optional("proxy.http1", Kind::Text("hyper or plane", is_http1)),
        Key::optional("proxy.threads", Kind::Int(1, 1024)),
        Key::optional("proxy.cookie_same_site", Kind::Text("Lax, Strict or None", is_same_site)),
        Key::optional("proxy.trusted_proxies", NETWORKS),
        Key::optional("proxy.proxy_protocol", Kind::Bool),
        Key::optional("proxy.waiting_page", Kind::Bool),
        Key::optional("proxy.start_wait_secs", SECS),
        Key::optional("proxy.answer_secs", SECS),
        Key::optional("proxy.access_log", Kind::String),
        Key::optional("proxy.limits.connections", Kind::Int(1, MANY)),
        Key::optional("proxy.limits.connections_per_address", Kind::Int(0, MANY)),
        Key::optional("proxy.limits.backend_connections", Kind::Int(0, MANY)),
        Key::optional("proxy.limits.streams_per_connection", Kind::Int(1, MANY)),
        Key::optional("proxy.limits.header_bytes", Kind::Int(LEAST_HEADER_BYTES, MOST_HEADER_BYTES)),
        Key::optional("proxy.limits.header_count", Kind::Int(10, 256)),
        Key::optional("proxy.limits.request_line_bytes", Kind::Int(256, MOST_HEADER_BYTES)),
        Key::optional("proxy.limits.body_bytes", Kind::Int(0, i64::MAX)),
        Key::optional("proxy.limits.handshake_secs", SECS),
        Key::optional("proxy.limits.header_secs", SECS),
        Key::optional("proxy.limits.idle_secs", SECS),
        Key::optional("proxy.limits.body_secs", SECS),
        Key::optional("proxy.limits.send_secs", SECS),
        Key::optional("proxy.limits.held_per_backend", Kind::Int(1, MANY)),
    ],
    exclusive: &[],
    rules: |draft: &mut Draft| {
        ports(draft);
        passthrough(draft);
        trust(draft);
        room(draft);
    },
};

fn ports(draft: &mut Draft) {
    if draft.has("proxy.https_port") && !draft.has("cert") {
        draft.fault("proxy.https_port", "needs a section [cert]: without a certificate there is no HTTPS");
    }
    let (http, https) = (draft.int("proxy.http_port"), draft.int("proxy.https_port"));
    let same = http.unwrap_or(DEFAULT_HTTP_PORT.into()) == https.unwrap_or(DEFAULT_HTTPS_PORT.into());
    if draft.has("cert") && same && http != Some(0) {
        let path = if https.is_some() { "proxy.https_port" } else { "proxy.http_port" };
        draft.fault(path, "is the same port for HTTP and HTTPS; give two");
    }
}

/// What is passed through must not come back. That an address is this machine's is not known here, but of a few.
fn passthrough(draft: &mut Draft) {
    let Some(address) = draft.text("proxy.passthrough").and_then(|text| text.parse::<SocketAddr>().ok()) else {
        return;
    };
    let read = |path, default: IpAddr| draft.text(path).map_or(Some(default), |text| text.parse().ok());
    let Some(ip) = read("proxy.bind_ip", ProxyConfig::default().bind_ip) else { return };
    let is_of_machine = read("agent.ip", address.ip()).is_some_and(|own| draft.has("agent.ip") && own == address.ip());
    let http = draft.int("proxy.http_port").unwrap_or(DEFAULT_HTTP_PORT.into());
    let https = draft.has("cert").then(|| draft.int("proxy.https_port").unwrap_or(DEFAULT_HTTPS_PORT.into()));
    let mut ports = [Some(http), https].into_iter().flatten().filter_map(|port| u16::try_from(port).ok());
    if ports.any(|port| leads_to(address, SocketAddr::new(ip, port), is_of_machine)) {
        draft.fault(
            "proxy.passthrough",
            "is where this proxy itself listens, so that requests for unknown names would come back without end; give the address of another program",
        );
    }
}

fn trust(draft: &mut Draft) {
    let trusts = draft.has("proxy.trusted_proxies")
        && draft.list("proxy.trusted_proxies").is_none_or(|networks| !networks.is_empty());
    if draft.is_true("proxy.proxy_protocol") && !trusts {
        draft.fault(
            "proxy.proxy_protocol",
            "needs proxy.trusted_proxies: who may send the header of the PROXY protocol",
        );
    }
    // A front proxy may be what ends TLS.
    if draft.text("proxy.cookie_same_site") == Some("None") && !draft.has("cert") && !trusts {
        draft.fault(
            "proxy.cookie_same_site",
            "needs TLS, for browsers drop a cookie with SameSite=None that is not Secure: give a section [cert], or in proxy.trusted_proxies what ends TLS before this drone",
        );
    }
}

fn room(draft: &mut Draft) {
    let default = LimitsConfig::default();
    let line = draft.int("proxy.limits.request_line_bytes").unwrap_or(default.request_line_bytes.into());
    let head = draft.int("proxy.limits.header_bytes").unwrap_or(default.header_bytes.into());
    if line > head {
        let given = draft.has("proxy.limits.request_line_bytes");
        let path = if given { "proxy.limits.request_line_bytes" } else { "proxy.limits.header_bytes" };
        draft.fault(path, format!("expected proxy.limits.request_line_bytes ({line}) to be at most proxy.limits.header_bytes ({head}), which has room for that line and the fields"));
    }
    let all = draft.int("proxy.limits.connections").unwrap_or(default.connections.into());
    if let Some(each) = draft.int("proxy.limits.connections_per_address")
        && each > all
    {
        draft.fault(
            "proxy.limits.connections_per_address",
            format!("expected at most proxy.limits.connections ({all}), or 0 for no limit"),
        );
    }
}

fn is_network(text: &str) -> bool {
    text.parse::<Network>().is_ok()
}

fn is_http1(text: &str) -> bool {
    ["hyper", "plane"].contains(&text)
}

fn is_same_site(text: &str) -> bool {
    ["Lax", "Strict", "None"].contains(&text)
}
