//! How the daemons begin and refuse to: their configuration, and a NATS that is not there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_dev::harness::{PATIENCE, Process, binary};
use std::{
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("plane.toml");
        std::fs::write(&path, text.replace("DB", self.0.path().join("db").to_str().unwrap())).unwrap();
        path
    }

    fn run(&self, program: &str, flags: &[&str], text: &str) -> Output {
        Command::new(binary(program).unwrap()).args(flags).arg(self.file(text)).output().unwrap()
    }
}

/// An address that nobody listens on.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("nats://{}", listener.local_addr().unwrap())
}

fn controller(rest: &str) -> String {
    format!("[nats]\nhosts = [\"{}\"]\n[scheduler]\n{rest}", nowhere())
}

fn drone(agent: &str, rest: &str) -> String {
    format!(
        "cluster_domain = \"plane.test\"\ndb_path = \"DB\"\n[nats]\nhosts = [\"{}\"]\n[agent]\nip = \"127.0.0.1\"\n{agent}\n\
         [proxy]\nbind_ip = \"127.0.0.1\"\nhttp_port = 0\n{rest}",
        nowhere()
    )
}

/// A daemon ended by itself, not by a panic, and named all that is wrong without having looked for NATS.
fn refused(done: &Output, names: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!matches!(done.status.code(), None | Some(0 | 101)), "{}: {said}", done.status);
    for name in names {
        assert!(said.contains(name), "{name}: {said}");
    }
    for word in ["panicked", "backtrace", "waiting for NATS"] {
        assert!(!said.contains(word) && !String::from_utf8_lossy(&done.stdout).contains(word), "{word}: {said}");
    }
}

#[test]
fn faults_are_named_before_nats_is_asked() {
    let folder = Folder::new();
    let faults = [
        ("plane-controller", controller("typo = 1"), &["scheduler.typo"][..]),
        ("plane-controller", controller("").replace("[\"", "\"").replace("\"]", "\""), &["nats.hosts"]),
        (
            "plane-controller",
            controller("typo = 1\n[elsewhere]\nkey = 1\n[dns]\nport = true"),
            &["scheduler.typo", "elsewhere", "dns.port"],
        ),
        ("plane-controller", controller("[dns]\nsoa_email = \"nobody\""), &["dns.soa_email"]),
        ("plane-controller", controller("[http]\ncluster = \"a.b\""), &["[http]"]),
        ("plane-controller", "[nats".to_owned(), &["plane.toml"]),
        (
            "plane-drone",
            drone("ready_timeout_secs = \"soon\"", "https_port = 443"),
            &["agent.ready_timeout_secs", "proxy.https_port"],
        ),
        (
            "plane-drone",
            drone("typo = 1", "typo = 1").replace("db_path", "typo"),
            &["typo", "agent.typo", "proxy.typo"],
        ),
        (
            "plane-drone",
            drone("", "https_port = 443\n[cert]\nkey_path = \"key\"\nkey = 1"),
            &["cert.cert_path", "cert.key"],
        ),
        ("plane-drone", drone("", "").replace("plane.test", "one_label"), &["cluster_domain"]),
        (
            "plane-drone",
            drone("", "[acme]\nserver = \"https://a\"\nadmin_email = \"a@b\""),
            &["acme: needs a section [cert]"],
        ),
    ];
    for (program, text, names) in faults {
        refused(&folder.run(program, &[], &text), names);
        refused(&folder.run(program, &["--check-config"], &text), names);
    }
    for program in ["plane-controller", "plane-drone"] {
        let missing = Command::new(binary(program).unwrap()).arg("/no/such/file.toml").output().unwrap();
        refused(&missing, &["/no/such/file.toml"]);
    }
}

#[test]
fn a_configuration_can_be_checked_and_shown_without_its_secrets() {
    let folder = Folder::new();
    let text = drone("", "").replace("[agent]", "auth = { username = \"u\", password = \"hush\" }\n[agent]");
    assert!(folder.run("plane-drone", &["--check-config"], &text).status.success());
    let shown = String::from_utf8(folder.run("plane-drone", &["--dump-config"], &text).stdout).unwrap();
    assert!(shown.contains("ready_timeout_secs = 30") && shown.contains("***") && !shown.contains("hush"), "{shown}");
    let text = controller("").replace("nats://", "nats://u:hush@");
    assert!(folder.run("plane-controller", &["--check-config"], &text).status.success());
    let shown = String::from_utf8(folder.run("plane-controller", &["--dump-config"], &text).stdout).unwrap();
    assert!(shown.contains("stream_replicas = 1") && shown.contains("***@") && !shown.contains("hush"), "{shown}");
    for program in ["plane-controller", "plane-drone", "plane"] {
        let said = Command::new(binary(program).unwrap()).arg("--version").output().unwrap().stdout;
        assert!(String::from_utf8(said).unwrap().starts_with(&format!("{program} {}", env!("CARGO_PKG_VERSION"))));
    }
}

#[tokio::test]
async fn a_nats_that_is_away_is_waited_for_and_said() {
    let folder = Folder::new();
    for (program, text) in [("plane-controller", controller("")), ("plane-drone", drone("", ""))] {
        let text = text.replace("nats://", "nats://u:hush@");
        let log = folder.0.path().join(program);
        let mut command = Command::new(binary(program).unwrap());
        command.arg(folder.file(&text)).env("NO_COLOR", "1");
        let mut process = Process::start(program, command, &log).unwrap();
        let said = async {
            while !process.log().contains("waiting for NATS") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, said).await.unwrap();
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait(Duration::from_secs(10)).await.unwrap().code(), Some(0), "{}", process.log());
        assert!(!process.log().contains("hush"), "{}", process.log());
    }
}
