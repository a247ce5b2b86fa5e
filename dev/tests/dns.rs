//! The controllers' name server, asked by `dig`, by raw packets and by a recursive resolver.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::message::drone::SetAcmeRecord;
use plane_dev::harness::{Cluster, DNS, PATIENCE, Settings};
use std::{net::SocketAddr, process::Command};

/// What `dig` prints, which asks once.
fn dig(server: SocketAddr, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string(), "+tries=1", "+timeout=5"]);
    let done = command.args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn a_backend_has_a_name_until_its_end() {
    let mut cluster = Cluster::start_as(Settings { scheduler: DNS.to_owned(), ..Settings::default() }).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let (backend, _) = cluster.schedule(&cluster.request(300, &[])).await.unwrap();
    let name = format!("{backend}.{}", cluster.name);
    // At once: the reply was sent when the name could be asked for.
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(server, &format!("+short {transport} {name} A")), "127.0.0.1\n");
    }
    cluster.end(&backend).await.unwrap();
    let answer = dig(server, &format!("{name} A"));
    assert!(answer.contains("status: NXDOMAIN") && answer.contains("SOA"), "{answer}");
}

#[tokio::test]
async fn challenge_values_are_served_once_they_are_set() {
    let settings = Settings { drones: 0, scheduler: DNS.to_owned(), ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    let server = cluster.controllers[0].name_server().await.unwrap();
    let question = format!("+short _acme-challenge.{} TXT", cluster.name);
    let mut expected = Vec::new();
    for number in 0..12 {
        let value = format!("value-{number}");
        let request = SetAcmeRecord { cluster: cluster.name.clone(), value: value.clone() };
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
        assert!(cluster.client.request(&request, PATIENCE).await.unwrap());
        expected.push(format!("\"{value}\""));
        let answer = dig(server, &question);
        let newest = &expected[expected.len().saturating_sub(10)..];
        assert_eq!(answer.lines().collect::<Vec<_>>(), newest);
    }
}
