use super::*;
use crate::proxy::outcome::Outcome;
use jiff::Timestamp;
use rustix::process::{Signal, getpid, kill_process};

fn entry(path: &str) -> Entry<'_> {
    Entry {
        time: Timestamp::UNIX_EPOCH,
        backend: None,
        method: "GET",
        host: "b.plane.test",
        path,
        protocol: "HTTP/2",
        status: Some(200),
        outcome: Outcome::Passed,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        client: [192, 0, 2, 7].into(),
    }
}

fn paths(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let path =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
    text.lines().map(path).collect()
}

async fn until(what: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lines_are_appended_and_the_last_ones_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    for round in 1..=2 {
        let tasks = Tasks::new();
        let log = AccessLog::open(&AccessLogTarget::File(file.clone()), &tasks).unwrap();
        for _ in 0..1000 {
            log.log(&entry("/a"));
        }
        tasks.stop_token().cancel();
        log.clone().log(&entry("/late"));
        drop(log);
        assert!(tasks.shut_down(Duration::from_secs(20)).await);
        assert_eq!(paths(&file).len(), round * 1001);
        assert_eq!(paths(&file).last().unwrap(), "/late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_stays_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let _log = AccessLog::open(&AccessLogTarget::File(folder.path().join("log")), &tasks).unwrap();
    assert!(tasks.shut_down(crate::STOP_DEADLINE).await);
}

#[tokio::test]
async fn after_a_rotation_lines_go_to_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let tasks = Tasks::new();
    let log = AccessLog::open(&AccessLogTarget::File(file.clone()), &tasks).unwrap();
    log.log(&entry("/before"));
    until(|| paths(&file) == ["/before"]).await;
    std::fs::rename(&file, &moved).unwrap();
    kill_process(getpid(), Signal::HUP).unwrap();
    until(|| file.exists()).await;
    log.log(&entry("/after"));
    until(|| paths(&file) == ["/after"]).await;
    assert_eq!(paths(&moved), ["/before"]);
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_nobody_waits() {
    let (lines, mut queue) = mpsc::channel(2);
    let log = AccessLog { lines, lost: Arc::default() };
    for _ in 0..5 {
        log.log(&entry("/"));
    }
    assert_eq!(log.lost.load(Ordering::Relaxed), 3);
    queue.close();
    assert!(queue.recv().await.is_some());
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let target = AccessLogTarget::File(folder.path().join("none").join("log"));
    let error = AccessLog::open(&target, &Tasks::new()).unwrap_err().to_string();
    assert!(error.contains("none/log") && error.contains("proxy.access_log"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_costs_lines_and_nothing_else() {
    let tasks = Tasks::new();
    let log = AccessLog::open(&AccessLogTarget::File("/dev/full".into()), &tasks).unwrap();
    log.log(&entry("/"));
    // The loss is told at once, and counted from nothing again.
    until(|| log.lines.capacity() == QUEUE_LINES && log.lost.load(Ordering::Relaxed) == 0).await;
    drop(log);
    tasks.stop_token().cancel();
    assert!(tasks.shut_down(Duration::from_secs(20)).await);
}
