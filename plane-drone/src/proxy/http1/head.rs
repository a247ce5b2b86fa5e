//! The head of a request (RFC 9112, sections 3 and 5), judged: what is not said in exactly one way is refused, since
//! backends may read it in another.

use super::{
    FIELDS_MAX, Framing, HeadLimits, Version,
    field::{Declared, Field, Known, Options, is_authority, members},
    malformed::Malformed,
    scan::{Kind, Scan, has_no_bare_lf},
};
use httparse::Status;
use std::mem::MaybeUninit;

/// Room for the fields of a head while it is looked at; costs nothing to make.
pub(super) struct Space<'b>([MaybeUninit<Field<'b>>; FIELDS_MAX]);

impl<'b> Space<'b> {
    /// Room that nothing is in.
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; FIELDS_MAX])
    }

    /// Room for so many fields.
    pub(super) fn for_fields(&mut self, count: usize) -> &mut [MaybeUninit<Field<'b>>] {
        let count = count.min(FIELDS_MAX);
        self.0.get_mut(..count).unwrap_or_default()
    }
}

/// How a request names what it is for (RFC 9112, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/path?query`.
    Origin,
    /// `http://host/path?query`.
    Absolute,
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
}

/// What a request says, borrowed from the bytes that it came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestHead<'h, 'b> {
    /// Its method, in the case that it came in.
    pub(super) method: &'b str,
    /// How it names its target.
    pub(super) form: Form,
    /// Path and query of the target; `*` for the server itself, empty for CONNECT.
    pub(super) path: &'b str,
    /// The host that is asked, with its port if it has one: the target's own where it names one, else Host.
    pub(super) authority: &'b str,
    /// Its version.
    pub(super) version: Version,
    /// Its fields, in their order.
    pub(super) fields: &'h [Field<'b>],
    /// Where its body ends.
    pub(super) framing: Framing,
    /// What its `Connection` fields ask for.
    pub(super) options: Options,
    /// Whether it asks to change to one of its [`Self::protocols`].
    pub(super) upgrade: bool,
    /// Whether the client takes trailers (RFC 9110, section 10.1.4).
    pub(super) takes_trailers: bool,
    /// Whether its body comes only after 100 (RFC 9110, section 10.1.1).
    pub(super) expects_continue: bool,
    /// The head's length, in bytes.
    pub(super) length: usize,
}

impl<'b> RequestHead<'_, 'b> {
    /// Whether the client's connection may go on after this request.
    pub(super) fn is_persistent(&self) -> bool {
        self.options.is_persistent(self.version)
    }

    /// The protocols that it asks to change to, as a list; `None` where it does not ask.
    pub(super) fn protocols(&self) -> Option<Vec<u8>> {
        let fields = self.fields.iter().filter(|field| Known::of(field.name) == Known::Upgrade);
        let protocols: Vec<_> = fields.flat_map(|field| protocols_of(field.value)).collect();
        self.upgrade.then(|| protocols.join(&b", "[..]))
    }

    /// The values of a field, in their order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// Reads a head at the start of `bytes`; `None` where it is not complete. `scan` must be new for each head, and be handed
/// in again with each longer start of the same head.
///
/// # Errors
/// Where the head is malformed or too large. The connection cannot be used any more.
pub(super) fn parse<'h, 'b>(
    bytes: &'b [u8],
    scan: &mut Scan,
    space: &'h mut Space<'b>,
    limits: HeadLimits,
) -> Result<Option<RequestHead<'h, 'b>>, Malformed> {
    if !scan.is_fresh() && scan.advance(bytes, Kind::Request, limits)?.is_none() {
        return Ok(None);
    }
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, space.for_fields(limits.fields));
    if let Ok(Status::Complete(length)) = parsed
        && length <= limits.bytes
        && bytes.get(..length).is_some_and(has_no_bare_lf)
        && let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        && method.len() + target.len() + " HTTP/1.1 ".len() <= limits.line_bytes
    {
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        return judge(method, target, version, request.headers, length).map(Some);
    }
    *scan = Scan::default();
    match scan.advance(bytes, Kind::Request, limits)? {
        None => Ok(None),
        Some(_) => Err(Malformed::RequestLine),
    }
}

fn judge<'h, 'b>(
    method: &'b str,
    target: &'b str,
    version: Version,
    fields: &'h [Field<'b>],
    length: usize,
) -> Result<RequestHead<'h, 'b>, Malformed> {
    let (form, named, path) = read_target(method, target)?;
    let (mut declared, mut options) = (Declared::default(), Options::default());
    let (mut host, mut upgrade, mut expects, mut takes_trailers) = (None, false, false, false);
    for Field { name, value } in fields {
        match Known::of(name) {
            Known::Host if host.replace(*value).is_some() => return Err(Malformed::SeveralHosts),
            Known::ContentLength => declared.read_length(value)?,
            Known::TransferEncoding => declared.read_coding(value)?,
            Known::Connection => options.read(value),
            Known::Upgrade => upgrade |= protocols_of(value).next().is_some(),
            Known::Te => takes_trailers |= members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
            Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => expects = true,
            Known::Expect if version == Version::Http11 => return Err(Malformed::Expectation),
            _ => {}
        }
    }
    if declared.chunked && version == Version::Http10 {
        return Err(Malformed::TransferEncodingIn10);
    }
    let framing = match declared {
        Declared { chunked: true, .. } => Framing::Chunked,
        Declared { length: Some(length), .. } => Framing::Length(length),
        Declared { length: None, .. } => Framing::None,
    };
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let authority = match (host, named) {
        (Some(host), _) if !is_authority(host) => return Err(Malformed::Host),
        // RFC 9112, section 3.2.2: what the target names counts, whatever Host says.
        (Some(_), Some(named)) => named,
        (Some(host), None) => std::str::from_utf8(host).map_err(|_| Malformed::Host)?,
        (None, Some(named)) if version == Version::Http10 => named,
        (None, _) => return Err(Malformed::NoHost),
    };
    Ok(RequestHead {
        method,
        form,
        path,
        authority,
        version,
        fields,
        framing,
        options,
        // RFC 9110, sections 7.8 and 10.1.1: HTTP/1.0 has neither.
        upgrade: upgrade && options.upgrade && version == Version::Http11,
        takes_trailers: takes_trailers && version == Version::Http11,
        expects_continue: expects && has_body && version == Version::Http11,
        length,
    })
}

/// The protocols of an `Upgrade`, without HTTP/2 in the open, whose requests nobody would look at here (RFC 9113, section
/// 3.1, has given it up).
fn protocols_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    members(value).filter(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Takes a target apart into its form, the authority that it names, and path and query.
fn read_target<'b>(method: &str, target: &'b str) -> Result<(Form, Option<&'b str>, &'b str), Malformed> {
    if !target.bytes().all(is_in_target) || has_backtick_in_path(target) {
        return Err(Malformed::Target);
    }
    if method == "CONNECT" {
        let fits = is_authority(target.as_bytes()) && target.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty());
        return if fits { Ok((Form::Authority, Some(target), "")) } else { Err(Malformed::Target) };
    }
    if target.starts_with('/') {
        return Ok((Form::Origin, None, target));
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok((Form::Asterisk, None, target)) } else { Err(Malformed::Target) };
    }
    let (scheme, rest) = target.split_once("://").ok_or(Malformed::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Malformed::Target);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority.as_bytes()) {
        return Err(Malformed::Host);
    }
    // RFC 9112, section 3.2.4: so do clients ask a server itself through a proxy.
    let path = if path.is_empty() && method == "OPTIONS" { "*" } else { path };
    Ok((Form::Absolute, Some(authority), path))
}

/// Visible ASCII without what no browser sends unencoded and no URI may have (RFC 3986; WHATWG URL, query state).
fn is_in_target(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

/// A backtick is no part of a URI (RFC 3986). Browsers send it as it is in a query, but never in a path (WHATWG URL, query
/// and path percent-encode sets), nor does HTTP/2 here take it there.
fn has_backtick_in_path(target: &str) -> bool {
    let (target, backtick) = (target.as_bytes(), memchr::memchr(b'`', target.as_bytes()));
    backtick.is_some_and(|at| target.get(..at).is_none_or(|before| memchr::memchr(b'?', before).is_none()))
}

#[cfg(test)]
mod tests;
