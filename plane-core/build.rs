//! Puts the commit into the binaries, so that `--version` can tell it.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // Where git keeps these depends on the checkout: in a linked worktree `.git` is a file. The second grows with each
    // commit. What is not there must not be named, or everything is built anew each time.
    for changes in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", changes]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(hash) => {
            println!("cargo::rustc-env=PLANE_GIT_HASH={hash}");
            println!("cargo::rustc-env=PLANE_LONG_VERSION={version} ({hash})");
        }
        None => println!("cargo::rustc-env=PLANE_LONG_VERSION={version}"),
    }
}

/// What git says, where it says something.
fn git(arguments: &[&str]) -> Option<String> {
    let out = Command::new("git").args(arguments).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}
