//! Which requests may be sent twice: where a kept connection turns out to be closed, nobody knows whether the backend
//! has read what was sent last.

use super::passage::Sent;
use hyper::Request;
use std::{
    error::Error,
    io::{self, ErrorKind},
};

/// A copy of a request that may be sent again: its method is idempotent (RFC 9110, section 9.2.2), and there is no body
/// that would have to be kept for it.
pub(super) fn copy(request: &Request<Sent>) -> Option<Request<Sent>> {
    if !is_idempotent(request.method().as_str()) {
        return None;
    }
    let mut again = Request::new(request.body().again()?);
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    // Who is told of interim answers.
    again.extensions_mut().clone_from(request.extensions());
    Some(again)
}

/// Whether a connection ended or was reset, rather than said what cannot be read.
pub(super) fn is_end(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let is_broken = |kind| {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
        matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
    };
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || cause.is_some_and(is_broken)
}

/// Whether a method may be used twice for the effect of once (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_an_effect_twice_is_not_repeated() {
        for (method, may) in
            [("GET", true), ("HEAD", true), ("PUT", true), ("POST", false), ("PATCH", false), ("X", false)]
        {
            assert_eq!(is_idempotent(method), may, "{method}");
        }
    }
}
