//! Finds out whether the log is still what was read. NATS may lose the tail of what it acknowledged: servers write to
//! disk before they answer, but let the operating system keep it in memory for up to their `sync_interval`.

use crate::{Core, steady::Doubt};
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    id::{ClusterName, DroneId},
    message::{
        drone::AnnounceCall,
        state::{HEARTBEAT_SUBJECT, Heartbeat},
    },
    nats::{NatsError, StreamName},
    world::World,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How often the log is compared with what was read.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Drones that come to a new log have registered by then.
const REGISTERED_AFTER: Duration = Duration::from_secs(5);
/// How often drones are called until they have answered.
const CALL_EVERY: Duration = Duration::from_secs(2);

/// An older entry is missing because it was purged: no server loses so much.
const LONGEST_LOSS: SignedDuration = SignedDuration::from_hours(1);
/// By how much an entry may be younger than the retention time and be purged all the same. What counts is when its
/// backend, drone or lock was over, and a little may be written of one that is over, such as a second end of a backend.
/// The log's time may also jump back, with the clock of the server that leads the stream.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// What a look at the log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    /// It lacks something; with when it was made, where it is another one.
    Lost(Option<Timestamp>),
}

/// Watches for as long as the tasks run.
pub(crate) async fn watch(core: Arc<Core>) {
    let stop = core.tasks.stop_token();
    let watching = async {
        let mut connection = core.nats.connection();
        loop {
            let up = connection.borrow_and_update().up;
            if up && !core.grants.know(&core.nats.server()) {
                // A server that restarted may have lost what it acknowledged last. What of that was never read here is
                // missed by no comparison, and what was read since may hide that something before it is gone.
                // Read again first: once the server is known, the world counts as its.
                core.view.read_again();
                core.grants.doubt(&core, Doubt::Possible, None);
                core.catch_up().await;
            }
            match compare(&core).await {
                Ok(_) => core.catch_up().await,
                Err(error) => tracing::debug!(%error, "the state log cannot be looked at"),
            }
            if let Err(error) = tend_told(&core).await {
                tracing::debug!(%error, "the streams of what backends tell cannot be looked at");
            }
            tokio::select! {
                biased;
                _ = connection.changed() => {}
                () = core.view.suspicion() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// Whether the log still is what was read. Where it is not, the world is dropped and the log read again.
pub(crate) async fn compare(core: &Core) -> Result<bool, NatsError> {
    let (dropped, server) = (core.view.dropped(), core.nats.server());
    match look(core).await? {
        Verdict::Same => Ok(true),
        Verdict::Lost(made) => {
            tracing::warn!("the state log is not what was read; reading it again");
            // What was compared may be gone already, and be read again; of another server it is not.
            if core.view.dropped() == dropped || core.nats.server() != server {
                core.view.read_again();
            }
            core.grants.doubt(core, Doubt::Lost, made);
            Ok(false)
        }
    }
}

/// Makes the streams of what backends tell again, where one has been deleted. The public history is written anew from
/// the log; lines of log that were in the stream are gone.
async fn tend_told(core: &Core) -> Result<(), NatsError> {
    if core.streams.is_none() {
        return Ok(());
    }
    for stream in [StreamName::Status, StreamName::Logs] {
        if core.nats.info(stream).await?.is_some() {
            continue;
        }
        tracing::warn!(stream = stream.as_str(), "the stream is gone; it is made again");
        core.make_streams().await?;
        if stream == StreamName::Status {
            core.history.doubt();
        }
    }
    Ok(())
}

async fn look(core: &Core) -> Result<Verdict, NatsError> {
    let is_replaced = core.view.is_replaced();
    if !core.view.is_caught_up() && !is_replaced {
        return Ok(Verdict::Same);
    }
    let read = core.view.read(World::sequence);
    let Some(info) = core.nats.info(StreamName::State).await? else {
        core.make_streams().await?;
        return Ok(Verdict::Lost(core.nats.info(StreamName::State).await?.map(|info| info.created)));
    };
    if is_replaced || core.grants.made().is_some_and(|before| before != info.created) {
        return Ok(Verdict::Lost(Some(info.created)));
    }
    if info.last_sequence < read {
        return Ok(Verdict::Lost(None));
    }
    for anchor in core.view.anchors() {
        if let Some(found) = core.nats.get(StreamName::State, anchor.sequence).await? {
            let same = (&found.subject, found.time) == (&anchor.subject, anchor.time);
            return Ok(if same { Verdict::Same } else { Verdict::Lost(None) });
        }
        match core.nats.last(StreamName::State, &anchor.subject).await? {
            // Superseded since: it tells nothing.
            Some(newer) if newer.sequence > anchor.sequence => {}
            Some(_) => return Ok(Verdict::Lost(None)),
            None => {
                // Who purged it may have read further than this controller. What it had read stood in the log before,
                // so the newest entry that is there now is no older.
                let newest = core.nats.last(StreamName::State, "state.>").await?.map(|newest| newest.time);
                let now = newest.max(core.view.read(World::time)).unwrap_or(anchor.read_at);
                if !may_be_purged(now.duration_since(anchor.read_at), core.timing.retention) {
                    return Ok(Verdict::Lost(None));
                }
            }
        }
    }
    Ok(Verdict::Same)
}

/// Whether an entry of this age may be missing because what it is about was over long ago. Where little is retained, the
/// margin is half of that: what was lost in the other half is noticed.
fn may_be_purged(age: SignedDuration, retention: SignedDuration) -> bool {
    let margin = MARGIN.min(retention / 2);
    age >= (retention - margin).min(LONGEST_LOSS)
}

/// At the start: whether the log may lack what was decided before this controller ran. It does not where another one
/// vouched for this very log, of a server that has not restarted since.
pub(crate) async fn doubt_at_start(core: &Core) -> Result<(), NatsError> {
    let server = core.nats.server();
    let Some(info) = core.nats.info(StreamName::State).await? else {
        let (what, cause) = ("the state log".to_owned(), "it was deleted; it is made again".to_owned());
        return Err(NatsError::Other { what, cause });
    };
    let Some(newest) = core.nats.last(StreamName::State, HEARTBEAT_SUBJECT).await? else {
        // No controller has run yet, or the log is another than it was.
        match core.nats.info(StreamName::Status).await?.is_some_and(|info| info.last_sequence > 0) {
            true => core.grants.doubt(core, Doubt::Lost, Some(info.created)),
            false => core.grants.vouch(server, Some(info.created)),
        }
        return Ok(());
    };
    let heartbeat = serde_json::from_slice::<Heartbeat>(&newest.payload).ok();
    match heartbeat.is_some_and(|heartbeat| heartbeat.vouches(&server, info.created)) {
        true => core.grants.vouch(server, Some(info.created)),
        false => core.grants.doubt(core, Doubt::Possible, Some(info.created)),
    }
    Ok(())
}

/// Calls drones while there is doubt, or while some are unknown, for as long as the tasks run.
pub(crate) async fn call_drones(core: Arc<Core>) {
    let stop = core.tasks.stop_token();
    let mut called = Duration::ZERO;
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(250))).await.is_some() {
        let now = core.clock.boot();
        let (call, clusters) = match core.grants.review(&core) {
            Some((call, clusters)) => (Some(call), clusters),
            None => (None, unregistered(&core, now)),
        };
        if clusters.is_empty() {
            called = Duration::ZERO;
            continue;
        }
        if called != Duration::ZERO && now.saturating_sub(called) < CALL_EVERY {
            continue;
        }
        called = now;
        for cluster in clusters {
            if let Err(error) = core.nats.publish(&AnnounceCall { cluster, call: call.clone() }).await {
                tracing::debug!(%error, "drones cannot be called");
            }
        }
    }
}

/// The clusters of drones that have been heard for a while and that the log does not know: it was made anew, and they
/// registered with the one before.
fn unregistered(core: &Core, now: Duration) -> BTreeSet<ClusterName> {
    if core.view.caught_up_at() == Duration::ZERO || now.saturating_sub(core.view.caught_up_at()) < REGISTERED_AFTER {
        return BTreeSet::new();
    }
    let heard: Vec<_> = {
        let heard = core.drones.heard();
        heard
            .iter()
            .flat_map(|(name, drones)| drones.iter().map(|heard| (name.clone(), heard.status.drone_id.clone())))
            .collect()
    };
    core.view.read(|world| {
        let unknown =
            |(name, id): &(ClusterName, DroneId)| world.drone(name, id).is_none_or(|drone| drone.meta.is_none());
        heard.into_iter().filter(unknown).map(|(name, _)| name).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_was_purged_a_little_early_is_not_taken_for_lost() {
        let secs = SignedDuration::from_secs;
        let day = SignedDuration::from_hours(24);
        for (age, retention, expected) in [
            (secs(299), secs(300), true),
            (secs(240), secs(300), true),
            (secs(239), secs(300), false),
            (secs(1), secs(2), true),
            (secs(0), secs(2), false),
            (LONGEST_LOSS, day, true),
            (LONGEST_LOSS - secs(1), day, false),
        ] {
            assert_eq!(may_be_purged(age, retention), expected, "{age} of {retention}");
        }
    }
}
