//! What is known of one connection of a client while it is open: whether a request is under way, since when it is
//! silent, and whether it has to end. Its stream notes what moves; its task looks.

use super::{
    limits::Limits,
    listen::Place,
    noted::{Noted, Notes},
    request::Client,
    timers::{CoarseClock, Look, after},
    worker::{Stage, Worker},
};
use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

/// A connection that nobody uses gives way sooner where places are scarce: this many percent of all are taken.
const SCARCE_PERCENT: usize = 90;
/// How long such a connection is kept then.
const SCARCE_IDLE: Duration = Duration::from_secs(2);
/// How long a connection that was asked to end may still go without a request. A client that reads nothing, or does not
/// answer the PING that goes with it (RFC 9113, section 6.8), would keep its place for ever.
const GENTLE: Duration = Duration::from_secs(5);
/// How long the rest of a head may take then, which may be said as long as the drone goes on.
const LAST_HEAD: Duration = Duration::from_secs(2);
/// What a client sends first with HTTP/2, in bytes: the preface (RFC 9113, section 3.4) and the head of a frame.
const HTTP2_PREFACE: u64 = 24 + 9;
/// Not at a time yet.
const NEVER: u64 = u64::MAX;

/// Why a connection ends before the client ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// After what is under way.
    Gently,
    /// The head of a request takes too long; the client may be told.
    LateHead,
    /// Now.
    AtOnce(&'static str),
}

/// What its stream and its requests note. Streams of upgraded connections have to be `Send`, so this is too; no other
/// thread uses it.
#[derive(Debug)]
pub(super) struct Activity {
    clock: CoarseClock,
    /// When it could begin with requests.
    opened: AtomicU64,
    /// Requests under way.
    requests: AtomicU32,
    /// When the first byte of a head came, or the last request ended.
    since: AtomicU64,
    /// What `since` was before the first byte of that head came.
    before: AtomicU64,
    /// Whether a head has begun to come.
    in_head: AtomicBool,
    /// Since when the client takes nothing.
    stalled: AtomicU64,
    /// When it was asked to end.
    asked_to_end: AtomicU64,
    /// Whether what the client takes is watched beneath TLS, which takes some itself.
    is_beneath: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Activity {
    pub(super) fn new(clock: CoarseClock) -> Arc<Self> {
        let [opened, since, before] = [(); 3].map(|()| AtomicU64::new(clock.now()));
        Arc::new(Self {
            clock,
            opened,
            requests: AtomicU32::new(0),
            since,
            before,
            in_head: AtomicBool::new(false),
            stalled: AtomicU64::new(NEVER),
            asked_to_end: AtomicU64::new(NEVER),
            is_beneath: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// The handshake is done: requests may come from now on.
    pub(super) fn open(&self) {
        self.opened.store(self.clock.now(), Ordering::Relaxed);
        self.since.store(self.clock.now(), Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn begin(&self) {
        add(&self.requests, 1);
        self.in_head.store(false, Ordering::Relaxed);
    }

    /// A request has been answered, or given up.
    pub(super) fn end(&self) {
        self.since.store(self.clock.now(), Ordering::Relaxed);
        add(&self.requests, u32::MAX);
    }

    /// What was read before belongs to a head that is to go on.
    pub(super) fn head_begun(&self) {
        if !self.in_head.load(Ordering::Relaxed) {
            self.in_head.store(true, Ordering::Relaxed);
            self.before.store(self.since.load(Ordering::Relaxed), Ordering::Relaxed);
            self.since.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    /// What was read is no part of a head: it is as if nothing had come.
    pub(super) fn no_head(&self) {
        if self.in_head.load(Ordering::Relaxed) {
            self.in_head.store(false, Ordering::Relaxed);
            self.since.store(self.before.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Whether the client does not take what was written last.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != NEVER
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    fn read(&self, bytes: usize) {
        self.received.store(self.received.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
        if self.is_idle() {
            self.head_begun();
        }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.sent.store(self.sent.load(Ordering::Relaxed) + *bytes as u64, Ordering::Relaxed);
        }
        if !self.is_beneath.load(Ordering::Relaxed) {
            self.took(outcome);
        }
    }

    /// The client takes something, or does not.
    fn took(&self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(_)) => self.stalled.store(NEVER, Ordering::Relaxed),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.stalled.load(Ordering::Relaxed) == NEVER => {
                self.stalled.store(self.clock.now(), Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
    }

    /// Whether the connection has to end at a time, and when to look again. `streams` says that heads come in frames,
    /// between which there may be others.
    pub(super) fn look(&self, now: u64, limits: &Limits, is_scarce: bool, streams: bool) -> Look<Ending> {
        let stalled = self.stalled.load(Ordering::Relaxed);
        let late = if stalled == NEVER { u64::MAX } else { after(stalled, limits.send) };
        if now >= late {
            return Look::Over(Ending::AtOnce("the client takes nothing"));
        }
        if !self.is_idle() {
            return Look::Again(late);
        }
        let since = self.since.load(Ordering::Relaxed);
        if self.asked_to_end.load(Ordering::Relaxed) != NEVER {
            return match self.look_at_end(now, limits, streams) {
                Look::Again(until) => Look::Again(until.min(late)),
                over @ Look::Over(_) => over,
            };
        }
        if streams && self.received.load(Ordering::Relaxed) < HTTP2_PREFACE {
            let until = after(self.opened.load(Ordering::Relaxed), limits.header);
            return match now >= until {
                true => Look::Over(Ending::AtOnce("the preface does not come")),
                false => Look::Again(until.min(late)),
            };
        }
        if self.in_head.load(Ordering::Relaxed) && !streams {
            let until = after(since, limits.header);
            return if now >= until { Look::Over(Ending::LateHead) } else { Look::Again(until.min(late)) };
        }
        let patience = if is_scarce { SCARCE_IDLE.min(limits.idle) } else { limits.idle };
        let until = after(since, patience);
        if now >= until {
            return self.look_at_end(now, limits, streams);
        }
        Look::Again(until.min(late).min(after(now, SCARCE_IDLE * 2)))
    }

    /// Asks the connection to end, once; whether it is without a request for too long since.
    fn look_at_end(&self, now: u64, limits: &Limits, streams: bool) -> Look<Ending> {
        let asked = self.asked_to_end.load(Ordering::Relaxed);
        if asked == NEVER {
            self.asked_to_end.store(now, Ordering::Relaxed);
            return Look::Over(Ending::Gently);
        }
        if !self.is_idle() {
            return Look::Again(NEVER);
        }
        let since = self.since.load(Ordering::Relaxed);
        if self.in_head.load(Ordering::Relaxed) && !streams {
            let until = after(since, limits.header).min(after(asked.max(since), LAST_HEAD));
            return if now >= until { Look::Over(Ending::LateHead) } else { Look::Again(until) };
        }
        let until = after(asked.max(since), GENTLE);
        if now >= until { Look::Over(Ending::AtOnce("it does not end")) } else { Look::Again(until) }
    }
}

/// Adds without a lock: one thread writes.
fn add(count: &AtomicU32, change: u32) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
}

/// A stream whose connection is looked at.
pub(super) type Watched<T> = Noted<T, Arc<Activity>>;

impl Notes for Arc<Activity> {
    fn read(&mut self, bytes: usize, _: bool) {
        if bytes > 0 {
            Activity::read(self, bytes);
        }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        Activity::wrote(self, outcome);
    }
}

/// The stream beneath TLS. What is handed to TLS may wait there while the client takes nothing; what is written here has
/// been taken.
pub(super) type Beneath<T> = Noted<T, Taken>;

/// Notes what a client takes.
#[derive(Debug)]
pub(super) struct Taken(Arc<Activity>);

impl Taken {
    pub(super) fn by(activity: Arc<Activity>) -> Self {
        activity.is_beneath.store(true, Ordering::Relaxed);
        Self(activity)
    }
}

impl Notes for Taken {
    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        self.0.took(outcome);
    }
}

/// The place of a connection among all; what is left of it when it was upgraded keeps it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) worker: Rc<Worker>,
    pub(super) activity: Arc<Activity>,
    pub(super) client: Client,
    /// Free again when the connection, and what was upgraded of it, has ended.
    pub(super) _place: Place,
}

impl Seat {
    /// Whether the connection has to end. That it has to do so gently is said once.
    pub(super) fn look(&self, now: u64, streams: bool) -> Look<Ending> {
        match self.worker.stage() {
            Stage::Serving => {
                let shared = &self.worker.shared;
                let taken = shared.connections.load(Ordering::Relaxed);
                let is_scarce = taken * 100 >= shared.limits.connections * SCARCE_PERCENT;
                self.activity.look(now, &shared.limits, is_scarce, streams)
            }
            Stage::Draining => self.activity.look_at_end(now, &self.worker.shared.limits, streams),
            Stage::Closing => Look::Over(Ending::AtOnce("the drone stops")),
        }
    }
}

#[cfg(test)]
mod tests;
