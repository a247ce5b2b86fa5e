//! The head of a response (RFC 9112, sections 4 and 5), judged: a backend may be hostile, and what it says must mean one
//! thing to us and to the client.

use super::{
    Framing, HeadLimits, Version,
    field::{Declared, Field, Known, Options},
    head::Space,
    malformed::Malformed,
    scan::{Kind, Scan, has_no_bare_lf},
};
use httparse::Status;

/// What a response says, borrowed from the bytes that it came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseHead<'h, 'b> {
    /// Its status, within 100 to 599.
    pub(super) status: u16,
    /// The text after it.
    pub(super) reason: &'b str,
    /// Its fields, in their order.
    pub(super) fields: &'h [Field<'b>],
    /// Where its body ends.
    pub(super) framing: Framing,
    /// What `Content-Length` says, which is not always the length of this body (RFC 9110, section 8.6).
    pub(super) declared_length: Option<u64>,
    /// What its `Connection` fields ask for.
    pub(super) options: Options,
    /// The protocol that is changed to, with 101.
    pub(super) upgrade: Option<&'b [u8]>,
    /// Whether the backend's connection may be used again after it.
    pub(super) is_persistent: bool,
    /// The head's length, in bytes.
    pub(super) length: usize,
}

impl ResponseHead<'_, '_> {
    /// Whether the final response is still to come (RFC 9110, section 15.2).
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Reads a head at the start of `bytes`; `None` where it is not complete. `scan` as for requests; `to_head` tells that the
/// request was a HEAD.
///
/// # Errors
/// Where the head is malformed or too large. The connection cannot be used any more.
pub(super) fn parse<'h, 'b>(
    bytes: &'b [u8],
    scan: &mut Scan,
    space: &'h mut Space<'b>,
    limits: HeadLimits,
    to_head: bool,
) -> Result<Option<ResponseHead<'h, 'b>>, Malformed> {
    if !scan.is_fresh() && scan.advance(bytes, Kind::Response, limits)?.is_none() {
        return Ok(None);
    }
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        space.for_fields(limits.fields),
    );
    if let Ok(Status::Complete(length)) = parsed
        && length <= limits.bytes
        && bytes.first() == Some(&b'H')
        && bytes.get(..length).is_some_and(has_no_bare_lf)
        && memchr::memchr(b'\r', bytes).is_some_and(|line| line <= limits.line_bytes)
        && let (Some(status), Some(reason), Some(version)) = (response.code, response.reason, response.version)
    {
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        return judge((status, reason), version, response.headers, length, to_head).map(Some);
    }
    *scan = Scan::default();
    match scan.advance(bytes, Kind::Response, limits)? {
        None => Ok(None),
        Some(_) => Err(Malformed::StatusLine),
    }
}

fn judge<'h, 'b>(
    (status, reason): (u16, &'b str),
    version: Version,
    fields: &'h [Field<'b>],
    length: usize,
    to_head: bool,
) -> Result<ResponseHead<'h, 'b>, Malformed> {
    if !(100..600).contains(&status) {
        return Err(Malformed::Status);
    }
    let (mut declared, mut options, mut upgrade) = (Declared::default(), Options::default(), None);
    for Field { name, value } in fields {
        match Known::of(name) {
            Known::ContentLength => declared.read_length(value)?,
            Known::TransferEncoding => declared.read_coding(value)?,
            Known::Connection => options.read(value),
            Known::Upgrade => upgrade = upgrade.or(Some(*value)),
            _ => {}
        }
    }
    if declared.chunked && version == Version::Http10 {
        return Err(Malformed::TransferEncodingIn10);
    }
    // RFC 9112, section 6.3: these have no body, whatever their fields say. Who says of one that it has chunks may send
    // them all the same, so that nothing is read after it.
    let never = status < 200 || status == 204;
    let framing = match declared {
        _ if never || status == 304 || to_head => Framing::None,
        Declared { chunked: true, .. } => Framing::Chunked,
        Declared { length: Some(length), .. } => Framing::Length(length),
        Declared { length: None, .. } => Framing::UntilClose,
    };
    let is_bodiless = framing == Framing::None;
    let is_persistent =
        options.is_persistent(version) && framing != Framing::UntilClose && !(is_bodiless && declared.chunked);
    let upgrade = upgrade.filter(|_| status == 101);
    let declared_length = declared.length.filter(|_| !never);
    Ok(ResponseHead { status, reason, fields, framing, declared_length, options, upgrade, is_persistent, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 400, fields: 5, line_bytes: 60 };

    fn framing(head: &str, to_head: bool) -> Result<(Framing, bool), Malformed> {
        let mut space = Space::new();
        let parsed = parse(head.as_bytes(), &mut Scan::default(), &mut space, LIMITS, to_head)?;
        Ok(parsed.map(|head| (head.framing, head.is_persistent)).unwrap())
    }

    #[test]
    fn bodies_end_as_the_rfc_says() {
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::None, false),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::None, false),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Framing::None, true),
        ];
        for (head, wanted, persistent) in table {
            assert_eq!(framing(head, false), Ok((wanted, persistent)), "{head:?}");
        }
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), Ok((Framing::None, true)));
    }

    #[test]
    fn hostile_ones_are_refused() {
        let wide = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(500));
        let long = format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(60));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(6));
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Malformed::SeveralContentLengths),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Malformed::SeveralContentLengths),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", Malformed::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TwoFramings),
            ("HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Malformed::TwoFramings),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TransferEncodingIn10),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Malformed::TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::UnknownCoding),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Malformed::SpaceBeforeColon),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Malformed::ObsFold),
            ("HTTP/1.1 200 OK\nA: b\n\n", Malformed::BareLf),
            ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Malformed::BareCr),
            ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", Malformed::Nul),
            ("HTTP/1.1 999 OK\r\n\r\n", Malformed::Status),
            ("HTTP/1.1 099 OK\r\n\r\n", Malformed::Status),
            ("HTTP/1.1 2000 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/3.0 200 OK\r\n\r\n", Malformed::Version),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", Malformed::StatusLine),
            ("garbage\r\n\r\n", Malformed::StatusLine),
            (&wide, Malformed::HeadTooLong),
            (&long, Malformed::LineTooLong),
            (&many, Malformed::TooManyFields),
        ];
        for (head, why) in table {
            assert_eq!(framing(head, false), Err(why), "{head:?}");
        }
    }

    #[test]
    fn an_upgrade_counts_with_its_status_only() {
        let upgrade = |head: &'static str| {
            let mut space = Space::new();
            let parsed = parse(head.as_bytes(), &mut Scan::default(), &mut space, LIMITS, false).unwrap().unwrap();
            (parsed.upgrade, parsed.is_interim(), parsed.reason)
        };
        let switched = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(upgrade(switched), (Some(&b"websocket"[..]), false, "Switching"));
        assert_eq!(upgrade("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\n\r\n").0, None);
        assert!(upgrade("HTTP/1.1 100 Continue\r\n\r\n").1);
    }

    fn outcome(bytes: &[u8], scan: &mut Scan) -> Result<Option<(u16, Framing, usize)>, Malformed> {
        let mut space = Space::new();
        let parsed = parse(bytes, scan, &mut space, LIMITS, false)?;
        Ok(parsed.map(|head| (head.status, head.framing, head.length)))
    }

    proptest! {
        #[test]
        fn bytes_may_come_in_any_pieces(
            head in "HTTP/1\\.[0-2] [0-9]{2,4} ?[a-z\u{e4}]{0,3}[\r\n]{1,2}([a-zA-Z -]{1,8}: ?[a-z0-9\\x00\r]{0,4}[\r\n]{1,2}){0,6}\r\n[a-z]{0,4}",
            pieces in proptest::collection::vec(1_usize..30, 0..20),
        ) {
            let bytes = head.as_bytes();
            let whole = outcome(bytes, &mut Scan::default());
            let (mut scan, mut end, mut last) = (Scan::default(), 0, Ok(None));
            for piece in pieces.into_iter().chain([bytes.len()]) {
                end = (end + piece).min(bytes.len());
                last = outcome(&bytes[..end], &mut scan);
                if last != Ok(None) { break }
            }
            prop_assert_eq!(last, whole);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = outcome(&bytes, &mut Scan::default());
        }
    }
}
