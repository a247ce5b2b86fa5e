//! What requests in the open are told where there is TLS: to ask again there, same host, path and query. Pure.

use super::{refusal::Refusal, request};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
    http::uri::Authority,
};

/// The port that `https` URLs leave out.
const DEFAULT_PORT: u16 = 443;

/// The answer to a request in the open that is not led there.
pub(super) fn refuse<B>(request: &Request<B>, refusal: Refusal) -> Response<Full<Bytes>> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    refusal.into_response_for(accept, request.method() == Method::HEAD)
}

/// Leads a request there for good (RFC 9110, section 15.4.9: the method and the body stay the same). Its body is not read.
pub(super) fn lead<B>(
    request: &Request<B>,
    has_certificate: bool,
    port: u16,
    line_bytes: usize,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if request::line_bytes(request.method(), request.uri(), request.version()) > line_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if request.method() == Method::CONNECT {
        return Err(Refusal::MethodNotAllowed);
    }
    let host = request::host(request.uri(), request.headers())?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Refusal::BadAddress)?;
    if !has_certificate {
        return Err(Refusal::NoCertificate);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // Asterisk-form (RFC 9112, section 3.2.4) is about the server as a whole.
    let path = if path.starts_with('/') { path } else { "/" };
    // The library takes raw UTF-8, which is no URI (RFC 3986, section 2) and which browsers do not send.
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::Malformed);
    }
    let host = authority.host();
    let there = match port {
        DEFAULT_PORT => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    let there = HeaderValue::from_str(&there).map_err(|_| Refusal::BadAddress)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, there);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer<B>(request: &Request<B>, has_certificate: bool, port: u16) -> Response<Full<Bytes>> {
        lead(request, has_certificate, port, 100).unwrap_or_else(|refusal| refuse(request, refusal))
    }

    fn asked(target: &str, host: &str, port: u16) -> (u16, Option<String>) {
        let request = Request::post(target).header("host", host).body(()).unwrap();
        let response = answer(&request, true, port);
        let there = response.headers().get(header::LOCATION).map(|there| there.to_str().unwrap().to_owned());
        (response.status().as_u16(), there)
    }

    #[test]
    fn host_path_and_query_are_kept() {
        for (target, host, port, there) in [
            ("/", "b.plane.test", 443, "https://b.plane.test/"),
            ("/a/b?c=d&e", "b.plane.test:80", 443, "https://b.plane.test/a/b?c=d&e"),
            ("/?q=%2F%0d", "b.plane.test:8080", 8443, "https://b.plane.test:8443/?q=%2F%0d"),
            ("//evil.test/x", "b.plane.test", 443, "https://b.plane.test//evil.test/x"),
            ("http://b.plane.test/x", "other", 443, "https://b.plane.test/x"),
            ("http://b.plane.test", "other", 443, "https://b.plane.test/"),
            ("/", "[::1]:80", 8443, "https://[::1]:8443/"),
            ("/", "10.0.0.1", 443, "https://10.0.0.1/"),
            ("*", "b.plane.test", 443, "https://b.plane.test/"),
        ] {
            assert_eq!(asked(target, host, port), (308, Some(there.to_owned())), "{target} {host} {port}");
        }
    }

    #[test]
    fn what_has_no_address_is_led_nowhere() {
        for host in [
            "",
            "a b",
            "a/b",
            "evil.test#",
            "user@evil.test",
            "a:b:c",
            "Ba[::1]:80",
            "b.plane.test:80[::1]:80",
            "[::1]b.plane.test",
        ] {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            assert_eq!(answer(&request, true, 443).status(), StatusCode::BAD_REQUEST, "{host}");
        }
        assert_eq!(asked("/\u{2cd}", "b.plane.test", 443), (400, None));
        assert_eq!(asked(&format!("/{}", "a".repeat(85)), "b.plane.test", 443).0, 308);
        assert_eq!(asked(&format!("/{}", "a".repeat(86)), "b.plane.test", 443), (414, None));
    }

    #[test]
    fn without_a_certificate_there_is_nothing_to_lead_to() {
        let request = Request::get("/").header("host", "b.plane.test").body(()).unwrap();
        let response = answer(&request, false, 443);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert!(!response.headers().contains_key(header::LOCATION));
    }
}
