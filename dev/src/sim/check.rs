//! What must always hold, looked at with each event that could break it.

use super::{
    Rule, Violation,
    network::{INBOX, Network},
    process::ProcessId,
    run::{Sim, lock},
    stream::Stream,
};
use bytes::Bytes;
use plane_core::{
    id::{BackendId, DroneId, LockName},
    message::{
        backend::{BackendState, PublicStatus},
        schedule::{ScheduleRequest, SpawnRequest},
        state::{
            Assignment, BackendMessage, DroneMessage, EntryBody, HeldLock, Holder, LockEntry, StateEntry,
            assignment_subject, lock_subject,
        },
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Within this time a request is answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);
/// So long what a process sends is under way at most. It rests on what was there before.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// So long a controller goes on counting though it reads nothing any more: what it counts as silence may end meanwhile.
const UNNOTICED: Duration = Duration::from_secs(3);
/// The entry of a request's metadata that says which request it is.
pub(super) const REQUEST: &str = "request";

/// How the ids of backends begin that clients choose.
pub(super) const CHOSEN: &str = "chosen-";

/// What has been seen of a run.
#[derive(Default)]
pub(super) struct Checker {
    /// The first rule that was broken.
    pub(super) violation: Option<Violation>,
    /// Processes that may be killed while they ask.
    pub(super) mortal: BTreeSet<ProcessId>,
    /// Requests of clients by the subjects of their answers.
    asked: BTreeMap<String, Asked>,
    /// Requests that were delivered twice, by the subjects of their answers and by their numbers.
    twice: (BTreeSet<String>, BTreeSet<String>),
    begun: BTreeMap<BackendId, DroneId>,
    begun_for: BTreeMap<String, BackendId>,
    /// The backends that the locks' own drones run, with the number of the machine.
    pub(super) locked: BTreeMap<LockName, BTreeMap<BackendId, usize>>,
    tokens: BTreeMap<LockName, BTreeMap<u64, BackendId>>,
    /// The highest token that a backend of each lock began with.
    begun_with: BTreeMap<LockName, (u64, BackendId)>,
    spawned: BTreeMap<BackendId, String>,
    leases: BTreeMap<DroneId, Contact>,
    /// Drones that have lost their memory.
    pub(super) wiped: BTreeSet<DroneId>,
    /// Whether a server has lost what it acknowledged.
    pub(super) log_lost: bool,
    /// What happened, counted.
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// When a drone's lease was written.
#[derive(Debug, Clone, Copy)]
struct Contact {
    newest: Duration,
    /// After it had been silent for so long that its backends may be given up, or nearly: a controller whose connection
    /// froze just before does not know that the silence has ended.
    resumed: Option<Duration>,
}

struct Asked {
    process: ProcessId,
    since: Duration,
    /// Whether its controller has lived, unstopped and connected, since.
    clean: bool,
    answers: u32,
}

impl Checker {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn is_mortal(&self, process: ProcessId) -> bool {
        self.mortal.contains(&process)
    }

    /// Something happened to a process that excuses what comes late.
    pub(super) fn disturb(&mut self, process: ProcessId) {
        for asked in self.asked.values_mut().filter(|asked| asked.process == process) {
            asked.clean = false;
        }
    }

    /// Whether a second delivery of a request may not start a second backend.
    pub(super) fn may_come_twice(&self, subject: &str, payload: &Bytes) -> bool {
        if !subject.ends_with(".schedule") {
            return true;
        }
        let request = serde_json::from_slice::<ScheduleRequest>(payload);
        request.is_ok_and(|request| request.lock.is_some() || request.backend_id.is_some())
    }

    /// A request is delivered twice.
    pub(super) fn doubled(&mut self, reply: &str, payload: &Bytes) {
        self.twice.0.insert(reply.to_owned());
        if let Ok(request) = serde_json::from_slice::<ScheduleRequest>(payload) {
            self.twice.1.extend(request.metadata.get(REQUEST).cloned());
        }
    }

    /// A request reached a process, which runs or is stopped.
    pub(super) fn delivered(&mut self, subject: &str, reply: &str, process: ProcessId, runs: bool, now: Duration) {
        if subject.ends_with(".schedule") || subject.ends_with(".fetch") {
            let clean = runs && !self.twice.0.contains(reply);
            self.asked.entry(reply.to_owned()).or_insert(Asked { process, since: now, clean, answers: 0 });
        }
    }

    /// A client was told that a backend was made for its request.
    pub(super) fn spawned(&mut self, backend: &BackendId, request: &str) -> Result<(), String> {
        match self.spawned.insert(backend.clone(), request.to_owned()) {
            Some(other) if other != request && !(self.log_lost && backend.as_str().starts_with(CHOSEN)) => {
                Err(format!("backend {backend} was made for request {other} and for request {request}"))
            }
            _ => Ok(()),
        }
    }

    /// The drone that began with a backend.
    pub(super) fn begun(&self) -> &BTreeMap<BackendId, DroneId> {
        &self.begun
    }
}

/// A process answers a request.
pub(super) fn answered(sim: &Arc<Sim>, process: ProcessId, inbox: &str, payload: &Bytes) {
    let reply = format!("{INBOX}{inbox}");
    let now = sim.now();
    let mut checker = lock(&sim.checker);
    let doubled = checker.twice.0.contains(&reply);
    let Some(asked) = checker.asked.get_mut(&reply) else { return };
    asked.answers += 1;
    let (answers, late) = (asked.answers, asked.clean && now - asked.since > ANSWERED_WITHIN);
    asked.clean = false;
    drop(checker);
    sim.note(format_args!("answer of {} to {inbox}: {}", process.0, String::from_utf8_lossy(payload)));
    if answers > 1 && !doubled {
        sim.violated(Rule::Answers, format!("request {inbox} was answered {answers} times"));
    }
    if late {
        sim.violated(Rule::Answers, format!("request {inbox} was answered late"));
    }
    if payload.windows(10).any(|bytes| bytes == b"\"Internal\"") {
        sim.violated(Rule::Answers, format!("request {inbox} met a defect: {}", String::from_utf8_lossy(payload)));
    }
}

impl Sim {
    /// Looks for requests that are overdue, from now on.
    pub(super) async fn watch_answers(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.check_answers();
        }
    }

    fn check_answers(&self) {
        let now = self.now();
        let checker = lock(&self.checker);
        let overdue = checker.asked.iter().find(|(_, asked)| asked.clean && now - asked.since > ANSWERED_WITHIN);
        let overdue = overdue.map(|(reply, asked)| format!("{} has not answered {reply}", asked.process.0));
        drop(checker);
        if let Some(overdue) = overdue {
            self.violated(Rule::Answers, overdue);
        }
    }

    /// A drone begins with a backend.
    pub(super) fn check_begin(&self, drone: &DroneId, machine: usize, request: &SpawnRequest) {
        let backend = &request.backend_id;
        let mut checker = lock(&self.checker);
        checker.count("begun");
        let mut lower = None;
        if let Some(lock) = &request.lock {
            checker.locked.entry(lock.clone()).or_default().insert(backend.clone(), machine);
            let token = request.fencing_token.unwrap_or_default();
            let newest = checker.begun_with.entry(lock.clone()).or_insert((0, backend.clone()));
            if newest.0 >= token && newest.1 != *backend {
                lower =
                    Some(format!("lock {lock}: {backend} began with token {token}, {} with {}", newest.1, newest.0));
            }
            if newest.0 < token {
                *newest = (token, backend.clone());
            }
        }
        let other = checker.begun.insert(backend.clone(), drone.clone()).filter(|other| other != drone);
        let number = request.metadata.get(REQUEST).cloned().unwrap_or_default();
        let doubled = checker.twice.1.contains(&number);
        // Ids that clients choose are free again once nobody remembers them.
        let other = other.filter(|_| !(checker.log_lost && backend.as_str().starts_with(CHOSEN)));
        let second = checker.begun_for.insert(number.clone(), backend.clone()).filter(|first| first != backend);
        drop(checker);
        self.note(format_args!("{drone} begins {backend} for request {number}"));
        if let Some(lower) = lower {
            self.violated(Rule::Locks, lower);
        }
        if let Some(other) = other {
            self.violated(Rule::OneDrone, format!("backend {backend} was begun on {other} and on {drone}"));
        }
        if let Some(first) = second.filter(|_| !doubled) {
            self.violated(Rule::OneDrone, format!("request {number} began {first} and {backend}"));
        }
    }

    /// A drone has closed the way to a backend.
    pub(super) fn note_unreachable(&self, request: &SpawnRequest) {
        if let Some(lock_name) = &request.lock
            && let Some(backends) = lock(&self.checker).locked.get_mut(lock_name)
        {
            backends.remove(&request.backend_id);
        }
    }

    /// Looks at what is about to be stored in the state log.
    pub(super) fn check_entry(&self, network: &Network, process: ProcessId, entry: &StateEntry) {
        let Some(stream) = network.streams.get("plane_state") else { return };
        match &entry.body {
            EntryBody::LockMessage(lock) => self.check_lock(network, stream, entry, lock),
            EntryBody::BackendMessage(about) => {
                if let BackendMessage::State(reached) = &about.message
                    && reached.state == BackendState::Lost
                {
                    let subject = assignment_subject(&entry.cluster, &about.backend);
                    let lease_silent =
                        reached.reason.as_deref().is_some_and(|reason| reason.starts_with("its drone was silent"));
                    if let Some(assignment) = assignment(stream, &subject) {
                        self.check_loss(&about.backend, &assignment, lease_silent, process);
                    }
                }
            }
            EntryBody::DroneMessage(about) => {
                if let (DroneMessage::KeepAlive { .. }, false) = (&about.message, about.lost) {
                    let (now, patience) = (self.now(), self.options.scheduler().timing().abandon);
                    let mut checker = lock(&self.checker);
                    let before = checker.leases.get(&about.drone).copied();
                    let resumed = match before {
                        Some(before) if now - before.newest + UNNOTICED >= patience => Some(now),
                        before => before.and_then(|before| before.resumed),
                    };
                    checker.leases.insert(about.drone.clone(), Contact { newest: now, resumed });
                }
            }
            EntryBody::AcmeMessage(_) => {}
        }
    }

    fn check_loss(&self, backend: &BackendId, assignment: &Assignment, silent: bool, process: ProcessId) {
        if assignment.lock.is_some() {
            return;
        }
        let checker = lock(&self.checker);
        let contact = checker.leases.get(&assignment.drone);
        let since = contact.map_or(Duration::MAX, |contact| self.now().saturating_sub(contact.newest));
        // A controller may have given them up in the instant in which the drone came back.
        let crossed = contact.and_then(|contact| contact.resumed).is_some_and(|at| self.now() < at + ARRIVES_WITHIN);
        let begun = checker.begun.contains_key(backend);
        let excused = !begun || checker.wiped.contains(&assignment.drone) || checker.log_lost;
        drop(checker);
        let patience = self.options.scheduler().timing().abandon;
        if (silent && since < patience && !crossed) || (!silent && !excused) {
            let drone = &assignment.drone;
            let what = format!("{backend} of {drone} is lost by {}, {since:?} after its lease was written", process.0);
            self.violated(Rule::Outage, what);
        }
    }

    fn check_lock(&self, network: &Network, stream: &Stream, entry: &StateEntry, written: &LockEntry) {
        let name = &written.lock;
        let before = stream.last(&lock_subject(&entry.cluster, name)).and_then(|stored| parsed_lock(&stored.payload));
        let before = before.and_then(|before| before.holder);
        if let Some(before) = before.filter(|before| written.holder.as_ref() != Some(before)) {
            self.check_free(network, stream, entry, name, &before);
        }
        if let Some(Holder { backend, token }) = &written.holder {
            let mut checker = lock(&self.checker);
            let known = checker.tokens.entry(name.clone()).or_default();
            let newest = known.last_key_value().map(|(token, holder)| (*token, holder.clone()));
            let again = known.insert(*token, backend.clone());
            // A hold that was under way while the log was made anew is never acted upon.
            let passed_over = checker.log_lost;
            drop(checker);
            let again = passed_over || again.is_some_and(|again| again == *backend);
            if let Some((newest, holder)) = newest.filter(|(newest, _)| !again && newest >= token) {
                let what = format!("lock {name}: {backend} has token {token}, {holder} had {newest} before");
                self.violated(Rule::Locks, what);
            }
        }
    }

    fn check_free(&self, network: &Network, stream: &Stream, entry: &StateEntry, name: &LockName, before: &Holder) {
        let subject = PublicStatus::subject_of(&before.backend);
        let told = network.streams.get("backend_status").and_then(|stream| stream.last(&subject));
        let told = told.and_then(|told| serde_json::from_slice::<PublicStatus>(&told.payload).ok());
        let ended = told.as_ref().is_some_and(|told| told.state.is_final());
        let held = HeldLock { name: name.clone(), token: before.token };
        let assigned = assignment(stream, &assignment_subject(&entry.cluster, &before.backend));
        let withdrawn = assigned.is_none_or(|assigned| assigned.withdrawn || assigned.lock != Some(held));
        if !ended && !withdrawn {
            let what = format!("lock {name} is taken from {}, of which was told {told:?}", before.backend);
            self.violated(Rule::Freed, what);
        }
    }

    /// Looks at what is about to be stored in the public history.
    pub(super) fn check_history(&self, network: &Network, subject: &str, payload: &Bytes) {
        let parsed = |bytes: &[u8]| serde_json::from_slice::<PublicStatus>(bytes).ok();
        let Some(next) = parsed(payload) else { return };
        let last = network.streams.get("backend_status").and_then(|stream| stream.last(subject));
        if let Some(last) = last.and_then(|last| parsed(&last.payload))
            && !last.state.may_precede(next.state)
        {
            self.violated(Rule::History, format!("{} went from {} to {}", next.backend, last.state, next.state));
        }
    }
}

fn parsed_lock(payload: &[u8]) -> Option<LockEntry> {
    match serde_json::from_slice::<StateEntry>(payload).ok()?.body {
        EntryBody::LockMessage(entry) => Some(entry),
        EntryBody::DroneMessage(_) | EntryBody::BackendMessage(_) | EntryBody::AcmeMessage(_) => None,
    }
}

fn assignment(stream: &Stream, subject: &str) -> Option<Assignment> {
    match serde_json::from_slice::<StateEntry>(&stream.last(subject)?.payload).ok()?.body {
        EntryBody::BackendMessage(entry) => match entry.message {
            BackendMessage::Assignment(assignment) => Some(assignment),
            BackendMessage::State(_) => None,
        },
        EntryBody::DroneMessage(_) | EntryBody::LockMessage(_) | EntryBody::AcmeMessage(_) => None,
    }
}
