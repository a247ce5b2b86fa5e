//! Who a request comes from, where front proxies stand before this one: `X-Forwarded-*` and `Forwarded` (RFC 7239), read
//! and written. Pure, and on raw values of fields.
//!
//! What a front proxy that is trusted wrote is to the right of what its client sent. So lists are read from the right, as
//! long as trusted proxies speak, and the first address that is not one of theirs is the client's. Front proxies write
//! one of the two: where there is an `X-Forwarded-For`, `Forwarded` may be the client's own, and is not looked at.

mod element;
#[cfg(test)]
mod tests;

use super::request::Scheme;
use crate::config::proxy::Network;
use element::{Element, node};
use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
};

/// How many proxies one after the other are looked at; a list that has more is believed no further.
const HOPS: usize = 32;
/// The fields that are written anew, besides all others that begin with [`PREFIX`].
const FORWARDED: &str = "forwarded";
const PREFIX: &str = "x-forwarded-";
const FOR: &str = "x-forwarded-for";
const HOST: &str = "x-forwarded-host";
const PROTO: &str = "x-forwarded-proto";

/// Whether a field is about where a request comes from. Those of clients do not go on, except for what [`Origin`] writes.
pub(super) fn is_forwarding(name: &str) -> bool {
    name.eq_ignore_ascii_case(FORWARDED) || is_prefixed(name)
}

/// Whether a name begins with [`PREFIX`]. CGI and what is made after it (RFC 3875, section 4.1.18) cannot tell `_` from
/// `-` in names, so that neither may come from a client.
pub(super) fn is_prefixed(name: &str) -> bool {
    let Some(start) = name.as_bytes().get(..PREFIX.len()) else { return false };
    start.iter().zip(PREFIX.as_bytes()).all(|(given, wanted)| match given {
        b'_' => *wanted == b'-',
        given => given.eq_ignore_ascii_case(wanted),
    })
}

/// What a request says of where it comes from. Borrowed from its fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims<'a> {
    forwarded: Vec<&'a [u8]>,
    forwarded_for: Vec<&'a [u8]>,
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
}

impl<'a> Claims<'a> {
    /// What is among the fields of a request, in their order.
    pub(super) fn of(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut claims = Self::default();
        for (name, value) in fields {
            claims.take(name, value);
        }
        claims
    }

    fn take(&mut self, name: &str, value: &'a [u8]) {
        match name {
            _ if name.eq_ignore_ascii_case(FORWARDED) => self.forwarded.push(value),
            _ if name.eq_ignore_ascii_case(FOR) => self.forwarded_for.push(value),
            _ if name.eq_ignore_ascii_case(PROTO) => self.proto = Some(value),
            _ if name.eq_ignore_ascii_case(HOST) => self.host = Some(value),
            _ => {}
        }
    }
}

/// Where a request comes from, as far as it can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The client's address.
    pub(super) client: IpAddr,
    /// How the client reached whom it asked.
    pub(super) scheme: Scheme,
    /// The host that the client asked for, where a trusted proxy says so.
    host: Option<String>,
    peer: IpAddr,
    believed: Believed,
}

/// What a trusted proxy sent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Believed {
    /// Nothing, or it is none.
    Nothing,
    /// `X-Forwarded-For`.
    For(Vec<u8>),
    /// `Forwarded`, as it came, and the nodes in it.
    Forwarded(Vec<u8>, Vec<Option<IpAddr>>),
}

impl Origin {
    /// Who asks. `peer` is whoever is at the other end of the connection; the client that it names itself, where it speaks the
    /// PROXY protocol.
    pub(super) fn resolve(peer: SocketAddr, scheme: Scheme, claims: &Claims<'_>, trusted: &[Network]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        let peer = peer.ip().to_canonical();
        let mut origin = Self { client: peer, scheme, host: None, peer, believed: Believed::Nothing };
        if !is_trusted(peer) {
            return origin;
        }
        if !claims.forwarded_for.is_empty() || claims.forwarded.is_empty() {
            origin.believe_for(claims, is_trusted);
        } else {
            origin.believe_forwarded(claims, is_trusted);
        }
        origin
    }

    fn believe_for(&mut self, claims: &Claims<'_>, is_trusted: impl Fn(IpAddr) -> bool) {
        let nodes = claims.forwarded_for.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')).map(node);
        self.client = believed(self.peer, nodes, is_trusted).1;
        if !claims.forwarded_for.is_empty() {
            self.believed = Believed::For(claims.forwarded_for.join(&b", "[..]));
        }
        // Of several values the last is the one that the nearest proxy wrote.
        let last = |value: &[u8]| value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii().to_vec();
        self.scheme = claims.proto.and_then(|value| scheme(&last(value))).unwrap_or(self.scheme);
        self.host = claims.host.and_then(|value| host(&last(value)));
    }

    fn believe_forwarded(&mut self, claims: &Claims<'_>, is_trusted: impl Fn(IpAddr) -> bool) {
        let (mut lines, mut elements) = (Vec::new(), Vec::new());
        // A line that is malformed was not written by a proxy alone, and neither was what is to its left.
        for line in claims.forwarded.iter().rev() {
            let Some(read) = Element::list(line) else { break };
            lines.push(*line);
            elements.extend(read.into_iter().rev());
        }
        let nodes = elements.iter().map(|element| element.node);
        let (hops, client) = believed(self.peer, nodes, is_trusted);
        self.client = client;
        // Whoever saw the client wrote how it was asked.
        if let Some(element) = hops.checked_sub(1).and_then(|last| elements.get(last)) {
            self.scheme = element.proto.as_deref().and_then(scheme).unwrap_or(self.scheme);
            self.host = element.host.as_deref().and_then(host);
        }
        lines.reverse();
        if !lines.is_empty() {
            let nodes = elements.iter().rev().map(|element| element.node).collect();
            self.believed = Believed::Forwarded(lines.join(&b", "[..]), nodes);
        }
    }

    /// Writes the value of `X-Forwarded-For`.
    pub(super) fn write_forwarded_for(&self, out: &mut Vec<u8>) {
        match &self.believed {
            Believed::Nothing => {}
            Believed::For(list) => {
                out.extend_from_slice(list);
                out.extend_from_slice(b", ");
            }
            Believed::Forwarded(_, nodes) => {
                for node in nodes {
                    match node {
                        Some(address) => text(out, format_args!("{address}, ")),
                        None => out.extend_from_slice(b"unknown, "),
                    }
                }
            }
        }
        text(out, format_args!("{}", self.peer));
    }

    /// Writes the value of `Forwarded` (RFC 7239, section 4), for a request whose Host is `host`.
    pub(super) fn write_forwarded(&self, host: &str, out: &mut Vec<u8>) {
        let mut named = false;
        match &self.believed {
            Believed::Nothing => {}
            Believed::For(list) => {
                let nodes: Vec<_> = list.split(|byte| *byte == b',').map(node).collect();
                // The client is said how it asked, once: from the right, as it was found.
                let client = nodes.iter().rposition(|node| *node == Some(self.client));
                for (place, node) in nodes.iter().enumerate() {
                    named |= client == Some(place);
                    self.write_element(*node, (client == Some(place)).then_some(host), out);
                    out.extend_from_slice(b", ");
                }
            }
            Believed::Forwarded(list, _) => {
                named = true;
                out.extend_from_slice(list);
                out.extend_from_slice(b", ");
            }
        }
        self.write_element(Some(self.peer), (!named).then_some(host), out);
    }

    fn write_element(&self, node: Option<IpAddr>, asked: Option<&str>, out: &mut Vec<u8>) {
        match node {
            None => out.extend_from_slice(b"for=unknown"),
            Some(IpAddr::V4(address)) => text(out, format_args!("for={address}")),
            // Section 6: brackets, and as they are no token, quotes.
            Some(IpAddr::V6(address)) => text(out, format_args!("for=\"[{address}]\"")),
        }
        if let Some(host) = asked {
            out.extend_from_slice(b";host=");
            element::write_value(self.host(host), out);
            text(out, format_args!(";proto={}", self.proto()));
        }
    }

    /// The value of `X-Forwarded-Proto`.
    pub(super) fn proto(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The value of `X-Forwarded-Host`, for a request whose Host is `host`.
    pub(super) fn host<'h>(&'h self, host: &'h str) -> &'h str {
        self.host.as_deref().unwrap_or(host)
    }
}

/// How many nodes are believed of a list that is read from the right, and the client's address.
fn believed(
    peer: IpAddr,
    nodes: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> (usize, IpAddr) {
    let (mut hops, mut client) = (0, peer);
    for node in nodes.take(HOPS) {
        let Some(address) = node else { break };
        (hops, client) = (hops + 1, address);
        if !is_trusted(address) {
            break;
        }
    }
    (hops, client)
}

fn scheme(value: &[u8]) -> Option<Scheme> {
    let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("https") || is("wss") => Some(Scheme::Https),
        () if is("http") || is("ws") => Some(Scheme::Http),
        () => None,
    }
}

/// A host with or without a port, of which only the characters are judged: it is passed on, and nothing is looked up by it.
fn host(value: &[u8]) -> Option<String> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+=:[]".contains(byte);
    let whole = !value.is_empty() && value.iter().all(good);
    whole.then(|| String::from_utf8_lossy(value).into_owned())
}

fn text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes everything.
    let _ = out.write_fmt(text);
}
