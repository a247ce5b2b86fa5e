//! The controllers' name server beside NSD: the same names, the same questions by dnsperf, in turns.

use super::process;
use crate::harness::{Cluster, DNS, Process, Settings, dns};
use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        drone::RegisterRequest,
        state::{Assignment, BackendMessage, StateEntry},
    },
};
use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const DRONES: usize = 100;
/// Publishes under way at once while the log is filled.
const UNDER_WAY: usize = 500;
/// Questions that dnsperf has under way at once, and the sockets that it asks from.
const OUTSTANDING: &str = "200";
const CLIENTS: &str = "20";
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What one turn of one server came to.
#[derive(Debug, Clone, Copy)]
struct Turn {
    answers_per_sec: f64,
    lost: f64,
    /// The server's processor time for each answer, in seconds.
    processor: f64,
}

fn ip(drone: usize) -> Ipv4Addr {
    let [.., high, low] = drone.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}

/// Puts drones and backends into the log; the backends with their drones' numbers.
async fn fill(cluster: &Cluster, names: usize) -> Result<Vec<(BackendId, usize)>> {
    let mut drones = Vec::new();
    for number in 0..DRONES {
        let drone_id: DroneId = format!("drone-{number}").parse()?;
        let (cluster_name, ip) = (cluster.name.clone(), ip(number).into());
        let features = Vec::new();
        let request = RegisterRequest {
            drone_id: drone_id.clone(),
            cluster: cluster_name,
            ip,
            version: None,
            git_hash: None,
            features,
        };
        cluster.client.request(&request, ANSWER_LIMIT).await?;
        drones.push(drone_id);
    }
    let backends: Vec<(BackendId, usize)> = (0..names).map(|number| (BackendId::random(), number % DRONES)).collect();
    let entries = backends.iter().map(|(backend, drone)| {
        let assignment = Assignment { accepted: true, ..Assignment::to(drones[*drone].clone(), None) };
        StateEntry::backend(cluster.name.clone(), backend.clone(), BackendMessage::Assignment(assignment))
    });
    let failed = stream::iter(entries)
        .map(|entry| async move { cluster.client.publish_entry(entry.subject(), &entry).await })
        .buffer_unordered(UNDER_WAY)
        .filter_map(async |stored| stored.err())
        .count()
        .await;
    anyhow::ensure!(failed == 0, "{failed} entries were not stored");
    Ok(backends)
}

/// NSD with the same names, on an address of its own.
async fn nsd(cluster: &Cluster, backends: &[(BackendId, usize)], folder: &Path) -> Result<(Process, SocketAddr)> {
    let mut zone = format!(
        "$ORIGIN {}.\n$TTL 60\n@ SOA ns1 hostmaster 1 3600 600 86400 2\n@ NS ns1\nns1 A 127.0.0.1\n",
        cluster.name
    );
    for (backend, drone) in backends {
        writeln!(zone, "{backend} A {}", ip(*drone))?;
    }
    std::fs::write(folder.join("zone"), zone)?;
    let address = tokio::net::UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let (path, processors) = (folder.display(), std::thread::available_parallelism()?);
    let config = format!(
        "server:\n server-count: {processors}\n ip-address: 127.0.0.1@{}\n reuseport: yes\n username: \"\"\n chroot: \"\"\n \
         zonesdir: \"{path}\"\n pidfile: \"\"\n database: \"\"\n xfrdfile: \"{path}/xfrd.state\"\n \
         zonelistfile: \"{path}/zone.list\"\n xfrdir: \"{path}\"\n \
         minimal-responses: yes\n rrl-ratelimit: 0\n rrl-whitelist-ratelimit: 0\n\
         remote-control:\n control-enable: no\n\
         zone:\n name: \"{}\"\n zonefile: \"zone\"\n",
        address.port(),
        cluster.name,
    );
    std::fs::write(folder.join("nsd.conf"), config)?;
    let mut command = Command::new("nsd");
    command.arg("-d").arg("-c").arg(folder.join("nsd.conf"));
    Ok((Process::start("nsd", command, &folder.join("log"))?, address))
}

/// Waits until a server answers for the last of the names.
async fn answers(server: SocketAddr, cluster: &Cluster, backends: &[(BackendId, usize)]) -> Result<()> {
    let (last, _) = backends.last().context("no names")?;
    let question = dns::question(1, &format!("{last}.{}", cluster.name), dns::A);
    let began = Instant::now();
    loop {
        let answer = dns::ask(server, &question, Duration::from_millis(200)).await;
        if answer.is_ok_and(|answer| answer.and_then(|answer| dns::outcome(&answer)) == Some((0, 1))) {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < crate::harness::PATIENCE, "{server} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Processor time of a process and of those that it started, which are of its group.
fn group_time(leader: &Process) -> Result<Duration> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // Behind the name: state, parent, group; user and kernel time are the 12th and 13th, in ticks of 10 ms.
        let Some((_, behind)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = behind.split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        if number(2) == u64::from(leader.pid()) {
            ticks += number(11) + number(12);
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

fn turn(server: SocketAddr, leader: &Process, questions: &Path, lasts: Duration) -> Result<Turn> {
    let before = group_time(leader)?;
    let mut command = Command::new("dnsperf");
    command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-d"]).arg(questions);
    command.args(["-l", &lasts.as_secs().to_string(), "-q", OUTSTANDING, "-c", CLIENTS, "-T", "1"]);
    let done = command.output().context("dnsperf does not start")?;
    let used = group_time(leader)?.saturating_sub(before);
    let said = String::from_utf8_lossy(&done.stdout);
    let number = |what: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
            .with_context(|| format!("{what}\n{said}"))
    };
    let completed = number("Queries completed:")?;
    anyhow::ensure!(said.contains("NOERROR") && !said.contains("NXDOMAIN"), "{said}");
    Ok(Turn {
        answers_per_sec: number("Queries per second:")?,
        lost: number("Queries lost:")?,
        processor: used.as_secs_f64() / completed,
    })
}

/// The middle of all turns.
fn median(turns: &[Turn], what: impl Fn(&Turn) -> f64) -> f64 {
    let mut values: Vec<f64> = turns.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Asks both servers for `names` names in turns, each for so long at a time.
///
/// # Errors
/// Where a server does not come up, or dnsperf fails.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn dns(names: usize, lasts: Duration, turns: usize) -> Result<()> {
    let settings = Settings { drones: 0, scheduler: DNS.to_owned(), ..Settings::default() };
    let mut cluster = Cluster::start_as(settings).await?;
    let ours = cluster.controllers[0].name_server().await?;
    let backends = fill(&cluster, names).await?;
    let folder = tempfile::tempdir()?;
    let (nsd, theirs) = nsd(&cluster, &backends, folder.path()).await?;
    answers(ours, &cluster, &backends).await?;
    answers(theirs, &cluster, &backends).await.with_context(|| nsd.log())?;
    let questions = folder.path().join("questions");
    let lines: String = backends.iter().map(|(backend, _)| format!("{backend}.{} A\n", cluster.name)).collect();
    std::fs::write(&questions, lines)?;
    let controller = process(&cluster.controllers[0])?;
    let logged = cluster.controllers[0].log().lines().count();
    let (mut plane, mut beside) = (Vec::new(), Vec::new());
    println!("       answers/s   lost   processor time an answer (plane, then NSD)");
    for _ in 0..turns {
        for (server, leader, all) in [(ours, controller, &mut plane), (theirs, &nsd, &mut beside)] {
            let turn = turn(server, leader, &questions, lasts)?;
            println!("  {:>14.0} {:>6.0} {:>8.2} µs", turn.answers_per_sec, turn.lost, turn.processor * 1e6);
            all.push(turn);
        }
    }
    let lines = cluster.controllers[0].log().lines().count() - logged;
    for (name, all) in [("plane", &plane), ("NSD", &beside)] {
        let (rate, processor) = (median(all, |turn| turn.answers_per_sec), median(all, |turn| turn.processor));
        println!("{name:<6} median  {rate:>9.0} answers/s, {:.2} µs of processor time each", processor * 1e6);
    }
    let ratio = |what: fn(&Turn) -> f64| median(&plane, what) / median(&beside, what);
    println!("ratio of answers/s        {:.2}", ratio(|turn| turn.answers_per_sec));
    println!("ratio of processor time   {:.2}", ratio(|turn| turn.processor));
    println!("lines logged meanwhile    {lines}");
    Ok(())
}
