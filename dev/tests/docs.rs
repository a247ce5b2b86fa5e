//! The examples in `docs` and `resources/samples`, as they are written: commands run, requests are sent,
//! configurations are checked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{id::BackendId, message::backend::BackendState};
use plane_dev::harness::{Cluster, PATIENCE, binary, wire};
use serde_json::Value;
use std::{path::PathBuf, process::Command};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of a page: what stands behind the fence, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs").join(page)).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of {page} does not end");
    blocks
}

/// An id that no other run of these tests has, for one that the pages use.
fn own_id() -> String {
    format!("docs-{}", BackendId::random())
}

#[tokio::test]
async fn the_commands_of_getting_started_work() {
    let cluster = Cluster::start().await.unwrap();
    let (first, secret) = (own_id(), own_id());
    let bins = binary("plane").unwrap().parent().unwrap().to_owned();
    let path = format!("{}:{}", bins.display(), std::env::var("PATH").unwrap());
    let scripts: Vec<_> = blocks("getting-started.md").into_iter().filter(|(info, _)| info == "sh run").collect();
    assert!(scripts.len() >= 4);
    for (_, script) in scripts {
        let script = script.replace("first", &first).replace("secret", &secret);
        let mut command = Command::new("bash");
        command.args(["-euc", &script]).env("PATH", &path).env("PLANE_NATS", cluster.nats.url());
        command.env("IMAGE", cluster.image()).env("CLUSTER", cluster.name.as_str());
        command.env("DRONE", cluster.drones[0].id.as_str());
        let done =
            tokio::time::timeout(PATIENCE, tokio::process::Command::from(command).output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && !said.is_empty(), "{script}{said}{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[tokio::test]
async fn the_requests_of_the_api_get_their_replies() {
    let cluster = Cluster::start().await.unwrap();
    let (name, token, id) = (cluster.name.as_str(), cluster.name.subject_token(), own_id());
    let locked = own_id();
    let own = |text: &str| {
        let text = text.replace("plane.test", name).replace("plane_test", &token);
        let text = text.replace("docs-example", &id).replace("docs-locked", &locked);
        text.replace("example/app:1", cluster.image())
    };
    let mut subject: Option<(String, String)> = None;
    let mut exchanged = 0;
    for (info, text) in blocks("nats-api.md") {
        if let Some(to) = info.strip_prefix("json request ") {
            subject = Some((own(to), own(&text)));
        } else if info == "json reply" {
            let (to, request) = subject.take().unwrap();
            let answer = wire::request(&cluster.nats.url(), &to, request.as_bytes()).await.unwrap();
            let (answer, written): (Value, Value) =
                (serde_json::from_str(&answer).unwrap(), serde_json::from_str(&own(&text)).unwrap());
            assert_eq!(shape(&answer), shape(&written), "{to}: {answer}");
            exchanged += 1;
        }
    }
    assert_eq!(exchanged, 5);
    let backend = id.parse().unwrap();
    cluster.wait_for(&backend, BackendState::Terminated).await.unwrap();
    cluster.container_gone(&backend).await.unwrap();
}

/// A value without its texts, but for those of one word, and up to an ellipsis.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(text) if text == "BadRequest" || text.starts_with("docs-") => value.clone(),
        Value::String(_) => "a text".into(),
        other => other.clone(),
    }
}

#[test]
fn the_fencing_example_lets_nobody_write_with_an_older_token() {
    let folder = tempfile::tempdir().unwrap();
    let (_, example) = blocks("guarantees.md").into_iter().find(|(info, _)| info == "python run").unwrap();
    let save = |token: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", &example]).env("PLANE_FENCING_TOKEN", token).current_dir(folder.path());
        command.output().unwrap().status.success()
    };
    assert_eq!([save("7"), save("7"), save("9"), save("8"), save("9")], [true, true, true, false, true]);
}

#[test]
fn the_configurations_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let check = |program: &str, text: &str| {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let checked = Command::new(binary(program).unwrap()).arg("--check-config").arg(&file).output().unwrap();
        assert!(checked.status.success(), "{text}{}", String::from_utf8_lossy(&checked.stderr));
    };
    let written = blocks("configuration.md")
        .into_iter()
        .filter_map(|(info, text)| info.strip_prefix("toml ").map(|program| (program.to_owned(), text)));
    let written: Vec<_> = written.collect();
    assert_eq!(written.len(), 3);
    for (program, text) in written {
        check(&program, &text);
    }
    for daemon in ["controller", "drone"] {
        let sample = std::fs::read_to_string(root().join(format!("resources/samples/{daemon}.toml"))).unwrap();
        check(&format!("plane-{daemon}"), &sample);
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = ["README.md", "ARCHITECTURE.md"].map(PathBuf::from).into_iter();
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.map(|page| root().join(page)).chain(docs) {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let there = file.starts_with("http") || page.parent().unwrap().join(file).exists();
            assert!(there, "{}: {link}", page.display());
        }
        for path in text.split('`').skip(1).step_by(2).filter(|code| code.contains('/') && code.ends_with(".rs")) {
            let bases = ["", "plane-core/src", "plane-controller/src", "plane-drone/src"];
            let there = path.contains('*') || bases.iter().any(|base| root().join(base).join(path).exists());
            assert!(there, "{}: {path}", page.display());
        }
    }
}
