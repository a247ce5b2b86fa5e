//! The life of one backend, decided: a state and an event give the next state and what is to be done.
//!
//! ```text
//! New ── Loading ── Starting ── Ready          each of them may end:
//!  └────────┴──────────┴──────────┴─ Stopping ── Cleaning ── Gone
//!                                    (runs on)   (reported)  (no container)
//! ```
//!
//! No clock and no I/O: time comes inside events, what is to be done goes out as [`Action`]s. The rules are those of
//! the protocol's table of states. How far a life may be waited for is a function of its state, [`State::deadline`],
//! so that no state can be waited in without one, after a restart of the drone neither.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use plane_core::message::backend::BackendState;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// How long a container may take to end after SIGTERM, before SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// How long a new backend may wait for the word to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the container engine may take to stop or remove a container, beyond the grace, before it is asked again.
const ENGINE_LIMIT: Duration = Duration::from_secs(30);
/// Pauses before a failed stop or removal is tried again: doubling between these two.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a backend may take, by configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From its acceptance until its container runs.
    pub load: Duration,
    /// From its container's start until it answers.
    pub ready: Duration,
}

/// Where a life is. It is persisted as JSON: a variant or field that is written today must be readable tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Persisted; nothing is begun.
    New {
        /// Since when.
        since: Timestamp,
    },
    /// The container is on its way.
    Loading {
        /// Since when.
        since: Timestamp,
        /// How far it is; of no use after a restart, when only a look at the container tells.
        step: LoadStep,
    },
    /// The container runs and does not answer yet.
    Starting {
        /// Since when.
        since: Timestamp,
        /// The container's address; none where it had ended before it could be looked at.
        ip: Option<IpAddr>,
    },
    /// It answers.
    Ready {
        /// Since when.
        since: Timestamp,
        /// The container's address.
        ip: IpAddr,
    },
    /// It is to end, and its container may still run. Nothing of it is reported yet.
    Stopping {
        /// Since when it is tried, or paused.
        since: Timestamp,
        /// What it ends as.
        ending: Ending,
        /// How often stopping has been tried, and whether it is being tried now.
        attempt: Attempt,
    },
    /// The end is reported, the container does not run; it is being removed.
    Cleaning {
        /// Since when it is tried, or paused.
        since: Timestamp,
        /// What it ended as.
        ending: Ending,
        /// How often removing has been tried, and whether it is being tried now.
        attempt: Attempt,
    },
    /// There is no container any more; nothing changes from here on.
    Gone {
        /// Since when.
        since: Timestamp,
        /// What it ended as.
        ending: Ending,
    },
}

/// How far the loading of a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadStep {
    /// The image is fetched.
    Pulling,
    /// The container is created.
    Creating,
    /// The container is started.
    Launching,
}

/// A final state, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The final state.
    pub state: BackendState,
    /// Why, for people.
    pub reason: String,
    /// The exit status of the container's process, where it is known.
    pub exit_code: Option<i64>,
    /// When.
    pub time: Timestamp,
}

/// A try at something that the container engine may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// How many tries came before.
    pub before: u32,
    /// True while the failure of the last one is being sat out.
    pub paused: bool,
    /// How long the container may take to end after SIGTERM, in seconds.
    pub grace_secs: u64,
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadlineKind {
    /// The word to begin.
    Begin,
    /// The container runs.
    Load,
    /// It answers.
    Ready,
    /// The container has stopped, or the pause before the next try is over.
    Stop,
    /// The container is removed, or the pause before the next try is over.
    Remove,
}

/// How long a state may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// What for.
    pub kind: DeadlineKind,
    /// How long it runs since the state was entered; no time of day decides about that.
    pub limit: Duration,
}

/// A container, as a look at it found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Whether it runs.
    pub running: bool,
    /// Whether it was ever started.
    pub started: bool,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// How it ended, where it has.
    pub end: End,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its process ended.
    Exited {
        /// The exit status; 128 and a signal's number where that ended it.
        code: i64,
        /// Whether the kernel found too little memory for it.
        oom_killed: bool,
    },
    /// It was removed, and how it ended is not known.
    Removed,
}

/// What has happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, by the wall clock.
    pub time: Timestamp,
    /// What.
    pub what: What,
}

/// What has happened to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The spawn request is accepted, and `terminate` listened for.
    Accepted,
    /// The drone has restarted and looked for the container.
    Resumed(Option<Container>),
    /// The image is there.
    ImagePulled,
    /// The image could not be had.
    PullFailed(String),
    /// The container exists.
    ContainerCreated,
    /// The container runs.
    ContainerStarted(Option<IpAddr>),
    /// The container could not be created or started.
    StartFailed(String),
    /// It answered with an HTTP status line.
    AnsweredHttp,
    /// The state lasted too long.
    DeadlinePassed(DeadlineKind),
    /// The container ended.
    ContainerEnded(End),
    /// Nobody was connected for `max_idle_secs`.
    WentIdle,
    /// Somebody asked for its end through the API.
    TerminateRequested,
    /// The controllers gave it up, or the drone had to.
    DeclaredLost(String),
    /// The container does not run.
    StopDone(Option<i64>),
    /// The container could not be stopped.
    StopFailed(String),
    /// The container does not exist.
    Removed,
    /// The container could not be removed.
    RemoveFailed(String),
}

/// What is to be done. Routes change before a report becomes visible to anybody, which is harmless when done twice;
/// reports and lines are persisted with the state; everything else is done once that is persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch the image, as the pull policy says.
    PullImage,
    /// Create the container.
    CreateContainer,
    /// Start the container.
    StartContainer,
    /// Ask it for `/` until it answers.
    ProbeReadiness(IpAddr),
    /// Tell when it ends.
    WatchContainer,
    /// Pass on what it writes.
    FollowLogs,
    /// Measure what it uses.
    MeasureUse,
    /// Let requests through to it.
    OpenRoute(IpAddr),
    /// Let no more requests through. Those under way end with the container, which may use its grace for them.
    CloseRoute,
    /// Tell when nobody was connected for `max_idle_secs`.
    WatchIdle,
    /// Stop the container: SIGTERM, and SIGKILL after the grace. Loading under way is abandoned.
    StopContainer(Duration),
    /// Remove the container.
    RemoveContainer,
    /// Report a state.
    Report(Report),
    /// Write a line of Plane's own into the backend's log.
    SayMeta(String),
}

/// A state that is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The state.
    pub state: BackendState,
    /// When it was reached.
    pub time: Timestamp,
    /// Why, where it ended.
    pub reason: Option<String>,
    /// The exit status, where it is known.
    pub exit_code: Option<i64>,
}

impl State {
    /// What has been reported of it, and since when; `None` where nothing has.
    pub fn reported(&self) -> Option<(BackendState, Timestamp)> {
        match self {
            Self::New { .. } | Self::Stopping { .. } => None,
            Self::Loading { since, .. } => Some((BackendState::Loading, *since)),
            Self::Starting { since, .. } => Some((BackendState::Starting, *since)),
            Self::Ready { since, .. } => Some((BackendState::Ready, *since)),
            Self::Cleaning { ending, .. } | Self::Gone { ending, .. } => Some((ending.state, ending.time)),
        }
    }

    /// Whether the final state is reported.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Cleaning { .. } | Self::Gone { .. } => true,
            Self::New { .. }
            | Self::Loading { .. }
            | Self::Starting { .. }
            | Self::Ready { .. }
            | Self::Stopping { .. } => false,
        }
    }

    /// When the life was over and the container gone; `None` before.
    pub fn has_ended(&self) -> Option<Timestamp> {
        match self {
            Self::Gone { since, .. } => Some(*since),
            Self::New { .. }
            | Self::Loading { .. }
            | Self::Starting { .. }
            | Self::Ready { .. }
            | Self::Stopping { .. }
            | Self::Cleaning { .. } => None,
        }
    }

    /// Since when it is in this state.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::New { since }
            | Self::Loading { since, .. }
            | Self::Starting { since, .. }
            | Self::Ready { since, .. }
            | Self::Stopping { since, .. }
            | Self::Cleaning { since, .. }
            | Self::Gone { since, .. } => *since,
        }
    }

    /// The container's address, where the state has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Starting { ip, .. } => *ip,
            Self::Ready { ip, .. } => Some(*ip),
            Self::New { .. }
            | Self::Loading { .. }
            | Self::Stopping { .. }
            | Self::Cleaning { .. }
            | Self::Gone { .. } => None,
        }
    }

    /// Whether `next` differs from this in nothing that would be of use after a restart.
    pub fn is_as_durable_as(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Loading { .. }, Self::Loading { .. }) => true,
            (before, after) => before == after,
        }
    }

    /// How long this may last. Only `Ready`, which may last, and `Gone`, which does, have no limit.
    pub fn deadline(&self, limits: &Limits) -> Option<Deadline> {
        let (kind, limit) = match self {
            Self::New { .. } => (DeadlineKind::Begin, BEGIN_LIMIT),
            Self::Loading { .. } => (DeadlineKind::Load, limits.load),
            Self::Starting { .. } => (DeadlineKind::Ready, limits.ready),
            Self::Stopping { attempt, .. } => (DeadlineKind::Stop, attempt.limit()),
            Self::Cleaning { attempt, .. } => (DeadlineKind::Remove, attempt.limit()),
            Self::Ready { .. } | Self::Gone { .. } => return None,
        };
        Some(Deadline { kind, limit })
    }
}

impl Attempt {
    fn first(grace: Duration) -> Self {
        Self { before: 0, paused: false, grace_secs: grace.as_secs() }
    }

    fn next(self) -> Self {
        Self { before: self.before.saturating_add(1), paused: false, ..self }
    }

    fn pause(self) -> Self {
        Self { paused: true, ..self }
    }

    fn grace(self) -> Duration {
        Duration::from_secs(self.grace_secs)
    }

    fn limit(self) -> Duration {
        if self.paused {
            return FIRST_PAUSE.saturating_mul(1 << self.before.min(10)).min(LONGEST_PAUSE);
        }
        self.grace() + ENGINE_LIMIT
    }
}

mod step;
pub use step::step;
