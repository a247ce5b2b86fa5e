//! Whether this controller may count silence, and whether it may grant locks.
//!
//! Silence is counted on the clock that runs on while the machine sleeps, from when this controller *read* a drone's
//! newest lease, and only while it is connected and reads the log as it grows. Every start, reconnect and pause of its
//! own begins the count anew, so that what it has missed itself is never taken for a drone's silence.
//!
//! Locks are not granted while the log may lack what a drone of their cluster knows: see [`Grants`].

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
/// Drones tell what they run when they are asked; those that cannot be asked fence themselves. So the locks of a cluster
/// wait until every drone of that cluster has answered or stayed without contact for the fencing time, and where the loss
/// is certain, until that time has passed in any case. A drone that renews its lease serves on: it is waited for much
/// longer.
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
    /// Of the doubt that a call was made for only these clusters are left, of those that were; it ends with the last. False
    /// where no cluster is settled by that, or where there is another doubt by now.
    fn settle(&mut self, call: &str, waiting: &BTreeSet<ClusterName>) -> bool {
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.call == call) else { return false };
        let left = match &hold.waiting {
            None => waiting.clone(),
            Some(before) => before.intersection(waiting).cloned().collect(),
        };
        let settles = hold.waiting.as_ref() != Some(&left);
        if left.is_empty() {
            self.hold = None;
        } else {
            hold.waiting = Some(left);
        }
        settles
    }

    fn is_open(&self, server: &str, cluster: &ClusterName) -> bool {
        let waits = |hold: &Hold| hold.waiting.as_ref().is_none_or(|waiting| waiting.contains(cluster));
        self.server == server && !self.hold.as_ref().is_some_and(waits)
    }
}

#[derive(Debug, Clone)]
struct Hold {
    since: Duration,
    doubt: Doubt,
    /// The name of the call that drones answer.
    call: String,
    /// The clusters that are not settled; nothing while none may be.
    waiting: Option<BTreeSet<ClusterName>>,
}

type Drones = BTreeSet<(ClusterName, DroneId)>;

/// The clusters whose locks have to wait, so long after a doubt began, for drones that have not answered and of which
/// some still serve; nothing where all have to.
fn waiting(
    doubt: Doubt,
    passed: Duration,
    fenced: Duration,
    missing: &Drones,
    serving: &Drones,
) -> Option<BTreeSet<ClusterName>> {
    let of = |drones: &Drones| Some(drones.iter().map(|(cluster, _)| cluster.clone()).collect());
    match doubt {
        Doubt::Possible if passed < ALL_HEARD.min(fenced) => None,
        Doubt::Possible if passed < fenced => of(missing),
        Doubt::Lost if passed < fenced => None,
        Doubt::Possible | Doubt::Lost => of(serving),
    }
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
        let hold = Hold { since: core.clock.boot(), doubt, call, waiting: None };
        *trust = Trust { server, made, hold: Some(hold) };
    }

    /// Whether locks of a cluster may be granted.
    pub(crate) fn are_open(&self, core: &Core, cluster: &ClusterName) -> bool {
        !core.view.is_replaced() && self.trust().is_open(&core.nats.server(), cluster)
    }

    /// Tells when that changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The call that is to be answered, and by whom; nothing where there is no doubt. Ends the doubt of clusters where it
    /// can.
    pub(crate) fn review(&self, core: &Core) -> Option<(String, BTreeSet<ClusterName>)> {
        let Hold { since, doubt, call, .. } = self.trust().hold.clone()?;
        let passed = core.clock.since(since);
        let heard: Drones = {
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
        let (missing, serving, clusters) = core.view.read_with_leases(|world, leases| {
            let serves = |cluster: &ClusterName, id: &DroneId| {
                let read = leases.get(cluster).and_then(|leases| leases.get(id));
                read.is_some_and(|read| core.clock.since(*read) < fenced)
            };
            let (missing, clusters) = missing(world, heard, &call, serves);
            let serving: Drones = missing.iter().filter(|(cluster, id)| serves(cluster, id)).cloned().collect();
            (missing, serving, clusters)
        });
        let waiting = match passed >= core.timing.fence * PATIENCE {
            true => Some(BTreeSet::new()),
            false => waiting(doubt, passed, fenced, &missing, &serving),
        };
        if let Some(waiting) = waiting.filter(|_| caught_up && core.pulse.beat(core).is_some())
            && self.trust().settle(&call, &waiting)
        {
            tracing::info!(?missing, ?waiting, "locks are granted again, but for the clusters that wait");
            self.changed.send_modify(|count| *count += 1);
            core.view.hub.tell_all();
        }
        let left = self.trust().hold.as_ref().filter(|hold| hold.call == call)?.waiting.clone();
        Some((call, left.unwrap_or(clusters)))
    }
}

/// The drones that have not answered a call, and the clusters there are. One that was stopped may serve for a moment.
fn missing(
    world: &World,
    heard: Drones,
    call: &str,
    serves: impl Fn(&ClusterName, &DroneId) -> bool,
) -> (Drones, BTreeSet<ClusterName>) {
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
        let mut trust = doubting("second");
        let none = BTreeSet::new();
        assert!(!trust.settle("first", &none));
        assert!(trust.hold.is_some());
        assert!(trust.settle("second", &none));
        assert!(trust.hold.is_none());
        assert!(!trust.settle("second", &none));
    }

    fn doubting(call: &str) -> Trust {
        let call = call.to_owned();
        let hold = Hold { since: Duration::ZERO, doubt: Doubt::Possible, call, waiting: None };
        Trust { server: "s".to_owned(), made: None, hold: Some(hold) }
    }

    #[test]
    fn a_drone_that_does_not_answer_holds_up_the_locks_of_its_own_cluster() {
        let [hung, other]: [ClusterName; 2] = ["hung.test", "other.test"].map(|name| name.parse().unwrap());
        let drones: Drones = [(hung.clone(), "d".parse().unwrap())].into();
        let none = Drones::new();
        let fenced = Duration::from_secs(48);
        let mut trust = doubting("c");
        let mut after = |doubt, secs, missing: &Drones, serving: &Drones| {
            if let Some(waiting) = waiting(doubt, Duration::from_secs(secs), fenced, missing, serving) {
                trust.settle("c", &waiting);
            }
            [&hung, &other].map(|cluster| trust.is_open("s", cluster))
        };
        assert_eq!(after(Doubt::Possible, 4, &none, &none), [false, false]);
        assert_eq!(after(Doubt::Lost, 47, &none, &none), [false, false]);
        assert_eq!(after(Doubt::Possible, 5, &drones, &drones), [false, true]);
        // It is waited for as long as it serves. Who came to the others meanwhile changes nothing.
        let all: Drones = [hung.clone(), other.clone()].map(|cluster| (cluster, "e".parse().unwrap())).into();
        assert_eq!(after(Doubt::Possible, 49, &all, &all), [false, true]);
        assert_eq!(after(Doubt::Lost, 49, &drones, &none), [true, true]);
        assert!(trust.hold.is_none());
        assert!(!trust.is_open("another server", &other));
    }
}
