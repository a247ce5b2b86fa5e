//! What the hyper library lets pass and this proxy does not: heads that another reader might take for something else.
//! Pure.

use super::refusal::Refusal;
use hyper::{
    HeaderMap, Method, Uri, Version,
    body::Body,
    header::{self, HeaderValue},
    http::{request, uri::Scheme},
};

/// The one transfer coding that is spoken here (RFC 9112, section 6.1).
const CHUNKED: &[u8] = b"chunked";
/// HTTP/2 by an upgrade, which RFC 9113 has given up.
const H2C: &str = "h2c";

/// Whether a request's head means one thing only, and has not more than so many fields.
pub(super) fn request(head: &request::Parts, most_fields: usize) -> Result<(), Refusal> {
    // With HTTP/1.1 the library has seen to both.
    if head.version == Version::HTTP_2 {
        if head.headers.len() > most_fields {
            return Err(Refusal::HeaderTooLarge);
        }
        if head.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(Refusal::Malformed);
        }
        // What follows a CONNECT belongs to the tunnel (RFC 9110, section 9.3.6); the backend gets a GET.
        if head.method == Method::CONNECT && head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Refusal::Malformed);
        }
    }
    target(&head.method, &head.uri, &head.headers, head.version)?;
    // The one character that the library for field names takes and RFC 9110, section 5.6.2, does not.
    if head.headers.keys().any(|name| name.as_str().contains('"')) {
        return Err(Refusal::Malformed);
    }
    let is_known = |expected: &HeaderValue| expected.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if head.version >= Version::HTTP_11 && !head.headers.get_all(header::EXPECT).iter().all(is_known) {
        return Err(Refusal::ExpectationFailed);
    }
    match transfer_coding(&head.headers) {
        TransferCoding::None | TransferCoding::Chunked => Ok(()),
        TransferCoding::Other => Err(Refusal::NotImplemented),
    }
}

/// The four forms of a target (RFC 9112, section 3.2).
fn target(method: &Method, uri: &Uri, fields: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let text = uri.path_and_query().map_or("", |path| path.as_str());
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::Malformed);
    }
    if version != Version::HTTP_2 && version >= Version::HTTP_11 && !fields.contains_key(header::HOST) {
        return Err(Refusal::BadAddress);
    }
    let is_path = text.starts_with('/') || (text == "*" && method == Method::OPTIONS);
    let is_good = match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            let is_known = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
            is_known && !authority.as_str().contains('@') && (is_path || method == Method::CONNECT)
        }
        (None, Some(_)) => method == Method::CONNECT,
        (_, None) => is_path,
    };
    if is_good { Ok(()) } else { Err(Refusal::Malformed) }
}

/// Whether a response's head says in one way how long its body is.
pub(super) fn response(fields: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let (length, second) = (lengths.next(), lengths.next());
    let is_length = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    let is_good = match transfer_coding(fields) {
        TransferCoding::None => second.is_none() && length.is_none_or(is_length),
        TransferCoding::Chunked => length.is_none(),
        TransferCoding::Other => false,
    };
    if is_good { Ok(()) } else { Err(Refusal::Broken) }
}

enum TransferCoding {
    None,
    Chunked,
    Other,
}

fn transfer_coding(fields: &HeaderMap) -> TransferCoding {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => TransferCoding::None,
        (Some(codings), None) if is_chunked(codings.as_bytes()) => TransferCoding::Chunked,
        (Some(_), _) => TransferCoding::Other,
    }
}

/// Empty elements of a list count for nothing (RFC 9110, section 5.6.1.2).
fn is_chunked(list: &[u8]) -> bool {
    let codings = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    let mut count = 0;
    codings.inspect(|_| count += 1).all(|coding| coding.eq_ignore_ascii_case(CHUNKED)) && count == 1
}

/// Whether a body ends where its last chunk and its trailers say. The library takes an LF alone for the end of a trailer,
/// but for the end of the trailers only CRLF: between the two lies what a client, or a proxy before us, that ends lines so
/// takes for its next request, and what is dropped here. So where there are trailers, or they may yet come, the connection
/// is closed after the answer, and no answer is taken for that of another request.
pub(super) fn is_chunked_body(version: Version, body: &impl Body) -> bool {
    let is_lines = version != Version::HTTP_2;
    is_lines && !body.is_end_stream() && body.size_hint().exact().is_none()
}

/// The protocols of an Upgrade that may go on.
pub(super) fn upgrade(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let is_h2c = |protocol: &str| protocol.trim().eq_ignore_ascii_case(H2C);
    if !text.split(',').any(is_h2c) {
        return Some(value.clone());
    }
    let rest: Vec<&str> = text.split(',').map(str::trim).filter(|protocol| !is_h2c(protocol)).collect();
    if rest.is_empty() { None } else { HeaderValue::from_str(&rest.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn judged(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<(), Refusal> {
        let request = Request::builder().method(method).uri(target);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        super::request(&request.body(()).unwrap().into_parts().0, FIELDS)
    }

    const FIELDS: usize = 3;

    #[test]
    fn http2_has_the_same_limits() {
        let judged = |fields: &[&str]| {
            let request = Request::get("https://b.plane.test/").version(Version::HTTP_2);
            let request = fields.iter().fold(request, |request, name| request.header(*name, "1"));
            super::request(&request.body(()).unwrap().into_parts().0, FIELDS)
        };
        assert_eq!(judged(&["a", "a", "content-length"]), Ok(()));
        assert_eq!(judged(&["a", "a", "b", "c"]), Err(Refusal::HeaderTooLarge));
        assert_eq!(judged(&["content-length", "content-length"]), Err(Refusal::Malformed));
    }

    #[test]
    fn targets_have_one_of_four_forms() {
        let host = [("host", "b.plane.test")];
        for (method, target) in [("GET", "/a?b"), ("GET", "http://b.plane.test/"), ("OPTIONS", "*"), ("CONNECT", "b:1")]
        {
            assert_eq!(judged(method, target, &host), Ok(()), "{method} {target}");
        }
        for (method, target) in
            [("GET", "*"), ("GET", "b.plane.test"), ("GET", "b:1"), ("GET", "ftp://b/"), ("GET", "/é")]
        {
            assert_eq!(judged(method, target, &host), Err(Refusal::Malformed), "{method} {target}");
        }
        assert_eq!(judged("GET", "http://b.plane.test/", &[]), Err(Refusal::BadAddress));
    }

    #[test]
    fn only_one_transfer_coding_is_spoken() {
        for (value, outcome) in [
            ("chunked", Ok(())),
            ("Chunked", Ok(())),
            (", chunked", Ok(())),
            ("chunked, chunked", Err(Refusal::NotImplemented)),
            ("gzip, chunked", Err(Refusal::NotImplemented)),
            ("identity", Err(Refusal::NotImplemented)),
            ("", Err(Refusal::NotImplemented)),
        ] {
            assert_eq!(judged("POST", "/", &[("host", "b"), ("transfer-encoding", value)]), outcome, "{value:?}");
        }
        let two = [("host", "b"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(judged("POST", "/", &two), Err(Refusal::NotImplemented));
    }

    #[test]
    fn responses_say_their_length_once() {
        let judged = |fields: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(*name, HeaderValue::from_static(value));
            }
            response(&map)
        };
        for good in [&[][..], &[("content-length", "5")], &[("transfer-encoding", "chunked")]] {
            assert_eq!(judged(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[("content-length", "5, 5")][..],
            &[("content-length", "5"), ("content-length", "5")],
            &[("content-length", "+5")],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
        ] {
            assert_eq!(judged(bad), Err(Refusal::Broken), "{bad:?}");
        }
    }

    #[test]
    fn http2_does_not_come_by_upgrade() {
        for (value, rest) in [("websocket", Some("websocket")), ("h2c", None), ("websocket, H2C", Some("websocket"))] {
            let rest = rest.map(HeaderValue::from_static);
            assert_eq!(upgrade(&HeaderValue::from_static(value)), rest, "{value}");
        }
    }
}
