//! The head of a request for a backend, where it came as the `http` library has it.

use crate::proxy::{
    http1::{
        Framing, Version,
        decide::{put_origin, put_prefix},
        field::{Field, Known, Options, members},
        head::{Form, RequestHead},
        write::{Ours, put_field, put_request},
    },
    passage::Sent,
    request::{Seen, Upgrade},
};
use hyper::{
    Method,
    body::Body,
    header::{self, HeaderValue},
    http::request::Parts,
};
use plane_core::id::BearerToken;

/// Writes the head; gives where its body ends.
pub(super) fn put_head(
    out: &mut Vec<u8>,
    head: &Parts,
    body: &Sent,
    seen: &Seen<'_>,
    token: Option<&BearerToken>,
    upgrade: Option<&Upgrade>,
) -> Framing {
    let framing = framing(head, body);
    // HTTP/2 may split Cookie, HTTP/1.1 may not (RFC 9113, section 8.2.3).
    let mut crumbs = head.headers.get_all(header::COOKIE).iter();
    let is_split = crumbs.next().and(crumbs.next()).is_some();
    let all: Vec<&[u8]> = match is_split {
        true => head.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect(),
        false => Vec::new(),
    };
    let joined = all.join(&b"; "[..]);
    let mut fields: Vec<Field<'_>> = Vec::with_capacity(head.headers.len() + 1);
    let (mut length, mut takes_trailers) = (0, false);
    for (name, value) in &head.headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        length += name.len() + value.len() + ": \r\n".len();
        match Known::of(name) {
            Known::Cookie if is_split => {}
            Known::Te => takes_trailers |= members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
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
    framing
}

fn framing(head: &Parts, body: &Sent) -> Framing {
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
