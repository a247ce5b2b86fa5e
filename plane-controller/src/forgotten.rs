//! Whether a drone tells of a backend that was given up and forgotten while the drone was away.

use crate::config::Timing;
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    id::{BackendId, ClusterName},
    world::World,
};

/// Whether a backend that has been as a drone tells since `time` was given up and forgotten since: the log, made before
/// that, does not know it, and no drone is away for so long without its backends becoming Lost and being forgotten. What
/// a log loses with its tail, or was in another log before this one, is no such backend.
pub fn was_forgotten(
    world: &World,
    made: Option<Timestamp>,
    timing: &Timing,
    (cluster, backend): (&ClusterName, &BackendId),
    time: Timestamp,
) -> bool {
    let Some((now, made)) = world.time().zip(made) else { return false };
    let abandon = SignedDuration::try_from(timing.abandon).unwrap_or(SignedDuration::MAX);
    let kept = timing.retention.saturating_add(abandon);
    world.backend(cluster, backend).is_none() && made < time && now.duration_since(time) > kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SchedulerConfig;
    use plane_core::world::Entry;

    #[test]
    fn only_what_this_log_must_have_known_was_forgotten() {
        let timing = SchedulerConfig { abandon_secs: 900, retention_secs: 3600, ..SchedulerConfig::default() }.timing();
        let second = |second| Timestamp::from_second(second).unwrap();
        let (cluster, backend) = ("plane.test".parse().unwrap(), "b".parse().unwrap());
        let mut world = World::default();
        let subject = "state.heartbeat".to_owned();
        world.apply(&Entry { subject, sequence: 1, time: second(10_000), payload: "{}".into() }).unwrap();
        let forgotten = |made, time| was_forgotten(&world, made, &timing, (&cluster, &backend), second(time));
        assert!(forgotten(Some(second(0)), 5499));
        // The drone may have been away for less.
        assert!(!forgotten(Some(second(0)), 5500));
        // It may have been known to the log before this one.
        assert!(!forgotten(Some(second(5499)), 5499));
        assert!(!forgotten(None, 5499));
    }
}
