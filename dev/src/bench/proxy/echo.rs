//! WebSockets (RFC 6455) with an echo behind them. Frames are made by hand and masked with zeros, which is allowed and
//! leaves their bytes as they are: what is measured is the proxy, so the client does as little as it can.

use super::{
    client::{Connection, Door, PATIENCE, answer, load},
    watch::Processes,
};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
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

/// Connections that are being opened at once.
const OPENING: usize = 64;
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// The longest payload whose length stands in the frame's second byte.
const SHORT: usize = 125;

/// A message and what comes back.
#[derive(Debug, Clone)]
pub(super) struct Message {
    sent: Arc<[u8]>,
    /// Bytes of the frame that comes back, which has no mask.
    back: usize,
}

impl Message {
    /// A binary message of so many bytes, 65,535 at most.
    pub(super) fn of(payload: usize) -> Self {
        let (second, long) = match u8::try_from(payload) {
            Ok(short) if payload <= SHORT => (short, Vec::new()),
            _ => (126, u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes().to_vec()),
        };
        let back = 2 + long.len() + payload;
        let frame = [vec![BINARY, MASKED | second], long, vec![0; 4], vec![b'x'; payload]].concat();
        Self { sent: frame.into(), back }
    }

    /// Sends it and reads what comes back, into a buffer that is long enough.
    ///
    /// # Errors
    /// Where something else comes back.
    pub(super) async fn there_and_back(&self, connection: &mut Connection, buffer: &mut [u8]) -> Result<()> {
        connection.write_all(&self.sent).await?;
        connection.flush().await?;
        let back = &mut buffer[..self.back];
        tokio::time::timeout(PATIENCE, connection.read_exact(back)).await.context("no echo")??;
        ensure!(back.first() == Some(&BINARY) && back.last() == Some(&b'x'), "not the echo of what was sent");
        Ok(())
    }
}

/// Opens a WebSocket.
///
/// # Errors
/// Where the contender or the backend does not agree.
pub(super) async fn websocket(door: &Door) -> Result<Connection> {
    let mut connection = door.connect().await?;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    connection.write_all(&door.head("GET", "/ws", fields)).await?;
    connection.flush().await?;
    let (_, early) = answer(&mut connection, 101).await?;
    ensure!(early.is_empty(), "the echo speaks first");
    Ok(connection)
}

/// Opens many, some at a time.
///
/// # Errors
/// Where one cannot be opened.
pub(super) async fn many<F>(count: usize, open: impl Fn() -> F) -> Result<Vec<Connection>>
where
    F: Future<Output = Result<Connection>>,
{
    stream::iter(0..count).map(|_| open()).buffer_unordered(OPENING).try_collect().await
}

/// Echoes that came back in a time, and the processor time that the contender took for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Echoed {
    pub(super) messages: u64,
    pub(super) took: Duration,
    pub(super) processor: Duration,
}

/// Sends messages of 100 bytes on so many sockets for so long; each socket waits for its echo before it sends the next.
///
/// # Errors
/// Where a socket cannot be opened, or breaks.
pub(super) async fn echoes(door: Door, processes: Processes, sockets: usize, lasts: Duration) -> Result<Echoed> {
    load(move || async move {
        let (message, count) = (Message::of(100), Arc::new(AtomicU64::new(0)));
        let open = many(sockets, || websocket(&door)).await?;
        let mut talking = JoinSet::new();
        let (before, began) = (processes.processor_time()?, Instant::now());
        for mut connection in open {
            let (message, count) = (message.clone(), count.clone());
            talking.spawn(async move {
                let mut buffer = vec![0; message.back];
                loop {
                    if let Err(error) = message.there_and_back(&mut connection, &mut buffer).await {
                        return error;
                    }
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        tokio::select! {
            () = tokio::time::sleep(lasts) => {}
            Some(broken) = talking.join_next() => return Err(broken?.context("a WebSocket broke")),
        }
        let (messages, took) = (count.load(Relaxed), began.elapsed());
        Ok(Echoed { messages, took, processor: processes.processor_time()?.saturating_sub(before) })
    })
    .await
}
