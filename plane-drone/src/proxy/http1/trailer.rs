//! What may follow a body (RFC 9110, section 6.5): fields that nobody needs before it, and that nobody along the way acts
//! upon. Merging others into a head after the fact would get round what was decided by the head.

use super::{
    chunk::TRAILERS_MAX,
    field::{Field, Known},
};
use httparse::{EMPTY_HEADER, Status, parse_headers};
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// Fields that change how a message is framed, routed, cached, authenticated or read, beside those that [`Known`] names
/// (RFC 9110, section 6.5.1).
const FORBIDDEN: [&str; 22] = [
    "accept-ranges",
    "age",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "retry-after",
    "set-cookie",
    "vary",
    "www-authenticate",
];

/// Writes the lines of a trailer section that go on; `section` is lines that were each judged already.
pub(super) fn put_forwardable(section: &[u8], out: &mut Vec<u8>) {
    let mut fields = [EMPTY_HEADER; TRAILERS_MAX];
    // The empty line that ends a section is not part of what is kept of it.
    let whole = [section, b"\r\n"].concat();
    let Ok(Status::Complete((_, fields))) = parse_headers(&whole, &mut fields) else { return };
    for Field { name, value } in fields.iter().filter(|field| is_forwardable(field.name)) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

/// The fields of a trailer section that go on, as the `http` library has them; `None` where there are none.
pub(super) fn forwardable(section: &[u8]) -> Option<HeaderMap> {
    if section.is_empty() {
        return None;
    }
    let (mut fields, mut map) = ([EMPTY_HEADER; TRAILERS_MAX], HeaderMap::new());
    let whole = [section, b"\r\n"].concat();
    let Ok(Status::Complete((_, fields))) = parse_headers(&whole, &mut fields) else { return None };
    for Field { name, value } in fields.iter().filter(|field| is_forwardable(field.name)) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}

fn is_forwardable(name: &str) -> bool {
    Known::of(name) == Known::Other && !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forwarded(section: &str) -> String {
        let mut out = Vec::new();
        put_forwardable(section.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_harms_nobody_goes_on() {
        assert_eq!(forwarded(""), "");
        assert_eq!(forwarded("grpc-status:0\r\nX-Sum: \tab \r\n"), "grpc-status: 0\r\nX-Sum: ab\r\n");
        let forbidden = [
            "Content-Length",
            "transfer-encoding",
            "HOST",
            "Connection",
            "Trailer",
            "TE",
            "Set-Cookie",
            "Authorization",
            "Content-Type",
            "X-Forwarded-For",
            "Forwarded",
            "Cookie",
            "Range",
            "Upgrade",
            "Expect",
            "X-Plane-Backend-Id",
            "Cache-Control",
            "WWW-Authenticate",
            "If-None-Match",
            "Keep-Alive",
        ];
        for name in forbidden {
            assert_eq!(forwarded(&format!("{name}: 1\r\nb: c\r\n")), "b: c\r\n", "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_goes_on_goes_on_again(section in "([A-Za-z-]{1,12}: ?[ -~]{0,10}\r\n){0,5}") {
            let once = forwarded(&section);
            prop_assert_eq!(forwarded(&once), once);
        }
    }
}
