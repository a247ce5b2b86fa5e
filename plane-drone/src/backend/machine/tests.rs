//! The table of transitions, and what holds for every sequence of events.

use super::{Action, Container, DeadlineKind, End, Event, GRACE, Limits, Report, State, What, step};
use jiff::Timestamp;
use plane_core::message::backend::BackendState;
use proptest::prelude::*;
use std::{net::IpAddr, time::Duration};

const LIMITS: Limits = Limits { load: Duration::from_secs(900), ready: Duration::from_secs(30) };
const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 2));

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}

/// A life that is told events a second apart.
struct Life {
    state: State,
    now: i64,
    actions: Vec<Action>,
}

impl Life {
    fn new() -> Self {
        Self { state: State::New { since: at(0) }, now: 0, actions: Vec::new() }
    }

    fn on(mut self, what: What) -> Self {
        self.now += 1000;
        let (state, actions) = step(self.state, Event { time: at(self.now), what });
        self.state = state;
        self.actions = actions;
        self
    }

    fn loading() -> Self {
        Self::new().on(What::Accepted)
    }

    fn starting() -> Self {
        Self::loading().on(What::ImagePulled).on(What::ContainerCreated).on(What::ContainerStarted(Some(IP)))
    }

    fn ready() -> Self {
        Self::starting().on(What::AnsweredHttp)
    }

    fn report(&self) -> Option<&Report> {
        self.actions.iter().find_map(|action| match action {
            Action::Report(report) => Some(report),
            _ => None,
        })
    }

    /// Stops the container where it is to be stopped, and gives the reported end.
    fn settled(self) -> (BackendState, Option<i64>) {
        let life = match self.state {
            State::Stopping { .. } => self.on(What::StopDone(Some(143))),
            _ => self,
        };
        let report = life.report().expect("no report");
        assert!(report.reason.is_some());
        (report.state, report.exit_code)
    }
}

fn exited(code: i64) -> What {
    What::ContainerEnded(End::Exited { code, oom_killed: false })
}

#[test]
fn a_life_that_goes_well() {
    let life = Life::loading();
    assert_eq!(life.report().unwrap().state, BackendState::Loading);
    let life = life.on(What::ImagePulled);
    assert_eq!(life.actions, [Action::CreateContainer]);
    let life = life.on(What::ContainerCreated);
    assert_eq!(life.actions, [Action::StartContainer]);
    let life = life.on(What::ContainerStarted(Some(IP)));
    assert!(life.actions.contains(&Action::ProbeReadiness(IP)));
    let life = life.on(What::AnsweredHttp);
    assert!(matches!(
        life.actions[..],
        [Action::OpenRoute(IP), Action::Report(Report { state: BackendState::Ready, .. }), Action::WatchIdle]
    ));
    let life = life.on(What::WentIdle);
    assert_eq!(life.actions, [Action::CloseRoute, Action::StopContainer(GRACE)]);
    let life = life.on(What::StopDone(Some(0)));
    assert!(matches!(
        &life.actions[..],
        [
            Action::CloseRoute,
            Action::SayMeta(_),
            Action::Report(Report { state: BackendState::Swept, exit_code: Some(0), .. }),
            Action::RemoveContainer
        ]
    ));
    let life = life.on(What::Removed);
    assert!(matches!(life.state, State::Gone { .. }));
}

#[test]
fn every_end_has_its_state() {
    use BackendState::{ErrorLoading, ErrorStarting, Exited, Failed, Lost, Swept, Terminated, TimedOutBeforeReady};
    let text = || "why".to_owned();
    let late = |kind| What::DeadlinePassed(kind);
    let creating = || Life::loading().on(What::ImagePulled);
    let launching = || creating().on(What::ContainerCreated);
    let oom = What::ContainerEnded(End::Exited { code: 137, oom_killed: true });
    let table = [
        (Life::new(), late(DeadlineKind::Begin), ErrorLoading, None),
        (Life::new(), What::TerminateRequested, Terminated, Some(143)),
        (Life::loading(), What::PullFailed(text()), ErrorLoading, None),
        (Life::loading(), late(DeadlineKind::Load), ErrorLoading, Some(143)),
        (Life::loading(), What::TerminateRequested, Terminated, Some(143)),
        (Life::loading(), What::DeclaredLost(text()), Lost, Some(143)),
        (creating(), What::StartFailed(text()), ErrorLoading, Some(143)),
        (launching(), What::StartFailed(text()), ErrorLoading, Some(143)),
        (launching(), late(DeadlineKind::Load), ErrorLoading, Some(143)),
        (launching(), What::TerminateRequested, Terminated, Some(143)),
        (Life::starting(), exited(0), ErrorStarting, Some(0)),
        (Life::starting(), exited(7), ErrorStarting, Some(7)),
        (Life::starting(), What::ContainerEnded(End::Removed), ErrorStarting, None),
        (Life::starting(), late(DeadlineKind::Ready), TimedOutBeforeReady, Some(143)),
        (Life::starting(), What::TerminateRequested, Terminated, Some(143)),
        (Life::starting(), What::DeclaredLost(text()), Lost, Some(143)),
        (Life::ready(), exited(0), Exited, Some(0)),
        (Life::ready(), exited(7), Failed, Some(7)),
        (Life::ready(), exited(137), Failed, Some(137)),
        (Life::ready(), oom, Failed, Some(137)),
        (Life::ready(), What::ContainerEnded(End::Removed), Failed, None),
        (Life::ready(), What::WentIdle, Swept, Some(143)),
        (Life::ready(), What::TerminateRequested, Terminated, Some(143)),
        (Life::ready(), What::DeclaredLost(text()), Lost, Some(143)),
        (Life::ready().on(What::WentIdle), exited(3), Swept, Some(3)),
        (Life::ready().on(What::TerminateRequested), exited(0), Terminated, Some(0)),
        (Life::ready().on(What::WentIdle), What::TerminateRequested, Swept, Some(143)),
        (Life::ready().on(What::TerminateRequested), What::DeclaredLost(text()), Terminated, Some(143)),
    ];
    for (life, what, state, code) in table {
        let told = format!("{:?} on {what:?}", life.state);
        assert_eq!(life.on(what).settled(), (state, code), "{told}");
    }
}

#[test]
fn a_reason_without_end_is_cut_between_characters() {
    for (text, cut) in [("é".repeat(1024), None), ("é".repeat(1_000_000), Some("é".repeat(1022) + "…"))] {
        let ends = [
            Life::loading().on(What::PullFailed(text.clone())),
            Life::loading().on(What::ImagePulled).on(What::StartFailed(text.clone())).on(What::StopDone(None)),
            Life::ready().on(What::DeclaredLost(text.clone())).on(What::StopDone(None)),
        ];
        let expected = cut.unwrap_or(text);
        for life in ends {
            let report = life.report().unwrap();
            assert_eq!(report.reason.as_ref(), Some(&expected));
            let line = Action::SayMeta(format!("{}: {expected}", report.state));
            assert!(life.actions.contains(&line));
        }
    }
}

#[test]
fn what_is_lost_is_killed_at_once() {
    let life = Life::ready().on(What::DeclaredLost("gone".into()));
    assert!(life.actions.contains(&Action::StopContainer(Duration::ZERO)));
    let life = Life::ready().on(What::TerminateRequested);
    assert!(life.actions.contains(&Action::StopContainer(GRACE)));
    let life = life.on(What::DeclaredLost("gone".into()));
    assert!(life.actions.contains(&Action::StopContainer(Duration::ZERO)));
    assert!(life.on(What::DeclaredLost("again".into())).actions.is_empty());
}

#[test]
fn failures_of_the_engine_are_sat_out_and_tried_again() {
    let mut life = Life::ready().on(What::TerminateRequested);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        life = life.on(What::StopFailed("no".into()));
        assert!(life.actions.is_empty());
        pauses.push(life.state.deadline(&LIMITS).unwrap().limit);
        life = life.on(What::DeadlinePassed(DeadlineKind::Stop));
        assert!(life.actions.contains(&Action::StopContainer(GRACE)));
    }
    assert!(pauses.is_sorted());
    assert_eq!(pauses[0], Duration::from_millis(500));
    assert_eq!(pauses[9], Duration::from_secs(30));
    let life = life.on(What::StopDone(None)).on(What::RemoveFailed("no".into()));
    assert!(life.actions.is_empty());
    let life = life.on(What::DeadlinePassed(DeadlineKind::Remove));
    assert_eq!(life.actions, [Action::RemoveContainer]);
    assert!(matches!(life.on(What::Removed).state, State::Gone { .. }));
}

fn found(running: bool, started: bool, code: i64) -> What {
    let end = End::Exited { code, oom_killed: false };
    What::Resumed(Some(Container { running, started, ip: running.then_some(IP), end }))
}

#[test]
fn a_restarted_drone_takes_up_where_it_was() {
    let life = Life::new().on(What::Resumed(None));
    assert_eq!(life.report().unwrap().state, BackendState::Loading);
    assert_eq!(Life::loading().on(What::Resumed(None)).actions, [Action::PullImage]);
    assert_eq!(Life::loading().on(found(false, false, 0)).actions, [Action::StartContainer]);
    assert_eq!(Life::loading().on(found(true, true, 0)).report().unwrap().state, BackendState::Starting);
    assert_eq!(Life::loading().on(found(false, true, 1)).settled(), (BackendState::ErrorStarting, Some(1)));

    let before = Life::starting();
    let since = before.state.since();
    let life = before.on(found(true, true, 0));
    assert!(life.actions.contains(&Action::ProbeReadiness(IP)) && life.report().is_none());
    assert_eq!(life.state.since(), since, "the time to answer must not begin anew");
    assert_eq!(Life::starting().on(What::Resumed(None)).settled(), (BackendState::ErrorStarting, None));

    let life = Life::ready().on(found(true, true, 0));
    assert!(life.actions.contains(&Action::OpenRoute(IP)) && life.actions.contains(&Action::WatchIdle));
    assert!(life.report().is_none());
    assert_eq!(Life::ready().on(found(false, true, 0)).settled(), (BackendState::Exited, Some(0)));
    assert_eq!(Life::ready().on(found(false, true, 7)).settled(), (BackendState::Failed, Some(7)));
    assert_eq!(Life::ready().on(What::Resumed(None)).settled(), (BackendState::Failed, None));

    let stopping = || Life::ready().on(What::WentIdle);
    assert!(stopping().on(found(true, true, 0)).actions.contains(&Action::StopContainer(GRACE)));
    assert_eq!(stopping().on(found(false, true, 0)).settled(), (BackendState::Swept, Some(0)));
    let cleaning = || Life::ready().on(exited(0));
    assert_eq!(cleaning().on(found(false, true, 0)).actions, [Action::RemoveContainer]);
    assert!(matches!(cleaning().on(What::Resumed(None)).state, State::Gone { .. }));
}

#[test]
fn states_are_persisted_as_they_are() {
    let lives = [Life::new(), Life::loading(), Life::starting(), Life::ready(), Life::ready().on(What::WentIdle)];
    for life in lives {
        let json = serde_json::to_string(&life.state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), life.state);
    }
    let golden = r#"{"Ready":{"since":"2023-11-14T22:13:25Z","ip":"172.17.0.2"}}"#;
    assert_eq!(serde_json::to_string(&Life::ready().state).unwrap(), golden);
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        (0i64..200, any::<bool>()).prop_map(|(code, oom_killed)| End::Exited { code, oom_killed }),
        Just(End::Removed),
    ]
}

fn containers() -> impl Strategy<Value = Option<Container>> {
    let container = (any::<bool>(), any::<bool>(), any::<bool>(), ends()).prop_map(|(running, started, ip, end)| {
        Container { running, started: started || running, ip: ip.then_some(IP), end }
    });
    proptest::option::of(container)
}

fn happenings() -> impl Strategy<Value = What> {
    let kinds = prop_oneof![
        Just(DeadlineKind::Begin),
        Just(DeadlineKind::Load),
        Just(DeadlineKind::Ready),
        Just(DeadlineKind::Stop),
        Just(DeadlineKind::Remove),
    ];
    let rare = prop_oneof![
        Just(What::PullFailed("no".into())),
        Just(What::StartFailed("no".into())),
        kinds.prop_map(What::DeadlinePassed),
        ends().prop_map(What::ContainerEnded),
        Just(What::WentIdle),
        Just(What::TerminateRequested),
        Just(What::DeclaredLost("gone".into())),
        containers().prop_map(What::Resumed),
    ];
    prop_oneof![
        4 => Just(What::Accepted),
        4 => Just(What::ImagePulled),
        4 => Just(What::ContainerCreated),
        4 => any::<bool>().prop_map(|ip| What::ContainerStarted(ip.then_some(IP))),
        4 => Just(What::AnsweredHttp),
        2 => Just(What::StopDone(Some(0))),
        1 => Just(What::StopFailed("no".into())),
        2 => Just(What::Removed),
        1 => Just(What::RemoveFailed("no".into())),
        4 => rare,
    ]
}

/// What a driver would hold against a machine, whatever comes.
#[derive(Default)]
struct Witness {
    reported: Vec<BackendState>,
    times: Vec<Timestamp>,
    open: bool,
}

impl Witness {
    fn see(&mut self, before: &State, after: &State, actions: &[Action]) -> Result<(), TestCaseError> {
        if matches!(before, State::Gone { .. }) {
            prop_assert!(actions.is_empty() && before == after);
        }
        let report = actions.iter().position(|action| matches!(action, Action::Report(_)));
        for (place, action) in actions.iter().enumerate() {
            if report.is_some_and(|report| place < report) {
                let first = matches!(action, Action::OpenRoute(_) | Action::CloseRoute | Action::SayMeta(_));
                prop_assert!(first, "{action:?} stands before a report");
            }
            match action {
                Action::OpenRoute(_) => self.open = true,
                Action::CloseRoute => self.open = false,
                Action::StopContainer(_) | Action::RemoveContainer => prop_assert!(!self.open),
                Action::Report(report) => self.report(report)?,
                Action::SayMeta(_) => prop_assert!(after.is_final() && !before.is_final()),
                Action::PullImage
                | Action::CreateContainer
                | Action::StartContainer
                | Action::ProbeReadiness(_)
                | Action::WatchContainer
                | Action::FollowLogs
                | Action::MeasureUse
                | Action::WatchIdle => prop_assert!(!after.is_final()),
            }
        }
        prop_assert_eq!(matches!(after, State::Ready { .. }), self.open);
        let waits = after.deadline(&LIMITS).is_some();
        prop_assert_eq!(waits, !matches!(after, State::Ready { .. } | State::Gone { .. }));
        prop_assert_eq!(after.is_final(), self.reported.last().is_some_and(|state| state.is_final()));
        if let Some((state, time)) = after.reported() {
            prop_assert_eq!(Some(&state), self.reported.last());
            prop_assert_eq!(Some(&time), self.times.last());
        }
        Ok(())
    }

    fn report(&mut self, report: &Report) -> Result<(), TestCaseError> {
        if let (Some(before), Some(time)) = (self.reported.last(), self.times.last()) {
            prop_assert!(before.may_precede(report.state), "{before} then {}", report.state);
            prop_assert!(*time < report.time);
        }
        match report.state {
            BackendState::Ready => prop_assert!(self.open),
            BackendState::Loading | BackendState::Starting => {}
            _ => prop_assert!(!self.open && report.reason.is_some()),
        }
        self.reported.push(report.state);
        self.times.push(report.time);
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_comes_a_life_goes_forward_to_one_end(
        events in proptest::collection::vec((happenings(), -2000i64..5000), 0..60)
    ) {
        let (mut state, mut witness, mut now) = (State::New { since: at(0) }, Witness::default(), 0);
        for (what, passed) in events {
            now += passed;
            let (next, actions) = step(state.clone(), Event { time: at(now), what });
            witness.see(&state, &next, &actions)?;
            state = next;
        }
        // However it stands, being terminated and an engine that obeys bring it to its end.
        for what in [What::TerminateRequested, What::StopDone(None), What::Removed, What::Removed] {
            now += 1000;
            let (next, actions) = step(state.clone(), Event { time: at(now), what });
            witness.see(&state, &next, &actions)?;
            state = next;
        }
        let gone = matches!(state, State::Gone { .. });
        prop_assert!(gone, "{state:?}");
        prop_assert_eq!(witness.reported.iter().filter(|state| state.is_final()).count(), 1);
    }
}
