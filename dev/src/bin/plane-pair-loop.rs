//! Installs the pairs of a folder, one after the other, again and again, until it is killed: what the test of `kill -9`
//! between file operations kills.
//!
//! `plane-pair-loop KEY_PATH CERT_PATH KEY CERT [KEY CERT …]`

use anyhow::{Context, Result};
use plane_drone::cert::{Files, Pair};
use std::fs::read_to_string;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (to, from) = arguments.split_at_checked(2).context("KEY_PATH CERT_PATH KEY CERT [KEY CERT …]")?;
    let files = Files::new((&to[0]).into(), (&to[1]).into());
    let pairs = from
        .chunks_exact(2)
        .map(|pair| Ok(Pair::parse(&read_to_string(&pair[0])?, &read_to_string(&pair[1])?)?))
        .collect::<Result<Vec<Pair>>>()?;
    anyhow::ensure!(!pairs.is_empty(), "there is no pair to install");
    for pair in pairs.iter().cycle() {
        files.install(pair)?;
    }
    Ok(())
}
