//! Which drones may take a backend, best first: a pure function of what is known of them.

use plane_core::{
    id::DroneId,
    message::drone::{DroneState, DroneStatus},
};
use std::collections::BTreeMap;

/// What is known of a drone when a backend is to be placed.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its newest sign of life.
    pub status: DroneStatus,
    /// Live backends that are assigned to it, with those that this controller has just placed there.
    pub load: usize,
}

/// Why a drone was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOver {
    /// It is not Ready: starting, draining or stopping.
    NotReady,
    /// It has as many backends as it takes.
    Full,
    /// It lacks a label that the request asks for.
    Label,
}

/// The drones that may take a backend, least loaded first, equally loaded ones in the order of `tie_break`; and why
/// the others may not.
pub fn rank(
    candidates: Vec<Candidate>,
    require_labels: &BTreeMap<String, String>,
    tie_break: impl Fn(&DroneId) -> u64,
) -> (Vec<DroneId>, Vec<(DroneId, PassedOver)>) {
    let (mut fit, mut passed) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let id = candidate.status.drone_id.clone();
        match objection(&candidate, require_labels) {
            None => fit.push((candidate.load, tie_break(&id), id)),
            Some(why) => passed.push((id, why)),
        }
    }
    fit.sort();
    (fit.into_iter().map(|(_, _, id)| id).collect(), passed)
}

fn objection(candidate: &Candidate, require_labels: &BTreeMap<String, String>) -> Option<PassedOver> {
    let status = &candidate.status;
    if status.state != DroneState::Ready || !status.ready {
        return Some(PassedOver::NotReady);
    }
    let most = status.capacity.and_then(|capacity| capacity.max_backends).and_then(|most| usize::try_from(most).ok());
    if most.is_some_and(|most| candidate.load >= most) {
        return Some(PassedOver::Full);
    }
    require_labels.iter().any(|(key, value)| status.labels.get(key) != Some(value)).then_some(PassedOver::Label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plane_core::message::drone::Capacity;

    fn drone(name: &str, load: usize) -> Candidate {
        let status = DroneStatus {
            drone_id: name.parse().unwrap(),
            cluster: "plane.test".parse().unwrap(),
            drone_version: "1".into(),
            ready: true,
            state: DroneState::Ready,
            running_backends: None,
            capacity: None,
            labels: BTreeMap::new(),
        };
        Candidate { status, load }
    }

    fn ranked(candidates: Vec<Candidate>, labels: &[(&str, &str)]) -> Vec<String> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        rank(candidates, &labels, |_| 0).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_least_loaded_comes_first() {
        assert_eq!(ranked(vec![drone("a", 2), drone("b", 0), drone("c", 1)], &[]), ["b", "c", "a"]);
    }

    #[test]
    fn draining_full_and_unlabelled_drones_are_passed_over() {
        let mut draining = drone("a", 0);
        draining.status.state = DroneState::Draining;
        let mut not_ready = drone("b", 0);
        not_ready.status.ready = false;
        let mut full = drone("c", 1);
        full.status.capacity = Some(Capacity { max_backends: Some(1), ..Capacity::default() });
        let mut labelled = drone("d", 9);
        labelled.status.labels = BTreeMap::from([("zone".to_owned(), "1".to_owned())]);
        let all = vec![draining, not_ready, full, labelled, drone("e", 0)];
        assert_eq!(ranked(all.clone(), &[]), ["e", "d"]);
        assert_eq!(ranked(all, &[("zone", "1")]), ["d"]);
    }

    #[test]
    fn no_drones_no_candidates() {
        assert!(ranked(vec![], &[]).is_empty());
    }
}
