//! A whole Plane on this machine, until Ctrl-C: NATS, a controller, a drone, and one demo backend in a real
//! container. Everything of it ends with this program, containers too.

use anyhow::{Context, Result};
use clap::Parser;
use plane_core::message::backend::BackendState;
use plane_dev::harness::{Cluster, DNS, Settings};
use std::net::SocketAddr;

/// Runs a local Plane until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "dev/up")]
struct Arguments {
    /// The port that the proxy listens on; 0: any
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The port that NATS listens on; 0: any
    #[arg(long, default_value_t = 0)]
    nats_port: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings {
        name: Some("plane.localhost".parse()?),
        nats_port: arguments.nats_port,
        http_port: arguments.port,
        scheduler: DNS.to_owned(),
        ..Settings::default()
    };
    eprintln!("starting NATS, a controller and a drone…");
    let mut cluster = Cluster::start_as(settings).await.context("Plane does not come up")?;
    let names = cluster.controllers[0].name_server().await?;
    let (backend, _) = cluster.schedule(&cluster.request(300, &[])).await?;
    cluster.wait_for(&backend, BackendState::Ready).await?;
    announce(&cluster, backend.as_str(), names);
    plane_core::task::stop_signal().await?;
    eprintln!("\nstopping, containers too…");
    cluster.shut_down().await
}

#[allow(clippy::print_stdout, reason = "this is what the program is for")]
fn announce(cluster: &Cluster, backend: &str, names: SocketAddr) {
    let (name, port, nats) = (&cluster.name, cluster.drones[0].proxy.port(), cluster.nats.url());
    let image = cluster.image();
    println!(
        "
Plane is up. A session backend runs in its own container; open it in any browser, twice to see it shared:

    http://{backend}.{name}:{port}/

Another one, and what there is (in another terminal):

    export PLANE_NATS={nats}
    cargo run -q -p plane-cli -- spawn {name} {image} --pull never --wait
    cargo run -q -p plane-cli -- list-backends

The controller serves the names of backends:

    dig -p {} @{} {backend}.{name}

Ctrl-C stops everything.",
        names.port(),
        names.ip(),
    );
}
