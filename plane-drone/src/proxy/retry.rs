//! Which requests may be sent twice: where a kept connection turns out to be closed, nobody knows whether the backend
//! has read what was sent last.

use super::passage::Sent;
use hyper::Request;

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
    Some(again)
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
