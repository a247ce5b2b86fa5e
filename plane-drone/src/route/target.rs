//! Which backend a request is for, from its host and path alone. Pure.

use plane_core::id::{BackendId, ClusterName};

/// The prefix of paths that name their backend.
const PATH_PREFIX: &str = "/_plane_backend=";

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The backend.
    pub backend: BackendId,
    /// What of the path and query the backend sees.
    pub path: &'a str,
    /// What of the path it does not see: empty, or `/_plane_backend=B`.
    pub prefix: &'a str,
}

/// Finds the backend of a request; `None` where neither its path nor its host names one.
///
/// `host` may have a port and any case. The path is looked at first, where that is allowed.
pub fn find<'a>(cluster: &ClusterName, host: &str, path: &'a str, by_path: bool) -> Option<Target<'a>> {
    if by_path && let Some(named) = path.strip_prefix(PATH_PREFIX) {
        let end = named.find(['/', '?']).unwrap_or(named.len());
        let (prefix, rest) = path.split_at(PATH_PREFIX.len() + end);
        let backend = named.get(..end)?.parse().ok()?;
        return Some(Target { backend, path: rest, prefix });
    }
    Some(Target { backend: by_host(cluster, host)?, path, prefix: "" })
}

fn by_host(cluster: &ClusterName, host: &str) -> Option<BackendId> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return None,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.strip_suffix(cluster.as_str())?.strip_suffix('.')?.parse().ok()
}
