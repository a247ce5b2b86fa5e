//! How many decisions controllers make, how long one takes, and what it costs.

use super::{
    drones::{Life, SimulatedDrones},
    millis, percentile, process, processor_time, processor_time_of,
};
use crate::harness::{Cluster, DNS, Settings};
use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use plane_core::{
    clock::Clock,
    message::{
        drone::DroneState,
        schedule::{ScheduleRequest, ScheduleResponse},
        state::{Heartbeat, StateEntry},
    },
    nats::{Nats, Serving},
    task::Tasks,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const DRONES: usize = 50;
/// Requests that are under way at once when throughput is measured.
const UNDER_WAY: usize = 256;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

async fn plane(controllers: usize, tasks: &Tasks) -> Result<(Cluster, SimulatedDrones, Nats)> {
    // One without a name server answers 50 ms later.
    let settings = Settings { controllers, drones: 0, scheduler: DNS.to_owned(), ..Settings::default() };
    let cluster = Cluster::start_as(settings).await?;
    let drones_side = cluster.nats.connect().await?;
    let drones =
        SimulatedDrones::start(&drones_side, &cluster.name, DRONES, Life::Still, &Clock::machine(), tasks).await?;
    // Every controller has to have heard of the drones.
    let load_side = cluster.nats.connect().await?;
    let ready = format!("state.cluster.*.drone.*.status.{}", DroneState::Ready);
    let mut replay = load_side.replay(plane_core::nats::StreamName::State, &ready).await?;
    let mut seen = 0;
    while seen < DRONES {
        if let plane_core::nats::Event::Entry(entry) = replay.next().await {
            seen += usize::from(serde_json::from_slice::<StateEntry>(&entry.payload).is_ok());
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok((cluster, drones, load_side))
}

async fn decide(nats: &Nats, request: &ScheduleRequest) -> Result<Duration> {
    let began = Instant::now();
    match nats.request(request, ANSWER_LIMIT).await? {
        ScheduleResponse::Scheduled { .. } => Ok(began.elapsed()),
        ScheduleResponse::NoDroneAvailable => bail!("no drone available"),
    }
}

/// Asks with so many at once for so long, and gives decisions a second.
async fn throughput(nats: &Nats, request: &ScheduleRequest, lasts: Duration) -> Result<f64> {
    let (began, count) = (Instant::now(), AtomicU64::new(0));
    let askers = (0..UNDER_WAY).map(|_| async {
        while began.elapsed() < lasts {
            decide(nats, request).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, anyhow::Error>(())
    });
    try_join_all(askers).await?;
    Ok(count.into_inner() as f64 / began.elapsed().as_secs_f64())
}

/// Does something at a steady rate, however long each takes, and gives how long they took, in order of length.
async fn at_rate<F, Fut>(rate: f64, lasts: Duration, tasks: &Tasks, one: F) -> Result<Vec<Duration>>
where
    F: Fn(u32) -> Fut,
    Fut: Future<Output = Result<Duration>> + Send + 'static,
{
    let times = Arc::new(Mutex::new(Vec::new()));
    let failed = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut asked = 0_u32;
    while began.elapsed() < lasts {
        let due = (began.elapsed().as_secs_f64() * rate) as u32;
        while asked < due {
            asked += 1;
            let (one, times, failed) = (one(asked), times.clone(), failed.clone());
            tasks.spawn("ask", async move {
                match one.await {
                    Ok(took) => times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took),
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let done = || times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() as u64;
    while done() + failed.load(Ordering::Relaxed) < asked.into() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::ensure!(failed.load(Ordering::Relaxed) == 0, "{failed:?} failed");
    let mut times = std::mem::take(&mut *times.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    times.sort();
    Ok(times)
}

/// What no controller can be without: two writes into the log and two exchanges, one after the other, bare.
struct Floor {
    nats: Nats,
    echo: Echo,
    _serving: Serving,
}

impl Floor {
    async fn start(nats: &Nats, cluster: &Cluster, tasks: &Tasks) -> Result<Self> {
        let other = cluster.nats.connect().await?;
        let subject = format!("cluster.{}.fetch.floor", cluster.name.subject_token());
        let serving = other.serve(tasks, &subject, None, |_: Echo| async { Ok(true) }).await?;
        Ok(Self { nats: nats.clone(), echo: Echo { subject }, _serving: serving })
    }

    fn once(&self, name: String) -> impl Future<Output = Result<Duration>> + Send + 'static {
        let (nats, echo) = (self.nats.clone(), self.echo.clone());
        async move {
            let (entry, content) =
                (format!("state.floor.{name}"), Heartbeat { heartbeat: (), trusted: None, made: None, newest: None });
            let began = Instant::now();
            nats.request(&echo, ANSWER_LIMIT).await?;
            let sequence = nats.publish_expecting(entry.clone(), &content, 0).await?;
            nats.request(&echo, ANSWER_LIMIT).await?;
            nats.publish_expecting(entry, &content, sequence).await?;
            Ok(began.elapsed())
        }
    }
}

/// A request that is answered at once.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Echo {
    subject: String,
}

impl plane_core::message::Request for Echo {
    type Reply = bool;

    fn subject(&self) -> String {
        self.subject.clone()
    }
}

/// One controller: throughput and its cost, latency at a steady rate, and one request at a time beside bare NATS.
///
/// # Errors
/// Where a request fails.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn schedule(lasts: Duration, steady: f64) -> Result<()> {
    let tasks = Tasks::new();
    let (cluster, _drones, nats) = plane(1, &tasks).await?;
    let request = cluster.request(300, &[]);
    throughput(&nats, &request, Duration::from_secs(2)).await?;
    let mut serial = Vec::new();
    for _ in 0..2000 {
        serial.push(decide(&nats, &request).await?);
    }
    serial.sort();
    let floor = Floor::start(&nats, &cluster, &tasks).await?;
    let mut bare = Vec::new();
    for number in 0..2000 {
        bare.push(floor.once(format!("one.{number}")).await?);
    }
    bare.sort();
    let controller = process(&cluster.controllers[0])?;
    let (used, began) = (processor_time(controller)?, Instant::now());
    let rate = throughput(&nats, &request, lasts).await?;
    let decided = rate * began.elapsed().as_secs_f64();
    let cost = (processor_time(controller)? - used).div_f64(decided);
    let ask = |_| {
        let (nats, request) = (nats.clone(), request.clone());
        async move { decide(&nats, &request).await }
    };
    let half = at_rate(steady, lasts, &tasks, ask).await?;
    let bare_half = at_rate(steady, lasts, &tasks, |number| floor.once(format!("rate.{number}"))).await?;
    let asked = half.len() as f64 / lasts.as_secs_f64();
    let beside = |share| (millis(percentile(&half, share)), millis(percentile(&bare_half, share)));
    println!("one at a time, median      {:.2} ms", millis(percentile(&serial, 0.5)));
    println!("  bare NATS, median        {:.2} ms", millis(percentile(&bare, 0.5)));
    println!("  ratio                    {:.2}", millis(percentile(&serial, 0.5)) / millis(percentile(&bare, 0.5)));
    println!("{UNDER_WAY} at once               {rate:.0} decisions/s");
    println!("  processor time each      {:.1} µs", cost.as_secs_f64() * 1e6);
    println!("at {asked:.0}/s                  Plane, bare NATS at the same rate");
    for (name, share) in [("median ", 0.5), ("90 %   ", 0.9), ("99 %   ", 0.99), ("longest", 1.0)] {
        let (plane, bare) = beside(share);
        println!("  {name}                  {plane:.2} ms, {bare:.2} ms");
    }
    tasks.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// What a decision takes of the processors, in microseconds. Where they are shared with others, the rate says less.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    controllers: f64,
    nats: f64,
    /// Of everything, with the simulated drones and whoever asks.
    all: f64,
}

impl Cost {
    /// What has been used so far, in all.
    fn so_far(cluster: &Cluster) -> Result<Self> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (mut controllers, mut nats) = (0.0, 0.0);
        for controller in &cluster.controllers {
            controllers += micros(processor_time(process(controller)?)?);
        }
        for server in cluster.nats.processes() {
            nats += micros(processor_time(server)?);
        }
        let own = micros(processor_time_of(std::process::id())?);
        Ok(Self { controllers, nats, all: controllers + nats + own })
    }

    fn since(self, before: Self, decided: f64) -> Self {
        let each = |now: f64, before: f64| (now - before) / decided;
        Self {
            controllers: each(self.controllers, before.controllers),
            nats: each(self.nats, before.nats),
            all: each(self.all, before.all),
        }
    }
}

/// Two and three controllers against one: as much as they can, and a rate that one carries.
///
/// # Errors
/// Where a request fails.
#[allow(clippy::print_stdout, reason = "this is what it is for")]
pub async fn controllers(lasts: Duration, steady: f64) -> Result<()> {
    let mut one = None;
    for count in 1..=3 {
        let tasks = Tasks::new();
        let (cluster, _drones, nats) = plane(count, &tasks).await?;
        let request = cluster.request(300, &[]);
        throughput(&nats, &request, Duration::from_secs(2)).await?;
        let (before, began) = (Cost::so_far(&cluster)?, Instant::now());
        let rate = throughput(&nats, &request, lasts).await?;
        let cost = Cost::so_far(&cluster)?.since(before, rate * began.elapsed().as_secs_f64());
        let ask = |_| {
            let (nats, request) = (nats.clone(), request.clone());
            async move { decide(&nats, &request).await }
        };
        let (before, began) = (Cost::so_far(&cluster)?, Instant::now());
        let times = at_rate(steady, lasts, &tasks, ask).await?;
        let decided = times.len() as f64;
        let (took, at_rate) = (began.elapsed(), Cost::so_far(&cluster)?.since(before, decided));
        let (first, first_cost) = *one.get_or_insert((rate, cost.all));
        println!("{count} controllers");
        println!("  {UNDER_WAY} at once             {rate:.0} decisions/s, ratio {:.2}", rate / first);
        let Cost { controllers, nats, all } = cost;
        println!(
            "    processor time each    {controllers:.1} µs of controllers, {nats:.1} µs of NATS, {all:.1} µs in all"
        );
        println!("    as much for each       ratio {:.2}", first_cost / all);
        println!("  {steady:.0}/s asked for         {:.0} decisions/s", decided / took.as_secs_f64());
        let Cost { controllers, nats, all } = at_rate;
        println!(
            "    processor time each    {controllers:.1} µs of controllers, {nats:.1} µs of NATS, {all:.1} µs in all"
        );
        let (median, slow) = (millis(percentile(&times, 0.5)), millis(percentile(&times, 0.99)));
        println!("    median, 99 %           {median:.2} ms, {slow:.2} ms");
        tasks.shut_down(Duration::from_secs(5)).await;
    }
    Ok(())
}
