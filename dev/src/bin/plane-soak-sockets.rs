//! Holds many idle WebSockets open through one drone's proxy while others use it; see `dev/soak`.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::Empty;
use hyper::{
    Request,
    client::conn::{self, http2::SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plane_core::id::BackendId;
use plane_dev::harness::{
    Cluster, PATIENCE, Settings, Tls,
    frames::{Frame, From, TEXT},
    get_with, self_signed,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Holds idle WebSockets open through one proxy, and tells what they cost.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many.
    #[arg(default_value_t = 10_000)]
    sockets: u64,
    /// For how many seconds others use the proxy meanwhile.
    #[arg(default_value_t = 600)]
    seconds: u64,
    /// Opens them through TLS.
    #[arg(long)]
    tls: bool,
    /// Opens them as streams of HTTP/2, a hundred to a connection.
    #[arg(long, conflicts_with = "streams")]
    http2: bool,
    /// How many of them are streams of HTTP/2, which take one file of the drone's and not two; the others are opened through
    /// TLS then. As few as the limit of open files allows, where this is not said.
    #[arg(long)]
    streams: Option<u64>,
    /// How much memory one may take, in KiB; without TLS 8, else 24.
    #[arg(long)]
    most: Option<u64>,
}

/// The backends that they are spread over, so that ports suffice.
const BACKENDS: usize = 4;
/// How many are opened, or asked, at once.
const AT_ONCE: usize = 64;
/// How many others use the proxy.
const OTHERS: usize = 4;
/// How many are streams of one connection, with HTTP/2.
const STREAMS: u64 = 100;
/// Descriptors that a process needs besides those of sockets.
const OTHER_FILES: u64 = 1000;
/// How long others use the proxy before it is measured at all: what it takes for them it keeps.
const WARM_UP: Duration = Duration::from_secs(3);
/// How many files a drone may have once all sockets are closed.
const MOST_LEFT: usize = 500;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// What a socket may take of the drone's memory, with what others left behind.
const PLAIN_KIB: u64 = 8;
const TLS_KIB: u64 = 24;
const KIB: f64 = 1024.0;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// An open WebSocket. It has no buffers of its own.
struct Socket(Pin<Box<dyn Stream>>);

/// Where the proxy is, and how it is spoken to.
#[derive(Clone)]
struct Door {
    address: SocketAddr,
    tls: Option<Tls>,
    /// Connections with HTTP/2, and how many sockets are streams of them.
    shared: Vec<SendRequest<Empty<Bytes>>>,
    streams: u64,
}

impl Door {
    /// The connection that the socket of a number is a stream of.
    fn stream(&self, number: u64) -> Option<&SendRequest<Empty<Bytes>>> {
        (number < self.streams).then(|| self.shared.get(usize::try_from(number / STREAMS).ok()?)).flatten()
    }

    async fn connect(&self, host: &str) -> Result<Pin<Box<dyn Stream>>> {
        Ok(match &self.tls {
            None => Box::pin(TcpStream::connect(self.address).await?),
            Some(tls) => Box::pin(tls.connect(self.address, host).await?),
        })
    }

    async fn get(&self, host: &str, path: &str) -> Result<usize> {
        let answer = match &self.tls {
            None => get_with(self.address, host, path, &[]).await?,
            Some(tls) => tls.get(self.address, host, path, &[]).await?,
        };
        ensure!(answer.status.is_success(), "{path}: {}", answer.status);
        Ok(answer.body.len())
    }

    /// Opens the socket of a number.
    async fn open_one_of_many(&self, host: &str, number: u64) -> Result<Socket> {
        let Some(sender) = self.stream(number) else { return self.open(host).await };
        let asks = Request::connect(format!("https://{host}/ws"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        let answer = sender.clone().send_request(asks.body(Empty::new())?).await?;
        ensure!(answer.status().is_success(), "{answer:?}");
        let mut socket = Socket(Box::pin(TokioIo::new(hyper::upgrade::on(answer).await?)));
        socket.echoes(&[b'.'; 1000]).await?;
        Ok(socket)
    }

    async fn open(&self, host: &str) -> Result<Socket> {
        let mut stream = self.connect(host).await?;
        let asks = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(asks.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.with_context(|| format!("after {}", head.escape_ascii()))?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        let mut socket = Socket(stream);
        socket.echoes(&[b'.'; 1000]).await?;
        Ok(socket)
    }
}

impl Socket {
    /// Says something and hears it again.
    async fn echoes(&mut self, text: &[u8]) -> Result<()> {
        let frame = Frame::new(TEXT, text);
        let expected = frame.bytes(From::Backend);
        let mut heard = vec![0; expected.len()];
        let talk = async {
            self.0.write_all(&frame.bytes(From::Client)).await?;
            self.0.flush().await?;
            self.0.read_exact(&mut heard).await
        };
        tokio::time::timeout(PATIENCE, talk).await.context("no echo")??;
        ensure!(heard == expected, "another echo: {}", heard.escape_ascii());
        Ok(())
    }
}

/// Others that use the proxy.
struct Others {
    running: JoinSet<Result<()>>,
    stop: Arc<AtomicBool>,
    uses: Arc<AtomicU64>,
}

impl Others {
    fn start(door: &Door, hosts: &[String]) -> Self {
        let (mut running, stop, uses) = (JoinSet::new(), Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        for _ in 0..OTHERS {
            running.spawn(use_it(door.clone(), hosts.to_vec(), stop.clone(), uses.clone()));
        }
        Self { running, stop, uses }
    }

    /// Lets them go on for so long, tells how it goes, and ends them.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn last(mut self, how_long: Duration, pid: u32) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < how_long {
            let left = how_long.saturating_sub(began.elapsed());
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY.min(left)) => {}
                ended = self.running.join_next() => ended.context("nobody uses it")???,
            }
            let (uses, seconds) = (self.uses.load(Ordering::Relaxed), began.elapsed().as_secs());
            println!("{seconds} s: {uses} requests and sockets of others, RssAnon {:.1} MiB", mib(memory(pid)?));
        }
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Uses the proxy in every way until it is told to stop.
async fn use_it(door: Door, hosts: Vec<String>, stop: Arc<AtomicBool>, uses: Arc<AtomicU64>) -> Result<()> {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let host = &hosts[number % hosts.len()];
        match number % 4 {
            0 => ensure!(door.get(host, "/bytes?n=1000000").await? > 0, "no bytes"),
            1 => drop(door.open(host).await?),
            2 => ensure!(door.get(host, "/slow?chunks=3&ms=20").await? > 0, "no chunks"),
            _ => ensure!(door.get(host, "/headers").await? > 0, "no fields"),
        }
        uses.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A process's own memory, in bytes.
fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A process's open files.
fn files(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Lets this process and those that it starts have so many files, or as many as it may; gives how many that is.
fn allow_files(wanted: u64) -> Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.map(|limit| limit.max(wanted));
    let raised = Rlimit { current: enough(now.current), maximum: enough(now.maximum) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now })?;
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// What a drone has open for so many sockets, to their clients and to backends, when so many of them are streams.
fn files_for(sockets: u64, streams: u64) -> u64 {
    2 * sockets - streams + streams.div_ceil(STREAMS) + OTHER_FILES
}

/// How many connections clients have open then, with room for others.
fn clients_for(sockets: u64, streams: u64) -> u64 {
    sockets - streams + streams.div_ceil(STREAMS) + OTHER_FILES / 4
}

/// The fewest streams with which that is not more than `files`.
fn fewest_streams(sockets: u64, files: u64) -> Result<u64> {
    let fits = (0..=sockets).find(|streams| files_for(sockets, *streams) <= files);
    fits.with_context(|| format!("{files} open files are too few; raise the limit (ulimit -n), or take fewer sockets"))
}

async fn backends(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all: Vec<BackendId> = Vec::new();
    for _ in 0..BACKENDS {
        all.push(cluster.ready_once_taken(&cluster.request(3600, &[])).await?.0);
    }
    Ok(all.iter().map(|backend| format!("{backend}.{}", cluster.name)).collect())
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "a program for people")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let count = arguments.sockets;
    let given = if arguments.http2 { Some(count) } else { arguments.streams.map(|streams| streams.min(count)) };
    let files_allowed = allow_files(files_for(count, given.unwrap_or(0)))?;
    let streams = given.map_or_else(|| fewest_streams(count, files_allowed), Ok)?;
    let needed = files_for(count, streams);
    ensure!(needed <= files_allowed, "{needed} open files are needed, {files_allowed} are allowed (ulimit -n)");
    let secure = arguments.tls || streams > 0;
    println!(
        "{} sockets {}, {streams} as streams of HTTP/2; the drone may have {files_allowed} files",
        count - streams,
        if secure { "through TLS" } else { "in the open" }
    );
    // What clients may not have open is left for backends.
    let proxy = format!("limits.connections = {}\n", clients_for(count, streams));
    let cluster = Cluster::start_as(Settings { https: secure, proxy, ..Settings::default() }).await?;
    let drone = &cluster.drones[0];
    let mut door = Door { address: drone.proxy, tls: None, shared: Vec::new(), streams };
    if secure {
        let pair = self_signed(&cluster.name)?;
        drone.install(&pair)?;
        let tls = Tls::trusting([pair.leaf_der()])?;
        tls.connect_once_served(drone.https()?, cluster.name.as_str()).await?;
        door = Door { address: drone.https()?, tls: Some(tls), ..door };
        let http2 = Tls::http2([pair.leaf_der()])?;
        for _ in 0..streams.div_ceil(STREAMS) {
            let stream = http2.connect(door.address, cluster.name.as_str()).await?;
            let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            door.shared.push(sender);
        }
    }
    let hosts = backends(&cluster).await?;
    let pid = drone.daemon.process.as_ref().context("the drone does not run")?.pid();
    Others::start(&door, &hosts).last(WARM_UP, pid).await?;
    let before = memory(pid)?;

    let began = Instant::now();
    let opening = (0..count).zip(hosts.iter().cycle()).map(|(number, host)| {
        let door = &door;
        async move { door.open_one_of_many(host, number).await.with_context(|| format!("socket {number}")) }
    });
    let mut sockets: Vec<Socket> = stream::iter(opening).buffer_unordered(AT_ONCE).try_collect().await?;
    let open = memory(pid)?;
    let each = open.saturating_sub(before) as f64 / count as f64 / KIB;
    println!("{count} sockets open after {:.1} s; the drone has {} files", began.elapsed().as_secs_f64(), files(pid)?);
    println!("RssAnon of the drone: {:.1} MiB, before {:.1}: {each:.2} KiB a socket", mib(open), mib(before));

    Others::start(&door, &hosts).last(Duration::from_secs(arguments.seconds), pid).await?;
    let used = memory(pid)?;

    let asked = Instant::now();
    let answers = stream::iter(sockets.iter_mut().map(|socket| socket.echoes(b"still here")));
    let outcomes: Vec<Result<()>> = answers.buffer_unordered(AT_ONCE).collect().await;
    let dead: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    println!(
        "{} of {count} still alive, asked within {:.1} s",
        count - dead.len() as u64,
        asked.elapsed().as_secs_f64()
    );
    if let Some(first) = dead.first() {
        println!("the first that is not: {first:#}");
    }
    let dead = dead.len();
    drop((sockets, door));
    let closing = Instant::now();
    while files(pid)? > MOST_LEFT && closing.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = files(pid)?;
    println!("once they are closed: {left} files, RssAnon {:.1} MiB", mib(memory(pid)?));
    cluster.shut_down().await?;

    ensure!(dead == 0, "{dead} sockets did not live on");
    ensure!(left <= MOST_LEFT, "{left} files are open after the sockets were closed");
    let most = arguments.most.unwrap_or(if secure { TLS_KIB } else { PLAIN_KIB });
    let each = used.saturating_sub(before) as f64 / count as f64 / KIB;
    println!("{each:.2} KiB a socket after the use by others; {most} are allowed");
    ensure!(each <= most as f64, "the sockets take more memory than they may");
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / KIB / KIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_files_allow_are_no_streams() {
        assert_eq!(fewest_streams(10_000, 21_000).ok(), Some(0));
        let streams = fewest_streams(10_000, 20_000).unwrap_or_default();
        assert!((1000..1100).contains(&streams), "{streams}");
        assert!(files_for(10_000, streams) <= 20_000 && files_for(10_000, streams - 1) > 20_000);
        assert!(fewest_streams(10_000, 10_000).is_err());
    }
}
