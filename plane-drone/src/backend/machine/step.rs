//! The transitions of a backend's life, one function a state. Total: every state names every event.

use super::{Action, Attempt, Container, DeadlineKind, End, Ending, Event, GRACE, LoadStep, Report, State, What};
use jiff::{SignedDuration, Timestamp};
use plane_core::message::backend::BackendState;
use std::{net::IpAddr, time::Duration};

/// The most bytes of a reason. An engine's words have no bound, and what NATS takes in one message does.
const REASON_BYTES: usize = 2048;

type Step = (State, Vec<Action>);

/// What becomes of a state by an event, and what is to be done then.
pub fn step(state: State, event: Event) -> Step {
    let Event { time, what } = event;
    let now = after(&state, time);
    match state {
        State::New { since } => on_new(since, now, what),
        State::Loading { since, step } => on_loading(since, step, now, what),
        State::Starting { since, ip } => on_starting(since, ip, now, what),
        State::Ready { since, ip } => on_ready(since, ip, now, what),
        State::Stopping { since, ending, attempt } => on_stopping(since, ending, attempt, now, what),
        State::Cleaning { since, ending, attempt } => on_cleaning(since, ending, attempt, now, what),
        gone @ State::Gone { .. } => (gone, Vec::new()),
    }
}

/// The time of an event, moved behind the state's own: readers order a history by its times, and clocks get set back.
fn after(state: &State, time: Timestamp) -> Timestamp {
    let earliest = state.since().saturating_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX);
    time.max(earliest)
}

fn on_new(since: Timestamp, now: Timestamp, what: What) -> Step {
    match what {
        What::Accepted | What::Resumed(_) => (
            State::Loading { since: now, step: LoadStep::Pulling },
            vec![report(BackendState::Loading, now), Action::PullImage],
        ),
        What::DeadlinePassed(DeadlineKind::Begin) => {
            end(now, BackendState::ErrorLoading, "the drone could not take requests to end it, and did not begin", None)
        }
        What::TerminateRequested => stop(now, terminated(now), GRACE),
        What::DeclaredLost(reason) => stop(now, ending(now, BackendState::Lost, reason), Duration::ZERO),
        What::ImagePulled
        | What::PullFailed(_)
        | What::ContainerCreated
        | What::ContainerStarted(_)
        | What::StartFailed(_)
        | What::AnsweredHttp
        | What::ContainerEnded(_)
        | What::DeadlinePassed(DeadlineKind::Load | DeadlineKind::Ready | DeadlineKind::Stop | DeadlineKind::Remove)
        | What::WentIdle
        | What::StopDone(_)
        | What::StopFailed(_)
        | What::Removed
        | What::RemoveFailed(_) => (State::New { since }, Vec::new()),
    }
}

fn on_loading(since: Timestamp, step: LoadStep, now: Timestamp, what: What) -> Step {
    let to = |step, action| (State::Loading { since, step }, vec![action]);
    match (what, step) {
        (What::ImagePulled, LoadStep::Pulling) => to(LoadStep::Creating, Action::CreateContainer),
        (What::PullFailed(reason), LoadStep::Pulling) => end(now, BackendState::ErrorLoading, reason, None),
        (What::ContainerCreated, LoadStep::Creating) => to(LoadStep::Launching, Action::StartContainer),
        (What::ContainerStarted(ip), LoadStep::Launching) => start(now, ip),
        // An engine that says no may still have begun: the container is stopped before anything is said.
        (What::StartFailed(reason), LoadStep::Creating | LoadStep::Launching) => {
            stop(now, ending(now, BackendState::ErrorLoading, reason), Duration::ZERO)
        }
        (What::Resumed(None), _) => to(LoadStep::Pulling, Action::PullImage),
        (What::Resumed(Some(container)), _) => match (container.running, container.started) {
            (true, _) => start(now, container.ip),
            (false, true) => ended_early(now, container.end),
            (false, false) => to(LoadStep::Launching, Action::StartContainer),
        },
        (What::DeadlinePassed(DeadlineKind::Load), _) => {
            let stuck = match step {
                LoadStep::Pulling => "its image was not there in time",
                LoadStep::Creating => "its container was not created in time",
                LoadStep::Launching => "its container was not started in time",
            };
            stop(now, ending(now, BackendState::ErrorLoading, stuck), Duration::ZERO)
        }
        (What::ContainerEnded(end), _) => ended_early(now, end),
        (What::TerminateRequested, _) => stop(now, terminated(now), GRACE),
        (What::DeclaredLost(reason), _) => stop(now, ending(now, BackendState::Lost, reason), Duration::ZERO),
        (What::ImagePulled, LoadStep::Creating | LoadStep::Launching)
        | (What::PullFailed(_), LoadStep::Creating | LoadStep::Launching)
        | (What::ContainerCreated, LoadStep::Pulling | LoadStep::Launching)
        | (What::ContainerStarted(_), LoadStep::Pulling | LoadStep::Creating)
        | (What::StartFailed(_), LoadStep::Pulling)
        | (
            What::DeadlinePassed(DeadlineKind::Begin | DeadlineKind::Ready | DeadlineKind::Stop | DeadlineKind::Remove)
            | What::Accepted
            | What::AnsweredHttp
            | What::WentIdle
            | What::StopDone(_)
            | What::StopFailed(_)
            | What::Removed
            | What::RemoveFailed(_),
            _,
        ) => (State::Loading { since, step }, Vec::new()),
    }
}

fn on_starting(since: Timestamp, ip: Option<IpAddr>, now: Timestamp, what: What) -> Step {
    match what {
        What::AnsweredHttp => match ip {
            Some(ip) => (
                State::Ready { since: now, ip },
                vec![Action::OpenRoute(ip), report(BackendState::Ready, now), Action::WatchIdle],
            ),
            None => (State::Starting { since, ip }, Vec::new()),
        },
        What::ContainerEnded(end) => ended_early(now, end),
        What::Resumed(container) => match running(container) {
            Ok(found) => {
                let ip = found.ip.or(ip);
                (State::Starting { since, ip }, watch_start(ip))
            }
            Err(end) => ended_early(now, end),
        },
        What::DeadlinePassed(DeadlineKind::Ready) => {
            let reason = "it did not answer in time on its port with an HTTP status line";
            stop(now, ending(now, BackendState::TimedOutBeforeReady, reason), GRACE)
        }
        What::TerminateRequested => stop(now, terminated(now), GRACE),
        What::DeclaredLost(reason) => stop(now, ending(now, BackendState::Lost, reason), Duration::ZERO),
        What::Accepted
        | What::ImagePulled
        | What::PullFailed(_)
        | What::ContainerCreated
        | What::ContainerStarted(_)
        | What::StartFailed(_)
        | What::DeadlinePassed(DeadlineKind::Begin | DeadlineKind::Load | DeadlineKind::Stop | DeadlineKind::Remove)
        | What::WentIdle
        | What::StopDone(_)
        | What::StopFailed(_)
        | What::Removed
        | What::RemoveFailed(_) => (State::Starting { since, ip }, Vec::new()),
    }
}

fn on_ready(since: Timestamp, ip: IpAddr, now: Timestamp, what: What) -> Step {
    match what {
        What::ContainerEnded(end) => ended_late(now, end),
        What::Resumed(container) => match running(container) {
            Ok(found) => {
                let ip = found.ip.unwrap_or(ip);
                let actions = vec![
                    Action::OpenRoute(ip),
                    Action::WatchContainer,
                    Action::FollowLogs,
                    Action::MeasureUse,
                    Action::WatchIdle,
                ];
                (State::Ready { since, ip }, actions)
            }
            Err(end) => ended_late(now, end),
        },
        What::WentIdle => {
            let reason = "nobody was connected to it for as long as its request allowed";
            stop(now, ending(now, BackendState::Swept, reason), GRACE)
        }
        What::TerminateRequested => stop(now, terminated(now), GRACE),
        What::DeclaredLost(reason) => stop(now, ending(now, BackendState::Lost, reason), Duration::ZERO),
        What::Accepted
        | What::ImagePulled
        | What::PullFailed(_)
        | What::ContainerCreated
        | What::ContainerStarted(_)
        | What::StartFailed(_)
        | What::AnsweredHttp
        | What::DeadlinePassed(
            DeadlineKind::Begin | DeadlineKind::Load | DeadlineKind::Ready | DeadlineKind::Stop | DeadlineKind::Remove,
        )
        | What::StopDone(_)
        | What::StopFailed(_)
        | What::Removed
        | What::RemoveFailed(_) => (State::Ready { since, ip }, Vec::new()),
    }
}

fn on_stopping(since: Timestamp, ending: Ending, attempt: Attempt, now: Timestamp, what: What) -> Step {
    let again = |ending, attempt: Attempt| {
        let actions = vec![Action::CloseRoute, Action::StopContainer(attempt.grace())];
        (State::Stopping { since: now, ending, attempt }, actions)
    };
    match what {
        What::StopDone(code) => settle(now, ending, code),
        What::ContainerEnded(end) => settle(now, ending, end.code()),
        What::Resumed(container) => match running(container) {
            Ok(_) => again(ending, attempt.next()),
            Err(end) => settle(now, ending, end.code()),
        },
        What::StopFailed(_) if !attempt.paused => {
            (State::Stopping { since: now, ending, attempt: attempt.pause() }, Vec::new())
        }
        What::DeadlinePassed(DeadlineKind::Stop) => again(ending, attempt.next()),
        // The first cause stays the cause; but what is lost must not run on for the grace of another's.
        What::DeclaredLost(_) if attempt.grace_secs > 0 => again(ending, Attempt { grace_secs: 0, ..attempt.next() }),
        What::DeclaredLost(_)
        | What::StopFailed(_)
        | What::Accepted
        | What::ImagePulled
        | What::PullFailed(_)
        | What::ContainerCreated
        | What::ContainerStarted(_)
        | What::StartFailed(_)
        | What::AnsweredHttp
        | What::DeadlinePassed(DeadlineKind::Begin | DeadlineKind::Load | DeadlineKind::Ready | DeadlineKind::Remove)
        | What::WentIdle
        | What::TerminateRequested
        | What::Removed
        | What::RemoveFailed(_) => (State::Stopping { since, ending, attempt }, Vec::new()),
    }
}

fn on_cleaning(since: Timestamp, ending: Ending, attempt: Attempt, now: Timestamp, what: What) -> Step {
    match what {
        What::Removed | What::Resumed(None) => (State::Gone { since: now, ending }, Vec::new()),
        What::Resumed(Some(_)) | What::DeadlinePassed(DeadlineKind::Remove) => {
            let attempt = attempt.next();
            (State::Cleaning { since: now, ending, attempt }, vec![Action::RemoveContainer])
        }
        What::RemoveFailed(_) if !attempt.paused => {
            (State::Cleaning { since: now, ending, attempt: attempt.pause() }, Vec::new())
        }
        What::RemoveFailed(_)
        | What::Accepted
        | What::ImagePulled
        | What::PullFailed(_)
        | What::ContainerCreated
        | What::ContainerStarted(_)
        | What::StartFailed(_)
        | What::AnsweredHttp
        | What::DeadlinePassed(DeadlineKind::Begin | DeadlineKind::Load | DeadlineKind::Ready | DeadlineKind::Stop)
        | What::ContainerEnded(_)
        | What::WentIdle
        | What::TerminateRequested
        | What::DeclaredLost(_)
        | What::StopDone(_)
        | What::StopFailed(_) => (State::Cleaning { since, ending, attempt }, Vec::new()),
    }
}

fn start(now: Timestamp, ip: Option<IpAddr>) -> Step {
    let mut actions = vec![report(BackendState::Starting, now)];
    actions.extend(watch_start(ip));
    (State::Starting { since: now, ip }, actions)
}

fn watch_start(ip: Option<IpAddr>) -> Vec<Action> {
    let probe = ip.map(Action::ProbeReadiness);
    probe.into_iter().chain([Action::WatchContainer, Action::FollowLogs, Action::MeasureUse]).collect()
}

/// A container that runs, or how it ended.
fn running(container: Option<Container>) -> Result<Container, End> {
    match container {
        Some(container) if container.running => Ok(container),
        Some(container) => Err(container.end),
        None => Err(End::Removed),
    }
}

fn ended_early(now: Timestamp, how: End) -> Step {
    let reason = format!("{} before it answered", how.in_words());
    end(now, BackendState::ErrorStarting, reason, how.code())
}

fn ended_late(now: Timestamp, how: End) -> Step {
    let state = match how {
        End::Exited { code: 0, .. } => BackendState::Exited,
        End::Exited { .. } | End::Removed => BackendState::Failed,
    };
    end(now, state, how.in_words(), how.code())
}

fn report(state: BackendState, time: Timestamp) -> Action {
    Action::Report(Report { state, time, reason: None, exit_code: None })
}

fn ending(time: Timestamp, state: BackendState, reason: impl Into<String>) -> Ending {
    Ending { state, reason: brief(reason.into()), exit_code: None, time }
}

/// A reason within its bound.
fn brief(mut reason: String) -> String {
    if reason.len() > REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES - '…'.len_utf8()));
        reason.push('…');
    }
    reason
}

fn terminated(time: Timestamp) -> Ending {
    ending(time, BackendState::Terminated, "ended through the API")
}

/// Towards an end, the container of which may run.
fn stop(now: Timestamp, ending: Ending, grace: Duration) -> Step {
    let actions = vec![Action::CloseRoute, Action::StopContainer(grace)];
    (State::Stopping { since: now, ending, attempt: Attempt::first(grace) }, actions)
}

/// Towards an end, the container of which does not run.
fn end(now: Timestamp, state: BackendState, reason: impl Into<String>, code: Option<i64>) -> Step {
    settle(now, ending(now, state, reason), code)
}

/// The container does not run: the end is reported, then the container removed.
fn settle(now: Timestamp, ending: Ending, code: Option<i64>) -> Step {
    let ending = Ending { exit_code: code, time: now, ..ending };
    let report = Report { state: ending.state, time: now, reason: Some(ending.reason.clone()), exit_code: code };
    let actions = vec![
        Action::CloseRoute,
        Action::SayMeta(format!("{}: {}", ending.state, ending.reason)),
        Action::Report(report),
        Action::RemoveContainer,
    ];
    (State::Cleaning { since: now, ending, attempt: Attempt::first(Duration::ZERO) }, actions)
}

impl End {
    /// The exit status, where it is known.
    pub fn code(self) -> Option<i64> {
        match self {
            Self::Exited { code, .. } => Some(code),
            Self::Removed => None,
        }
    }

    fn in_words(self) -> String {
        match self {
            Self::Exited { code, oom_killed: true } => format!("it ran out of memory and ended with status {code}"),
            Self::Exited { code, oom_killed: false } if (129..=192).contains(&code) => {
                format!("it ended with status {code}, as signal {} ends a process", code - 128)
            }
            Self::Exited { code, oom_killed: false } => format!("it ended by itself with status {code}"),
            Self::Removed => "its container was removed by somebody else".to_owned(),
        }
    }
}
