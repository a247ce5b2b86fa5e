//! What is watched while a container runs: its end, what it writes, and what it uses.

use super::Parts;
use crate::backend::machine::End;
use crate::engine::{Engine, Line, Usage};
use futures_util::StreamExt;
use jiff::Timestamp;
use plane_core::{
    id::BackendId,
    message::backend::{LogLine, Stats},
    nats::{Nats, StreamName},
};
use std::time::Duration;
use tokio::sync::watch as value;

/// How long the engine is waited for until it is asked anew: its word is a hint, a look decides.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const USE_EVERY: Duration = Duration::from_secs(5);

/// Waits until a container has ended, however often the engine goes away meanwhile.
pub(super) async fn until_it_ends(engine: &dyn Engine, backend: &BackendId) -> End {
    loop {
        match tokio::time::timeout(LOOK_EVERY, engine.wait(backend)).await {
            Ok(Ok(end)) => return end,
            Ok(Err(error)) => {
                tracing::warn!(%backend, %error, "cannot watch its container; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(_) => {}
        }
        match engine.look(backend).await {
            Ok(None) => return End::Removed,
            Ok(Some(found)) if !found.running => return found.end,
            Ok(Some(_)) => {}
            Err(error) => tracing::debug!(%backend, %error, "cannot look at its container"),
        }
    }
}

async fn connected(nats: &mut value::Receiver<Option<Nats>>) -> Option<Nats> {
    nats.wait_for(Option::is_some).await.ok()?.clone()
}

/// Publishes what a container writes, each line once it is stored, until the container ends. The engine keeps what
/// waits, up to the bound of its own log. After a restart it goes on behind the last line that the stream has.
pub(super) async fn pass_on_lines(engine: &dyn Engine, mut nats: value::Receiver<Option<Nats>>, backend: &BackendId) {
    let Some(nats) = connected(&mut nats).await else { return };
    let mut last = last_line(&nats, backend).await;
    loop {
        let since = last.map_or(0, |time| i32::try_from(time.as_second()).unwrap_or(i32::MAX));
        let mut lines = engine.lines(backend, since);
        // The engine counts in whole seconds. Pieces of one long line have one time, so only what came before is told apart.
        let known = last;
        let mut broken = false;
        while let Some(line) = lines.next().await {
            match line {
                Ok((_, text)) if time_of(&text).is_some_and(|time| known.is_some_and(|known| time <= known)) => {}
                Ok(line) => {
                    last = time_of(&line.1).or(last);
                    publish(&nats, backend, line).await;
                }
                Err(error) => {
                    tracing::debug!(%backend, %error, "its lines broke off");
                    broken = true;
                }
            }
        }
        match engine.look(backend).await {
            Ok(Some(found)) if found.running || broken => tokio::time::sleep(RETRY_PAUSE).await,
            Ok(_) => return,
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

async fn publish(nats: &Nats, backend: &BackendId, (kind, text): Line) {
    let line = LogLine { backend_id: backend.clone(), kind, text };
    let mut pause = RETRY_PAUSE;
    while let Err(error) = nats.publish_stored(&line).await {
        tracing::debug!(%backend, %error, "a line waits");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn last_line(nats: &Nats, backend: &BackendId) -> Option<Timestamp> {
    let mut pause = RETRY_PAUSE;
    let stored = loop {
        match nats.last(StreamName::Logs, &LogLine::subject_of(backend)).await {
            Ok(stored) => break stored?,
            // The stream is made by a controller; there may be none yet.
            Err(error) => tracing::debug!(%backend, %error, "its log is not there yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    time_of(&serde_json::from_slice::<LogLine>(&stored.payload).ok()?.text)
}

fn time_of(text: &str) -> Option<Timestamp> {
    text.split(' ').next()?.trim_end().parse().ok()
}

/// Publishes what a container uses, every few seconds, until it ends. Nobody misses a measurement that is lost.
pub(super) async fn tell_use(parts: &Parts, backend: &BackendId) {
    let mut nats = parts.nats.clone();
    let Some(nats) = connected(&mut nats).await else { return };
    let mut before: Option<Usage> = None;
    loop {
        match parts.engine.usage(backend).await {
            Ok(None) if before.is_some() => return,
            Ok(now) => {
                if let (Some(before), Some(now)) = (before, now) {
                    let _ = nats.publish(&difference(parts, backend, &before, &now)).await;
                }
                before = now;
            }
            Err(error) => tracing::debug!(%backend, %error, "cannot measure what it uses"),
        }
        tokio::time::sleep(USE_EVERY).await;
    }
}

fn difference(parts: &Parts, backend: &BackendId, before: &Usage, now: &Usage) -> Stats {
    Stats {
        cluster: parts.cluster.clone(),
        drone_id: parts.drone.clone(),
        backend_id: backend.clone(),
        mem_used: now.memory_used,
        mem_available: now.memory_limit,
        cpu_used: now.cpu_total.saturating_sub(before.cpu_total),
        sys_cpu: now.cpu_system.saturating_sub(before.cpu_system),
    }
}
