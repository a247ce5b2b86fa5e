//! The task that takes the lease over from whoever had it, and renews it.

use super::{
    Fence,
    found::{Found, Other, Whose, judge},
    give_up_locked,
    left::{hold_their_locks, left_locked},
};
use crate::{agent::Agent, host::HostError};
use plane_core::{
    message::state::{Lease, Millis, StateEntry, keep_alive_subject},
    nats::{NatsError, StreamName},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How it went with a lease, for good.
enum Kept {
    Stopped,
    Usurped,
}

/// Keeps the lease for as long as the tasks run. Tells `held` once it is this process's; where it never becomes that,
/// `held` is dropped.
pub(crate) async fn keep(agent: Arc<Agent>, held: oneshot::Sender<()>) {
    let stop = agent.tasks.stop_token();
    let kept = stop.run_until_cancelled(async {
        let before = patiently(&agent, || agent.host.processes()).await;
        let keeper = Keeper { agent: &agent, before, expected: 0, newest: None, left: Left::Unknown, held: Some(held) };
        keeper.run().await
    });
    match kept.await.unwrap_or(Kept::Stopped) {
        Kept::Stopped => {}
        Kept::Usurped => {
            // What holds locks may be the other's to serve.
            agent.fence.close();
            agent.end_unheard("another drone goes by this drone's id; each needs its own");
        }
    }
}

pub(super) async fn patiently<T, F: Future<Output = Result<T, HostError>>>(
    agent: &Agent,
    attempt: impl Fn() -> F,
) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::error!(drone = %agent.identity.drone, %error, "trying again"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// The time of an entry that is written now, above the newest one.
fn after(newest: Option<Millis>, now: Millis) -> Millis {
    newest.map_or(now, |newest| now.max(newest.saturating_add(1)))
}

/// What an earlier process of the drone left that holds locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The log has not been asked.
    Unknown,
    /// The log does not have some of it as the holder of its lock, or may lack that others are. Controllers say at the
    /// announcement what is to end, and whether that is certain.
    Doubtful,
    /// It holds its locks, or was given up.
    Settled,
}

struct Keeper<'a> {
    agent: &'a Agent,
    /// The processes that had this memory before.
    before: Vec<String>,
    /// The sequence of the entry that is to be there when it is written next; 0 where there is to be none.
    expected: u64,
    /// The newest time in an entry about the drone: readers of 0.3 order entries by their times, and clocks get set
    /// back.
    newest: Option<Millis>,
    left: Left,
    /// Told at the first acknowledged write.
    held: Option<oneshot::Sender<()>>,
}

impl Keeper<'_> {
    fn fence(&self) -> &Fence {
        &self.agent.fence
    }

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
                    self.open(sent).await;
                    if let Some(held) = self.held.take() {
                        // Nobody waits for it where the drone is being stopped.
                        let _ = held.send(());
                    }
                    false
                }
                Err(NatsError::WrongSequence(_) | NatsError::TimedOut(_)) => {
                    let found = self.find().await;
                    if self.is_usurped(found) {
                        return Kept::Usurped;
                    }
                    self.adopt(found).await;
                    true
                }
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

    /// There was contact: what holds locks may be reached, once it is certain that what an earlier process left still does.
    /// The lease stands by then, so nobody gives the locks to others any more; somebody may have while no process of the
    /// drone ran, also where the log has lost that.
    async fn open(&mut self, sent: Duration) {
        let patience = self.agent.timing.fence;
        if self.left == Left::Unknown {
            self.fence().spare(sent, patience);
            self.left = match hold_their_locks(self.agent).await {
                true => Left::Settled,
                false => Left::Doubtful,
            };
        }
        if self.left == Left::Doubtful && (self.agent.is_certain() || !left_locked(self.agent).await) {
            self.left = Left::Settled;
        }
        match self.left {
            Left::Settled => self.fence().extend(sent, patience),
            Left::Unknown | Left::Doubtful => self.fence().spare(sent, patience),
        }
    }

    async fn write(&mut self) -> Result<u64, NatsError> {
        let agent = self.agent;
        let (cluster, drone) = (agent.identity.cluster.clone(), agent.identity.drone.clone());
        let lease = Lease { instance: Some(agent.instance.to_string()), lost: false, answers: agent.answers() };
        let timestamp = after(self.newest, agent.clock.wall().as_millisecond());
        // It counts though the outcome may be unknown.
        self.newest = Some(timestamp);
        let entry = StateEntry::lease(cluster, drone, timestamp, lease);
        agent.nats.publish_expecting(entry.subject(), &entry, self.expected).await
    }

    /// What stands there now; asked until it is answered.
    async fn find(&mut self) -> Option<Found> {
        let subject = keep_alive_subject(&self.agent.identity.cluster, &self.agent.identity.drone);
        loop {
            match self.agent.nats.last(StreamName::State, &subject).await {
                Ok(stored) => {
                    let found = stored.map(|stored| judge(&stored, &self.agent.instance, &self.before));
                    self.newest = self.newest.max(found.and_then(|found| found.timestamp));
                    return found;
                }
                Err(error) => tracing::debug!(%error, "the lease cannot be read"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether somebody else has taken the lease. What an earlier process sent may arrive late; an entry of a copy that
    /// is older than the own one was left over by a log that has lost its newest.
    fn is_usurped(&self, found: Option<Found>) -> bool {
        found.is_some_and(|found| match found.whose {
            Whose::Anothers { copied: true } => found.sequence > self.expected,
            Whose::Anothers { copied: false } => true,
            Whose::Nobodys | Whose::Own | Whose::Earlier | Whose::Lost => false,
        })
    }

    /// At the start: takes over what an earlier process had. Another one's lease is watched for as long as that one may
    /// serve what it holds locks with; false where it is renewed.
    async fn take_over(&mut self) -> bool {
        let mut other: Option<Other> = None;
        let found = loop {
            let found = self.find().await;
            let Some(Found { whose: Whose::Anothers { copied }, sequence, .. }) = found else { break found };
            let now = self.agent.clock.boot();
            let seen = other.get_or_insert_with(|| {
                tracing::warn!(copied, "the lease is another's; waiting whether it is renewed");
                Other::seen(sequence, now)
            });
            match seen.serves(sequence, now, self.agent.timing.fence) {
                Some(true) => return false,
                Some(false) => break found,
                None => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        // Before the first lease: where that is found later, it has to be known that it was of this memory.
        let process = self.agent.instance.process();
        patiently(self.agent, || self.agent.host.follow(process)).await;
        // From here on this memory knows who had it: also the first process that ever had it can tell a copy.
        self.before.push(process.to_owned());
        self.adopt(found).await;
        true
    }

    async fn adopt(&mut self, found: Option<Found>) {
        match found {
            // The log has lost it. While the fence is open, nobody can have given this drone up.
            None if self.fence().is_open() => self.expected = 0,
            // Else the log may have lost that too.
            None => {
                self.give_up("the log has lost its drone's lease, which had run out").await;
                self.expected = 0;
            }
            Some(Found { whose: Whose::Lost, sequence, .. }) => {
                tracing::warn!("the controllers have given this drone up");
                self.give_up("its drone had been given up").await;
                self.expected = sequence;
            }
            Some(Found {
                whose: Whose::Nobodys | Whose::Own | Whose::Earlier | Whose::Anothers { .. },
                sequence,
                ..
            }) => self.expected = sequence,
        }
    }

    async fn give_up(&mut self, reason: &str) {
        self.fence().close();
        give_up_locked(&*self.agent.host, reason).await;
        self.left = Left::Settled;
        self.agent.report_anew();
    }
}
