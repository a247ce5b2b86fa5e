//! A golden sample of each message: what programs in other languages see.

use super::{
    Answer, Fault, Publish, Request,
    backend::{LogLine, PublicStatus, Stats, StatusReport, TerminateRequest},
    decode_answer, decode_request,
    drone::{
        AnnounceCall, AnnounceReply, AnnounceRequest, AnnouncedBackend, Capacity, DrainRequest, DroneState,
        DroneStatus, RegisterRequest, SetAcmeRecord,
    },
    encode_answer,
    schedule::{FetchRequest, FetchResponse, ScheduleRequest, ScheduleResponse, SpawnRequest},
    state::{Heartbeat, StateEntry},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn same<T: Serialize + DeserializeOwned>(sample: &Value) -> T {
    let parsed: T = serde_json::from_value(sample.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), *sample);
    parsed
}

fn executable() -> Value {
    json!({"image": "example/app:1", "env": {"A": "b"}, "port": 8080, "pull_policy": "IfNotPresent",
        "credentials": {"UsernamePassword": {"username": "u", "password": "p"}},
        "resource_limits": {"cpu_period": 100000, "cpu_period_percent": 50, "cpu_time_limit": 60,
            "memory_limit_bytes": 104857600, "disk_limit_bytes": null},
        "volume_mounts": ["/host/path:/container/path"]})
}

fn schedule() -> Value {
    json!({"cluster": "plane.test", "backend_id": null, "max_idle_secs": 30, "metadata": {"user": "7"},
        "executable": executable(), "require_bearer_token": false, "lock": null})
}

#[test]
fn requests() {
    assert_eq!(same::<ScheduleRequest>(&schedule()).subject(), "cluster.plane_test.schedule");
    let fetch = json!({"cluster": "plane.test", "lock": "l"});
    assert_eq!(same::<FetchRequest>(&fetch).subject(), "cluster.plane_test.fetch");
    let spawn = json!({"cluster": "plane.test", "drone_id": "D", "max_idle_secs": 30, "backend_id": "b", "metadata": {},
        "executable": executable(), "bearer_token": null});
    assert_eq!(same::<SpawnRequest>(&spawn).subject(), "cluster.plane_test.drone.D.spawn");
    let terminate = json!({"cluster_id": "plane.test", "backend_id": "b"});
    assert_eq!(same::<TerminateRequest>(&terminate).subject(), "cluster.plane_test.backend.b.terminate");
    let drain = json!({"drone": "D", "cluster": "plane.test", "drain": true});
    assert_eq!(same::<DrainRequest>(&drain).subject(), "cluster.plane_test.drone.D.drain");
    let register = json!({"drone_id": "D", "cluster": "plane.test", "ip": "10.0.0.1", "version": "1", "git_hash": null,
        "features": ["accept", "lease"]});
    assert_eq!(same::<RegisterRequest>(&register).subject(), "cluster.plane_test.drone.register");
    let announce = json!({"cluster": "plane.test", "drone_id": "D", "last": true, "backends": [{"backend_id": "b",
        "state": "Ready", "time": "2026-01-02T03:04:05Z", "bearer_token": "t", "lock": "l", "fencing_token": 7}]});
    assert_eq!(same::<AnnounceRequest>(&announce).subject(), "cluster.plane_test.drone.D.announce");
    let status = json!({"cluster": "plane.test", "state": "Failed", "backend": "b", "time": "2026-01-02T03:04:05Z",
        "drone": "D", "reason": "it ended", "exit_code": 7});
    assert_eq!(same::<StatusReport>(&status).subject(), "cluster.plane_test.backend.b.status");
    let acme = json!({"cluster": "plane.test", "value": "v"});
    assert_eq!(same::<SetAcmeRecord>(&acme).subject(), "cluster.plane_test.set_acme_record");
}

#[test]
fn replies() {
    same::<ScheduleResponse>(
        &json!({"Scheduled": {"drone": "D", "backend_id": "b", "bearer_token": "t", "spawned": true}}),
    );
    same::<ScheduleResponse>(&json!({"Scheduled": {"drone": "D", "backend_id": "b", "spawned": false}}));
    same::<ScheduleResponse>(&json!("NoDroneAvailable"));
    same::<FetchResponse>(&json!({"Scheduled": {"drone": "D", "backend_id": "b", "bearer_token": "t"}}));
    same::<FetchResponse>(&json!("NoBackendForLock"));
    same::<AnnounceReply>(&json!({"backends": [{"backend_id": "b", "state": "Ready"}]}));
    same::<AnnounceReply>(&json!({"backends": [], "certain": true}));
    assert_eq!(encode_answer(&Ok(())).unwrap(), b"null");
    assert_eq!(encode_answer(&Ok(true)).unwrap(), b"true");
    let refused: Answer<bool> = Err(Fault::bad_request("m"));
    let bytes = encode_answer(&refused).unwrap();
    assert_eq!(bytes, br#"{"Error":{"code":"BadRequest","message":"m"}}"#);
    assert_eq!(decode_answer::<bool>(&bytes).unwrap(), refused);
    for code in ["BadRequest", "BackendIdInUse", "LockBusy", "Unavailable", "Internal"] {
        same::<Fault>(&json!({"code": code, "message": "m"}));
    }
}

#[test]
fn published() {
    let status = json!({"drone_id": "D", "cluster": "plane.test", "drone_version": "1", "ready": true, "state": "Ready",
        "running_backends": 2, "capacity": {"max_backends": 9}, "labels": {"k": "v"}});
    assert_eq!(same::<DroneStatus>(&status).subject(), "cluster.plane_test.drone.D.status");
    let call = json!({"cluster": "plane.test"});
    assert_eq!(same::<AnnounceCall>(&call).subject(), "cluster.plane_test.announce");
    let stats = json!({"cluster": "plane.test", "drone_id": "D", "backend_id": "b", "mem_used": 1, "mem_available": 2,
        "cpu_used": 3, "sys_cpu": 4});
    assert_eq!(same::<Stats>(&stats).subject(), "cluster.plane_test.backend.b.stats");
    let line = json!({"backend_id": "b", "kind": "Meta", "text": "2026-01-02T03:04:05Z hello\n"});
    assert_eq!(same::<LogLine>(&line).subject(), "backend.b.log");
    let public = json!({"cluster": "plane.test", "state": "Ready", "backend": "b", "time": "2026-01-02T03:04:05Z"});
    assert_eq!(same::<PublicStatus>(&public).subject(), "backend.b.status");
}

/// Fields that the protocol marks `?`.
#[test]
fn null_is_as_good_as_absent() {
    fn reads<T: DeserializeOwned + Serialize>(required: &Value, optional: &[&str]) {
        let absent: T = serde_json::from_value(required.clone()).unwrap();
        let mut nulls = required.clone();
        for field in optional {
            nulls[field] = Value::Null;
        }
        let null: T = serde_json::from_value(nulls).unwrap();
        assert_eq!(serde_json::to_value(null).unwrap(), serde_json::to_value(absent).unwrap());
    }
    let cluster = "plane.test";
    let status = json!({"drone_id": "D", "cluster": cluster, "drone_version": "1"});
    reads::<DroneStatus>(&status, &["ready", "state", "running_backends"]);
    let parsed: DroneStatus = serde_json::from_value(status).unwrap();
    assert!(parsed.ready && parsed.state == DroneState::Ready);
    reads::<Capacity>(&json!({}), &["max_backends", "memory_bytes", "cpus"]);
    reads::<RegisterRequest>(&json!({"drone_id": "D", "cluster": cluster, "ip": "::1"}), &["version", "git_hash"]);
    let announced = json!({"backend_id": "b", "state": "Ready", "time": "2026-01-02T03:04:05Z"});
    reads::<AnnouncedBackend>(&announced, &["bearer_token", "lock", "fencing_token"]);
    let report =
        json!({"cluster": cluster, "state": "Ready", "backend": "b", "time": "2026-01-02T03:04:05Z", "drone": "D"});
    reads::<StatusReport>(&report, &["reason", "exit_code"]);
    reads::<PublicStatus>(&report, &["reason", "exit_code"]);
    let spawn = json!({"cluster": cluster, "drone_id": "D", "max_idle_secs": 30, "backend_id": "b", "metadata": {},
        "executable": executable()});
    reads::<SpawnRequest>(&spawn, &["bearer_token", "lock", "fencing_token", "assignment_seq"]);
}

#[test]
fn the_state_log() {
    same::<Heartbeat>(&json!({"heartbeat": null}));
    same::<Heartbeat>(&json!({"heartbeat": null, "trusted": "NABC"}));
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let samples = [
        (
            "drone.D.meta".to_owned(),
            json!({"cluster": "plane.test", "DroneMessage": {"drone": "D",
            "Metadata": {"ip": "10.0.0.1", "version": "missing_drone_version", "git_hash": null}}}),
        ),
        (
            "drone.D.status.Ready".to_owned(),
            json!({"cluster": "plane.test", "DroneMessage": {"drone": "D",
            "State": {"timestamp": 5, "state": "Ready"}}}),
        ),
        (
            "drone.D.keep_alive".to_owned(),
            json!({"cluster": "plane.test", "DroneMessage": {"drone": "D",
            "KeepAlive": {"timestamp": 5}, "instance": "n", "lost": true}}),
        ),
        (
            "backend.b.assignment".to_owned(),
            json!({"cluster": "plane.test", "BackendMessage": {"backend": "b",
            "Assignment": {"drone": "D", "bearer_token": null, "lock_assignment": null,
                "lock": {"name": "l", "token": 3}, "accepted": true, "withdrawn": true}}}),
        ),
        (
            "backend.b.state.Ready".to_owned(),
            json!({"cluster": "plane.test", "BackendMessage": {"backend": "b",
            "State": {"state": "Ready", "timestamp": 5}}}),
        ),
        (
            format!("lock.{hash}"),
            json!({"cluster": "plane.test", "LockMessage": {"lock": "abc",
            "holder": {"backend": "b", "token": 9}}}),
        ),
        (format!("lock.{hash}"), json!({"cluster": "plane.test", "LockMessage": {"lock": "abc", "holder": null}})),
        ("acme".to_owned(), json!({"cluster": "plane.test", "AcmeMessage": {"value": "v", "values": ["v"]}})),
    ];
    for (subject, sample) in samples {
        let (entry, subject) = (same::<StateEntry>(&sample), format!("state.cluster.plane_test.{subject}"));
        assert_eq!(entry.subject(), subject);
        assert!(entry.stands_on(&subject));
        for other in [subject.replace("plane_test", "plane_tess"), format!("{subject}.x"), subject.replace('e', "f")] {
            assert!(!entry.stands_on(&other), "{other}");
        }
    }
}

#[test]
fn unknown_fields_are_ignored_and_missing_ones_named() {
    let mut request = schedule();
    request["new"] = json!(1);
    assert!(serde_json::from_value::<ScheduleRequest>(request).is_ok());
    for field in ["cluster", "max_idle_secs", "metadata", "executable"] {
        let mut request = schedule();
        request.as_object_mut().unwrap().remove(field);
        let error = serde_json::from_value::<ScheduleRequest>(request).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn rules_beyond_the_types_name_the_field() {
    let with = |change: fn(&mut Value)| {
        let mut request = schedule();
        change(&mut request);
        serde_json::from_value::<ScheduleRequest>(request).unwrap().check()
    };
    assert!(with(|_| ()).is_ok());
    assert!(with(|r| r["executable"]["env"]["PORT"] = json!("8080")).is_ok());
    assert!(with(|r| r["executable"]["env"]["PORT"] = json!("1")).unwrap_err().message.contains("env.PORT"));
    assert!(with(|r| r["executable"]["image"] = json!("")).unwrap_err().message.contains("executable.image"));
    let memory = |bytes: u64| {
        let mut request = schedule();
        request["executable"]["resource_limits"]["memory_limit_bytes"] = json!(bytes);
        serde_json::from_value::<ScheduleRequest>(request).unwrap().check()
    };
    assert!(memory(1 << 48).is_ok());
    for bytes in [(1 << 48) + 1, u64::MAX] {
        assert!(memory(bytes).unwrap_err().message.contains("memory_limit_bytes"));
    }
    for (pointer, bad) in [
        ("/max_idle_secs", json!(0)),
        ("/executable/port", json!(0)),
        ("/executable/port", json!(65536)),
        ("/executable/resource_limits/cpu_period_percent", json!(256)),
        ("/executable/credentials/UsernamePassword/password", json!(1)),
        ("/executable/env/A", json!(7)),
        ("/backend_id", json!("A.b")),
        ("/lock", json!("")),
    ] {
        let mut request = schedule();
        *request.pointer_mut(pointer).unwrap() = bad;
        let said = said::<ScheduleRequest>(&request);
        assert!(said.starts_with(&format!("{}: ", pointer[1..].replace('/', "."))), "{pointer}: {said}");
    }
}

fn said<M: Request + std::fmt::Debug>(request: &Value) -> String {
    decode_request::<M>(request.to_string().as_bytes()).unwrap_err()
}

#[test]
fn what_makes_a_request_unreadable_is_named() {
    assert!(decode_request::<ScheduleRequest>(schedule().to_string().as_bytes()).is_ok());
    let mut request = schedule();
    request["max_idle_secs"] = json!(0);
    assert_eq!(said::<ScheduleRequest>(&request), "max_idle_secs: invalid value: integer `0`, expected a nonzero u64");
    let mut request = schedule();
    request["executable"].as_object_mut().unwrap().remove("image");
    assert_eq!(said::<ScheduleRequest>(&request), "executable: missing field `image`");
    assert_eq!(said::<ScheduleRequest>(&json!({})), "missing field `cluster`");
    let not_json = decode_request::<ScheduleRequest>(b"{").unwrap_err();
    assert!(not_json.ends_with("at line 1 column 1"), "{not_json}");

    let cluster = "plane.test";
    for (said, field) in [
        (said::<FetchRequest>(&json!({"cluster": cluster, "lock": 7})), "lock"),
        (said::<SpawnRequest>(&json!({"cluster": cluster, "drone_id": "a.b"})), "drone_id"),
        (said::<TerminateRequest>(&json!({"cluster_id": "test", "backend_id": "b"})), "cluster_id"),
        (said::<DrainRequest>(&json!({"drone": "D", "cluster": cluster, "drain": "true"})), "drain"),
        (said::<RegisterRequest>(&json!({"drone_id": "D", "cluster": cluster, "ip": "here"})), "ip"),
        (said::<AnnounceRequest>(&json!({"backends": [{"backend_id": "b", "state": "Asleep"}]})), "backends[0].state"),
        (said::<StatusReport>(&json!({"state": "Ready", "backend": "b", "time": "noon"})), "time"),
        (said::<SetAcmeRecord>(&json!({"cluster": cluster, "value": null})), "value"),
    ] {
        assert!(said.starts_with(&format!("{field}: ")), "{field}: {said}");
    }
}

#[test]
fn a_heartbeat_in_a_log_that_its_writer_has_not_read_vouches_for_nothing() {
    let [made, again] = [1, 2].map(|second| jiff::Timestamp::from_second(second).unwrap());
    let beat = |trusted: Option<&str>, made| {
        let trusted = trusted.map(str::to_owned);
        Heartbeat { heartbeat: (), trusted, made, newest: None }
    };
    assert!(beat(Some("s"), Some(made)).vouches("s", made));
    assert!(!beat(Some("s"), Some(made)).vouches("s", again));
    assert!(!beat(Some("s"), Some(made)).vouches("t", made));
    // One of a version that does not name the log.
    assert!(!beat(Some("s"), None).vouches("s", made));
    assert!(!beat(None, None).vouches("s", made));
}
