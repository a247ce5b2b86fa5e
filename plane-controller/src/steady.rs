//! Whether this controller may count silence, and whether it may grant locks.
//!
//! Silence is counted on the clock that runs on while the machine sleeps, from when this controller *read* a drone's
//! newest lease, and only while it is connected and reads the log as it grows. Every start, reconnect and pause of its
//! own begins the count anew, so that what it has missed itself is never taken for a drone's silence.
//!
//! Locks are not granted while the log may lack what a drone knows: see [`Grants`].

use crate::Core;
use jiff::Timestamp;
use plane_core::{
    id::{ClusterName, DroneId},
    message::drone::DroneState,
    world::World,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How often this controller makes sure of itself.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// A gap between two beats, or in the reading of the log, that counts as a pause of this controller's own. Heartbeats
/// come every second.
const PAUSE: Duration = Duration::from_secs(3);

/// Since when silence may be counted.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: Mutex<Beats>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Beats {
    last: Duration,
    generation: u64,
    since: Duration,
    steady: bool,
}

impl Pulse {
    /// Makes sure of this controller, and gives since when silence may be counted; `None` where it may not be now.
    pub(crate) fn beat(&self, core: &Core) -> Option<Duration> {
        let now = core.clock.boot();
        let connection = *core.nats.connection().borrow();
        let reads = core.view.is_caught_up() && core.view.quiet_for() < PAUSE;
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = now.saturating_sub(beats.last) > PAUSE;
        let steady = connection.up && reads;
        if paused || !steady || !beats.steady || connection.generation != beats.generation {
            beats.since = now;
        }
        *beats = Beats { last: now, generation: connection.generation, since: beats.since, steady };
        // What is read anew tells nothing of how long drones have been silent.
        steady.then_some(beats.since.max(core.view.caught_up_at()))
    }
}

/// Beats for as long as the tasks run.
pub(crate) async fn beat(core: Arc<Core>) {
    let stop = core.tasks.stop_token();
    while stop.run_until_cancelled(tokio::time::sleep(BEAT_EVERY)).await.is_some() {
        core.pulse.beat(&core);
    }
}

/// Why no lock is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The log is not what was read: its tail, or all of it, is gone.
    Lost,
    /// It may have lost its tail without anybody noticing.
    Possible,
}

/// Whether locks may be granted. Where the log has lost acceptances, a lock that it shows free may have a live holder.
/// Drones tell what they run when they are asked; those that cannot be asked fence themselves. So locks wait until
/// every drone has answered or stayed without contact for the fencing time, and where the loss is certain, until that
/// time has passed in any case. A drone that renews its lease serves on: it is waited for much longer.
#[derive(Debug)]
pub(crate) struct Grants {
    trust: Mutex<Trust>,
    changed: watch::Sender<u64>,
}

/// What is thought of the log of one server.
#[derive(Debug, Default)]
struct Trust {
    /// The server. Another one has not been thought about yet: nothing is granted from its log.
    server: String,
    /// When the log was made that was read, where that is known.
    made: Option<Timestamp>,
    /// Nothing where its log lacks nothing.
    hold: Option<Hold>,
}

impl Trust {
    /// Ends the doubt that a call was made for. False where there is another by now.
    fn settle(&mut self, call: &str) -> bool {
        self.hold.take_if(|hold| hold.call == call).is_some()
    }
}

#[derive(Debug, Clone)]
struct Hold {
    since: Duration,
    doubt: Doubt,
    /// The name of the call that drones answer.
    call: String,
}

/// Drones say that they are there every 4 s: one that the log has lost has been heard by then.
const ALL_HEARD: Duration = Duration::from_secs(5);
/// So many fencing times a drone has that renews its lease and does not tell what it runs.
const PATIENCE: u32 = 8;

impl Default for Grants {
    fn default() -> Self {
        Self { trust: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Grants {
    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log of a server lacks nothing.
    pub(crate) fn vouch(&self, server: String, made: Option<Timestamp>) {
        *self.trust() = Trust { server, made, hold: None };
    }

    /// The server whose log lacks nothing, and when that log was made, where both are known.
    pub(crate) fn trusted(&self) -> Option<(String, Timestamp)> {
        let trust = self.trust();
        let made = trust.made.filter(|_| trust.hold.is_none())?;
        Some((trust.server.clone(), made))
    }

    /// When the log was made that was read, where that is known.
    pub(crate) fn made(&self) -> Option<Timestamp> {
        self.trust().made
    }

    /// Whether what is thought here is of the log of this server.
    pub(crate) fn know(&self, server: &str) -> bool {
        self.trust().server == server
    }

    /// No lock is granted from now on, until that is settled. With `made`, the log is another one, which was made then.
    pub(crate) fn doubt(&self, core: &Core, doubt: Doubt, made: Option<Timestamp>) {
        core.history.doubt();
        let call = core.chance.uuid().simple().to_string();
        let server = core.nats.server();
        let mut trust = self.trust();
        let doubt = match &trust.hold {
            Some(Hold { doubt: Doubt::Lost, .. }) => Doubt::Lost,
            _ => doubt,
        };
        tracing::warn!(?doubt, "no locks are granted until the drones have told what they run");
        let made = made.or(trust.made);
        *trust = Trust { server, made, hold: Some(Hold { since: core.clock.boot(), doubt, call }) };
    }

    /// Whether locks may be granted.
    pub(crate) fn are_open(&self, core: &Core) -> bool {
        let trust = self.trust();
        trust.hold.is_none() && trust.server == core.nats.server()
    }

    /// Tells when that changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The call that is to be answered, and by whom; nothing where there is no doubt. Ends the doubt where it can.
    pub(crate) fn review(&self, core: &Core) -> Option<(String, BTreeSet<ClusterName>)> {
        let Hold { since, doubt, call } = self.trust().hold.clone()?;
        let passed = core.clock.since(since);
        let heard: BTreeSet<(ClusterName, DroneId)> = {
            let heard = core.drones.heard();
            let fresh = heard.iter().flat_map(|(cluster, drones)| {
                let fresh = drones.iter().filter(|heard| heard.at >= since);
                fresh.map(|heard| (cluster.clone(), heard.status.drone_id.clone()))
            });
            fresh.collect()
        };
        let caught_up = core.view.is_caught_up();
        // A lease that was renewed in the last moment has been read by then.
        let fenced = core.timing.fence + PAUSE;
        let (missing, serves, clusters) = core.view.read_with_leases(|world, leases| {
            let serves = |cluster: &ClusterName, id: &DroneId| {
                let read = leases.get(cluster).and_then(|leases| leases.get(id));
                read.is_some_and(|read| core.clock.since(*read) < fenced)
            };
            let (missing, clusters) = missing(world, heard, &call, serves);
            let any_serves = missing.iter().any(|(cluster, id)| serves(cluster, id));
            (missing, any_serves, clusters)
        });
        let settled = match doubt {
            _ if passed >= core.timing.fence * PATIENCE => true,
            Doubt::Possible if missing.is_empty() => passed >= ALL_HEARD.min(fenced),
            Doubt::Possible | Doubt::Lost => passed >= fenced && !serves,
        };
        if settled && caught_up && core.pulse.beat(core).is_some() && self.trust().settle(&call) {
            tracing::info!(?missing, "locks are granted again");
            self.changed.send_modify(|count| *count += 1);
            core.view.hub.tell_all();
            return None;
        }
        Some((call, clusters))
    }
}

/// The drones that have not answered a call, and the clusters there are. One that was stopped may serve for a moment.
fn missing(
    world: &World,
    heard: BTreeSet<(ClusterName, DroneId)>,
    call: &str,
    serves: impl Fn(&ClusterName, &DroneId) -> bool,
) -> (Vec<(ClusterName, DroneId)>, BTreeSet<ClusterName>) {
    let mut asked = heard;
    for (name, cluster) in world.clusters() {
        for (id, drone) in &cluster.drones {
            let stopped = drone.state().is_some_and(|reached| reached.state == DroneState::Stopped);
            if !drone.is_lost() && (!stopped || serves(name, id)) {
                asked.insert((name.clone(), id.clone()));
            }
        }
    }
    let clusters = asked.iter().map(|(cluster, _)| cluster.clone()).collect();
    let missing = asked.into_iter().filter(|(cluster, id)| {
        let Some(drone) = world.drone(cluster, id) else { return true };
        let answered = drone.keep_alive.as_ref().is_some_and(|lease| lease.answers.iter().any(|known| known == call));
        // A drone of 0.3 knows no announcements.
        !answered && (drone.meta.is_none() || drone.has_feature("lease"))
    });
    (missing.collect(), clusters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_one_call_does_not_end_a_doubt_that_came_after_it() {
        let hold = |call: &str| Hold { since: Duration::ZERO, doubt: Doubt::Possible, call: call.to_owned() };
        let mut trust = Trust { server: "s".to_owned(), made: None, hold: Some(hold("second")) };
        assert!(!trust.settle("first"));
        assert!(trust.hold.is_some());
        assert!(trust.settle("second"));
        assert!(trust.hold.is_none());
        assert!(!trust.settle("second"));
    }
}
