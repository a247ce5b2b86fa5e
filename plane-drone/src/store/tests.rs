use super::*;
use crate::backend::{
    Entered,
    machine::{Event, State, What, step},
};
use jiff::Timestamp;
use plane_core::message::{
    backend::{BackendState, LogKind, LogLine},
    schedule::SpawnRequest,
};

fn request(id: &str) -> SpawnRequest {
    serde_json::from_value(serde_json::json!({
        "cluster": "plane.test", "drone_id": "d", "max_idle_secs": 1, "backend_id": id, "metadata": {},
        "executable": {"image": "i", "env": {}, "resource_limits": {}},
    }))
    .unwrap()
}

fn line(id: &str, text: &str) -> Outgoing {
    Outgoing::Log(LogLine { backend_id: id.parse().unwrap(), kind: LogKind::Meta, text: text.into() })
}

fn new() -> State {
    State::New { since: Timestamp::now() }
}

fn entered() -> Entered {
    serde_json::from_value(serde_json::json!({"boot": "b", "at_ms": 7})).unwrap()
}

fn gone(state: State) -> State {
    [What::Accepted, What::PullFailed("no".into()), What::Removed]
        .into_iter()
        .fold(state, |state, what| step(state, Event { time: Timestamp::now(), what }).0)
}

#[tokio::test]
async fn what_is_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/drone.sqlite3");
    let (id, state) = {
        let store = Store::open(&path).unwrap();
        assert_eq!(store.insert(&request("a"), &new()).await.unwrap(), Inserted::New);
        assert_eq!(store.insert(&request("a"), &new()).await.unwrap(), Inserted::Known);
        store.insert(&request("b"), &new()).await.unwrap();
        let (state, _) = step(new(), Event { time: Timestamp::now(), what: What::Accepted });
        store.persist(&"a".parse().unwrap(), &state, &entered(), &[line("a", "1"), line("a", "2")]).await.unwrap();
        let over = gone(new());
        assert_eq!(over.reported().unwrap().0, BackendState::ErrorLoading);
        store.persist(&"b".parse().unwrap(), &over, &entered(), &[]).await.unwrap();
        store.set_draining(true).await.unwrap();
        (store.drone_id(None).await.unwrap(), state)
    };
    let store = reopened(&path).await;
    let known = store.unfinished().await.unwrap();
    assert_eq!((known.len(), &known[0].request, &known[0].state), (1, &request("a"), &state));
    assert_eq!(known[0].entered, Some(entered()));
    assert_eq!(store.ended_since(Timestamp::UNIX_EPOCH).await.unwrap(), ["b".parse().unwrap()]);
    assert_eq!(store.find(&"b".parse().unwrap()).await.unwrap().map(|known| known.request), Some(request("b")));
    assert!(store.draining().await.unwrap());
    assert_eq!(store.drone_id(None).await.unwrap(), id);
    for text in ["1", "2"] {
        let waiting = store.next_outgoing(0, i64::MAX, 10).await.unwrap();
        assert_eq!(waiting.iter().map(|(_, say)| say.clone()).collect::<Vec<_>>(), [line("a", text)]);
        store.acknowledge(vec![waiting[0].0]).await.unwrap();
    }
    assert_eq!(store.next_outgoing(0, i64::MAX, 10).await.unwrap(), []);
}

#[tokio::test]
async fn an_id_that_the_log_gives_out_again_is_taken_again_once_all_of_its_end_is_told() {
    let given = |sequence| SpawnRequest { assignment_seq: sequence, ..request("a") };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
    let insert = async |sequence| store.insert(&given(sequence), &new()).await.unwrap();
    let ends = async |say: &[Outgoing]| {
        store.persist(&"a".parse().unwrap(), &gone(new()), &entered(), say).await.unwrap();
    };
    assert_eq!(insert(Some(7)).await, Inserted::New);
    assert_eq!(insert(Some(8)).await, Inserted::Known, "it has not ended");
    ends(&[line("a", "1")]).await;
    assert_eq!(insert(Some(8)).await, Inserted::Known, "its end is not told");
    let waiting = store.next_outgoing(0, i64::MAX, 10).await.unwrap();
    store.acknowledge(vec![waiting[0].0]).await.unwrap();
    store.say_again(&line("other", "1")).await.unwrap();
    for late in [None, Some(6), Some(7)] {
        assert_eq!(insert(late).await, Inserted::Known, "{late:?}");
    }
    assert_eq!(insert(Some(8)).await, Inserted::New);
    let known = store.find(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((known.request, known.entered), (given(Some(8)), None));
    assert_eq!(store.unfinished().await.unwrap().len(), 1);
    // Who gave the one before no number may remember it.
    store.insert(&request("b"), &new()).await.unwrap();
    store.persist(&"b".parse().unwrap(), &gone(new()), &entered(), &[]).await.unwrap();
    let again = SpawnRequest { assignment_seq: Some(9), ..request("b") };
    assert_eq!(store.insert(&again, &new()).await.unwrap(), Inserted::Known);
}

#[tokio::test]
async fn an_end_is_announced_once_it_has_been_told_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("drone.sqlite3")).unwrap();
    for (id, say) in [("a", vec![line("a", "1"), line("a", "2")]), ("b", Vec::new())] {
        store.insert(&request(id), &new()).await.unwrap();
        store.persist(&id.parse().unwrap(), &gone(new()), &entered(), &say).await.unwrap();
    }
    for announced in [vec!["b"], vec!["b"], vec!["a", "b"]] {
        let finals = store.finals_since(Timestamp::UNIX_EPOCH).await.unwrap();
        let mut finals: Vec<_> = finals.iter().map(|known| known.request.backend_id.as_str()).collect();
        finals.sort_unstable();
        assert_eq!(finals, announced);
        let waiting = store.next_outgoing(0, i64::MAX, 1).await.unwrap();
        store.acknowledge(waiting.into_iter().map(|(number, _)| number).collect()).await.unwrap();
    }
}

/// Opens a database that the thread of a dropped store is about to let go of.
async fn reopened(path: &Path) -> Store {
    loop {
        match Store::open(path) {
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn one_database_is_one_drones() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drone.sqlite3");
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    store.drone_id(Some("one".parse().unwrap())).await.unwrap();
    store.insert(&request("a"), &new()).await.unwrap();
    let error = store.drone_id(Some("two".parse().unwrap())).await.unwrap_err().to_string();
    assert!(error.contains("1 backends of the drone one"), "{error}");
    store.persist(&"a".parse().unwrap(), &gone(new()), &entered(), &[]).await.unwrap();
    assert_eq!(store.drone_id(Some("two".parse().unwrap())).await.unwrap().as_str(), "two");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "this is a text and no database, and long enough to be seen as one".repeat(20)).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("text cannot be opened"), "{error}");
}
