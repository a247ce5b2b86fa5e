//! Bearer tokens: in the header (RFC 6750, section 2.1), in a cookie, and the path that turns one into the other. Pure, and
//! on raw values of fields.

use super::{page::Page, refusal::Refusal, request::Scheme};
use crate::{config::proxy::SameSite, route::target::Target};
use hyper::HeaderMap;
use plane_core::id::BearerToken;
use std::borrow::Cow;
use subtle::ConstantTimeEq;
use url::{Url, form_urlencoded};

/// The name of the cookie, and of the path that sets it.
const COOKIE: &str = "_plane_auth";
/// What a cookie's value may have (RFC 6265, section 4.1.1).
const COOKIE_MARKS: &[u8] = b"!#$%&'()*+-./:<=>?@[]^_`{|}~";

/// What a request's tokens are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One is the backend's.
    Right,
    /// There is none.
    Missing,
    /// None is the backend's.
    Wrong,
}

fn is(token: &BearerToken, given: &[u8]) -> bool {
    token.expose().as_bytes().ct_eq(given).into()
}

/// Looks for the backend's token in a request.
pub(super) fn check(fields: &HeaderMap, token: &BearerToken) -> Verdict {
    best(fields.iter().filter_map(|(name, value)| judge_field(name.as_str(), value.as_bytes(), token)))
}

/// Looks for the backend's token among a request's fields.
pub(super) fn check_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, token: &BearerToken) -> Verdict {
    best(fields.into_iter().filter_map(|(name, value)| judge_field(name, value, token)))
}

/// One right token is enough.
fn best(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    verdicts.fold(Verdict::Missing, |so_far, verdict| match (so_far, verdict) {
        (Verdict::Right, _) | (_, Verdict::Right) => Verdict::Right,
        (Verdict::Wrong, _) | (_, Verdict::Wrong) => Verdict::Wrong,
        (Verdict::Missing, Verdict::Missing) => Verdict::Missing,
    })
}

fn judge_field(name: &str, value: &[u8], token: &BearerToken) -> Option<Verdict> {
    let judge = |given: &[u8]| if is(token, given) { Verdict::Right } else { Verdict::Wrong };
    if name.eq_ignore_ascii_case("authorization") {
        bearer(value).map(judge)
    } else if name.eq_ignore_ascii_case("cookie") {
        Some(best(value.split(|byte| *byte == b';').filter_map(crumb).map(judge)))
    } else {
        None
    }
}

/// The token of an Authorization field, where it is a bearer's.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, given) = value.split_at_checked(space)?;
    scheme.eq_ignore_ascii_case(b"bearer").then(|| given.trim_ascii())
}

/// The token of one crumb of a Cookie field, where it is ours.
fn crumb(crumb: &[u8]) -> Option<&[u8]> {
    let equals = crumb.iter().position(|byte| *byte == b'=')?;
    let (name, value) = crumb.split_at_checked(equals)?;
    (name.trim_ascii() == COOKIE.as_bytes()).then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

/// Whether an Authorization field has the backend's token, which is for the proxy and nobody else.
pub(super) fn is_our_bearer(value: &[u8], token: &BearerToken) -> bool {
    bearer(value).is_some_and(|given| is(token, given))
}

/// A Cookie field without our own crumb, which is for the proxy and nobody else; `None` where nothing else is in it. All
/// other crumbs, and what is between them, stay as they are.
pub(super) fn cut_cookie(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let crumbs = || value.split(|byte| *byte == b';');
    if !crumbs().any(|part| crumb(part).is_some()) {
        return Some(Cow::Borrowed(value));
    }
    let mut kept = crumbs().filter(|part| crumb(part).is_none());
    // What comes to stand first has no space before it any more.
    let mut left = kept.next()?.trim_ascii_start().to_vec();
    for part in kept {
        left.push(b';');
        left.extend_from_slice(part);
    }
    let is_empty = left.iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'));
    (!is_empty).then_some(Cow::Owned(left))
}

/// Answers a request for the path that sets the cookie; `None` for any other path. A cookie that came through TLS goes
/// nowhere else (RFC 6265, section 4.1.2.5).
pub(super) fn enter(
    target: &Target<'_>,
    token: &BearerToken,
    scheme: Scheme,
    same_site: SameSite,
) -> Option<Result<Page, Refusal>> {
    let (path, query) = target.path.split_once('?').unwrap_or((target.path, ""));
    if path.strip_prefix('/') != Some(COOKIE) {
        return None;
    }
    let (mut given, mut to) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "token" => given = given.or(Some(value)),
            "redirect" => to = to.or(Some(value)),
            _ => {}
        }
    }
    let Some(given) = given else { return Some(Err(Refusal::Unauthorized)) };
    if !is(token, given.as_bytes()) || !fits_cookie(token) {
        return Some(Err(Refusal::Forbidden));
    }
    let prefix = target.prefix;
    let to = format!("{prefix}{}", same_origin(to.as_deref().unwrap_or("/")));
    let site = attributes(same_site, scheme);
    let cookie = format!("{COOKIE}={}; Path={prefix}/; HttpOnly; {site}", token.expose());
    Some(Ok(Page::redirect(302, to).with([("set-cookie", cookie.into())])))
}

/// A token that no cookie can carry was not given out by us.
fn fits_cookie(token: &BearerToken) -> bool {
    token.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || COOKIE_MARKS.contains(&byte))
}

/// From where, and through what, browsers send the cookie.
fn attributes(same_site: SameSite, scheme: Scheme) -> &'static str {
    match (same_site, scheme) {
        (SameSite::Lax, Scheme::Http) => "SameSite=Lax",
        (SameSite::Lax, Scheme::Https) => "SameSite=Lax; Secure",
        (SameSite::Strict, Scheme::Http) => "SameSite=Strict",
        (SameSite::Strict, Scheme::Https) => "SameSite=Strict; Secure",
        // Browsers take no other. Partitioned: inside of frames each embedding site has a cookie of its own (CHIPS).
        (SameSite::None, Scheme::Http | Scheme::Https) => "SameSite=None; Secure; Partitioned",
    }
}

/// The path, query and fragment that a browser would go to, if that is on the same origin; else `/`. The URL parser
/// is the browsers' own (WHATWG), so that what is judged is what they do.
fn same_origin(redirect: &str) -> String {
    let home = || "/".to_owned();
    let Ok(base) = Url::parse("http://origin.invalid/") else { return home() };
    let Ok(there) = base.join(redirect) else { return home() };
    let here = there.origin() == base.origin() && there.username().is_empty() && there.password().is_none();
    let path = there.path();
    if !here || !redirect.starts_with('/') || !path.starts_with('/') || path.starts_with("//") {
        return home();
    }
    there[url::Position::BeforePath..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::target;
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::Response;
    use hyper::{StatusCode, header};
    use proptest::prelude::*;

    fn token() -> BearerToken {
        BearerToken::from("s3cret".to_owned())
    }

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn header_and_cookie_are_as_good() {
        let table: [(&[(&str, &str)], Verdict); 10] = [
            (&[], Verdict::Missing),
            (&[("authorization", "Bearer s3cret")], Verdict::Right),
            (&[("authorization", "bearer  s3cret")], Verdict::Right),
            (&[("authorization", "Bearer other")], Verdict::Wrong),
            (&[("authorization", "Basic abc")], Verdict::Missing),
            (&[("authorization", "Basic abc"), ("cookie", "a=b; _plane_auth=s3cret")], Verdict::Right),
            (&[("cookie", "_plane_auth=s3cre")], Verdict::Wrong),
            (&[("cookie", "x_plane_auth=s3cret")], Verdict::Missing),
            (&[("cookie", "a=b"), ("cookie", "_plane_auth=s3cret")], Verdict::Right),
            (&[("authorization", "Bearer other"), ("cookie", "_plane_auth=s3cret")], Verdict::Right),
        ];
        for (given, verdict) in table {
            assert_eq!(check(&fields(given), &token()), verdict, "{given:?}");
            let raw = given.iter().map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(check_fields(raw, &token()), verdict, "{given:?}");
        }
        let odd: [(&str, &[u8]); 2] = [("Cookie", b"a=\xff; _plane_auth=s3cret"), ("AUTHORIZATION", b"Bearer \xff")];
        assert_eq!(check_fields(odd, &token()), Verdict::Right);
        assert_eq!(check_fields(odd.into_iter().skip(1), &token()), Verdict::Wrong);
    }

    fn logged_in(path: &str) -> Option<Result<Response<Full<Bytes>>, Refusal>> {
        let cluster = "plane.test".parse().unwrap();
        let target = target::find(&cluster, "b.plane.test", path, true).unwrap();
        Some(enter(&target, &token(), Scheme::Http, SameSite::Lax)?.map(|page| page.into_response(false)))
    }

    #[test]
    fn the_right_token_sets_the_cookie() {
        let done = logged_in("/_plane_auth?token=s3cret&redirect=%2Fa%3Fb%3Dc%23d").unwrap().unwrap();
        assert_eq!(
            (done.status(), &done.headers()[header::LOCATION]),
            (StatusCode::FOUND, &"/a?b=c#d".parse().unwrap())
        );
        assert_eq!(done.headers()[header::SET_COOKIE], "_plane_auth=s3cret; Path=/; HttpOnly; SameSite=Lax");
        let done = logged_in("/_plane_backend=x/_plane_auth?token=s3cret").unwrap().unwrap();
        assert_eq!(done.headers()[header::LOCATION], "/_plane_backend=x/");
        assert!(done.headers()[header::SET_COOKIE].to_str().unwrap().contains("Path=/_plane_backend=x/;"));
    }

    #[test]
    fn the_cookie_goes_where_the_operator_says() {
        let cluster = "plane.test".parse().unwrap();
        let target = target::find(&cluster, "b.plane.test", "/_plane_auth?token=s3cret", true).unwrap();
        for (same_site, scheme, attributes) in [
            (SameSite::Lax, Scheme::Https, "SameSite=Lax; Secure"),
            (SameSite::Strict, Scheme::Http, "SameSite=Strict"),
            (SameSite::Strict, Scheme::Https, "SameSite=Strict; Secure"),
            (SameSite::None, Scheme::Https, "SameSite=None; Secure; Partitioned"),
            // TLS may end before us, at a proxy that says nothing of it.
            (SameSite::None, Scheme::Http, "SameSite=None; Secure; Partitioned"),
        ] {
            let page = enter(&target, &token(), scheme, same_site).unwrap().unwrap();
            let cookie = format!("_plane_auth=s3cret; Path=/; HttpOnly; {attributes}");
            assert_eq!(page.fields.iter().find(|(name, _)| *name == "set-cookie").unwrap().1, cookie);
        }
        let odd = BearerToken::from("a;b".to_owned());
        let path = "/_plane_auth?token=a%3Bb";
        let target = target::find(&cluster, "b.plane.test", path, true).unwrap();
        assert_eq!(enter(&target, &odd, Scheme::Http, SameSite::Lax).unwrap(), Err(Refusal::Forbidden));
    }

    #[test]
    fn our_crumb_is_cut_and_nothing_else() {
        for (cookie, left) in [
            ("_plane_auth=x", None),
            (" _plane_auth = x ;", None),
            ("_plane_auth=x; _plane_auth=y", None),
            ("_plane_auth=x; a=b", Some("a=b")),
            ("a=b; _plane_auth=x", Some("a=b")),
            ("a=b; _plane_auth=x; c=d", Some("a=b; c=d")),
            ("a=b;_plane_auth=x;c=d", Some("a=b;c=d")),
            ("a=b;  c;_plane_auth=;;d=\"e\"", Some("a=b;  c;;d=\"e\"")),
            ("a=b; x_plane_auth=1", Some("a=b; x_plane_auth=1")),
            ("_PLANE_AUTH=x; _plane_auth", Some("_PLANE_AUTH=x; _plane_auth")),
            ("a=_plane_auth=x", Some("a=_plane_auth=x")),
            (" ; ", Some(" ; ")),
            ("", Some("")),
        ] {
            let cut = cut_cookie(cookie.as_bytes());
            assert_eq!(cut.as_deref(), left.map(str::as_bytes), "{cookie}");
        }
        assert!(matches!(cut_cookie(b"a=\xff; b=c"), Some(Cow::Borrowed(b"a=\xff; b=c"))));
    }

    #[test]
    fn only_the_bearer_that_is_the_backends_is_ours() {
        for (value, ours) in [
            ("Bearer s3cret", true),
            ("bEARER   s3cret ", true),
            ("Bearer other", false),
            ("Bearer", false),
            ("Bearer\ts3cret", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            assert_eq!(is_our_bearer(value.as_bytes(), &token()), ours, "{value}");
        }
    }

    #[test]
    fn other_tokens_and_paths_do_not() {
        assert_eq!(logged_in("/_plane_auth?token=x&redirect=/").unwrap().unwrap_err(), Refusal::Forbidden);
        assert_eq!(logged_in("/_plane_auth").unwrap().unwrap_err(), Refusal::Unauthorized);
        assert!(logged_in("/_plane_authx?token=s3cret").is_none());
        assert!(logged_in("/a/_plane_auth?token=s3cret").is_none());
    }

    #[test]
    fn redirects_stay_on_the_origin() {
        for (given, goes) in [
            ("/a/b?c", "/a/b?c"),
            ("/a b", "/a%20b"),
            ("/é", "/%C3%A9"),
            ("//evil.test", "/"),
            ("/\\evil.test", "/"),
            ("\\\\evil.test", "/"),
            ("/\t/evil.test", "/"),
            ("/\n/evil.test", "/"),
            ("/.//evil.test", "/"),
            ("/a/..//evil.test", "/"),
            ("http://evil.test", "/"),
            ("http:/evil.test", "/"),
            ("javascript:alert(1)", "/"),
            ("a", "/"),
            ("", "/"),
        ] {
            assert_eq!(same_origin(given), goes, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn no_redirect_leaves_the_origin(text in "[/\\\\.:@a\t\r\n %?#]{0,12}") {
            let goes = same_origin(&text);
            let base = Url::parse("http://b.plane.test/").unwrap();
            prop_assert_eq!(base.join(&goes).unwrap().origin(), base.origin());
            prop_assert!(header::HeaderValue::from_str(&goes).is_ok());
        }

        #[test]
        fn what_is_cut_has_no_token_and_all_else(crumbs in prop::collection::vec("[ab=\"_ ]{0,6}|_plane_auth=[xy=]{0,3}", 0..6)) {
            let cookie = crumbs.join("; ");
            let cut = cut_cookie(cookie.as_bytes());
            let left = cut.as_deref().unwrap_or_default();
            prop_assert_eq!(check_fields([("cookie", left)], &token()), Verdict::Missing);
            let others = crumbs.iter().filter(|crumb| !crumb.starts_with("_plane_auth="));
            let others: Vec<_> = others.map(|crumb| crumb.trim_start().as_bytes()).collect();
            let kept: Vec<_> = left.split(|byte| *byte == b';').map(<[u8]>::trim_ascii_start).collect();
            if cut.is_some() {
                prop_assert!(kept == others || (others.is_empty() && left.is_empty()), "{:?}", cookie);
            } else {
                prop_assert!(others.iter().all(|crumb| crumb.is_empty()), "{:?}", cookie);
            }
        }

        #[test]
        fn any_bytes_are_taken(value: Vec<u8>) {
            cut_cookie(&value);
            is_our_bearer(&value, &token());
            for name in ["cookie", "authorization", "x"] {
                check_fields([(name, &*value)], &token());
            }
        }

        #[test]
        fn both_ways_of_reading_fields_agree(text in "[ -~]{0,30}", is_cookie: bool) {
            let name = if is_cookie { "cookie" } else { "authorization" };
            let field = [(name, &*text)];
            let raw = check_fields([(name, text.as_bytes())], &token());
            prop_assert_eq!(check(&fields(&field), &token()), raw);
        }
    }
}
