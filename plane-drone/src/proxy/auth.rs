//! Bearer tokens: in the header (RFC 6750, section 2.1), in a cookie, and the path that turns one into the other.

use super::{refusal::Refusal, request::Scheme};
use crate::route::target::Target;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response, StatusCode, header};
use plane_core::id::BearerToken;
use subtle::ConstantTimeEq;
use url::{Url, form_urlencoded};

/// The name of the cookie, and of the path that sets it.
const COOKIE: &str = "_plane_auth";

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

fn is(token: &BearerToken, given: &str) -> bool {
    token.expose().as_bytes().ct_eq(given.as_bytes()).into()
}

/// Looks for the backend's token in a request.
pub(super) fn check(fields: &HeaderMap, token: &BearerToken) -> Verdict {
    let text = |name| fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let bearers = text(header::AUTHORIZATION).filter_map(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
    });
    let crumbs = text(header::COOKIE).flat_map(|value| value.split(';'));
    let cookies = crumbs.filter_map(|crumb| {
        let (name, value) = crumb.split_once('=')?;
        (name.trim() == COOKIE).then(|| value.trim())
    });
    bearers.chain(cookies).fold(Verdict::Missing, |so_far, given| match so_far {
        Verdict::Right => Verdict::Right,
        Verdict::Missing | Verdict::Wrong if is(token, given) => Verdict::Right,
        Verdict::Missing | Verdict::Wrong => Verdict::Wrong,
    })
}

/// Answers a request for the path that sets the cookie; `None` for any other path. A cookie that came through TLS goes
/// nowhere else (RFC 6265, section 4.1.2.5).
pub(super) fn login(
    target: &Target<'_>,
    token: &BearerToken,
    scheme: Scheme,
) -> Option<Result<Response<Full<Bytes>>, Refusal>> {
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
    if !is(token, &given) {
        return Some(Err(Refusal::Forbidden));
    }
    let prefix = target.prefix;
    let to = format!("{prefix}{}", same_origin(to.as_deref().unwrap_or("/")));
    let secure = match scheme {
        Scheme::Http => "",
        Scheme::Https => "; Secure",
    };
    let cookie = format!("{COOKIE}={}; Path={prefix}/; HttpOnly; SameSite=Lax{secure}", token.expose());
    let response = Response::builder()
        .status(StatusCode::FOUND)
        .header(header::LOCATION, to)
        .header(header::SET_COOKIE, cookie)
        .header(header::CACHE_CONTROL, "no-store")
        .body(Full::default());
    // A token that no cookie can carry was not given out by us.
    Some(response.map_err(|_| Refusal::Forbidden))
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
        }
    }

    fn logged_in(path: &str) -> Option<Result<Response<Full<Bytes>>, Refusal>> {
        let cluster = "plane.test".parse().unwrap();
        login(&target::find(&cluster, "b.plane.test", path, true).unwrap(), &token(), Scheme::Http)
    }

    #[test]
    fn a_cookie_that_came_through_tls_goes_nowhere_else() {
        let cluster = "plane.test".parse().unwrap();
        let target = target::find(&cluster, "b.plane.test", "/_plane_auth?token=s3cret", false).unwrap();
        let done = login(&target, &token(), Scheme::Https).unwrap().unwrap();
        assert_eq!(done.headers()[header::SET_COOKIE], "_plane_auth=s3cret; Path=/; HttpOnly; SameSite=Lax; Secure");
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
    }
}
