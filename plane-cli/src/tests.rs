//! The reference in `docs/cli.md` is what the command says of itself.

use super::*;
use clap::{CommandFactory, Parser};

fn reference() -> String {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut text = format!(
        "# The command `plane`\n\n<!-- Made from the command itself: `UPDATE_DOCS=1 cargo test -p plane-cli` writes it. -->\n\n```text\n{}```\n",
        command.render_help()
    );
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let help = sub.render_help().to_string();
        text.push_str(&format!("\n## `plane {}`\n\n```text\n{help}```\n", sub.get_name()));
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn the_reference_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == reference(), "docs/cli.md is out of date: run UPDATE_DOCS=1 cargo test -p plane-cli");
}

#[test]
fn arguments_are_checked_before_anything_is_asked() {
    for bad in [
        &["spawn", "one-label", "image"][..],
        &["spawn", "a.b", "image", "--env", "novalue"],
        &["spawn", "a.b", "image", "--timeout", "0"],
        &["spawn", "a.b", "image", "--port", "65536"],
        &["terminate", "a.b", "Not_A_Label"],
        &["drain", "a.b"],
    ] {
        assert!(Arguments::try_parse_from([&["plane"], bad].concat()).is_err(), "{bad:?}");
    }
    assert!(Arguments::try_parse_from(["plane", "spawn", "a.b", "i", "-e", "A=b=c", "-o", "json"]).is_ok());
}

#[test]
fn no_password_is_shown() {
    assert_eq!(without_secret("nats://u:p@h:1,x:2"), "nats://h:1,x:2");
}
