//! The head of a request for a backend, where it came as the `http` library has it.

use crate::proxy::{
    http1::{
        Framing, Version,
        decide::{put_origin, put_prefix},
        field::{Field, Known, Options, members},
        head::{Form, RequestHead},
        write::{Ours, put_field, put_request},
    },
    request::{Seen, Upgrade},
};
use hyper::{
    Method,
    body::Body,
    header::{self, HeaderValue},
    http::request::Parts,
};
use plane_core::id::BearerToken;

/// Writes the head of a request whose body ends where `framing` says.
pub(super) fn put_head(
    out: &mut Vec<u8>,
    head: &Parts,
    framing: Framing,
    seen: &Seen<'_>,
    token: Option<&BearerToken>,
    upgrade: Option<&Upgrade>,
) {
    // HTTP/2 may split Cookie, HTTP/1.1 may not (RFC 9113, section 8.2.3).
    let mut crumbs = head.headers.get_all(header::COOKIE).iter();
    let is_split = crumbs.next().and(crumbs.next()).is_some();
    let all: Vec<&[u8]> = match is_split {
        true => head.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect(),
        false => Vec::new(),
    };
    let joined = all.join(&b"; "[..]);
    let mut fields: Vec<Field<'_>> = Vec::with_capacity(head.headers.len() + 1);
    let is_connect = matches!(upgrade, Some(Upgrade::Connect { .. }));
    let (mut length, mut takes_trailers) = (0, false);
    for (name, value) in &head.headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        length += name.len() + value.len() + ": \r\n".len();
        match Known::of(name) {
            Known::Cookie if is_split => {}
            Known::Te => takes_trailers |= members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
            // Over HTTP/2 neither has a meaning (RFC 8441, section 5); the key is ours.
            Known::Other if is_connect && matches!(name, "sec-websocket-key" | "sec-websocket-accept") => {}
            _ => fields.push(Field { name, value }),
        }
    }
    if is_split {
        fields.push(Field { name: header::COOKIE.as_str(), value: &joined });
    }
    let (method, protocols, key) = match upgrade {
        Some(Upgrade::Connect { key }) => (Method::GET.as_str(), Some(&b"websocket"[..]), Some(key)),
        Some(Upgrade::Field(protocols)) => (head.method.as_str(), Some(protocols.as_bytes()), None),
        None => (head.method.as_str(), None, None),
    };
    let host = seen.host.to_str().unwrap_or_default();
    let head = RequestHead {
        method,
        form: Form::Origin,
        path: seen.path,
        authority: host,
        version: Version::Http11,
        fields: &fields,
        framing,
        options: Options::default(),
        upgrade: protocols.is_some(),
        takes_trailers,
        expects_continue: false,
        length,
    };
    put_request(out, &head, &Ours { path: seen.path, token, protocols }, |out| {
        put_origin(out, seen.origin, host);
        put_prefix(out, seen.prefix);
        if let Some(key) = key {
            put_field(out, header::SEC_WEBSOCKET_KEY.as_str(), key.as_bytes());
        }
    });
}

/// Where the body of a request ends, as its backend is told.
pub(super) fn framing(head: &Parts, body: &impl Body) -> Framing {
    if !body.is_end_stream() {
        return body.size_hint().exact().map_or(Framing::Chunked, Framing::Length);
    }
    // Where a body is usual its absence is said (RFC 9110, section 8.6).
    let is_usual = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    match is_usual || head.headers.contains_key(header::CONTENT_LENGTH) {
        true => Framing::Length(0),
        false => Framing::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{
        origin::{Claims, Origin},
        request::Scheme,
    };
    use bytes::Bytes;
    use http_body_util::{Empty, Full};
    use hyper::Request;

    static HOST: HeaderValue = HeaderValue::from_static("b.plane.test");

    /// The lines that a backend gets of a request with these fields, without those that say where it comes from.
    fn lines(method: Method, fields: &[(&str, &str)], framing: Framing, upgrade: Option<&Upgrade>) -> Vec<String> {
        let request = Request::builder().method(method).uri("https://b.plane.test/x?y");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let origin = Origin::resolve(([10, 0, 0, 7], 4711).into(), Scheme::Https, &Claims::default(), &[]);
        let seen = Seen { host: &HOST, path: "x?y", prefix: "/p", origin: &origin };
        let token = BearerToken::from("our-token".to_owned());
        let mut out = Vec::new();
        put_head(&mut out, &head, framing, &seen, Some(&token), upgrade);
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\r\n\r\n"));
        for line in [
            "x-forwarded-for: 10.0.0.7",
            "x-forwarded-proto: https",
            "x-forwarded-host: b.plane.test",
            "x-forwarded-prefix: /p",
            "forwarded: for=10.0.0.7;host=b.plane.test;proto=https",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in {text}");
        }
        let is_ours =
            |line: &&str| line.is_empty() || line.starts_with("x-forwarded-") || line.starts_with("forwarded:");
        text.lines().filter(|line| !is_ours(line)).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_between_us_and_the_client_stays_and_crumbs_are_joined() {
        let fields = [
            ("accept", "text/html"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Bearer our-token"),
            ("authorization", "Basic of-the-backend"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_host", "evil"),
            ("content_length", "7"),
            ("content-length", "3"),
        ];
        assert_eq!(
            lines(Method::PUT, &fields, Framing::Length(3), None),
            [
                "PUT /x?y HTTP/1.1",
                "host: b.plane.test",
                "accept: text/html",
                "authorization: Basic of-the-backend",
                "cookie: a=1; b=2",
                "content-length: 3",
                "connection: te",
                "te: trailers",
            ]
        );
    }

    #[test]
    fn a_websocket_is_asked_for_as_http1_has_it() {
        let upgrade = Upgrade::Connect { key: "k".to_owned() };
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "theirs"),
            ("sec-websocket-accept", "theirs"),
            ("origin", "https://b.plane.test"),
        ];
        assert_eq!(
            lines(Method::CONNECT, &fields, Framing::None, Some(&upgrade)),
            [
                "GET /x?y HTTP/1.1",
                "host: b.plane.test",
                "sec-websocket-version: 13",
                "origin: https://b.plane.test",
                "sec-websocket-key: k",
                "connection: upgrade",
                "upgrade: websocket",
            ]
        );
    }

    #[test]
    fn a_body_that_is_not_there_is_told_where_one_is_usual() {
        let head = |method: Method, fields: &[(&str, &str)]| {
            let request = Request::builder().method(method);
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
        };
        let empty = |method, fields: &[_]| framing(&head(method, fields).into_parts().0, &Empty::<Bytes>::new());
        assert_eq!(empty(Method::GET, &[]), Framing::None);
        assert_eq!(empty(Method::POST, &[]), Framing::Length(0));
        assert_eq!(empty(Method::GET, &[("content-length", "0")]), Framing::Length(0));
        let full = framing(&head(Method::GET, &[]).into_parts().0, &Full::<Bytes>::from("abc"));
        assert_eq!(full, Framing::Length(3));
    }
}
