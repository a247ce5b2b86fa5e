//! The page that waits for a backend that starts, in a browser, instead of a request that is held. Pure.
//!
//! The page asks for its own address again, with HEAD. That request is held like any other, so it is answered as soon as
//! there is something to say; then the page is loaded anew. Where no scripts run, the browser does that every few seconds.

use super::{
    page::{Page, Wanted},
    refusal::Refusal,
};

/// What the page may load: itself, to see whether the backend is there.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors *";

/// Whether a request gets the page: a person looks at what comes. `fetch_mode` is what Sec-Fetch-Mode says (Fetch Metadata,
/// section 2.2), which older browsers and those without TLS leave out.
pub(super) fn is_for(method: &str, accept: Option<&str>, fetch_mode: Option<&str>) -> bool {
    method == "GET" && matches!(fetch_mode, None | Some("navigate")) && Wanted::of(accept) == Wanted::Html
}

/// The page. Its status says that this is not what was asked for, so that nobody keeps or indexes it.
pub(super) fn page() -> Page {
    let refusal = Refusal::NotYet;
    let (head, main) = (include_str!("waiting/head.html"), include_str!("waiting/main.html"));
    Page::document(refusal.status(), "Starting …", head, main.trim_end(), POLICY).with(refusal.field())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    #[test]
    fn people_get_the_page_and_programs_wait() {
        for (method, accept, mode, gets) in [
            ("GET", Some(BROWSER), Some("navigate"), true),
            ("GET", Some(BROWSER), None, true),
            ("GET", Some("text/html"), None, true),
            ("HEAD", Some(BROWSER), Some("navigate"), false),
            ("POST", Some(BROWSER), Some("navigate"), false),
            ("get", Some(BROWSER), None, false),
            ("GET", Some(BROWSER), Some("cors"), false),
            ("GET", Some(BROWSER), Some("same-origin"), false),
            ("GET", Some(BROWSER), Some("websocket"), false),
            ("GET", Some("*/*"), Some("navigate"), false),
            ("GET", Some("application/json"), None, false),
            ("GET", None, None, false),
        ] {
            assert_eq!(is_for(method, accept, mode), gets, "{method} {accept:?} {mode:?}");
        }
    }

    #[test]
    fn the_page_follows_by_itself_and_needs_nothing_from_elsewhere() {
        let page = page();
        let field = |name: &str| page.fields.iter().find(|(is, _)| *is == name).map(|(_, value)| &**value);
        assert_eq!((page.status, field("retry-after"), field("cache-control")), (503, Some("1"), Some("no-store")));
        assert_eq!(field("content-type"), Some("text/html; charset=utf-8"));
        let text = std::str::from_utf8(&page.body).unwrap();
        for needed in
            ["<noscript><meta http-equiv=\"refresh\"", "role=\"status\"", "<h1>", "fetch(location.href", "HEAD"]
        {
            assert!(text.contains(needed), "{needed}: {text}");
        }
        for foreign in ["src=", "href=", "url(", "@import", "http:", "https:"] {
            assert!(!text.contains(foreign), "{foreign}: {text}");
        }
        assert!(text.len() < 3072, "{} bytes", text.len());
    }

    proptest! {
        #[test]
        fn whoever_does_not_take_html_gets_no_page(accept in "[a-gi-z/;,=0-9. ]{0,40}") {
            prop_assert!(!is_for("GET", Some(&accept), None));
        }
    }
}
