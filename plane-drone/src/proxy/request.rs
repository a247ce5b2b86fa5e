//! What of a request and its response goes on, and what does not: RFC 9110, section 7.6. Pure.

use super::{
    auth,
    http1::is_authority,
    origin::{self, Origin},
    refusal::Refusal,
    strict,
};
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    header::{self, Entry, HeaderName, HeaderValue},
    http::{request::Parts, uri::PathAndQuery},
};
use plane_core::{chance::Chance, id::BearerToken};
use std::{borrow::Cow, net::SocketAddr};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// What Forwarded mostly takes, in bytes.
const FORWARDED_BYTES: usize = 128;
/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Which backend answered.
const BACKEND_ID: HeaderName = HeaderName::from_static("x-plane-backend-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// How a client reaches us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// In the open.
    Http,
    /// Through TLS.
    Https,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    /// Its address.
    pub(super) peer: SocketAddr,
    /// How it reaches us.
    pub(super) scheme: Scheme,
    /// Whether this may be a trusted proxy that says for whom it asks. It is not where that proxy's header of the PROXY
    /// protocol named nobody: what follows may be anybody's.
    pub(super) may_claim: bool,
}

/// What the client sees of where it asks, and we of the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The host that it asks.
    pub(super) host: &'a HeaderValue,
    /// The path and query that the backend is asked for; may lack its first `/`.
    pub(super) path: &'a str,
    /// What stands before that path for the client.
    pub(super) prefix: &'a str,
    /// Who asks.
    pub(super) origin: &'a Origin,
}

/// Whom a request asks: the target's authority where it has one (RFC 9112, section 3.2.2), else its one Host.
pub(super) fn host(uri: &Uri, fields: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || first.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(Refusal::BadAddress);
    }
    if let Some(authority) = uri.authority() {
        if !is_authority(authority.as_str().as_bytes()) {
            return Err(Refusal::BadAddress);
        }
        return HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadAddress);
    }
    first.cloned().ok_or(Refusal::BadAddress)
}

/// How long the first line of a request is, or would be with HTTP/1.1, without its line end, in bytes.
pub(super) fn line_bytes(method: &Method, uri: &Uri, version: Version) -> usize {
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    // With HTTP/2 these are fields of their own.
    let before = match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) if version != Version::HTTP_2 => {
            scheme.len() + "://".len() + authority.as_str().len()
        }
        _ => 0,
    };
    method.as_str().len() + before + path + "  HTTP/1.1".len()
}

/// What a client wants to change to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// By a field, as HTTP/1.1 has it (RFC 9110, section 7.8).
    Field(HeaderValue),
    /// By an extended CONNECT, as HTTP/2 has it (RFC 8441): a WebSocket, for which we are the client that has to send a
    /// key and look at what comes of it (RFC 6455, section 4.1).
    Connect {
        /// Sec-WebSocket-Key.
        key: String,
    },
}

impl Upgrade {
    /// A WebSocket over HTTP/2.
    pub(super) fn connect(chance: &Chance) -> Self {
        Self::Connect { key: STANDARD.encode(chance.uuid().into_bytes()) }
    }

    /// What a request with HTTP/1.1 asks for.
    pub(super) fn asked(fields: &HeaderMap) -> Option<Self> {
        let upgrade = fields.get(header::UPGRADE)?;
        let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let asks = values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
        if asks { strict::upgrade(upgrade).map(Self::Field) } else { None }
    }
}

/// Fields that concern one connection only. Trailer is none: trailers are carried on.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade")
}

/// Fields that servers in the manner of CGI take for those that say how long a body is.
fn is_misread(name: &str) -> bool {
    matches!(name, "content_length" | "transfer_encoding")
}

/// Removes fields in one pass over their names, most often none: those of one connection, those that Connection names,
/// and what `drops` says.
fn strip(fields: &mut HeaderMap, drops: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for name in fields.keys() {
        if is_hop_by_hop(name.as_str()) || drops(name.as_str()) {
            found.push(name.clone());
        }
    }
    for name in found {
        let Entry::Occupied(entry) = fields.entry(name) else { continue };
        let is_connection = *entry.key() == header::CONNECTION;
        let values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
        if is_connection {
            let texts = values.iter().filter_map(|value| value.to_str().ok());
            for name in texts.flat_map(|text| text.split(',')).map(str::trim) {
                // Not Host and the length of the body, whatever Connection says of them.
                if !name.eq_ignore_ascii_case("host") && !name.eq_ignore_ascii_case("content-length") {
                    fields.remove(name);
                }
            }
        }
    }
}

/// Whether a client takes trailers (RFC 9110, section 10.1.4).
fn takes_trailers(fields: &HeaderMap) -> bool {
    let values = fields.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn upgrade_to(fields: &mut HeaderMap, protocol: HeaderValue) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, protocol);
}

/// Makes of the head of a request that the hyper library sends what the backend gets.
pub(super) fn rewrite(head: &mut Parts, seen: &Seen<'_>, upgrade: Option<&Upgrade>) -> Result<(), Refusal> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Refusal::BadAddress);
    let (host, prefix) = (seen.host.clone(), seen.prefix);
    // The server as a whole is asked so (RFC 9112, section 3.2.4).
    let slash = if seen.path.starts_with('/') || seen.path == "*" { "" } else { "/" };
    let target = match (prefix, head.uri.path_and_query()) {
        ("", Some(whole)) if slash.is_empty() => whole.clone(),
        _ => PathAndQuery::try_from(format!("{slash}{}", seen.path)).map_err(|_| Refusal::BadAddress)?,
    };
    let prefix = if prefix.is_empty() { None } else { Some(value(prefix)?) };
    head.uri = Uri::from(target);
    let came_with = std::mem::replace(&mut head.version, Version::HTTP_11);
    let fields = &mut head.headers;
    let takes_trailers = came_with != Version::HTTP_10 && takes_trailers(fields);
    strip(fields, |name| name == "expect" || is_misread(name) || origin::is_forwarding(name));
    match upgrade {
        None if takes_trailers => {
            fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        None => {}
        Some(Upgrade::Field(protocol)) => upgrade_to(fields, protocol.clone()),
        // Only HTTP/2 has it, whose heads are not rewritten but written.
        Some(Upgrade::Connect { .. }) => return Err(Refusal::MethodNotAllowed),
    }
    let (origin, mut line) = (seen.origin, Vec::with_capacity(FORWARDED_BYTES));
    let written = |line: &[u8]| HeaderValue::from_bytes(line).map_err(|_| Refusal::BadAddress);
    origin.write_forwarded_for(&mut line);
    fields.insert(FORWARDED_FOR, written(&line)?);
    line.clear();
    let asked = host.to_str().unwrap_or_default();
    origin.write_forwarded(asked, &mut line);
    fields.insert(FORWARDED, written(&line)?);
    let believed = origin.host(asked);
    let believed = if believed == asked { host.clone() } else { value(believed)? };
    fields.insert(FORWARDED_HOST, believed);
    fields.insert(FORWARDED_PROTO, HeaderValue::from_static(origin.proto()));
    fields.insert(header::HOST, host);
    if let Some(prefix) = prefix {
        fields.insert(FORWARDED_PREFIX, prefix);
    }
    Ok(())
}

/// Removes what is between a client and us: the token of a backend, wherever a request has it, and our cookie, which may
/// be another backend's where backends are found by path.
pub(super) fn keep_secrets(fields: &mut HeaderMap, token: Option<&BearerToken>) {
    if let Some(token) = token
        && let Entry::Occupied(entry) = fields.entry(header::AUTHORIZATION)
        && entry.iter().any(|value| auth::is_our_bearer(value.as_bytes(), token))
    {
        let (name, values) = entry.remove_entry_mult();
        let others: Vec<HeaderValue> = values.filter(|value| !auth::is_our_bearer(value.as_bytes(), token)).collect();
        for value in others {
            fields.append(name.clone(), value);
        }
    }
    if let Entry::Occupied(entry) = fields.entry(header::COOKIE)
        && !entry.iter().all(|value| matches!(auth::cut_cookie(value.as_bytes()), Some(Cow::Borrowed(_))))
    {
        let (name, values) = entry.remove_entry_mult();
        let kept: Vec<HeaderValue> = values.filter_map(without_our_crumb).collect();
        for value in kept {
            fields.append(name.clone(), value);
        }
    }
}

fn without_our_crumb(value: HeaderValue) -> Option<HeaderValue> {
    match auth::cut_cookie(value.as_bytes())? {
        Cow::Borrowed(_) => Some(value),
        Cow::Owned(left) => HeaderValue::from_bytes(&left).ok(),
    }
}

/// What a backend proves to have read the key with (RFC 6455, section 4.2.2).
fn websocket_accept(key: &str) -> String {
    let mut hashed = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hashed.update(key.as_bytes());
    hashed.update(WEBSOCKET_GUID);
    STANDARD.encode(hashed.finish())
}

/// Trailers as they go on: without what belongs into a head, or is ours to say (RFC 9110, section 6.5.1).
pub(super) fn clean_trailers(fields: &mut HeaderMap) {
    let is_for_heads = |name: &str| {
        matches!(
            name,
            "host"
                | "content-length"
                | "authorization"
                | "cookie"
                | "set-cookie"
                | "expect"
                | "trailer"
                | "content-encoding"
                | "content-type"
                | "content-range"
                | "cache-control"
                | "location"
                | "x-plane-backend-id"
        )
    };
    strip(fields, |name| is_for_heads(name) || is_misread(name) || origin::is_forwarding(name));
}

/// The response's fields as the client gets them; `name` is the backend's.
pub(super) fn clean_response(fields: &mut HeaderMap, name: Option<&HeaderValue>) {
    strip(fields, |name| name == BACKEND_ID.as_str());
    if let Some(name) = name {
        fields.insert(BACKEND_ID, name.clone());
    }
}

/// The fields of an interim answer as the client gets them: it has no body, and says nothing about the connection.
pub(super) fn clean_interim(fields: &mut HeaderMap) {
    strip(fields, |name| name == BACKEND_ID.as_str() || name == header::CONTENT_LENGTH.as_str());
}

/// The head of a response that changes the protocol, as the client gets it.
pub(super) fn clean_upgrade_response(
    status: &mut StatusCode,
    fields: &mut HeaderMap,
    name: Option<&HeaderValue>,
    upgrade: &Upgrade,
) -> Result<(), Refusal> {
    let protocol = fields.get(header::UPGRADE).cloned();
    clean_response(fields, name);
    match (upgrade, protocol) {
        (Upgrade::Connect { key }, protocol) => {
            let accepts = fields.remove(header::SEC_WEBSOCKET_ACCEPT);
            let is_websocket = protocol.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
            if !is_websocket || accepts.is_none_or(|accepts| accepts.as_bytes() != websocket_accept(key).as_bytes()) {
                return Err(Refusal::Broken);
            }
            *status = StatusCode::OK;
        }
        (Upgrade::Field(_), Some(protocol)) => upgrade_to(fields, protocol),
        (Upgrade::Field(_), None) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::origin::Claims;
    use hyper::Request;

    static HOST: HeaderValue = HeaderValue::from_static("b.plane.test");

    fn origin(scheme: Scheme) -> Origin {
        Origin::resolve(([10, 0, 0, 7], 4711).into(), scheme, &Claims::default(), &[])
    }

    fn rewritten(request: Request<()>, path: &str) -> Request<()> {
        rewritten_from(Scheme::Http, request, path)
    }

    fn rewritten_from(scheme: Scheme, request: Request<()>, path: &str) -> Request<()> {
        let upgrade = Upgrade::asked(request.headers());
        let (mut head, ()) = request.into_parts();
        let origin = origin(scheme);
        let seen = Seen { host: &HOST, path, prefix: "/_plane_backend=b", origin: &origin };
        rewrite(&mut head, &seen, upgrade.as_ref()).unwrap();
        Request::from_parts(head, ())
    }

    #[test]
    fn whom_a_request_asks_is_a_host_and_nothing_else() {
        let asked = |uri: &'static str, hosts: &[&'static str]| {
            let fields = hosts.iter().map(|host| (header::HOST, HeaderValue::from_static(host)));
            host(&Uri::from_static(uri), &fields.collect()).ok()
        };
        assert_eq!(asked("/", &["b.plane.test:80"]).unwrap(), "b.plane.test:80");
        assert_eq!(asked("http://a.plane.test/", &["b.plane.test"]).unwrap(), "a.plane.test");
        for hosts in [&["a b/evil?x"][..], &["b.plane.test", "b.plane.test"], &["u@b.plane.test"], &[""]] {
            assert_eq!(asked("/", hosts), None, "{hosts:?}");
            assert_eq!(asked("http://a.plane.test/", hosts), None, "{hosts:?}");
        }
        assert_eq!(asked("/", &[]), None);
        assert_eq!(asked("http://u@a.plane.test/", &[]), None);
    }

    #[test]
    fn what_came_through_tls_is_said_to() {
        let request = Request::get("/").header("x-forwarded-proto", "http").body(()).unwrap();
        let fields = rewritten_from(Scheme::Https, request, "/").into_parts().0.headers;
        assert_eq!(fields.get_all("x-forwarded-proto").iter().collect::<Vec<_>>(), ["https"]);
    }

    #[test]
    fn hop_by_hop_fields_stay_and_forwarded_ones_are_ours() {
        let request = Request::get("/x")
            .header("connection", "close, X-Own")
            .header("x-own", "1")
            .header("te", "trailers")
            .header("forwarded", "for=6.6.6.6")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-for", "7.7.7.7")
            .header("x-forwarded-prefix", "/evil")
            .header("x_forwarded_for", "6.6.6.6")
            .header("x_forwarded-proto", "https")
            .header("content_length", "3")
            .header("accept", "text/html")
            .body(())
            .unwrap();
        let fields = rewritten(request, "/x").into_parts().0.headers;
        assert_eq!(fields["forwarded"], "for=10.0.0.7;host=b.plane.test;proto=http");
        assert_eq!((&fields["connection"], &fields["te"]), (&"te".parse().unwrap(), &"trailers".parse().unwrap()));
        for gone in ["x-own", "x_forwarded_for", "x_forwarded-proto", "content_length"] {
            assert!(!fields.contains_key(gone), "{gone}");
        }
        let all: Vec<_> = fields.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["10.0.0.7"]);
        assert_eq!(
            (&fields["accept"], &fields["x-forwarded-proto"]),
            (&"text/html".parse().unwrap(), &"http".parse().unwrap())
        );
        assert_eq!(fields["x-forwarded-prefix"], "/_plane_backend=b");
        assert_eq!((&fields["host"], &fields["x-forwarded-host"]), (&fields["host"], &"b.plane.test".parse().unwrap()));
    }

    #[test]
    fn an_upgrade_goes_on() {
        let request = Request::get("/ws")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "k")
            .body(())
            .unwrap();
        let fields = rewritten(request, "?q").into_parts().0.headers;
        assert_eq!(
            (&fields["connection"], &fields["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert!(fields.contains_key("sec-websocket-key"));
        let plain = Request::get("/").header("upgrade", "h2c").body(()).unwrap();
        assert_eq!(Upgrade::asked(plain.headers()), None);
    }

    #[test]
    fn paths_get_their_slash() {
        for (path, uri) in [("/a?b", "/a?b"), ("", "/"), ("?q", "/?q")] {
            let made = rewritten(Request::get("/").body(()).unwrap(), path);
            assert_eq!(made.uri().to_string(), uri);
        }
    }

    #[test]
    fn a_websocket_over_http2_is_one_for_its_backend() {
        // RFC 6455, section 1.3.
        assert_eq!(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let answered = |protocol: &'static str, accept: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::UPGRADE, HeaderValue::from_static(protocol));
            fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
            let (mut status, key) = (StatusCode::SWITCHING_PROTOCOLS, "dGhlIHNhbXBsZSBub25jZQ==".to_owned());
            clean_upgrade_response(&mut status, &mut fields, None, &Upgrade::Connect { key })?;
            assert!(fields.is_empty(), "{fields:?}");
            Ok(status.as_u16())
        };
        assert_eq!(answered("WebSocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), Ok(200));
        assert_eq!(answered("websocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO="), Err(Refusal::Broken));
        assert_eq!(answered("echo", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), Err(Refusal::Broken));
    }

    #[test]
    fn trailers_say_nothing_that_a_head_has_to() {
        let mut fields = HeaderMap::new();
        for (name, value) in
            [("x-checksum", "1"), ("x-forwarded-for", "6.6.6.6"), ("cookie", "a=b"), ("connection", "x")]
        {
            fields.insert(name, HeaderValue::from_static(value));
        }
        clean_trailers(&mut fields);
        assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-checksum"]);
    }

    #[test]
    fn one_host_is_needed() {
        let with = |hosts: &[&str]| {
            let request = hosts.iter().fold(Request::get("/"), |request, host| request.header("host", *host));
            let request = request.body(()).unwrap();
            host(request.uri(), request.headers())
        };
        assert_eq!(with(&["a"]).unwrap(), "a");
        assert_eq!(with(&["a", "a"]), Err(Refusal::BadAddress));
        assert_eq!(with(&[]), Err(Refusal::BadAddress));
        assert_eq!(with(&[""]), Err(Refusal::BadAddress));
        let absolute = Request::get("http://x.test:8/").header("host", "y").body(()).unwrap();
        assert_eq!(host(absolute.uri(), absolute.headers()).unwrap(), "x.test:8");
    }
}
