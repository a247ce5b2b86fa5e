//! Answers of the proxy's own: a page for people, JSON for programs, a line for terminals. Pure, and the same for
//! whoever speaks HTTP.

mod accept;

pub(super) use accept::Wanted;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use std::borrow::Cow;

/// How pages look: readable on any screen, in the dark, and enlarged.
const STYLE: &str = include_str!("page/style.css");
/// What a page that only says something may load: nothing, its own style aside.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors *";

/// An answer of the proxy's own. Its `Content-Length` is the length of the body, also for HEAD, where the body is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// The status.
    pub(super) status: u16,
    /// The fields, names in lower case; `content-length` is not among them.
    pub(super) fields: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub(super) body: Bytes,
}

impl Page {
    fn new(status: u16, kind: &'static str, body: String) -> Self {
        let fields = [("content-type", kind), ("cache-control", "no-store"), ("access-control-allow-origin", "*")];
        // All may read why a request failed, also scripts of other origins; nobody may take it for the backend's answer.
        Self { status, fields: Vec::new(), body: body.into() }.with(fields.map(|(name, value)| (name, value.into())))
    }

    /// The way to somewhere else, for this once. Other origins may not read it.
    pub(super) fn redirect(status: u16, to: String) -> Self {
        let fields = vec![("location", to.into()), ("cache-control", "no-store".into())];
        Self { status, fields, body: Bytes::new() }
    }

    /// A line of text.
    pub(super) fn text(status: u16, message: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{message}\n"))
    }

    /// For programs (RFC 8259). Neither text has characters that JSON would write otherwise.
    pub(super) fn json(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, "application/json", format!(r#"{{"error":"{code}","message":"{message}"}}"#))
    }

    /// For people. Neither text has characters that HTML would write otherwise.
    pub(super) fn html(status: u16, message: &str, advice: &str) -> Self {
        let main = format!("<p class=\"status\">{status}</p>\n<h1>{message}</h1>\n<p>{advice}</p>");
        Self::document(status, message, "", &main, POLICY)
    }

    /// A whole document, of parts that are HTML.
    pub(super) fn document(status: u16, title: &str, head: &str, main: &str, policy: &'static str) -> Self {
        let document = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n{head}<main>\n{main}\n</main>\n</html>\n"
        );
        Self::new(status, "text/html; charset=utf-8", document).with([("content-security-policy", policy.into())])
    }

    /// With more fields.
    pub(super) fn with(mut self, fields: impl IntoIterator<Item = (&'static str, Cow<'static, str>)>) -> Self {
        self.fields.extend(fields);
        self
    }

    /// As hyper takes it.
    pub(super) fn into_response(self, is_head: bool) -> Response<Full<Bytes>> {
        let length = HeaderValue::from(self.body.len());
        let body = if is_head { Bytes::new() } else { self.body };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let fields = response.headers_mut();
        for (name, value) in self.fields {
            let value = match value {
                Cow::Borrowed(value) => Ok(HeaderValue::from_static(value)),
                Cow::Owned(value) => HeaderValue::try_from(value),
            };
            // Those that are made of a request's parts are URLs and cookies, which are fields.
            if let Ok(value) = value {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        fields.insert(header::CONTENT_LENGTH, length);
        response
    }
}
