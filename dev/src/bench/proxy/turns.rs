//! Turns: who is next, and the figures of what was done in one.

use super::{
    Proxying,
    bulk::{Way, bulk, peak},
    connections::Done,
    echo::Echoed,
    figures::{Column, Line, Table, Turn, column},
    latency::latency,
    stand::{Contender, SMALL, Stand},
    tools::{Asked, wrk},
};
use anyhow::{Context, Result};
use std::time::Duration;

/// The share of what nginx answers at most at which latency is measured.
const LOAD: f64 = 0.2;
/// The container itself, where it takes part.
const DIRECT: &str = "direct";
const TOOK: &[Column] = &[column("p50 µs", 1), column("p99 µs", 1)];
const ADDED: &[Column] = &[column("p50 µs added", 1), column("p99 µs added", 1)];

/// Has each contender take its turn in each round, another one first each time. Who fails is left alone from then on.
pub(super) async fn rounds(
    proxying: &Proxying,
    contenders: &[Contender],
    title: String,
    columns: &'static [Column],
    turn: impl AsyncFn(&Contender) -> Result<Turn>,
) -> Table {
    let mut lines: Vec<Line> = contenders.iter().map(|contender| Line::of(contender.name)).collect();
    for round in 0..proxying.thrown_away + proxying.rounds {
        for place in 0..contenders.len() {
            let next = (round + place) % contenders.len();
            let (contender, line) = (&contenders[next], &mut lines[next]);
            if line.broken.is_some() {
                continue;
            }
            match turn(contender).await {
                Ok(turn) => line.turns.push(turn),
                Err(why) => line.broken = Some(format!("{why:#}")),
            }
        }
    }
    Table { title, reference: "nginx", columns, lines }.without_first(proxying.thrown_away)
}

/// How many a second, and how much processor time each took, in µs.
fn per_request(done: Done, processor: Duration) -> Vec<f64> {
    let count = done.requests as f64;
    vec![count / done.took.as_secs_f64(), processor.as_secs_f64() * 1e6 / count]
}

pub(super) fn echoed(echoed: Echoed) -> Turn {
    let done = Done { requests: echoed.messages, failed: 0, took: echoed.took };
    Turn { figures: per_request(done, echoed.processor), failed: 0 }
}

pub(super) async fn requests(contender: &Contender, asking: impl Future<Output = Result<Asked>>) -> Result<Turn> {
    let before = contender.processes.processor_time()?;
    let asked = asking.await?;
    let processor = contender.processes.processor_time()?.saturating_sub(before);
    let mut figures = per_request(asked.done, processor);
    figures.extend(asked.most.map(|most| most.as_secs_f64() * 1e3));
    Ok(Turn { figures, failed: asked.done.failed })
}

pub(super) async fn body(contender: &Contender, way: Way, bytes: u64) -> Result<Turn> {
    let (before, memory) = (contender.processes.processor_time()?, contender.processes.memory_kib()?);
    let (took, most) = peak(&contender.processes, bulk(contender.door.clone(), way, bytes)).await?;
    let processor = contender.processes.processor_time()?.saturating_sub(before);
    let rate = bytes as f64 / (1024.0 * 1024.0) / took.as_secs_f64();
    Ok(Turn { figures: vec![rate, processor.as_secs_f64() * 1e3, most as f64 - memory as f64], failed: 0 })
}

/// The container itself and all contenders at the same rate, a fifth of what nginx answers at most; as it was, and what
/// each adds.
pub(super) async fn at_rate(proxying: &Proxying, mut stand: Stand, title: &str) -> Result<Vec<Table>> {
    let nginx = stand.contenders.first().context("nobody takes part")?;
    let most = wrk(&nginx.door, SMALL, proxying.lasts).await?.done;
    let rate = LOAD * most.requests as f64 / most.took.as_secs_f64();
    let direct = Contender { name: DIRECT, door: stand.direct.clone(), processes: nginx.processes.clone() };
    stand.contenders.push(direct);
    let turn = async |one: &Contender| {
        let latency = latency(one.door.clone(), SMALL, rate, proxying.lasts).await?;
        let figures = [latency.half, latency.most].map(|took| took.as_secs_f64() * 1e6).to_vec();
        Ok(Turn { figures, failed: 0 })
    };
    let title = format!("{title} of {rate:.0} requests/s");
    let whole = rounds(proxying, &stand.contenders, title.clone(), TOOK, turn).await;
    let added = whole.clone().above(DIRECT, format!("{title}, added to what the container takes"), ADDED);
    Ok(vec![whole, added])
}
