//! One large body, down or up, on one connection.

use super::{
    client::{Door, PATIENCE, answer, load},
    watch::Processes,
};
use anyhow::{Context, Result, ensure};
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is read or written with one call.
const PIECE: usize = 256 * 1024;
/// How often a contender's memory is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Which way the body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Down,
    Up,
}

/// How long a body of so many bytes took.
///
/// # Errors
/// Where it does not arrive.
pub(super) async fn bulk(door: Door, way: Way, bytes: u64) -> Result<Duration> {
    load(move || async move {
        let mut connection = door.connect().await?;
        let began = Instant::now();
        match way {
            Way::Down => {
                let request = door.head("GET", &format!("/bytes?n={bytes}"), "");
                connection.write_all(&request).await?;
                let (length, first) = answer(&mut connection, 200).await?;
                ensure!(length.is_none_or(|length| length == bytes), "the answer is {length:?} long");
                let (mut left, mut piece) = (bytes - first.len() as u64, vec![0; PIECE]);
                while left > 0 {
                    let came = tokio::time::timeout(PATIENCE, connection.read(&mut piece)).await;
                    let came = came.context("the body stands still")??;
                    ensure!(came > 0, "the body broke off, {left} bytes before its end");
                    left = left.checked_sub(came as u64).context("the body is too long")?;
                }
            }
            Way::Up => {
                let request = door.head("POST", "/sink", &format!("Content-Length: {bytes}\r\n"));
                connection.write_all(&request).await?;
                let (mut left, piece) = (bytes, vec![b'x'; PIECE]);
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                    let went = tokio::time::timeout(PATIENCE, connection.write(&piece[..most])).await;
                    left -= went.context("the body stands still")?? as u64;
                }
                connection.flush().await?;
                let (_, told) = answer(&mut connection, 200).await?;
                let told = String::from_utf8_lossy(&told);
                ensure!(told.trim() == bytes.to_string(), "the backend had {told:?} of {bytes} bytes");
            }
        }
        Ok(began.elapsed())
    })
    .await
}

/// The most memory that a contender has while something lasts, in KiB.
///
/// # Errors
/// What the something says.
pub(super) async fn peak<T>(processes: &Processes, during: impl Future<Output = Result<T>>) -> Result<(T, u64)> {
    let (over, mut most) = (AtomicBool::new(false), processes.memory_kib()?);
    let looking = async {
        while !over.load(Relaxed) {
            most = most.max(processes.memory_kib()?);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok::<(), anyhow::Error>(())
    };
    let during = async {
        let outcome = during.await;
        over.store(true, Relaxed);
        outcome
    };
    let (outcome, looked) = tokio::join!(during, looking);
    looked?;
    Ok((outcome?, most))
}
