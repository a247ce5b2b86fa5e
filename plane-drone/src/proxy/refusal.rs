//! How requests end that no backend answers: the one table from cause to status (RFC 9110, section 15).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};

/// Why a request was not answered by a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its address is missing, double or unreadable.
    BadAddress,
    /// It carries no token.
    Unauthorized,
    /// It carries a wrong token.
    Forbidden,
    /// Nobody has such a backend.
    Unknown,
    /// It asks for a tunnel to elsewhere.
    MethodNotAllowed,
    /// The backend has ended.
    Ended,
    /// The backend refused the connection, or broke it.
    Broken,
    /// The backend did not become ready while the request waited.
    NotYet,
    /// The backend did not answer.
    NoAnswer,
    /// Its host is none of the cluster's.
    WrongHost,
    /// Its body does not come.
    TooSlow,
    /// Its body is longer than the proxy takes.
    TooLarge,
    /// Its target is longer than the proxy takes.
    TargetTooLong,
    /// It wants a protocol that is not spoken here.
    NotImplemented,
    /// Too many wait already.
    Overloaded,
    /// The drone stops.
    Draining,
    /// What is asked for in the open is served through TLS only, and there is no certificate yet.
    NoCertificate,
}

impl Refusal {
    fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadAddress => (StatusCode::BAD_REQUEST, "The request needs exactly one valid Host."),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "This backend wants a bearer token."),
            Self::Forbidden => (StatusCode::FORBIDDEN, "The bearer token is not this backend's."),
            Self::Unknown => (StatusCode::NOT_FOUND, "There is no such backend here."),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here."),
            Self::Ended => (StatusCode::GONE, "This backend has ended."),
            Self::Broken => (StatusCode::BAD_GATEWAY, "The backend refused the request or broke off."),
            Self::NotYet => (StatusCode::SERVICE_UNAVAILABLE, "The backend is not ready yet."),
            Self::NoAnswer => (StatusCode::GATEWAY_TIMEOUT, "The backend does not answer."),
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "This host is not served here."),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "The body of the request does not come."),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The body of the request is too long."),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, "The target of the request is too long."),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "This is not spoken here."),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "Too many requests wait already."),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "The drone stops."),
            Self::NoCertificate => (StatusCode::SERVICE_UNAVAILABLE, "There is no certificate for HTTPS yet."),
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, text) = self.status();
        let mut response = Response::new(Full::from(format!("{text}\n")));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
        fields.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        match self {
            Self::Unauthorized => {
                fields.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            Self::NotYet => {
                fields.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            }
            Self::NoCertificate => {
                fields.insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
            }
            Self::MethodNotAllowed => {
                fields.insert(
                    header::ALLOW,
                    header::HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
                );
            }
            _ => {}
        }
        response
    }
}
