//! What Plane adds to the start of a container: the same image, started by bare Docker and by Plane in turns.
//!
//! Bare Docker is timed from asking for the container's creation until it answers `GET /`; Plane from asking for a
//! backend until its public history says Ready. Run it in release: `cargo run --release -p plane-dev --bin
//! plane-bench-ready -- --rounds 40`.

use anyhow::{Context, Result, bail};
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use clap::Parser;
use futures_util::StreamExt;
use plane_core::{
    id::BackendId,
    message::backend::{BackendState, PublicStatus, TerminateRequest},
};
use plane_dev::harness::{Cluster, PATIENCE};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Compares Plane's starts with bare Docker's.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each is started; the first two of each do not count
    #[arg(long, default_value_t = 30)]
    rounds: usize,
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "this is what the program is for")]
async fn main() -> Result<()> {
    let Arguments { rounds } = Arguments::parse();
    let cluster = Cluster::start().await?;
    let docker = Docker::connect_with_socket_defaults()?.negotiate_version().await?;
    let (mut bare, mut plane) = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        let times = (by_docker(&docker, cluster.image()).await?, by_plane(&cluster).await?);
        if round >= 2 {
            bare.push(times.0);
            plane.push(times.1);
        }
    }
    let (bare, plane) = (median(&mut bare)?, median(&mut plane)?);
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("rounds                {rounds}");
    println!("bare Docker, median   {:.1} ms until it answers", millis(bare));
    println!("Plane, median         {:.1} ms until it is Ready", millis(plane));
    println!("difference            {:+.1} ms", millis(plane) - millis(bare));
    println!("ratio                 {:.2}", millis(plane) / millis(bare));
    cluster.shut_down().await
}

fn median(times: &mut [Duration]) -> Result<Duration> {
    times.sort();
    times.get(times.len() / 2).copied().context("no rounds")
}

async fn by_docker(docker: &Docker, image: &str) -> Result<Duration> {
    let name = format!("bare-{}", BackendId::random());
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(vec!["PORT=8080".to_owned()]),
        exposed_ports: Some(vec!["8080/tcp".to_owned()]),
        ..ContainerCreateBody::default()
    };
    let began = Instant::now();
    docker.create_container(Some(CreateContainerOptionsBuilder::default().name(&name).build()), body).await?;
    docker.start_container(&name, None).await?;
    let found = docker.inspect_container(&name, None).await?;
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let ip = networks.into_values().find_map(|network| network.ip_address?.parse::<IpAddr>().ok());
    let ip = ip.context("the container has no address")?;
    while !answers(ip).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began.elapsed();
    docker.remove_container(&name, Some(RemoveContainerOptionsBuilder::default().force(true).build())).await?;
    Ok(took)
}

async fn answers(ip: IpAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect((ip, 8080)).await else { return false };
    let request = format!("GET / HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
    let mut line = [0; 12];
    stream.write_all(request.as_bytes()).await.is_ok() && stream.read_exact(&mut line).await.is_ok()
}

async fn by_plane(cluster: &Cluster) -> Result<Duration> {
    let backend = BackendId::random();
    let subject = PublicStatus::subject_of(&backend);
    let mut statuses = cluster.client.subscribe::<PublicStatus>(&subject).await?;
    let mut request = cluster.request(300, &[]);
    request.backend_id = Some(backend.clone());
    let began = Instant::now();
    cluster.schedule(&request).await?;
    let took = loop {
        let status = statuses.next().await.context("no more states")?;
        match status.state {
            BackendState::Ready => break began.elapsed(),
            state if state.is_final() => bail!("it became {state}"),
            _ => {}
        }
    };
    cluster
        .client
        .request(&TerminateRequest { cluster_id: cluster.name.clone(), backend_id: backend.clone() }, PATIENCE)
        .await?;
    cluster.container_gone(&backend).await?;
    Ok(took)
}
