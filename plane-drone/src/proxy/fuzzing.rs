//! What must be true of any bytes that the proxy reads; each function panics where it is not. For the fuzzer (`fuzz/`),
//! whose seeds are tried with the tests, a little changed as well.

pub use super::http1::fuzzing::{chunks, request_head, response_head};

use super::{
    auth::{self, Verdict},
    origin::{Claims, Origin},
    preface::{self, Preface, PrefaceError, Progress},
    redirect,
    request::Scheme,
};
use crate::{
    config::proxy::{Network, SameSite},
    route::target,
};
use hyper::{HeaderMap, header::HeaderValue};
use plane_core::id::{BackendId, BearerToken, ClusterName};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use url::{Url, form_urlencoded};

const TOKEN: &str = "s3cret";
/// How long a list of forwarding proxies may be to be looked at to its end by the second of two.
const HOPS: usize = 30;

/// Lines: a host, a path, a Cookie, an Authorization, where to go after the token, an X-Forwarded-For, a Forwarded.
pub fn host_path_cookie(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (host, path, cookie, authorization, to) = (line(), line(), line(), line(), line());
    let (forwarded_for, forwarded) = (line(), line());
    if let (Ok(host), Ok(path)) = (std::str::from_utf8(host), std::str::from_utf8(path)) {
        target(host, path);
        lead(host, path);
    }
    secrets(cookie, authorization);
    if let Ok(to) = std::str::from_utf8(to) {
        enter(to);
    }
    origin(forwarded_for, forwarded);
}

/// The start of a connection: what comes of a header of the PROXY protocol does not depend on the pieces that it comes
/// in, no more is read than belongs to it, and whoever it names is in it.
pub fn proxy_protocol(data: &[u8]) {
    let (mut wanted, mut asked) = (0, 0);
    let outcome = loop {
        let Some(there) = data.get(..wanted) else { break None };
        match preface::decode(there) {
            Ok(Progress::More(0)) => panic!("nothing is missing, and it is not whole"),
            Ok(Progress::More(missing)) => wanted += missing,
            Ok(Progress::Whole(preface)) => break Some(Ok(preface)),
            Err(error) => break Some(Err(error.to_string())),
        }
        asked += 1;
        assert!(asked < 8, "it is asked for too many times");
    };
    let whole = data.get(..wanted).unwrap_or(data);
    let bytewise = (0..=whole.len()).find_map(|end| match preface::decode(whole.get(..end).unwrap_or_default()) {
        Ok(Progress::More(_)) => None,
        Ok(Progress::Whole(preface)) => Some(Ok(preface)),
        Err(error) => Some(Err(error)),
    });
    match (outcome, bytewise) {
        (Some(Ok(preface)), Some(Ok(same))) => {
            assert_eq!(preface, same);
            assert_eq!(Some(preface), plainly(whole), "{whole:?}");
        }
        // The one that is read in pieces may not have come as far.
        (Some(Err(_)), Some(Err(_))) | (None, Some(Err(_)) | None) => {}
        (outcome, bytewise) => panic!("{outcome:?} and {bytewise:?} of {whole:?}"),
    }
    assert!(plainly(data).is_none() || !matches!(preface::decode(whole), Err(PrefaceError::NoHeader)));
}

/// A header as section 2.2 lays it out, without a look at what is wrong with others.
fn plainly(data: &[u8]) -> Option<Preface> {
    let rest = data.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
    let [command, family, high, low, addresses @ ..] = rest else { return None };
    let addresses = addresses.get(..usize::from(*high) << 8 | usize::from(*low))?;
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    match (command, family) {
        (0x21, 0x11) => {
            let ip = Ipv4Addr::from(*addresses.first_chunk::<4>()?);
            Some(Preface::Carried { client: SocketAddr::new(ip.into(), port(8)?) })
        }
        (0x21, 0x21) => {
            let ip = IpAddr::from(*addresses.first_chunk::<16>()?).to_canonical();
            Some(Preface::Carried { client: SocketAddr::new(ip, port(32)?) })
        }
        (0x20 | 0x21, _) => Some(Preface::Local),
        _ => None,
    }
}

/// A name that is found is one, and path and prefix are what was asked for.
fn target(host: &str, path: &str) {
    let Ok(cluster) = "plane.test".parse::<ClusterName>() else { return };
    for by_path in [false, true] {
        let Some(found) = target::find(&cluster, host, path, by_path) else { continue };
        assert!(BackendId::is_valid(&found.backend), "{found:?}");
        assert_eq!(format!("{}{}", found.prefix, found.path), path);
        assert!(found.prefix.is_empty() || (by_path && !found.prefix.contains('?')));
        if found.prefix.is_empty() {
            let asked = host.to_ascii_lowercase();
            assert!(asked.starts_with(&format!("{}.plane.test", found.backend)), "{asked}: {found:?}");
        }
    }
}

/// Who is led to HTTPS is led to the host that was asked, whatever the path.
fn lead(host: &str, path: &str) {
    let request = hyper::Request::builder().uri(path).header("host", host).body(());
    let Ok(request) = request else { return };
    let authority = request.uri().authority().map_or(host, |authority| authority.as_str()).to_owned();
    let Ok(answer) = redirect::lead(&request, true, 8443, usize::MAX) else { return };
    let there = answer.headers().get("location").and_then(|there| there.to_str().ok()).unwrap_or_default();
    let without_user = authority.rsplit('@').next().unwrap_or_default();
    let name = match without_user.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => without_user,
    };
    assert!(there.starts_with(&format!("https://{name}:8443/")), "{authority} is led to {there}");
    // Browsers read it as we do, where they can read it at all.
    if let (Ok(there), Ok(asked)) = (Url::parse(there), Url::parse(&format!("https://{name}:8443/"))) {
        assert_eq!(there.origin(), asked.origin());
    }
}

/// Our secrets are found, and cut out, and nothing else is.
fn secrets(cookie: &[u8], authorization: &[u8]) {
    let token = BearerToken::from(TOKEN.to_owned());
    let raw = [("cookie", cookie), ("Authorization", authorization)];
    let verdict = auth::check_fields(raw, &token);
    if let (Ok(cookie), Ok(authorization)) = (HeaderValue::from_bytes(cookie), HeaderValue::from_bytes(authorization)) {
        let fields = [("cookie", cookie), ("authorization", authorization)];
        let fields: HeaderMap =
            fields.into_iter().map(|(name, value)| (hyper::header::HeaderName::from_static(name), value)).collect();
        assert_eq!(auth::check(&fields, &token), verdict);
    }
    let ours = |crumb: &&[u8]| {
        let text = String::from_utf8_lossy(crumb).into_owned();
        text.split_once('=').is_some_and(|(name, _)| name.trim_matches([' ', '\t', '\r', '\x0c']) == "_plane_auth")
    };
    let crumbs = |text: &[u8]| -> Vec<Vec<u8>> {
        let others =
            text.split(|byte| *byte == b';').filter(|crumb| !ours(crumb)).map(|crumb| crumb.trim_ascii().to_vec());
        others.filter(|crumb| !crumb.is_empty()).collect()
    };
    let cut = auth::cut_cookie(cookie);
    let left = cut.as_deref().unwrap_or_default();
    assert_eq!(crumbs(left), crumbs(cookie), "{}", cookie.escape_ascii());
    assert_eq!(auth::check_fields([("cookie", left)], &token), Verdict::Missing, "{}", cookie.escape_ascii());
    assert_eq!(auth::cut_cookie(left).as_deref().unwrap_or_default(), left);
    if auth::is_our_bearer(authorization, &token) {
        assert_eq!(verdict, Verdict::Right);
    }
}

/// Whoever has the token is led nowhere but to the origin that was asked. Judged by hand as well, not by a parser alone.
fn enter(to: &str) {
    let Ok(cluster) = "plane.test".parse::<ClusterName>() else { return };
    let token = BearerToken::from(TOKEN.to_owned());
    let encoded: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
    for redirect in [to, &encoded] {
        for prefix in ["", "/_plane_backend=b"] {
            let path = format!("{prefix}/_plane_auth?token={TOKEN}&redirect={redirect}");
            let Some(target) = target::find(&cluster, "b.plane.test", &path, true) else { continue };
            let Some(Ok(page)) = auth::enter(&target, &token, Scheme::Https, SameSite::Lax) else { continue };
            let there = page.fields.iter().find(|(name, _)| *name == "location").map(|(_, value)| value.to_string());
            let there = there.unwrap_or_default();
            assert!(there.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{there:?}");
            assert!(there.starts_with(&format!("{prefix}/")), "{there:?}");
            assert!(!there.starts_with("//") && !there.starts_with("/\\"), "{there:?}");
            let base = Url::parse("https://b.plane.test/_plane_auth").ok();
            let resolved = base.as_ref().and_then(|base| base.join(&there).ok());
            assert_eq!(resolved.map(|url| url.origin()), base.map(|url| url.origin()), "{there:?}");
        }
    }
}

/// A client's address is believed of proxies that are trusted alone, and a second proxy that trusts us finds the same.
fn origin(forwarded_for: &[u8], forwarded: &[u8]) {
    let is_field = |value: &[u8]| HeaderValue::from_bytes(value).is_ok();
    if !is_field(forwarded_for) || !is_field(forwarded) {
        return;
    }
    let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].iter().filter_map(|text| text.parse().ok()).collect();
    let mut claims: Vec<(&str, &[u8])> = Vec::new();
    if !forwarded_for.is_empty() {
        claims.push(("X-Forwarded-For", forwarded_for));
    }
    if !forwarded.is_empty() {
        claims.push(("forwarded", forwarded));
    }
    let claims = Claims::of(claims);
    let ours = SocketAddr::from(([10, 9, 9, 9], 1));
    for peer in [[10, 0, 0, 1], [192, 0, 2, 1]] {
        let peer = SocketAddr::from((peer, 1));
        let origin = Origin::resolve(peer, Scheme::Http, &claims, &trusted);
        let (mut list, mut elements) = (Vec::new(), Vec::new());
        origin.write_forwarded_for(&mut list);
        origin.write_forwarded("b.plane.test", &mut elements);
        assert!(is_field(&list) && is_field(&elements));
        if peer.ip() == IpAddr::from([192, 0, 2, 1]) {
            assert_eq!((origin.client, list.as_slice()), (peer.ip(), b"192.0.2.1".as_slice()));
            assert_eq!(elements, b"for=192.0.2.1;host=b.plane.test;proto=http");
        }
        let hops = list.iter().chain(forwarded).filter(|byte| **byte == b',').count();
        if hops < HOPS {
            let both: [(&str, &[u8]); 2] = [("x-forwarded-for", &list), ("forwarded", &elements)];
            for claims in [Claims::of(both), Claims::of(both.into_iter().take(1))] {
                let second = Origin::resolve(ours, Scheme::Http, &claims, &trusted);
                assert_eq!(second.client, origin.client, "{}", list.escape_ascii());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::Index};
    use std::{fs, path::Path};

    /// What the fuzzer begins with for a target.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    /// A target, with each of its seeds and with one of which a few bytes are others.
    fn holds(target: fn(&[u8]), name: &str, of: Index, changes: &[(Index, u8)]) {
        let seeds = seeds(name);
        seeds.iter().for_each(|seed| target(seed));
        let mut changed = of.get(&seeds).clone();
        for (place, byte) in changes {
            let place = place.index(changed.len());
            changed[place] = *byte;
        }
        target(&changed);
    }

    proptest! {
        #[test]
        fn what_must_hold_does(
            of in any::<Index>(),
            changes in proptest::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), b' '..=b'~']), 0..4),
        ) {
            holds(request_head, "request_head", of, &changes);
            holds(response_head, "response_head", of, &changes);
            holds(chunks, "chunks", of, &changes);
            holds(proxy_protocol, "proxy_protocol", of, &changes);
            holds(host_path_cookie, "host_path_cookie", of, &changes);
        }
    }
}
