//! A loader that opens a connection for each request, with a whole handshake where there is TLS.

use super::client::{Door, PATIENCE, answer, load};
use anyhow::{Context, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

/// Connections under way at once.
const AT_ONCE: usize = 32;

/// What was done in which time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) took: Duration,
}

/// Asks for so long, and waits for what is under way at the end.
///
/// # Errors
/// Where nothing is answered at all; why not.
pub(super) async fn connections(door: Door, target: &'static str, lasts: Duration) -> Result<Done> {
    load(move || async move {
        let (done, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let mut askers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (door, done, failed) = (door.clone(), done.clone(), failed.clone());
            askers.spawn(async move {
                let request = door.head("GET", target, "Connection: close\r\n");
                let mut why = None;
                while began.elapsed() < lasts {
                    match ask(&door, &request).await {
                        Ok(()) => _ = done.fetch_add(1, Relaxed),
                        Err(error) => {
                            failed.fetch_add(1, Relaxed);
                            why = Some(error);
                        }
                    }
                }
                why
            });
        }
        let why = askers.join_all().await.into_iter().flatten().next();
        let done = Done { requests: done.load(Relaxed), failed: failed.load(Relaxed), took: began.elapsed() };
        match why {
            Some(why) if done.requests == 0 => Err(why),
            _ => Ok(done),
        }
    })
    .await
}

async fn ask(door: &Door, request: &[u8]) -> Result<()> {
    let mut connection = door.connect().await?;
    connection.write_all(request).await?;
    let (_, mut rest) = answer(&mut connection, 200).await?;
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.context("the connection stays open")??;
    Ok(())
}
