use super::*;
use crate::config::proxy::ProxyConfig;

const SECOND: u64 = 1000;

fn limits() -> Limits {
    Limits::of(&ProxyConfig::default(), None)
}

/// The first time, after now, at which the connection has to end; each answer is obeyed.
fn ends(activity: &Activity, mut now: u64, streams: bool) -> (u64, Ending) {
    loop {
        match activity.look(now, &limits(), false, streams) {
            Look::Over(ending) => return (now, ending),
            Look::Again(NEVER) => panic!("it is never looked at again"),
            Look::Again(at) => now = at,
        }
    }
}

#[test]
fn a_connection_that_does_not_end_when_asked_is_cut() {
    let activity = Activity::new(CoarseClock::default());
    Activity::read(&activity, 100);
    activity.begin();
    activity.end();
    let (asked, ending) = ends(&activity, 0, true);
    assert_eq!(ending, Ending::Gently);
    let (cut, ending) = ends(&activity, asked, true);
    assert!(matches!(ending, Ending::AtOnce(_)), "{ending:?}");
    assert!((5 * SECOND..6 * SECOND).contains(&(cut - asked)), "{asked} {cut}");
}

#[test]
fn a_request_under_way_is_not_cut_by_that() {
    let activity = Activity::new(CoarseClock::default());
    Activity::read(&activity, 100);
    let (asked, _) = ends(&activity, u64::from(u32::MAX), true);
    activity.begin();
    assert_eq!(activity.look(asked + 60 * SECOND, &limits(), false, true), Look::Again(NEVER));
    assert_eq!(activity.look_at_end(asked + 60 * SECOND, &limits(), true), Look::Again(NEVER));
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_late_when_the_drone_stops() {
    let (activity, limits) = (Activity::new(CoarseClock::default()), limits());
    Activity::read(&activity, 10);
    assert_eq!(activity.look_at_end(0, &limits, false), Look::Over(Ending::Gently));
    let Look::Again(until) = activity.look_at_end(0, &limits, false) else { panic!("it is to be looked at again") };
    assert!(until < 3 * SECOND, "{until}");
    assert_eq!(activity.look_at_end(until, &limits, false), Look::Over(Ending::LateHead));
}

#[test]
fn the_preface_of_http2_has_the_time_of_a_head() {
    let activity = Activity::new(CoarseClock::default());
    let (cut, ending) = ends(&activity, 0, true);
    assert!(matches!(ending, Ending::AtOnce(_)), "{ending:?}");
    assert_eq!(cut, after(0, limits().header));
}

#[test]
fn what_waits_in_tls_is_not_taken() {
    let activity = Activity::new(CoarseClock::default());
    let _beneath = Taken::by(activity.clone());
    activity.begin();
    activity.took(&Poll::Pending);
    activity.wrote(&Poll::Ready(Ok(64 * 1024)));
    let (cut, ending) = ends(&activity, 0, false);
    assert!(matches!(ending, Ending::AtOnce(_)), "{ending:?}");
    assert_eq!(cut, after(0, limits().send));
    activity.took(&Poll::Ready(Ok(1)));
    assert_eq!(activity.look(cut, &limits(), false, false), Look::Again(NEVER));
}

#[test]
fn what_is_no_head_puts_nothing_off() {
    let clock = CoarseClock::default();
    let activity = Activity::new(clock.clone());
    let (idle, _) = ends(&activity, 0, false);
    let activity = Activity::new(clock);
    for _ in 0..3 {
        activity.clock.set(activity.clock.now() + 20 * SECOND);
        Activity::read(&activity, 1);
        assert_eq!(ends(&activity, activity.clock.now(), false).1, Ending::LateHead);
        activity.no_head();
    }
    assert_eq!(ends(&activity, activity.clock.now(), false), (idle, Ending::Gently));
}
