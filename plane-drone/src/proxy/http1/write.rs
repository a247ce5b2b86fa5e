//! Heads as they go on: written line by line in one pass over the fields, with what concerns one connection only left
//! out (RFC 9110, section 7.6.1), what is ours to say put in, and what is between a client and us cut out.

use super::{
    Framing,
    field::{BACKEND_ID, Field, Known, Options, is_named},
    head::RequestHead,
    response::ResponseHead,
};
use crate::proxy::auth;
use plane_core::id::BearerToken;

/// Room that a head gets beyond what it came with, in bytes, so that it rarely grows while it is written.
const SPARE: usize = 512;

/// What is ours to say of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours<'a> {
    /// The path and query that the backend is asked for; may lack its first `/`.
    pub(super) path: &'a str,
    /// The backend's token, which it does not get to see.
    pub(super) token: Option<&'a BearerToken>,
    /// The protocols that the client asks to change to, as a list.
    pub(super) protocols: Option<&'a [u8]>,
}

/// What is ours to say of a response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answering<'a> {
    /// The backend that answers, where it is one.
    pub(super) backend: Option<&'a str>,
    /// How the body goes to the client.
    pub(super) framing: Framing,
    /// What becomes of the client's connection.
    pub(super) after: After,
    /// The date, where the response has none (RFC 9110, section 6.6.1).
    pub(super) date: &'a str,
}

/// What becomes of a client's connection after a response (RFC 9112, section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It goes on, as its version has it.
    GoesOn,
    /// It goes on, as has to be said with HTTP/1.0.
    SaidToGoOn,
    /// It is closed.
    Closes,
}

/// Writes the head of a request for a backend; `put_origin` writes the fields that say where it comes from.
pub(super) fn put_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    ours: &Ours<'_>,
    put_origin: impl FnOnce(&mut Vec<u8>),
) {
    let Ours { path, token, protocols } = *ours;
    out.reserve(head.length + SPARE);
    let slash = if path.starts_with('/') || path == "*" { "" } else { "/" };
    put(out, &[head.method, " ", slash, path, " HTTP/1.1\r\nhost: ", head.authority, "\r\n"]);
    for field in head.fields {
        match Known::of(field.name) {
            Known::Other | Known::Date | Known::Trailer | Known::BackendId
                if passes(head.options, head.fields, field) =>
            {
                put_field(out, field.name, field.value);
            }
            Known::Authorization if token.is_some_and(|token| auth::is_our_bearer(field.value, token)) => {}
            Known::Cookie if passes(head.options, head.fields, field) => put_cookie(out, field),
            Known::Authorization if passes(head.options, head.fields, field) => {
                put_field(out, field.name, field.value);
            }
            _ => {}
        }
    }
    put_origin(out);
    put_framing(out, head.framing);
    if let Some(protocols) = protocols {
        put_upgrade(out, protocols);
    } else if head.takes_trailers {
        // RFC 9110, section 10.1.4.
        put(out, &["connection: te\r\nte: trailers\r\n"]);
    }
    put(out, &["\r\n"]);
}

/// Writes the head of a final response for a client.
pub(super) fn put_response(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, answering: &Answering<'_>) {
    out.reserve(head.length + SPARE);
    put_status(out, head.status, head.reason);
    let mut has_date = false;
    for field in head.fields {
        let known = Known::of(field.name);
        match known {
            Known::Trailer if answering.framing != Framing::Chunked => {}
            Known::Connection
            | Known::KeepAlive
            | Known::Te
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::ContentLength
            | Known::BackendId => {}
            _ if passes(head.options, head.fields, field) => {
                has_date |= known == Known::Date;
                put_field(out, field.name, field.value);
            }
            _ => {}
        }
    }
    if !has_date {
        put(out, &["date: ", answering.date, "\r\n"]);
    }
    if let Some(backend) = answering.backend {
        put(out, &[BACKEND_ID, ": ", backend, "\r\n"]);
    }
    match (answering.framing, head.declared_length) {
        (Framing::None, Some(length)) => put_framing(out, Framing::Length(length)),
        (framing, _) => put_framing(out, framing),
    }
    match (head.upgrade, answering.after) {
        (Some(protocol), _) => put_upgrade(out, protocol),
        (None, After::GoesOn) => {}
        (None, After::SaidToGoOn) => put(out, &["connection: keep-alive\r\n"]),
        (None, After::Closes) => put(out, &["connection: close\r\n"]),
    }
    put(out, &["\r\n"]);
}

/// Writes the head of an interim response for a client (RFC 9110, section 15.2).
pub(super) fn put_interim(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>) {
    put_status(out, head.status, head.reason);
    for field in head.fields.iter().filter(|field| passes(head.options, head.fields, field)) {
        if matches!(Known::of(field.name), Known::Other | Known::Date) {
            put_field(out, field.name, field.value);
        }
    }
    put(out, &["\r\n"]);
}

/// Whether a field is not one that `Connection` names.
fn passes(options: Options, fields: &[Field<'_>], field: &Field<'_>) -> bool {
    !options.names_others || !is_named(fields, field.name)
}

/// Writes a status line.
pub(super) fn put_status(out: &mut Vec<u8>, status: u16, reason: &str) {
    let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or_default();
    put(out, &["HTTP/1.1 "]);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    put(out, &[reason, "\r\n"]);
}

/// Writes one field.
pub(super) fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the field that says where a body ends, if one does.
pub(super) fn put_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => put(out, &["transfer-encoding: chunked\r\n"]),
        Framing::Length(length) => {
            put(out, &["content-length: "]);
            put_number(out, length);
            put(out, &["\r\n"]);
        }
    }
}

/// Writes a number; what the standard library has for it takes several times as long.
fn put_number(out: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut left) = ([b'0'; 20], 20, number);
    loop {
        at -= 1;
        if let (Some(place), Ok(digit)) = (digits.get_mut(at), u8::try_from(left % 10)) {
            *place = b'0' + digit;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

fn put_upgrade(out: &mut Vec<u8>, protocol: &[u8]) {
    put(out, &["connection: upgrade\r\nupgrade: "]);
    out.extend_from_slice(protocol);
    put(out, &["\r\n"]);
}

/// Writes a `Cookie` without our own crumb; nothing where that was all of it.
fn put_cookie(out: &mut Vec<u8>, field: &Field<'_>) {
    if let Some(left) = auth::cut_cookie(field.value) {
        put_field(out, field.name, &left);
    }
}

/// Writes text.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests;
