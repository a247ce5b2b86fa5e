//! Tables and properties of placement.

use super::*;
use plane_core::message::drone::Capacity;
use std::collections::BTreeMap;

fn status(name: &str, capacity: Option<Capacity>) -> DroneStatus {
    DroneStatus {
        drone_id: name.parse().unwrap(),
        cluster: "plane.test".parse().unwrap(),
        drone_version: "1".into(),
        ready: true,
        state: DroneState::Ready,
        running_backends: None,
        capacity,
        labels: BTreeMap::new(),
    }
}

fn request(changes: &[(&str, serde_json::Value)]) -> ScheduleRequest {
    let mut json = serde_json::json!({"cluster": "plane.test", "max_idle_secs": 30, "metadata": {},
        "executable": {"image": "a", "env": {}, "resource_limits": {}}, "require_labels": {}, "lock": null});
    for (pointer, value) in changes {
        match json.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => json["executable"]["resource_limits"][*pointer] = value.clone(),
        }
    }
    serde_json::from_value(json).unwrap()
}

fn used(backends: u64) -> Use {
    Use { backends, ..Use::default() }
}

fn pick(drones: &[(DroneStatus, Use)], request: &ScheduleRequest) -> Result<String, Vec<PassedOver>> {
    let candidates = drones.iter().map(|(status, used)| Candidate { status, used: *used, audible: true, leases: true });
    choose(candidates, request, &[], || 0)
        .map(|id| id.to_string())
        .map_err(|passed| passed.into_iter().map(|(_, why)| why).collect())
}

#[test]
fn the_least_loaded_is_chosen() {
    let drones = [("a", 2), ("b", 0), ("c", 1)].map(|(name, load)| (status(name, None), used(load)));
    assert_eq!(pick(&drones, &request(&[])).unwrap(), "b");
    assert_eq!(pick(&[], &request(&[])), Err(vec![]));
}

#[test]
fn a_drone_with_more_processors_gets_more() {
    let cpus = |cpus| Some(Capacity { cpus: Some(cpus), ..Capacity::default() });
    let drones = [(status("big", cpus(8.0)), used(7)), (status("small", cpus(1.0)), used(1))];
    assert_eq!(pick(&drones, &request(&[])).unwrap(), "big");
}

#[test]
fn what_a_drone_declares_is_never_exceeded() {
    let full = Capacity { max_backends: Some(1), ..Capacity::default() };
    let memory = Capacity { memory_bytes: Some(100), ..Capacity::default() };
    let cpus = Capacity { cpus: Some(1.0), ..Capacity::default() };
    let wants = request(&[("memory_limit_bytes", 60.into()), ("cpu_period_percent", 60.into())]);
    let busy = Use { backends: 1, memory_bytes: 60, cpu_percent: 60 };
    let drones = [full, memory, cpus].map(|capacity| (status("a", Some(capacity)), busy));
    assert_eq!(pick(&drones, &wants), Err(vec![PassedOver::Full, PassedOver::Memory, PassedOver::Cpus]));
    assert!(pick(&[(status("a", Some(memory)), used(1))], &wants).is_ok());
}

#[test]
fn labels_states_and_silence_rule_drones_out() {
    let mut draining = status("a", None);
    draining.state = DroneState::Draining;
    let mut labelled = status("b", None);
    labelled.labels = BTreeMap::from([("zone".to_owned(), "1".to_owned())]);
    let drones = [(draining, used(0)), (labelled, used(9)), (status("c", None), used(0))];
    let zone = request(&[("/require_labels", serde_json::json!({"zone": "1"}))]);
    assert_eq!(pick(&drones, &zone).unwrap(), "b");
    assert_eq!(pick(&drones, &request(&[])).unwrap(), "c");
    let silent = Candidate { status: &drones[2].0, used: used(0), audible: false, leases: true };
    assert_eq!(objection(&silent, &request(&[]), used(1)), Some(PassedOver::Silent));
}

#[test]
fn locked_backends_go_to_drones_without_a_lease_only_if_no_other_fits() {
    let (with, without) = (status("with", None), status("without", None));
    let locked = request(&[("/lock", "l".into())]);
    let both = |load| {
        [
            Candidate { status: &with, used: used(load), audible: true, leases: true },
            Candidate { status: &without, used: used(0), audible: true, leases: false },
        ]
    };
    assert_eq!(choose(both(50).into_iter(), &locked, &[], || 0).unwrap().as_str(), "with");
    assert_eq!(choose(both(50).into_iter(), &request(&[]), &[], || 0).unwrap().as_str(), "without");
    let refused = ["with".parse().unwrap()];
    assert_eq!(choose(both(0).into_iter(), &locked, &refused, || 0).unwrap().as_str(), "without");
}
