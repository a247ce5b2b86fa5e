//! The table of backends, and that of those which are never to be started.

use super::{Outgoing, Store, StoreError};
use crate::backend::{Entered, machine::State};
use jiff::{SignedDuration, Timestamp};
use plane_core::{id::BackendId, message::schedule::SpawnRequest};
use rusqlite::{OptionalExtension, params};

/// How long the request of a backend that has ended is known, so that asking again for the same is noticed.
const ENDED_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Whether a backend was new to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It was, and is there now.
    New,
    /// It was not; nothing changed.
    Known,
    /// It is not to be started.
    Refused,
}

/// A backend, as the database has it.
#[derive(Debug, Clone)]
pub struct Known {
    /// What was asked for.
    pub request: SpawnRequest,
    /// Where its life was.
    pub state: State,
    /// When it got there; none where nothing was begun, or an older version wrote it.
    pub entered: Option<Entered>,
}

impl Store {
    /// A backend, as far as it is known.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn find(&self, backend: &BackendId) -> Result<Option<Known>, StoreError> {
        let backend = backend.clone();
        self.call(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT request, state, entered FROM backend WHERE id = ?")?;
            statement.query_row([backend.as_str()], columns).optional()?.map(known).transpose()
        })
        .await
    }

    /// Adds a backend, unless its id is known or refused; forgets those that ended long ago. One of the same id is
    /// forgotten too where it has ended, all of it is told, and the log gave the id out after it: the controllers remember
    /// it no more.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn insert(&self, request: &SpawnRequest, state: &State) -> Result<Inserted, StoreError> {
        let (id, given) = (request.backend_id.clone(), request.assignment_seq);
        let (request, state) = (serde_json::to_string(request)?, serde_json::to_string(state)?);
        let long_ago = Timestamp::now().saturating_sub(ENDED_KEPT).map_or(i64::MIN, Timestamp::as_millisecond);
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM backend WHERE ended < ?", [long_ago])?;
            transaction.execute("DELETE FROM refused WHERE since < ?", [long_ago])?;
            let refused = "SELECT 1 FROM refused WHERE id = ?";
            if transaction.query_row(refused, [id.as_str()], |_| Ok(())).optional()?.is_some() {
                transaction.commit()?;
                return Ok(Inserted::Refused);
            }
            let over = "SELECT request FROM backend AS known WHERE id = ? AND ended IS NOT NULL
                        AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.backend = known.id)";
            let earlier: Option<String> = transaction.query_row(over, [id.as_str()], |row| row.get(0)).optional()?;
            let earlier: Option<SpawnRequest> = earlier.map(|earlier| serde_json::from_str(&earlier)).transpose()?;
            let before = earlier.and_then(|earlier| earlier.assignment_seq);
            if before.is_some_and(|before| given.is_some_and(|given| given > before)) {
                transaction.execute("DELETE FROM backend WHERE id = ?", [id.as_str()])?;
            }
            let sql = "INSERT INTO backend (id, request, state) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
            let added = transaction.execute(sql, params![id.as_str(), request, state])?;
            transaction.commit()?;
            Ok(if added == 1 { Inserted::New } else { Inserted::Known })
        })
        .await
    }

    /// Forgets a backend of which nothing was begun.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn discard(&self, backend: &BackendId) -> Result<(), StoreError> {
        let id = backend.clone();
        self.call(move |connection| {
            connection.execute("DELETE FROM backend WHERE id = ?", [id.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Remembers never to start a backend that is not known, and what is to be said of it.
    ///
    /// # Errors
    /// Where the database refuses; then nothing is written.
    pub async fn refuse(&self, backend: &BackendId, say: &Outgoing) -> Result<(), StoreError> {
        let (id, say, now) = (backend.clone(), serde_json::to_string(say)?, Timestamp::now().as_millisecond());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let sql = "INSERT INTO refused (id, since) VALUES (?, ?) ON CONFLICT DO NOTHING";
            transaction.execute(sql, params![id.as_str(), now])?;
            transaction.execute("INSERT INTO outbox (backend, message) VALUES (?, ?)", params![id.as_str(), say])?;
            Ok(transaction.commit()?)
        })
        .await?;
        self.outbox.notify_one();
        Ok(())
    }

    /// Writes a backend's state and when it was entered, together with what it has to say.
    ///
    /// # Errors
    /// Where the database refuses; then nothing is written.
    pub async fn persist(
        &self,
        backend: &BackendId,
        state: &State,
        entered: &Entered,
        say: &[Outgoing],
    ) -> Result<(), StoreError> {
        let id = backend.clone();
        let ended = state.has_ended().map(Timestamp::as_millisecond);
        let (state, entered) = (serde_json::to_string(state)?, serde_json::to_string(entered)?);
        let say: Vec<String> = say.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let news = !say.is_empty();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction
                .prepare_cached("UPDATE backend SET state = ?, entered = ?, ended = ? WHERE id = ?")?
                .execute(params![state, entered, ended, id.as_str()])?;
            for message in say {
                transaction
                    .prepare_cached("INSERT INTO outbox (backend, message) VALUES (?, ?)")?
                    .execute(params![id.as_str(), message])?;
            }
            Ok(transaction.commit()?)
        })
        .await?;
        if news {
            self.outbox.notify_one();
        }
        Ok(())
    }

    /// The backends whose life is not over.
    ///
    /// # Errors
    /// Where the database refuses or holds what this version cannot read.
    pub async fn unfinished(&self) -> Result<Vec<Known>, StoreError> {
        self.call(|connection| {
            let mut statement =
                connection.prepare("SELECT request, state, entered FROM backend WHERE ended IS NULL")?;
            let rows = statement.query_map([], columns)?;
            rows.map(|row| known(row?)).collect()
        })
        .await
    }

    /// The backends that have reached their final state, those whose life is over only if that was at `since` or later.
    /// Those of which something waits in the outbox are left out: what is told there has the reason and the exit status.
    ///
    /// # Errors
    /// As [`Self::unfinished`].
    pub async fn finals_since(&self, since: Timestamp) -> Result<Vec<Known>, StoreError> {
        self.call(move |connection| {
            let sql = "SELECT request, state, entered FROM backend WHERE (ended IS NULL OR ended >= ?)
                       AND id NOT IN (SELECT backend FROM outbox)";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([since.as_millisecond()], columns)?;
            let all: Vec<Known> = rows.map(|row| known(row?)).collect::<Result<_, StoreError>>()?;
            Ok(all.into_iter().filter(|known| known.state.is_final()).collect())
        })
        .await
    }

    /// The backends that ended at `since` or later, oldest first.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn ended_since(&self, since: Timestamp) -> Result<Vec<BackendId>, StoreError> {
        self.call(move |connection| {
            let mut statement = connection.prepare("SELECT id FROM backend WHERE ended >= ? ORDER BY ended")?;
            let rows = statement.query_map([since.as_millisecond()], |row| row.get::<_, String>(0))?;
            rows.map(|row| row?.parse().map_err(|e| StoreError::Database(format!("{e}")))).collect()
        })
        .await
    }
}

/// A backend's request, its state and when that was entered, as the table has them.
type Columns = (String, String, Option<String>);

fn columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn known((request, state, entered): Columns) -> Result<Known, StoreError> {
    let entered = entered.map(|entered| serde_json::from_str(&entered)).transpose()?;
    Ok(Known { request: serde_json::from_str(&request)?, state: serde_json::from_str(&state)?, entered })
}
