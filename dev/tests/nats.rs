//! The typed client against a real nats-server with JetStream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    message::{
        Fault, FaultCode,
        backend::{BackendState, LogKind, LogLine, PublicStatus},
        schedule::{FetchRequest, FetchResponse},
    },
    nats::{Event, Nats, NatsError, Replay, Shared, SharedKey, StreamConfig, StreamName},
    task::Tasks,
};
use plane_dev::harness::{NatsServer, unique_cluster};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn fetch() -> FetchRequest {
    FetchRequest { cluster: unique_cluster(), lock: "l".parse().unwrap() }
}

async fn streams(nats: &Nats) {
    for name in StreamName::ALL {
        nats.ensure_stream(&StreamConfig::new(name, 1)).await.unwrap();
    }
}

fn line(text: &str) -> LogLine {
    LogLine { backend_id: "b".parse().unwrap(), kind: LogKind::Meta, text: text.into() }
}

async fn texts_until_caught_up(replay: &mut Replay) -> Vec<String> {
    let mut texts = Vec::new();
    while let Event::Entry(entry) = tokio::time::timeout(PATIENCE, replay.next()).await.unwrap() {
        texts.push(serde_json::from_slice::<LogLine>(&entry.payload).unwrap().text);
    }
    texts
}

#[tokio::test]
async fn every_request_gets_exactly_one_reply() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    let tasks = Tasks::new();
    let serving = nats
        .serve(&tasks, "cluster.*.fetch", Some("g"), |request: FetchRequest| async move {
            match request.lock.as_str() {
                "panic" => panic!("on purpose"),
                "busy" => Err(Fault::new(FaultCode::LockBusy, "busy")),
                _ => Ok(FetchResponse::NoBackendForLock),
            }
        })
        .await
        .unwrap();
    let mut request = fetch();
    assert_eq!(nats.request(&request, PATIENCE).await.unwrap(), FetchResponse::NoBackendForLock);
    for (lock, code) in [("panic", FaultCode::Internal), ("busy", FaultCode::LockBusy)] {
        request.lock = lock.parse().unwrap();
        let Err(NatsError::Fault(fault)) = nats.request(&request, PATIENCE).await else { panic!("a fault was due") };
        assert_eq!(fault.code, code);
    }
    drop(serving);
    tasks.shut_down(PATIENCE).await;
    assert!(matches!(nats.request(&request, PATIENCE).await, Err(NatsError::NoResponders(_))));
}

#[tokio::test]
async fn of_two_writers_that_expect_the_same_one_wins() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    streams(&nats).await;
    let status = PublicStatus {
        cluster: unique_cluster(),
        state: BackendState::Loading,
        backend: "b".parse().unwrap(),
        time: jiff_now(),
        reason: None,
        exit_code: None,
    };
    let subject = PublicStatus::subject_of(&status.backend);
    let (one, two) = tokio::join!(
        nats.publish_expecting(subject.clone(), &status, 0),
        nats.publish_expecting(subject.clone(), &status, 0)
    );
    assert!(matches!(
        (&one, &two),
        (Ok(_), Err(NatsError::WrongSequence(_))) | (Err(NatsError::WrongSequence(_)), Ok(_))
    ));
    let stored = nats.last(StreamName::Status, &subject).await.unwrap().unwrap();
    assert_eq!(stored.sequence, one.or(two).unwrap());
}

#[tokio::test]
async fn what_another_server_acknowledges_counts_as_unknown() {
    let mut server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    streams(&nats).await;
    // The server reads no more, and more is sent than the link takes: the client keeps the rest for the next connection.
    server.pause().unwrap();
    let large = line(&"x".repeat(900_000));
    for _ in 0..48 {
        nats.publish(&large).await.unwrap();
    }
    let (client, entry) = (nats.clone(), line("decided on the log of the first server"));
    let written = tokio::spawn(async move { client.publish_stored(&entry).await });
    tokio::task::yield_now().await;
    server.restart().await.unwrap();
    let outcome = written.await.unwrap();
    assert!(matches!(outcome, Err(NatsError::TimedOut(_))), "{outcome:?}");
}

fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test]
async fn a_replay_tells_when_it_has_caught_up_and_outlives_a_restart() {
    let mut server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    streams(&nats).await;
    let mut empty = nats.replay(StreamName::Logs, "backend.nobody.log").await.unwrap();
    assert!(texts_until_caught_up(&mut empty).await.is_empty());
    for text in ["1", "2", "3"] {
        nats.publish_stored(&line(text)).await.unwrap();
    }
    let mut replay = nats.replay(StreamName::Logs, "backend.*.log").await.unwrap();
    assert_eq!(texts_until_caught_up(&mut replay).await, ["1", "2", "3"]);
    server.restart().await.unwrap();
    let publish = async {
        while nats.publish_stored(&line("4")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), publish).await.unwrap();
    let Event::Entry(entry) = tokio::time::timeout(Duration::from_secs(30), replay.next()).await.unwrap() else {
        panic!("the replay said twice that it has caught up")
    };
    assert!(String::from_utf8_lossy(&entry.payload).contains('4'));
}

#[tokio::test]
async fn the_logs_keep_the_last_500_lines_of_a_backend() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    streams(&nats).await;
    for number in 0..510 {
        nats.publish_stored(&line(&number.to_string())).await.unwrap();
    }
    let mut replay = nats.replay(StreamName::Logs, "backend.b.log").await.unwrap();
    let texts = texts_until_caught_up(&mut replay).await;
    assert_eq!((texts.len(), texts[0].as_str()), (500, "10"));
}

#[tokio::test]
async fn what_drones_share_is_written_by_who_read_it_last() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.connect().await.unwrap();
    let (key, other) = (SharedKey::new(&unique_cluster(), "pair"), SharedKey::new(&unique_cluster(), "pair"));
    assert!(nats.ensure_shared().await.unwrap_err().to_string().contains("no controller"));
    streams(&nats).await;
    nats.ensure_shared().await.unwrap();
    assert_eq!(nats.shared(&key).await.unwrap(), Shared { revision: 0, value: None });
    let first = nats.share(&key, &"one", 0).await.unwrap();
    assert!(matches!(nats.share(&key, &"two", 0).await, Err(NatsError::WrongSequence(_))));
    let second = nats.share(&key, &"two", first).await.unwrap();
    let found = nats.shared(&key).await.unwrap();
    assert_eq!((found.revision, found.value.as_deref()), (second, Some(&b"\"two\""[..])));
    assert_eq!(nats.shared(&other).await.unwrap().revision, 0);
}
