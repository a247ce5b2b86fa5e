//! Connections that are open and quiet: what memory each costs its proxy.

use super::{
    client::{Connection, Door, get, load},
    echo::{Message, many, websocket},
    watch::Processes,
};
use anyhow::Result;
use std::time::Duration;

/// Connections that come and go before, so that what is made only once is there.
const WARM: usize = 8;
/// How long a contender is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// What each connection has echoed before it is quiet, in bytes.
const ECHO: usize = 4096;

/// What kind of connection is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    WebSocket,
    KeepAlive,
}

/// The growth of a contender's own memory for each of so many connections, in KiB.
///
/// # Errors
/// Where a connection cannot be opened, or is not served.
pub(super) async fn idle(door: Door, processes: Processes, kind: Kind, connections: usize) -> Result<f64> {
    load(move || async move {
        drop(many(WARM, || used(&door, kind)).await?);
        tokio::time::sleep(SETTLE).await;
        let before = processes.memory_kib()?;
        let held = many(connections, || used(&door, kind)).await?;
        tokio::time::sleep(SETTLE).await;
        let grown = processes.memory_kib()? as f64 - before as f64;
        Ok(grown / held.len() as f64)
    })
    .await
}

/// A connection on which something has been said.
async fn used(door: &Door, kind: Kind) -> Result<Connection> {
    match kind {
        Kind::WebSocket => {
            let (mut connection, mut buffer) = (websocket(door).await?, vec![0; ECHO + 4]);
            Message::of(ECHO).there_and_back(&mut connection, &mut buffer).await?;
            Ok(connection)
        }
        Kind::KeepAlive => {
            let mut connection = door.connect().await?;
            get(&mut connection, &door.head("GET", &format!("/bytes?n={ECHO}"), "")).await?;
            Ok(connection)
        }
    }
}
