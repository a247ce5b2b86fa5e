//! How many files the drone may have open: each connection is one.

use rustix::process::{Resource, getrlimit};

/// Files besides connections: listeners, the database, logs, and what talks to NATS and the container engine.
const OTHERS: usize = 256;

/// How many that is. `None`: any number.
pub(super) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many connections to backends there is room for, beside so many of clients: what those leave, and half of all where
/// they would leave less.
pub(super) fn left_for_backends(limit: Option<u64>, clients: usize) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OTHERS);
    room.saturating_sub(clients).max(room / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_get_what_clients_leave_and_half_at_least() {
        for (limit, clients, left) in [
            (None, 20_000, usize::MAX),
            (Some(524_288), 20_000, 504_032),
            (Some(20_000), 20_000, 9_872),
            (Some(1024), 20_000, 384),
            (Some(1024), 100, 668),
            (Some(10), 100, 1),
        ] {
            assert_eq!(left_for_backends(limit, clients), left, "{limit:?} for {clients}");
        }
    }
}
