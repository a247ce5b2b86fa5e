//! The drone's lease: an entry of the state log that the drone rewrites, each time expecting the one that it wrote
//! before. Only that, acknowledged, is contact with the control plane; it counts from when it was sent. A drone that is
//! given up finds another entry there. A drone without contact gives up what it holds locks with, by itself, before
//! anybody else may have given it up.

use crate::{
    agent::Agent,
    host::{Host, HostError},
};
use plane_core::{
    clock::Clock,
    message::state::{DroneEntry, EntryBody, Lease, StateEntry, keep_alive_subject},
    nats::{NatsError, Stored, StreamName},
    task::Tasks,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often the deadline is looked at; each request looks at it too.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Until when locked backends may be reached. It is read on the path of each request to one.
#[derive(Debug)]
pub struct Fence {
    clock: Clock,
    /// Milliseconds on the boot clock. Before the first contact it is 0, and nothing is reached.
    open_until: AtomicU64,
    /// When locked backends are given up, in the same way.
    kill_at: AtomicU64,
    /// How often the drone was given up: an acceptance counts only in the term that it began in.
    term: AtomicU64,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Fence {
    /// Closed, and to be given up after `patience` without contact.
    pub fn closed(clock: Clock, patience: Duration) -> Self {
        let kill_at = AtomicU64::new(millis(clock.boot() + patience));
        Self { clock, open_until: AtomicU64::new(0), kill_at, term: AtomicU64::new(0) }
    }

    /// Whether locked backends may be reached now.
    pub fn is_open(&self) -> bool {
        millis(self.clock.boot()) < self.open_until.load(Ordering::Acquire)
    }

    fn is_overdue(&self) -> bool {
        millis(self.clock.boot()) >= self.kill_at.load(Ordering::Acquire)
    }

    /// There was contact, which was begun at `sent`.
    pub fn extend(&self, sent: Duration, patience: Duration) {
        let until = millis(sent + patience);
        self.kill_at.store(until, Ordering::Release);
        self.open_until.store(until, Ordering::Release);
    }

    /// The drone was given up.
    fn close(&self) {
        self.open_until.store(0, Ordering::Release);
        self.term.fetch_add(1, Ordering::AcqRel);
    }

    /// Resolves once there was contact, or has been none for too long.
    pub(crate) async fn settled(&self) {
        while !self.is_open() && !self.is_overdue() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Which term it is.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }
}

/// What stands where the lease is.
enum Found {
    Nothing,
    /// Nobody's, or one that controllers wrote: it can be taken over, expecting this sequence.
    Vacant(u64),
    /// An entry of this process.
    Own(u64),
    /// An entry of an earlier process with the same memory.
    Earlier(u64),
    /// The drone was given up.
    Lost(u64),
    /// Another drone goes by this name.
    Other(u64),
}

/// The lease of another drone by this drone's id.
struct Other {
    sequence: u64,
    /// When it was read first, on the boot clock. It was written before, so the other's contact ends no later than a
    /// fencing time from then, unless it is renewed.
    seen: Duration,
}

impl Other {
    /// Whether that drone may serve what it holds locks with, as its lease is now; `None` where that is not known yet.
    fn serves(&self, sequence: u64, now: Duration, fence: Duration) -> Option<bool> {
        let renewed = sequence != self.sequence;
        (renewed || now.saturating_sub(self.seen) >= fence).then_some(renewed)
    }
}

/// How it went with a lease, for good.
enum Kept {
    Stopped,
    Usurped,
}

/// Keeps the lease for as long as the tasks run.
pub(crate) async fn keep(agent: Arc<Agent>) {
    let stop = agent.tasks.stop_token();
    let kept = stop.run_until_cancelled(async {
        let memory = patiently(&agent, || agent.host.nonce()).await;
        let process = agent.chance.uuid().simple().to_string();
        Keeper { agent: &agent, instance: format!("{memory}.{process}"), memory, expected: 0 }.run().await
    });
    match kept.await.unwrap_or(Kept::Stopped) {
        Kept::Stopped => {}
        Kept::Usurped => agent.tasks.fail("another drone goes by this drone's id; each needs its own"),
    }
}

async fn patiently<T, F: Future<Output = Result<T, HostError>>>(agent: &Agent, attempt: impl Fn() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::error!(drone = %agent.identity.drone, %error, "trying again"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

struct Keeper<'a> {
    agent: &'a Agent,
    memory: String,
    instance: String,
    expected: u64,
}

impl Keeper<'_> {
    async fn run(mut self) -> Kept {
        if !self.take_over().await {
            return Kept::Usurped;
        }
        loop {
            let sent = self.agent.clock.boot();
            let written = self.write().await;
            let again = match written {
                Ok(sequence) => {
                    self.expected = sequence;
                    self.agent.fence.extend(sent, self.agent.timing.fence);
                    false
                }
                Err(NatsError::WrongSequence(_) | NatsError::TimedOut(_)) => match self.find().await {
                    Found::Other(_) => return Kept::Usurped,
                    found => {
                        self.adopt(found).await;
                        true
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "no lease");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    true
                }
            };
            if !again {
                tokio::select! {
                    biased;
                    () = self.agent.lease_now.notified() => {}
                    () = tokio::time::sleep(self.agent.timing.lease) => {}
                }
            }
        }
    }

    async fn write(&self) -> Result<u64, NatsError> {
        let agent = self.agent;
        let (cluster, drone) = (agent.identity.cluster.clone(), agent.identity.drone.clone());
        let lease = Lease { instance: Some(self.instance.clone()), lost: false, answers: agent.answers() };
        let entry = StateEntry::lease(cluster, drone, agent.clock.wall().as_millisecond(), lease);
        agent.nats.publish_expecting(entry.subject(), &entry, self.expected).await
    }

    /// What stands there now; asked until it is answered.
    async fn find(&self) -> Found {
        let subject = keep_alive_subject(&self.agent.identity.cluster, &self.agent.identity.drone);
        loop {
            match self.agent.nats.last(StreamName::State, &subject).await {
                Ok(None) => return Found::Nothing,
                Ok(Some(stored)) => return self.judge(&stored),
                Err(error) => tracing::debug!(%error, "the lease cannot be read"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn judge(&self, stored: &Stored) -> Found {
        let entry = serde_json::from_slice::<StateEntry>(&stored.payload).ok();
        let lease = entry.and_then(|entry| match entry.body {
            EntryBody::DroneMessage(entry) => Some(entry),
            EntryBody::BackendMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
        });
        let sequence = stored.sequence;
        match lease {
            Some(DroneEntry { lost: true, .. }) => Found::Lost(sequence),
            Some(DroneEntry { instance: Some(instance), .. }) if instance == self.instance => Found::Own(sequence),
            Some(DroneEntry { instance: Some(instance), .. }) => match instance.split('.').next() {
                Some(memory) if memory == self.memory => Found::Earlier(sequence),
                _ => Found::Other(sequence),
            },
            Some(DroneEntry { instance: None, .. }) | None => Found::Vacant(sequence),
        }
    }

    /// At the start: takes over what an earlier process had. Another drone's lease is watched for as long as that drone
    /// may serve what it holds locks with; false where it is renewed.
    async fn take_over(&mut self) -> bool {
        let mut other: Option<Other> = None;
        loop {
            let found = self.find().await;
            let Found::Other(sequence) = found else {
                self.adopt(found).await;
                return true;
            };
            let now = self.agent.clock.boot();
            let seen = other.get_or_insert_with(|| {
                tracing::warn!("the lease is another's; waiting whether it is renewed");
                Other { sequence, seen: now }
            });
            match seen.serves(sequence, now, self.agent.timing.fence) {
                Some(true) => return false,
                Some(false) => {
                    self.expected = sequence;
                    return true;
                }
                None => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn adopt(&mut self, found: Found) {
        match found {
            // The log has lost it. While the fence is open, nobody can have given this drone up.
            Found::Nothing if self.agent.fence.is_open() => self.expected = 0,
            // Else the log may have lost that too.
            Found::Nothing => {
                self.agent.fence.close();
                give_up_locked(&*self.agent.host, "the log has lost its drone's lease, which had run out").await;
                self.agent.report_anew();
                self.expected = 0;
            }
            Found::Vacant(sequence) | Found::Own(sequence) | Found::Earlier(sequence) | Found::Other(sequence) => {
                self.expected = sequence;
            }
            Found::Lost(sequence) => {
                self.agent.fence.close();
                tracing::warn!("the controllers have given this drone up");
                give_up_locked(&*self.agent.host, "its drone had been given up").await;
                self.agent.report_anew();
                self.expected = sequence;
            }
        }
    }
}

/// Gives locked backends up when there was no contact for too long, for as long as the tasks run. It begins with the
/// process, before there is a connection: what an earlier process left behind has no more time than what this one runs.
pub fn watch(host: Arc<dyn Host>, fence: Arc<Fence>, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn_essential("fence", async move {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if fence.is_overdue() {
                let reason = "its drone had no contact with the control plane, and it holds a lock";
                give_up_locked(&*host, reason).await;
            }
        }
    });
}

/// Gives all backends up that hold a lock.
async fn give_up_locked(host: &dyn Host, reason: &str) {
    let live = host.live();
    let locked = live.iter().filter(|live| live.request.lock.is_some());
    let given_up = locked.map(|live| host.give_up(&live.request.backend_id, reason));
    futures_util::future::join_all(given_up).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_drones_lease_is_watched_for_the_whole_fencing_time_from_when_it_was_read() {
        let (fence, second) = (Duration::from_secs(45), Duration::from_secs(1));
        // It could be read only long after the start: that time does not count.
        let other = Other { sequence: 7, seen: Duration::from_secs(600) };
        assert_eq!(other.serves(7, other.seen, fence), None);
        assert_eq!(other.serves(7, other.seen + fence - second, fence), None);
        assert_eq!(other.serves(7, other.seen + fence, fence), Some(false));
        assert_eq!(other.serves(8, other.seen + second, fence), Some(true));
        assert_eq!(other.serves(8, other.seen + fence, fence), Some(true));
    }
}
