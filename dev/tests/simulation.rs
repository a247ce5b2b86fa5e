//! Runs the simulation of the control plane over many seeds, and shows that it finds bugs that were planted.
#![allow(missing_docs, reason = "tests")]

use plane_controller::Rules;
use plane_dev::sim::{self, Options, Rule, Violation, Weather};

/// Runs seeds until one fails.
fn first_failure(seeds: std::ops::Range<u64>, options: impl Fn(u64) -> Options) -> Option<Violation> {
    seeds.into_iter().find_map(|seed| sim::run(seed, &options(seed)).err())
}

fn all_hold(seeds: std::ops::Range<u64>) {
    if let Some(violation) = first_failure(seeds, |seed| Options::drawn(seed).keeping_the_log()) {
        panic!("{violation}\nto look into it: PLANE_SIM_TRACE=1 dev/soak sim 1 {} --keep-log", violation.seed);
    }
}

#[test]
fn everything_holds_whatever_fails() {
    all_hold(1..801);
}

#[test]
fn everything_holds_whatever_else_fails() {
    all_hold(801..1601);
}

#[test]
fn everything_holds_where_the_log_is_lost() {
    let losing = |seed| Options::drawn(seed);
    if let Some(violation) = first_failure(10_000..10_450, losing) {
        panic!("{violation}\nto look into it: PLANE_SIM_TRACE=1 dev/soak sim 1 {}", violation.seed);
    }
}

#[test]
fn a_seed_tells_all_that_happens() {
    for seed in 1..9 {
        let [one, other] = [(); 2].map(|()| sim::run(seed, &Options::drawn(seed)).map(|report| report.trace));
        assert_eq!(one.map_err(|e| e.to_string()), other.map_err(|e| e.to_string()), "seed {seed}");
    }
}

#[test]
fn bursts_are_spread_evenly() {
    for seed in 1..21 {
        if let Err(violation) = sim::run_burst(seed, &Options::calm()) {
            panic!("{violation}");
        }
    }
}

#[test]
fn of_two_processes_under_one_id_one_ends_and_harms_nothing() {
    let weather = Weather { lost_calls: 5_000, stalls: 500, duplicates: 50_000, deaths: 0 };
    for seed in 1..61 {
        for copied in [false, true] {
            if let Err(violation) = sim::run_twins(seed, &Options { weather, ..Options::calm() }, copied) {
                panic!("{violation}, copied: {copied}");
            }
        }
    }
}

#[test]
fn a_drone_that_comes_back_after_its_lock_was_given_on_does_not_serve_it() {
    let mut given_on = 0;
    for seed in 1..21 {
        for deleted in [false, true] {
            match sim::run_relapse(seed, &Options::calm(), deleted) {
                Ok(report) => given_on += report.counts.get("given on").copied().unwrap_or_default(),
                Err(violation) => panic!("{violation}, deleted: {deleted}"),
            }
        }
    }
    assert!(given_on > 10, "the lock was given on {given_on} times");
}

#[test]
fn forgetting_what_is_placed_is_found() {
    let rules = Rules { count: |_, _| {}, ..Rules::default() };
    let failure = (1..21).find_map(|seed| sim::run_burst(seed, &Options { rules, ..Options::calm() }).err());
    assert_eq!(failure.map(|violation| violation.rule), Some(Rule::Balance));
}

#[test]
fn ignoring_expected_sequences_is_found() {
    let options = |seed| Options { ignore_expected: true, ..Options::drawn(seed).keeping_the_log() };
    let failure = first_failure(1..21, options).map(|violation| violation.rule);
    assert!(
        matches!(failure, Some(Rule::OneDrone | Rule::Locks | Rule::History | Rule::Freed)),
        "the rules that rest on sequences: {failure:?}"
    );
}

#[test]
fn freeing_a_lock_too_early_is_found() {
    let rules =
        Rules { may_free: |backend, _, _| backend.state().is_none_or(|state| state.rank() < 2), ..Rules::default() };
    let options = |seed| Options { rules, ..Options::drawn(seed).keeping_the_log() };
    let failure = first_failure(1..21, options).map(|violation| violation.rule);
    assert!(matches!(failure, Some(Rule::Freed | Rule::Locks)), "{failure:?}");
}
