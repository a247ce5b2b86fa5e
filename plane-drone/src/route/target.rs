//! Which backend a request is for, from its host and path alone. Pure.

use plane_core::id::{BackendId, ClusterName};
use std::borrow::Cow;

/// The prefix of paths that name their backend.
const PATH_PREFIX: &str = "/_plane_backend=";

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The backend's name, as far as it is one.
    pub backend: Cow<'a, str>,
    /// What of the path and query the backend sees.
    pub path: &'a str,
    /// What of the path it does not see: empty, or `/_plane_backend=B`.
    pub prefix: &'a str,
}

/// Finds the backend of a request; `None` where neither its path nor its host names one.
///
/// `host` may have a port and any case. The path is looked at first, where that is allowed.
pub fn find<'a>(cluster: &ClusterName, host: &'a str, path: &'a str, by_path: bool) -> Option<Target<'a>> {
    if by_path && let Some(named) = path.strip_prefix(PATH_PREFIX) {
        let end = named.find(['/', '?']).unwrap_or(named.len());
        let (prefix, rest) = path.split_at(PATH_PREFIX.len() + end);
        let backend = named.get(..end).filter(|name| BackendId::is_valid(name))?;
        return Some(Target { backend: Cow::Borrowed(backend), path: rest, prefix });
    }
    Some(Target { backend: by_host(cluster, host)?, path, prefix: "" })
}

fn by_host<'a>(cluster: &ClusterName, host: &'a str) -> Option<Cow<'a, str>> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return None,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let (backend, dotted) = name.split_at_checked(name.len().checked_sub(cluster.as_str().len() + 1)?)?;
    if !dotted.strip_prefix('.')?.eq_ignore_ascii_case(cluster.as_str()) {
        return None;
    }
    // Most clients ask in lower case.
    let is_lower = !backend.bytes().any(|byte| byte.is_ascii_uppercase());
    let backend = if is_lower { Cow::Borrowed(backend) } else { Cow::Owned(backend.to_ascii_lowercase()) };
    BackendId::is_valid(&backend).then_some(backend)
}
