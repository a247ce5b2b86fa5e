//! How requests end that no backend answers: the one table from cause to status (RFC 9110, section 15).
//!
//! How an answer of the proxy's own looks is the affair of [`page`](super::page).

use super::page::{Page, Wanted};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use std::borrow::Cow;

/// Why a request was not answered by a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It breaks the rules of HTTP.
    Malformed,
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
    /// Its head or its body does not come.
    TooSlow,
    /// The backend has ended.
    Ended,
    /// Its body is longer than the proxy takes.
    TooLarge,
    /// Its target is longer than the proxy takes.
    TargetTooLong,
    /// It expects what is not done here.
    ExpectationFailed,
    /// Its host is none of the cluster's.
    WrongHost,
    /// Its head is larger than the proxy takes.
    HeaderTooLarge,
    /// It wants a transfer coding or a protocol that is not spoken here.
    NotImplemented,
    /// The backend refused the connection, or broke it.
    Broken,
    /// The backend did not become ready while the request waited.
    NotYet,
    /// Too many wait already.
    Overloaded,
    /// The drone stops.
    Draining,
    /// What is asked for in the open is served through TLS only, and there is no certificate yet.
    NoCertificate,
    /// The backend did not answer.
    NoAnswer,
    /// It is of a version of HTTP that is not spoken here.
    BadVersion,
}

/// One line of the table.
struct Row {
    status: u16,
    code: &'static str,
    message: &'static str,
    /// What a person may do about it.
    advice: &'static str,
}

impl Refusal {
    /// Every cause.
    #[cfg(test)]
    pub(super) const ALL: [Self; 21] = [
        Self::Malformed,
        Self::BadAddress,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Unknown,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::Ended,
        Self::TooLarge,
        Self::TargetTooLong,
        Self::ExpectationFailed,
        Self::WrongHost,
        Self::HeaderTooLarge,
        Self::NotImplemented,
        Self::Broken,
        Self::NotYet,
        Self::Overloaded,
        Self::Draining,
        Self::NoCertificate,
        Self::NoAnswer,
        Self::BadVersion,
    ];

    fn row(self) -> Row {
        let row = |status, code, message, advice| Row { status, code, message, advice };
        match self {
            Self::Malformed => row(
                400,
                "malformed",
                "The request is malformed.",
                "The program that sent it does not keep to the rules of HTTP.",
            ),
            Self::BadAddress => {
                row(400, "malformed", "The request needs exactly one valid Host.", "Check the address for mistakes.")
            }
            Self::Unauthorized => row(
                401,
                "unauthorized",
                "This backend wants a bearer token.",
                "Open it with the whole link that you were given.",
            ),
            Self::Forbidden => row(
                403,
                "forbidden",
                "The bearer token is not this backend's.",
                "Open it with the newest link that you were given.",
            ),
            Self::Unknown => row(
                404,
                "unknown_backend",
                "There is no such backend here.",
                "Check the address, or go back to where you got it and begin anew.",
            ),
            Self::MethodNotAllowed => {
                row(405, "method_not_allowed", "CONNECT is not served here.", "This is no proxy to other places.")
            }
            Self::TooSlow => {
                row(408, "request_timeout", "The request did not come in time.", "Check your connection and try again.")
            }
            Self::Ended => {
                row(410, "ended", "This backend has ended.", "Go back to where you got the address and begin anew.")
            }
            Self::TooLarge => row(413, "body_too_large", "The body of the request is too long.", "Send less at once."),
            Self::TargetTooLong => {
                row(414, "target_too_long", "The target of the request is too long.", "Use a shorter address.")
            }
            Self::ExpectationFailed => row(
                417,
                "expectation_failed",
                "Only 100-continue can be expected.",
                "The program that sent it has to ask in another way.",
            ),
            Self::WrongHost => row(
                421,
                "wrong_host",
                "This host is not served here.",
                "Check the address, or ask whoever runs this site where the name should lead.",
            ),
            Self::HeaderTooLarge => row(
                431,
                "header_too_large",
                "The head of the request is too large.",
                "Deleting this site's cookies may help.",
            ),
            Self::NotImplemented => row(
                501,
                "not_implemented",
                "The request wants a protocol or a transfer coding that is not spoken here.",
                "The program that sent it has to ask in another way.",
            ),
            Self::Broken => row(
                502,
                "backend_failed",
                "The backend refused the request or broke off.",
                "Try again; if that does not help, begin anew where you got the address.",
            ),
            Self::NotYet => row(503, "starting", "The backend is not ready yet.", "Try again in a moment."),
            Self::Overloaded => row(503, "overloaded", "Too many requests wait already.", "Try again in a moment."),
            Self::Draining => row(503, "draining", "This server is about to stop.", "Try again in a moment."),
            Self::NoCertificate => {
                row(503, "no_certificate", "There is no certificate for HTTPS yet.", "Try again in a few minutes.")
            }
            Self::NoAnswer => row(504, "backend_timeout", "The backend does not answer.", "Try again later."),
            Self::BadVersion => row(
                505,
                "version_not_supported",
                "This version of HTTP is not spoken here.",
                "HTTP/1.1 and HTTP/2 are.",
            ),
        }
    }

    /// The status.
    pub(super) fn status(self) -> u16 {
        self.row().status
    }

    /// The name of the cause, for programs. Causes that programs need not tell apart share one.
    pub(super) fn code(self) -> &'static str {
        self.row().code
    }

    /// The cause in a sentence.
    #[cfg(test)]
    pub(super) fn message(self) -> &'static str {
        self.row().message
    }

    /// What only some statuses say.
    pub(super) fn field(self) -> Option<(&'static str, Cow<'static, str>)> {
        let (name, value) = match self {
            // RFC 9110, section 11.6.1, and RFC 6750, section 3.
            Self::Unauthorized => ("www-authenticate", "Bearer"),
            // RFC 9110, section 10.2.1.
            Self::MethodNotAllowed => ("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            // RFC 9110, section 10.2.3; in seconds.
            Self::NotYet => ("retry-after", "1"),
            Self::NoCertificate => ("retry-after", "5"),
            _ => return None,
        };
        Some((name, value.into()))
    }

    /// The answer, in the form that is wanted.
    pub(super) fn page(self, wanted: Wanted) -> Page {
        let Row { status, code, message, advice } = self.row();
        let page = match wanted {
            Wanted::Html => Page::html(status, message, advice),
            Wanted::Json => Page::json(status, code, message),
            Wanted::Text => Page::text(status, message),
        };
        page.with(self.field())
    }

    /// The answer as text.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        self.page(Wanted::Text).into_response(false)
    }

    /// The answer in the form that a request's Accept wants. One to HEAD has no body.
    pub(super) fn into_response_for(self, accept: Option<&str>, is_head: bool) -> Response<Full<Bytes>> {
        self.page(Wanted::of(accept)).into_response(is_head)
    }
}

#[cfg(test)]
mod tests;
