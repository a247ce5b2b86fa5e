//! The outbox: what controllers and readers have not been told yet, in order per backend.

use super::{Store, StoreError};
use plane_core::{
    id::BackendId,
    message::backend::{LogLine, StatusReport},
};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Notify;

/// What waits to be told, in order per backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outgoing {
    /// A state, for the controllers.
    Status(StatusReport),
    /// A line of Plane's own, for the backend's log.
    Log(LogLine),
}

impl Outgoing {
    /// The backend that it is about.
    pub fn backend(&self) -> &BackendId {
        match self {
            Self::Status(report) => &report.backend,
            Self::Log(line) => &line.backend_id,
        }
    }
}

impl Store {
    /// Says something again that was said before.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn say_again(&self, say: &Outgoing) -> Result<(), StoreError> {
        let (id, say) = (say.backend().clone(), serde_json::to_string(say)?);
        self.call(move |connection| {
            connection.execute("INSERT INTO outbox (backend, message) VALUES (?, ?)", params![id.as_str(), say])?;
            Ok(())
        })
        .await?;
        self.outbox.notify_one();
        Ok(())
    }

    /// The numbers of the oldest and the newest message that wait to be told.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn outgoing(&self) -> Result<Option<(i64, i64)>, StoreError> {
        self.call(|connection| {
            let sql = "SELECT min(number), max(number) FROM outbox";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?));
            let (oldest, newest) = connection.query_row(sql, [], row)?;
            Ok(oldest.zip(newest))
        })
        .await
    }

    /// What is to be told next: the oldest message of each backend, where its number is above `after` and at most
    /// `newest`. Gives at most `limit` messages, in the order of the numbers that they are acknowledged by.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn next_outgoing(&self, after: i64, newest: i64, limit: u32) -> Result<Vec<(i64, Outgoing)>, StoreError> {
        self.call(move |connection| {
            let sql = "SELECT min(number) AS oldest, message FROM outbox GROUP BY backend
                       HAVING oldest > ? AND oldest <= ? ORDER BY oldest LIMIT ?";
            let mut statement = connection.prepare_cached(sql)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
            let rows = statement.query_map(params![after, newest, limit], row)?;
            rows.map(|row| {
                let (number, message) = row?;
                Ok((number, serde_json::from_str(&message)?))
            })
            .collect()
        })
        .await
    }

    /// Strikes off what has been told.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn acknowledge(&self, numbers: Vec<i64>) -> Result<(), StoreError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            for number in numbers {
                transaction.prepare_cached("DELETE FROM outbox WHERE number = ?")?.execute([number])?;
            }
            Ok(transaction.commit()?)
        })
        .await?;
        self.told.notify_waiters();
        Ok(())
    }

    /// Resolves when something of the outbox has been told.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Wakes whoever waits for something new in the outbox.
    pub fn outbox_news(&self) -> Arc<Notify> {
        self.outbox.clone()
    }
}
