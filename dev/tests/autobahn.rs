//! WebSockets between ill-behaved ends, as the Autobahn test suite plays them: what stands between two ends must not
//! change how either behaves, so each case must come out through the proxy as it does without.
//!
//! `PLANE_AUTOBAHN` chooses others than those that take seconds, such as `9.*,12.1.*`; `dev/soak autobahn` runs all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a test may tell what it saw")]

use plane_dev::harness::{Autobahn, Cases, Cluster, Report, Settings, Tls, self_signed};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

/// Of large messages and of compression, the smallest of each kind.
const SHORT: &str = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*,9.7.1,9.8.1,12.1.1,13.1.1";

fn cases() -> Cases {
    let chosen = std::env::var("PLANE_AUTOBAHN").ok();
    let within = Duration::from_secs(if chosen.is_some() { 1800 } else { 120 });
    let run = chosen.as_deref().unwrap_or(SHORT).split(',').map(str::to_owned).collect();
    Cases { run, within }
}

/// `None` where there is no test suite, which is told.
fn suite() -> Option<Autobahn> {
    let suite = Autobahn::installed().unwrap();
    if suite.is_none() {
        println!("not run: dev/setup has found no Python 2.7 for the Autobahn test suite");
    }
    suite
}

fn same(direct: &Report, through: &Report, way: &str) {
    let changed: Vec<_> = direct.iter().filter(|(case, outcome)| through.get(*case) != Some(outcome)).collect();
    for (case, outcome) in &changed {
        println!("{way}: case {case}: without the proxy {outcome:?}, with it {:?}", through.get(*case));
    }
    let failed = through.values().filter(|outcome| outcome.behavior == "FAILED").count();
    println!("{way}: {} cases, {failed} of them failed with and without the proxy", through.len());
    assert!(changed.is_empty() && direct.len() == through.len(), "{way}: the proxy changes {} cases", changed.len());
}

/// Where a backend's container listens.
fn address_of(backend: &plane_core::id::BackendId) -> SocketAddr {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let output = Command::new("docker").args(["inspect", "--format", format, &format!("plane-{backend}")]).output();
    let address: Ipv4Addr = String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap();
    (address, 8080).into()
}

/// A cluster whose proxies serve HTTP, or HTTPS, and where.
async fn cluster(https: bool, proxy: String) -> (Cluster, String) {
    let cluster = Cluster::start_as(Settings { https, proxy, ..Settings::default() }).await.unwrap();
    let drone = &cluster.drones[0];
    let address = if https {
        let pair = self_signed(&cluster.name).unwrap();
        drone.install(&pair).unwrap();
        let (tls, https) = (Tls::trusting([pair.leaf_der()]).unwrap(), drone.https().unwrap());
        tls.connect_once_served(https, cluster.name.as_str()).await.unwrap();
        format!("wss://{https}")
    } else {
        format!("ws://{}", drone.proxy)
    };
    (cluster, address)
}

async fn hostile_client(https: bool, http1: &str) {
    let Some(suite) = suite() else { return };
    let (cluster, proxy) = cluster(https, keys(http1)).await;
    let (backend, _) = cluster.ready_once_taken(&cluster.request(300, &[])).await.unwrap();
    let urls = [format!("ws://{}/ws", address_of(&backend)), format!("{proxy}/_plane_backend={backend}/ws")];
    let cases = cases();
    let runs = (suite.attack("direct", &urls[0], &cases), suite.attack("proxied", &urls[1], &cases));
    let (direct, proxied) = tokio::try_join!(runs.0, runs.1).unwrap();
    same(&direct, &proxied, &format!("a hostile client at {proxy}"));
}

async fn hostile_backend(https: bool, http1: &str) {
    let Some(suite) = suite() else { return };
    let cases = cases();
    let server = suite.serve(&cases).await.unwrap();
    let (_cluster, proxy) = cluster(https, format!("{}passthrough = \"{}\"\n", keys(http1), server.address())).await;
    let url = format!("ws://{}", server.address());
    let runs = (suite.endure("direct", &url, &cases), suite.endure("proxied", &proxy, &cases));
    tokio::try_join!(runs.0, runs.1).unwrap();
    let (direct, proxied) = (server.report("direct").unwrap(), server.report("proxied").unwrap());
    same(&direct, &proxied, &format!("a hostile backend behind {proxy}"));
}

/// Keys of `[proxy]` that choose who speaks HTTP/1.1.
fn keys(http1: &str) -> String {
    format!("http1 = \"{http1}\"\n")
}

#[tokio::test]
async fn a_hostile_client_finds_a_backend_as_it_is() {
    hostile_client(false, "hyper").await;
}

#[tokio::test]
async fn a_hostile_client_finds_a_backend_as_it_is_by_the_own_loop() {
    hostile_client(false, "plane").await;
}

#[tokio::test]
async fn a_hostile_client_finds_a_backend_as_it_is_through_tls() {
    hostile_client(true, "hyper").await;
}

#[tokio::test]
async fn a_hostile_client_finds_a_backend_as_it_is_through_tls_by_the_own_loop() {
    hostile_client(true, "plane").await;
}

#[tokio::test]
async fn a_hostile_backend_finds_a_client_as_it_is() {
    hostile_backend(false, "hyper").await;
}

#[tokio::test]
async fn a_hostile_backend_finds_a_client_as_it_is_by_the_own_loop() {
    hostile_backend(false, "plane").await;
}

#[tokio::test]
async fn a_hostile_backend_finds_a_client_as_it_is_through_tls() {
    hostile_backend(true, "hyper").await;
}

#[tokio::test]
async fn a_hostile_backend_finds_a_client_as_it_is_through_tls_by_the_own_loop() {
    hostile_backend(true, "plane").await;
}
