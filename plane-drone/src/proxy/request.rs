//! What of a request and its response goes on, and what does not: RFC 9110, section 7.6. Pure.

use super::refusal::Refusal;
use hyper::{
    HeaderMap, Request, Uri, Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};
use std::net::SocketAddr;

/// Fields that concern one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
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

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    /// Its address.
    pub(super) peer: SocketAddr,
    /// How it reaches us.
    pub(super) scheme: Scheme,
}

/// What the client sees of where it asks, and we of the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The host that it asks.
    pub(super) host: &'a str,
    /// The path and query that the backend is asked for; may lack its first `/`.
    pub(super) path: &'a str,
    /// What stands before that path for the client.
    pub(super) prefix: &'a str,
    /// The client.
    pub(super) client: Client,
}

/// Whom a request asks: the target's authority where it has one (RFC 9112, section 3.2.2), else its one Host.
pub(super) fn host<B>(request: &Request<B>) -> Result<String, Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::BadAddress);
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.as_str().to_owned());
    }
    let host = first.and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    host.map(str::to_owned).ok_or(Refusal::BadAddress)
}

/// The protocol that a request asks to change to.
pub(super) fn asked_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let asks = named(request.headers()).contains(&header::UPGRADE);
    asks.then(|| request.headers().get(header::UPGRADE).cloned()).flatten()
}

/// The fields that Connection names.
fn named(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

fn strip(fields: &mut HeaderMap) {
    for name in named(fields).into_iter().chain(HOP_BY_HOP) {
        fields.remove(name);
    }
}

fn upgrade_to(fields: &mut HeaderMap, protocol: HeaderValue) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, protocol);
}

/// The request as the backend gets it.
pub(super) fn rewrite<B>(
    mut head: Parts,
    body: B,
    address: SocketAddr,
    seen: &Seen<'_>,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<B>, Refusal> {
    let slash = if seen.path.starts_with('/') { "" } else { "/" };
    let uri = format!("http://{address}{slash}{}", seen.path);
    head.uri = uri.parse::<Uri>().map_err(|_| Refusal::BadAddress)?;
    head.version = Version::HTTP_11;
    let fields = &mut head.headers;
    strip(fields);
    fields.remove(header::EXPECT);
    fields.remove(FORWARDED);
    fields.remove(FORWARDED_PREFIX);
    if let Some(protocol) = upgrade {
        upgrade_to(fields, protocol.clone());
    }
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Refusal::BadAddress);
    fields.insert(header::HOST, value(seen.host)?);
    fields.insert(FORWARDED_HOST, value(seen.host)?);
    fields.insert(FORWARDED_FOR, value(&seen.client.peer.ip().to_canonical().to_string())?);
    fields.insert(FORWARDED_PROTO, HeaderValue::from_static(seen.client.scheme.as_str()));
    if !seen.prefix.is_empty() {
        fields.insert(FORWARDED_PREFIX, value(seen.prefix)?);
    }
    Ok(Request::from_parts(head, body))
}

/// The response's fields as the client gets them.
pub(super) fn clean_response(fields: &mut HeaderMap) {
    strip(fields);
}

/// The fields of a response that changes the protocol.
pub(super) fn clean_upgrade_response(fields: &mut HeaderMap) {
    let protocol = fields.get(header::UPGRADE).cloned();
    strip(fields);
    if let Some(protocol) = protocol {
        upgrade_to(fields, protocol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str, scheme: Scheme) -> Seen<'_> {
        let client = Client { peer: ([10, 0, 0, 7], 4711).into(), scheme };
        Seen { host: "b.plane.test", path, prefix: "/_plane_backend=b", client }
    }

    fn rewritten(request: Request<()>, path: &str) -> Request<()> {
        rewritten_from(Scheme::Http, request, path)
    }

    fn rewritten_from(scheme: Scheme, request: Request<()>, path: &str) -> Request<()> {
        let upgrade = asked_upgrade(&request);
        let (head, ()) = request.into_parts();
        rewrite(head, (), ([172, 17, 0, 2], 8080).into(), &seen(path, scheme), upgrade.as_ref()).unwrap()
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
            .header("accept", "text/html")
            .body(())
            .unwrap();
        let fields = rewritten(request, "/x").into_parts().0.headers;
        for gone in ["connection", "x-own", "te", "forwarded"] {
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
        assert_eq!(asked_upgrade(&plain), None);
    }

    #[test]
    fn paths_get_their_slash() {
        for (path, uri) in [
            ("/a?b", "http://172.17.0.2:8080/a?b"),
            ("", "http://172.17.0.2:8080/"),
            ("?q", "http://172.17.0.2:8080/?q"),
        ] {
            let made = rewritten(Request::get("/").body(()).unwrap(), path);
            assert_eq!(made.uri().to_string(), uri);
        }
    }

    #[test]
    fn one_host_is_needed() {
        let with = |hosts: &[&str]| {
            let request = hosts.iter().fold(Request::get("/"), |request, host| request.header("host", *host));
            host(&request.body(()).unwrap())
        };
        assert_eq!(with(&["a"]).unwrap(), "a");
        assert_eq!(with(&["a", "a"]), Err(Refusal::BadAddress));
        assert_eq!(with(&[]), Err(Refusal::BadAddress));
        assert_eq!(with(&[""]), Err(Refusal::BadAddress));
        let absolute = Request::get("http://x.test:8/").header("host", "y").body(()).unwrap();
        assert_eq!(host(&absolute).unwrap(), "x.test:8");
    }
}
