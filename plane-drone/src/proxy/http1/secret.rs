//! What is between a client and us, cut out of what a backend sees.

use subtle::ConstantTimeEq;

/// The name of our own cookie.
const COOKIE: &[u8] = b"_plane_auth";

/// Whether an `Authorization` carries this token (RFC 6750, section 2.1).
pub(super) fn is_bearer(value: &[u8], token: &str) -> bool {
    let Some((scheme, given)) = value.split_at_checked(b"bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && given.trim_ascii().ct_eq(token.as_bytes()).into()
}

/// Writes the crumbs of a `Cookie` except for our own, each as it came. False where there is none.
pub(super) fn put_crumbs(out: &mut Vec<u8>, value: &[u8]) -> bool {
    let is_ours = |crumb: &[u8]| {
        let name = crumb.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.len() < crumb.len() && name.trim_ascii() == COOKIE
    };
    if !value.split(|byte| *byte == b';').any(is_ours) {
        out.extend_from_slice(value);
        return true;
    }
    let mut is_first = true;
    for crumb in value.split(|byte| *byte == b';').filter(|crumb| !is_ours(crumb)) {
        let crumb = if is_first { crumb.trim_ascii_start() } else { crumb };
        if is_first && crumb.is_empty() {
            continue;
        }
        if !is_first {
            out.push(b';');
        }
        out.extend_from_slice(crumb);
        is_first = false;
    }
    !is_first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crumbs(value: &str) -> Option<String> {
        let mut out = Vec::new();
        put_crumbs(&mut out, value.as_bytes()).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn other_crumbs_stay_as_they_are() {
        let table = [
            ("a=b", Some("a=b")),
            ("a=b;  c=\"d\" ; e", Some("a=b;  c=\"d\" ; e")),
            ("_plane_auth=x", None),
            (" _plane_auth = x ;", None),
            ("_plane_auth=x; a=b", Some("a=b")),
            ("a=b; _plane_auth=x", Some("a=b")),
            ("a=b; _plane_auth=x;c=d", Some("a=b;c=d")),
            ("_plane_auth=1; _plane_auth=2; a=_plane_auth=3", Some("a=_plane_auth=3")),
            ("x_plane_auth=1; _plane_auth", Some("x_plane_auth=1; _plane_auth")),
        ];
        for (value, wanted) in table {
            assert_eq!(crumbs(value).as_deref(), wanted, "{value:?}");
        }
    }

    #[test]
    fn bearers_are_compared_whole() {
        for (value, ours) in [
            ("Bearer s", true),
            ("bearer  s ", true),
            ("Bearer t", false),
            ("Bearer ss", false),
            ("Basic s", false),
            ("s", false),
        ] {
            assert_eq!(is_bearer(value.as_bytes(), "s"), ours, "{value:?}");
        }
    }
}
