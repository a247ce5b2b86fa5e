//! HTTP/2 at a drone, frame by frame: RFC 9113 and RFC 8441 as `dev/tests/python/h2_battery.py` wants them, against a
//! real drone with TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a test may tell what it saw")]

use plane_core::id::ClusterName;
use plane_dev::harness::LoneDrone;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

/// How long one part of the battery may take.
const LIMIT: Duration = Duration::from_secs(400);

/// What `dev/setup` has put beside the build.
fn libraries() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().map(|folder| folder.join("tools/http2")).find(|folder| folder.is_dir());
    found.expect("dev/setup installs what tries HTTP/2")
}

/// Runs one part against a drone of its own.
async fn battery(part: &str) {
    battery_with(part, "").await;
}

/// The same, with these keys of the drone's `[proxy]`.
async fn battery_with(part: &str, keys: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/h2_battery.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).args(["--part", part]).env("PYTHONPATH", libraries());
    let mut running =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("python3 is there");
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let backend = first.strip_prefix("backend ").unwrap().parse().unwrap();
    let cluster: ClusterName = "plane.test".parse().unwrap();
    let lone = LoneDrone::start(&cluster, backend, keys).await.unwrap();
    let front = format!("front {} b.{cluster} {}\n", lone.drone.https().unwrap(), lone.pid().unwrap());
    running.stdin.take().unwrap().write_all(front.as_bytes()).await.unwrap();
    let reading = async {
        let (mut failed, mut last) = (Vec::new(), String::new());
        while let Some(line) = lines.next_line().await.unwrap() {
            println!("{line}");
            failed.extend(line.starts_with("FAILED").then(|| line.clone()));
            last = line;
        }
        (failed, last)
    };
    let (failed, last) = tokio::time::timeout(LIMIT, reading).await.expect("the battery takes too long");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    assert!(last.ends_with(" passed, 0 failed"), "{last}");
    assert!(running.wait().await.unwrap().success());
}

#[tokio::test]
async fn frames_and_streams() {
    battery("frames").await;
}

#[tokio::test]
async fn requests_and_responses() {
    battery("messages").await;
}

#[tokio::test]
async fn floods() {
    battery("floods").await;
}

/// What `h2_waits.py` takes for granted: every time-out is shorter than what it waits for.
const SHORT: &str = "[proxy.limits]\nheader_secs = 1\nidle_secs = 1\nbody_secs = 1\nsend_secs = 1";

#[tokio::test]
async fn quiet_and_slow_ones() {
    battery_with("waits", SHORT).await;
}
