//! The harness itself: NATS clusters that lose nodes, links that break, daemons that stand still.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use plane_core::{
    message::{
        backend::{LogKind, LogLine},
        schedule::ScheduleResponse,
    },
    nats::{Nats, NatsError, StreamConfig, StreamName},
};
use plane_dev::harness::{Cluster, CuttingProxy, NatsCluster, PATIENCE, Settings};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Long enough for what is there to come, short enough to wait for what never comes.
const A_MOMENT: Duration = Duration::from_millis(500);

async fn publish_until_taken(nats: &Nats) -> u64 {
    let line = LogLine { backend_id: "b".parse().unwrap(), kind: LogKind::Meta, text: "x".into() };
    let publishing = async {
        loop {
            match nats.publish_stored(&line).await {
                Ok(sequence) => return sequence,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, publishing).await.unwrap()
}

#[tokio::test]
async fn a_nats_cluster_works_with_two_of_three_nodes() {
    let mut servers = NatsCluster::start(3).await.unwrap();
    let nats = servers.connect().await.unwrap();
    nats.ensure_stream(&StreamConfig::new(StreamName::Logs, 3)).await.unwrap();
    let first = publish_until_taken(&nats).await;
    servers.kill(0);
    let second = publish_until_taken(&nats).await;
    servers.restart(0).await.unwrap();
    servers.wait_until_current().await.unwrap();
    let through_another = servers.connect_to(2).await.unwrap();
    servers.pause(1).unwrap();
    let third = publish_until_taken(&through_another).await;
    servers.resume(1).unwrap();
    servers.wait_until_current().await.unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
}

/// A server that answers every byte with the same byte.
async fn echo() -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

async fn says(stream: &mut TcpStream, byte: u8) {
    stream.write_all(&[byte]).await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), byte);
}

#[tokio::test]
async fn a_link_freezes_is_cut_and_is_mended() {
    let (target, _echo) = echo().await;
    let link = CuttingProxy::start(&[target]).await.unwrap();
    let address = link.addresses()[0];
    let mut old = TcpStream::connect(address).await.unwrap();
    says(&mut old, 1).await;

    link.freeze();
    old.write_all(&[2]).await.unwrap();
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting.write_all(&[3]).await.unwrap();
    assert!(timeout(A_MOMENT, old.read_u8()).await.is_err(), "a frozen link carried a byte");
    assert!(timeout(A_MOMENT, waiting.read_u8()).await.is_err(), "a frozen link took up a connection");
    link.mend();
    assert_eq!(timeout(PATIENCE, old.read_u8()).await.unwrap().unwrap(), 2);
    assert_eq!(timeout(PATIENCE, waiting.read_u8()).await.unwrap().unwrap(), 3);

    link.cut();
    assert!(timeout(PATIENCE, old.read_u8()).await.unwrap().is_err());
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert!(timeout(PATIENCE, refused.read_u8()).await.unwrap().is_err());
    link.mend();
    let mut new = TcpStream::connect(address).await.unwrap();
    says(&mut new, 4).await;
    link.cut();
    link.mend();
    assert!(timeout(PATIENCE, new.read_u8()).await.unwrap().is_err(), "a short cut was overlooked");

    let mut last = TcpStream::connect(address).await.unwrap();
    says(&mut last, 5).await;
    drop(link);
    assert!(timeout(PATIENCE, last.read_u8()).await.unwrap().is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

async fn ask(cluster: &Cluster, patience: Duration) -> Result<ScheduleResponse, NatsError> {
    cluster.client.request(&cluster.request(30, &[]), patience).await
}

async fn wait_for_an_answer(cluster: &Cluster) {
    let asking = async {
        while ask(cluster, A_MOMENT).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
}

#[tokio::test]
async fn a_controller_is_paused_and_its_link_breaks() {
    let settings = Settings { drones: 0, proxied: true, ..Settings::default() };
    let cluster = Cluster::start_as(settings).await.unwrap();
    let controller = &cluster.controllers[0];
    let link = controller.link.as_ref().unwrap();
    wait_for_an_answer(&cluster).await;

    controller.pause().unwrap();
    assert!(matches!(ask(&cluster, A_MOMENT).await, Err(NatsError::TimedOut(_))));
    controller.resume().unwrap();
    wait_for_an_answer(&cluster).await;

    link.freeze();
    assert!(matches!(ask(&cluster, A_MOMENT).await, Err(NatsError::TimedOut(_))));
    link.mend();
    wait_for_an_answer(&cluster).await;

    link.cut();
    let unreachable = async {
        while !matches!(ask(&cluster, A_MOMENT).await, Err(NatsError::NoResponders(_))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, unreachable).await.unwrap();
    let noticed = async {
        while !controller.log().contains("connection to NATS lost") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, noticed).await.unwrap();
    link.mend();
    wait_for_an_answer(&cluster).await;
    controller.pause().unwrap();
    // It ends here although it stands still.
}

#[tokio::test]
async fn a_plane_on_three_nats_nodes_goes_on_without_one() {
    let settings =
        Settings { nats_nodes: 3, proxied: true, scheduler: "stream_replicas = 3".to_owned(), ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await.unwrap();
    assert_eq!(cluster.drones[0].daemon.link.as_ref().unwrap().addresses().len(), 3);
    cluster.ready().await.unwrap();
    cluster.nats.cluster().unwrap().kill(2);
    wait_for_an_answer(&cluster).await;
    cluster.nats.restart().await.unwrap();
    wait_for_an_answer(&cluster).await;
}
