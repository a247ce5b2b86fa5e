//! The fields that matter to whoever stands between a client and a backend, and how their values are read: as strictly as
//! their grammar is, since whoever reads on after us may read loosely (RFC 9112, section 11.2).

use super::{malformed::Malformed, scan::is_token};
use crate::proxy::origin::is_prefixed;

/// A field, its name and its value without the white space around it.
pub(super) type Field<'b> = httparse::Header<'b>;

/// A name that is not just passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `Authorization`.
    Authorization,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Cookie`.
    Cookie,
    /// `Date`.
    Date,
    /// `Expect`.
    Expect,
    /// `Forwarded`, or any `X-Forwarded-*`.
    Forwarded,
    /// `Host`.
    Host,
    /// `Keep-Alive` or `Proxy-Connection`, which nobody needs any more.
    KeepAlive,
    /// `TE`.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
    /// The field that names the backend of a response.
    BackendId,
    /// Any other.
    Other,
}

/// Names the backend that answered.
pub(super) const BACKEND_ID: &str = "x-plane-backend-id";

impl Known {
    /// Finds a name, in whatever case. Most names are told apart by their length and first letter alone.
    pub(super) fn of(name: &str) -> Self {
        let is = |lower: &str| name.eq_ignore_ascii_case(lower);
        let first = name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
        match (name.len(), first) {
            (2, b't') if is("te") => Self::Te,
            (4, b'h') if is("host") => Self::Host,
            (4, b'd') if is("date") => Self::Date,
            (6, b'c') if is("cookie") => Self::Cookie,
            (6, b'e') if is("expect") => Self::Expect,
            (7, b'u') if is("upgrade") => Self::Upgrade,
            (7, b't') if is("trailer") => Self::Trailer,
            (9, b'f') if is("forwarded") => Self::Forwarded,
            (10, b'c') if is("connection") => Self::Connection,
            (10, b'k') if is("keep-alive") => Self::KeepAlive,
            (13, b'a') if is("authorization") => Self::Authorization,
            (14, b'c') if is("content-length") => Self::ContentLength,
            // Servers in the manner of CGI take these for the fields that say where a body ends.
            (14, b'c') if is("content_length") => Self::KeepAlive,
            (17, b't') if is("transfer_encoding") => Self::KeepAlive,
            (16, b'p') if is("proxy-connection") => Self::KeepAlive,
            (17, b't') if is("transfer-encoding") => Self::TransferEncoding,
            (18, b'x') if is(BACKEND_ID) => Self::BackendId,
            (13.., b'x') if is_prefixed(name) => Self::Forwarded,
            _ => Self::Other,
        }
    }
}

/// The members of a list, without white space and empty ones (RFC 9110, section 5.6.1).
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// Cuts optional white space off (RFC 9110, section 5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What the `Connection` fields of a message ask for (RFC 9110, section 7.6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `close` is among them.
    pub(super) close: bool,
    /// `keep-alive` is among them.
    pub(super) keep_alive: bool,
    /// `upgrade` is among them.
    pub(super) upgrade: bool,
    /// They name other fields, which end here.
    pub(super) names_others: bool,
}

impl Options {
    /// Adds what one field has.
    pub(super) fn read(&mut self, value: &[u8]) {
        for option in members(value) {
            let is = |lower: &[u8]| option.eq_ignore_ascii_case(lower);
            match option.len() {
                5 if is(b"close") => self.close = true,
                10 if is(b"keep-alive") => self.keep_alive = true,
                7 if is(b"upgrade") => self.upgrade = true,
                _ => self.names_others = true,
            }
        }
    }

    /// Whether a connection can go on (RFC 9112, section 9.3).
    pub(super) fn is_persistent(self, version: super::Version) -> bool {
        match version {
            super::Version::Http11 => !self.close,
            super::Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// Whether a `Connection` among these names that field.
pub(super) fn is_named(fields: &[Field<'_>], name: &str) -> bool {
    let connections = fields.iter().filter(|field| Known::of(field.name) == Known::Connection);
    connections.flat_map(|field| members(field.value)).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// What the fields of a message say of where its body ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) chunked: bool,
}

impl Declared {
    /// Adds a `Content-Length`. Equal ones are refused as well, as RFC 9110, section 8.6, allows.
    pub(super) fn read_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let length = content_length(value)?;
        match self.length.replace(length) {
            Some(_) => Err(Malformed::SeveralContentLengths),
            None if self.chunked => Err(Malformed::TwoFramings),
            None => Ok(()),
        }
    }

    /// Adds a `Transfer-Encoding`.
    pub(super) fn read_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked {
            return Err(Malformed::TransferEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(why_coding(value));
        }
        self.chunked = true;
        if self.length.is_some() { Err(Malformed::TwoFramings) } else { Ok(()) }
    }
}

/// Reads a `Content-Length`: digits alone, within 64 bits.
fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() {
        return Err(Malformed::ContentLength);
    }
    value
        .iter()
        .try_fold(0_u64, |length, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(Malformed::ContentLength)
}

/// Why a coding is not `chunked`: it may be one that is not known here, applied before `chunked`, and is an error of the
/// sender otherwise, who would be read in two ways.
fn why_coding(value: &[u8]) -> Malformed {
    let mut codings = value.split(|byte| *byte == b',').map(trim).rev();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let name = |coding: &[u8]| coding.split(|byte| *byte == b';').next().is_some_and(|name| is_token(trim(name)));
    if !codings.next().is_some_and(is_chunked) || codings.any(|coding| is_chunked(coding) || !name(coding)) {
        return Malformed::TransferEncoding;
    }
    Malformed::UnknownCoding
}

/// What a registered name may consist of (RFC 3986, section 3.2.2), by byte.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut others = b"-._~%!$&'()*+,;=".as_slice();
    while let [byte, rest @ ..] = others {
        table[*byte as usize] = true;
        others = rest;
    }
    table
};

/// Whether this is a host with an optional port, nothing else (RFC 3986, section 3.2): no user, no path, no space.
pub(in crate::proxy) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, after) = rest.split_at(end);
            if !address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
                return false;
            }
            (address, after.get(1..).unwrap_or_default())
        }
        text => text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len())),
    };
    let host_fits = text.first() == Some(&b'[') || host.iter().all(|byte| IN_NAME[usize::from(*byte)]);
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host_fits && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_known_in_any_case() {
        let table = [
            ("HOST", Known::Host),
            ("te", Known::Te),
            ("Content-Length", Known::ContentLength),
            ("Proxy-Connection", Known::KeepAlive),
            ("Content_Length", Known::KeepAlive),
            ("transfer_encoding", Known::KeepAlive),
            ("X-Forwarded-For", Known::Forwarded),
            ("x_forwarded-proto", Known::Forwarded),
            ("X-Forwarded-Anything", Known::Forwarded),
            ("X-Forwarded", Known::Other),
            ("Forwarded", Known::Forwarded),
            ("Accept", Known::Other),
            ("X-Plane-Backend-Id", Known::BackendId),
        ];
        for (name, known) in table {
            assert_eq!(Known::of(name), known, "{name}");
        }
    }

    #[test]
    fn lengths_are_digits() {
        for (text, length) in [("0", 0), ("5", 5), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(content_length(text.as_bytes()), Ok(length));
        }
        for text in ["", "+5", "-5", "5 ", "5,5", "5, 5", "0x5", "5.0", "18446744073709551616", "\u{665}", "5\t"] {
            assert_eq!(content_length(text.as_bytes()), Err(Malformed::ContentLength), "{text:?}");
        }
    }

    #[test]
    fn chunked_is_the_only_coding() {
        let read = |values: &[&str]| {
            let mut declared = Declared::default();
            values.iter().try_for_each(|value| declared.read_coding(value.as_bytes()))
        };
        assert_eq!((read(&["chunked"]), read(&["CHUNKED"])), (Ok(()), Ok(())));
        for value in ["gzip, chunked", "gzip;q=1 , chunked"] {
            assert_eq!(read(&[value]), Err(Malformed::UnknownCoding), "{value:?}");
        }
        let wrong = [
            "",
            "identity",
            "xchunked",
            "chunked,",
            ", chunked",
            "chunked, chunked",
            "\"chunked\"",
            "chunked, gzip",
            "chunked;q=1",
            "gz ip, chunked",
            "chunked\u{b}",
        ];
        for value in wrong {
            assert_eq!(read(&[value]), Err(Malformed::TransferEncoding), "{value:?}");
        }
        assert_eq!(read(&["chunked", "chunked"]), Err(Malformed::TransferEncoding));
        assert_eq!(read(&["chunked", "identity"]), Err(Malformed::TransferEncoding));
    }

    #[test]
    fn authorities_are_hosts_with_ports() {
        for text in
            ["b.plane.test", "B.plane.test:8080", "a", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b.c", "a:", "%41.b"]
        {
            assert!(is_authority(text.as_bytes()), "{text}");
        }
        for text in [
            "", ":80", "u@h", "u:p@h", "h/p", "h p", "h:80:80", "h:x", "h:123456", "[::1", "[x]", "[]", "[::1]80",
            "::1", "h?q", "h#f", "h\\", "h\u{e4}", "h\t",
        ] {
            assert!(!is_authority(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn options_are_lists_over_several_fields() {
        let mut options = Options::default();
        for value in [" close ,\tX-Own", "", ",,Keep-Alive", "UPGRADE"] {
            options.read(value.as_bytes());
        }
        assert_eq!(options, Options { close: true, keep_alive: true, upgrade: true, names_others: true });
        let fields = [Field { name: "connection", value: b"x-own, B" }, Field { name: "Connection", value: b"c" }];
        assert!(["X-Own", "b", "C"].iter().all(|name| is_named(&fields, name)));
        assert!(!is_named(&fields, "x"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut declared = Declared::default();
            let read = declared.read_coding(&value);
            prop_assert_eq!(read.is_ok(), value.eq_ignore_ascii_case(b"chunked"));
            let text = std::str::from_utf8(&value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(content_length(&value).ok(), text.and_then(|text| text.parse().ok()));
            Options::default().read(&value);
            if is_authority(&value) {
                let uri: Result<hyper::http::uri::Authority, _> = value.as_slice().try_into();
                prop_assert!(uri.is_ok() || value.contains(&b'%') || value.contains(&b'['), "{:?}", value);
            }
        }
    }
}
