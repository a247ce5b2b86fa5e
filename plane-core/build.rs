//! Puts the commit into the binaries, so that `--version` can tell it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|out| out.status.success())
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .map(|hash| hash.trim().to_owned());
    match commit {
        Some(hash) => {
            println!("cargo::rustc-env=PLANE_GIT_HASH={hash}");
            println!("cargo::rustc-env=PLANE_LONG_VERSION={version} ({hash})");
        }
        None => println!("cargo::rustc-env=PLANE_LONG_VERSION={version}"),
    }
}
