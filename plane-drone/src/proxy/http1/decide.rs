//! What becomes of a request whose head is there: who answers it, what its backend gets to see, and what we have to know
//! of it until it is answered.

use super::{
    Framing, HeadLimits, Version,
    field::Field,
    head::{self, Form, RequestHead, Space},
    scan::{Scan, is_token},
    write::{After, Ours, put, put_request},
};
use crate::{
    config::proxy::Network,
    proxy::{
        admission::{Admission, Asked, admit},
        auth,
        origin::{Claims, Origin},
        passage::Passage,
        record::Told,
        refusal::Refusal,
        request::{Client, Scheme},
        retry::is_idempotent,
        upstream::Upstream,
        waiting,
    },
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use std::rc::Rc;

/// What is to be known of a request once its head is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asks {
    /// Its version.
    pub(super) version: Version,
    /// It is a HEAD.
    pub(super) is_head: bool,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// Its connection may go on.
    pub(super) is_persistent: bool,
    /// The protocols that it asks to change to, as a list.
    pub(super) upgrade: Option<Vec<u8>>,
    /// Its body comes only after 100.
    pub(super) expects_continue: bool,
    /// It may be sent twice.
    pub(super) may_repeat: bool,
    /// What it accepts.
    pub(super) accept: Option<String>,
    /// How long its head was, in bytes.
    pub(super) length: usize,
}

impl Asks {
    /// What is to be known of a request whose head could not be read.
    pub(super) fn unknown() -> Self {
        Self {
            version: Version::Http11,
            is_head: false,
            framing: Framing::UntilClose,
            is_persistent: false,
            upgrade: None,
            expects_continue: false,
            may_repeat: false,
            accept: None,
            length: 0,
        }
    }

    fn of(head: &RequestHead<'_, '_>) -> Self {
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        Self {
            version: head.version,
            is_head: head.method == "HEAD",
            framing: head.framing,
            // After CONNECT a client may have sent what belongs into a tunnel.
            is_persistent: head.is_persistent() && head.form != Form::Authority,
            upgrade: if head.upgrade { head.protocols() } else { None },
            expects_continue: head.expects_continue,
            may_repeat: !has_body && is_idempotent(head.method),
            accept: None,
            length: head.length,
        }
    }

    fn accepting(mut self, head: &RequestHead<'_, '_>) -> Self {
        let mut values = head.values("accept").filter_map(|value| std::str::from_utf8(value).ok());
        self.accept = values.next().map(str::to_owned);
        self
    }

    /// Whether there is a body.
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// What becomes of the client's connection after an answer.
    pub(super) fn after(&self, closes: bool) -> After {
        match self.version {
            _ if closes || !self.is_persistent => After::Closes,
            Version::Http11 => After::GoesOn,
            Version::Http10 => After::SaidToGoOn,
        }
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// It goes to a backend.
    Passes(Upstream),
    /// It is answered here.
    Answered(Response<Full<Bytes>>),
    /// It is refused.
    Refused(Refusal),
}

/// What a head that was written for a backend accepts.
pub(super) fn accepted(head: &[u8], limits: HeadLimits) -> Option<String> {
    // What was put into it does not count against the client.
    let limits = HeadLimits { bytes: usize::MAX, fields: usize::MAX, ..limits };
    let mut space = Space::new();
    let head = head::parse(head, &mut Scan::default(), &mut space, limits).ok()??;
    let accept = head.values("accept").next()?;
    std::str::from_utf8(accept).ok().map(str::to_owned)
}

/// Decides on a request, and writes what its backend gets. Waits where the backend is not ready.
pub(super) async fn decide(
    passage: &Rc<Passage>,
    peer: &Peer,
    head: &RequestHead<'_, '_>,
    out: &mut Vec<u8>,
) -> (Asks, Decision) {
    passage.record.head(passage.seat(), || Told {
        method: head.method,
        host: head.authority,
        path: head.path,
        protocol: match head.version {
            Version::Http11 => "HTTP/1.1",
            Version::Http10 => "HTTP/1.0",
        },
    });
    let asks = Asks::of(head);
    let protocols = asks.upgrade.as_deref();
    match pass(passage, peer, head, protocols, out).await {
        Ok(decision) => (asks, decision),
        Err(refusal) => (asks.accepting(head), Decision::Refused(refusal)),
    }
}

async fn pass(
    passage: &Rc<Passage>,
    peer: &Peer,
    head: &RequestHead<'_, '_>,
    protocols: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<Decision, Refusal> {
    let from = From::of(peer, passage.seat().client, head.fields, &passage.worker().shared.trusted);
    if let From::Proxy(origin) = &from {
        passage.record.client(origin.client);
    }
    if head.form == Form::Authority {
        return Err(Refusal::MethodNotAllowed);
    }
    if matches!(head.framing, Framing::Length(length) if length > passage.worker().shared.limits.body_bytes) {
        return Err(Refusal::TooLarge);
    }
    let fields = || head.fields.iter().map(|field| (field.name, field.value));
    let credentials = |token: &_| auth::check_fields(fields(), token);
    let field = |name| head.values(name).next().and_then(|value| std::str::from_utf8(value).ok());
    let is_for_page = || waiting::is_for(head.method, field("accept"), field("sec-fetch-mode"));
    let asked = Asked {
        host: head.authority,
        path: head.path,
        scheme: from.scheme(),
        credentials: &credentials,
        is_for_page: &is_for_page,
    };
    let admitted = match admit(passage, &asked).await? {
        Admission::Answered(response) => return Ok(Decision::Answered(response)),
        Admission::Passes(admitted) => admitted,
    };
    let token = admitted.token.as_ref();
    put_request(out, head, &Ours { path: admitted.path, token, protocols }, |out| {
        from.put(out, head.authority, admitted.prefix);
    });
    Ok(Decision::Passes(admitted.upstream))
}

/// Who asks, as backends are told: written once for all requests of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    address: Box<str>,
    /// As `Forwarded` has it, where that is not the same: IPv6 in brackets, and as they are no token, in quotes (RFC 7239,
    /// section 6).
    node: Option<Box<str>>,
}

impl Peer {
    pub(super) fn new(client: Client) -> Self {
        let address = client.peer.ip().to_canonical();
        let node = address.is_ipv6().then(|| format!("\"[{address}]\"").into());
        Self { address: address.to_string().into(), node }
    }
}

/// Where a request comes from. Its fields say something about that only where a trusted proxy stands before this one.
enum From<'a> {
    Peer(&'a Peer, Scheme),
    Proxy(Origin),
}

impl<'a> From<'a> {
    fn of(peer: &'a Peer, client: Client, fields: &[Field<'_>], trusted: &[Network]) -> Self {
        if trusted.is_empty() || !client.may_claim {
            return Self::Peer(peer, client.scheme);
        }
        let claims = Claims::of(fields.iter().map(|field| (field.name, field.value)));
        Self::Proxy(Origin::resolve(client.peer, client.scheme, &claims, trusted))
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::Peer(_, scheme) => *scheme,
            Self::Proxy(origin) => origin.scheme,
        }
    }

    /// Writes the fields that say so.
    fn put(&self, out: &mut Vec<u8>, host: &str, prefix: &str) {
        match self {
            Self::Peer(Peer { address, node }, scheme) => {
                let node = node.as_deref().unwrap_or(address);
                let proto = match scheme {
                    Scheme::Http => "http",
                    Scheme::Https => "https",
                };
                let quote = if is_token(host.as_bytes()) { "" } else { "\"" };
                put(out, &["x-forwarded-for: ", address, "\r\nx-forwarded-proto: ", proto]);
                put(out, &["\r\nx-forwarded-host: ", host, "\r\nforwarded: for=", node]);
                put(out, &[";host=", quote, host, quote, ";proto=", proto, "\r\n"]);
            }
            Self::Proxy(origin) => put_origin(out, origin, host),
        }
        put_prefix(out, prefix);
    }
}

/// Writes the fields that say where a request comes from.
pub(super) fn put_origin(out: &mut Vec<u8>, origin: &Origin, host: &str) {
    put(out, &["x-forwarded-for: "]);
    origin.write_forwarded_for(out);
    put(out, &["\r\nx-forwarded-proto: ", origin.proto()]);
    put(out, &["\r\nx-forwarded-host: ", origin.host(host), "\r\nforwarded: "]);
    origin.write_forwarded(host, out);
    put(out, &["\r\n"]);
}

/// Writes the field that says what stands before the path for the client, where something does.
pub(super) fn put_prefix(out: &mut Vec<u8>, prefix: &str) {
    if !prefix.is_empty() {
        put(out, &["x-forwarded-prefix: ", prefix, "\r\n"]);
    }
}
