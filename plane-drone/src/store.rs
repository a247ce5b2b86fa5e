//! What must survive a restart, in SQLite: the drone's id, whether it drains, each backend with its state, and the
//! outbox of what controllers and readers have not been told yet.
//!
//! One thread owns the database; callers wait for it without blocking theirs. A state and what it has to say are
//! written in one transaction, synced to disk before the call returns. The file holds secrets of requests and is
//! readable by its owner only. What a state means is not known here.

mod schema;
#[cfg(test)]
mod tests;

use crate::backend::{Entered, machine::State};
use jiff::{SignedDuration, Timestamp};
use plane_core::{
    id::{BackendId, DroneId},
    message::{
        backend::{LogLine, StatusReport},
        schedule::SpawnRequest,
    },
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Calls that wait for the database's thread; more wait for a place.
const WAITING_CALLS: usize = 256;
/// Processes whose names are kept: what one of them wrote may be found by one that follows.
const PROCESSES_KEPT: usize = 16;
/// How long the request of a backend that has ended is known, so that asking again for the same is noticed.
const ENDED_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("the database {} cannot be opened: {cause}", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Another process has it.
    #[error("the database {} is in use by another drone; each drone needs its own db_path", .0.display())]
    InUse(PathBuf),
    /// It refused.
    #[error("the database: {0}")]
    Database(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Database(format!("an entry is not readable: {error}"))
    }
}

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

type Call = Box<dyn FnOnce(&mut Connection) + Send>;

/// The drone's database. Clones speak to the same.
#[derive(Debug, Clone)]
pub struct Store {
    calls: mpsc::Sender<Call>,
    outbox: Arc<Notify>,
    told: Arc<Notify>,
}

impl Store {
    /// Opens the database, and makes it where there is none.
    ///
    /// # Errors
    /// Where the file cannot be used, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |cause: String| StoreError::Open { path: path.to_owned(), cause };
        let lock = own(path)?;
        let mut connection = Connection::open(path).map_err(|e| failed(e.to_string()))?;
        schema::prepare(&mut connection).map_err(failed)?;
        let (calls, mut waiting) = mpsc::channel::<Call>(WAITING_CALLS);
        let serve = move || {
            let _lock = lock;
            while let Some(call) = waiting.blocking_recv() {
                call(&mut connection);
            }
        };
        std::thread::Builder::new().name("store".into()).spawn(serve).map_err(|e| failed(e.to_string()))?;
        Ok(Self { calls, outbox: Arc::default(), told: Arc::default() })
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Database("its thread has ended".to_owned());
        let (sender, receiver) = oneshot::channel();
        let call: Call = Box::new(move |connection| {
            let _ = sender.send(work(connection));
        });
        self.calls.send(call).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// The drone's id: the configured one, else the one that is kept here, made at the first call.
    ///
    /// # Errors
    /// Where the database refuses, or belongs to a drone of another id that still has backends in it.
    pub async fn drone_id(&self, configured: Option<DroneId>) -> Result<DroneId, StoreError> {
        self.call(move |connection| {
            let kept: Option<DroneId> = setting(connection, "drone_id")?;
            let id = configured.or_else(|| kept.clone()).unwrap_or_else(DroneId::random);
            let running: i64 =
                connection.query_row("SELECT count(*) FROM backend WHERE ended IS NULL", [], |row| row.get(0))?;
            if let Some(kept) = kept.filter(|kept| *kept != id && running > 0) {
                return Err(StoreError::Database(format!(
                    "it holds {running} backends of the drone {kept}; drone_id says {id}. Give the drone its old id, or another db_path"
                )));
            }
            set(connection, "drone_id", &id)?;
            Ok(id)
        })
        .await
    }

    /// Whether the drone takes no more backends.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn draining(&self) -> Result<bool, StoreError> {
        self.call(|connection| Ok(setting(connection, "draining")?.unwrap_or(false))).await
    }

    /// Sets whether the drone takes no more backends.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn set_draining(&self, draining: bool) -> Result<(), StoreError> {
        self.call(move |connection| set(connection, "draining", &draining)).await
    }

    /// A name of this database, made at the first call.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn nonce(&self) -> Result<String, StoreError> {
        self.call(|connection| {
            if let Some(kept) = setting(connection, "nonce")? {
                return Ok(kept);
            }
            let made = uuid::Uuid::new_v4().simple().to_string();
            set(connection, "nonce", &made)?;
            Ok(made)
        })
        .await
    }

    /// The names of the newest processes that had this database, oldest first.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn processes(&self) -> Result<Vec<String>, StoreError> {
        self.call(|connection| Ok(setting(connection, "processes")?.unwrap_or_default())).await
    }

    /// Remembers that a process has this database from now on.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn follow(&self, process: &str) -> Result<(), StoreError> {
        let process = process.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let mut known: Vec<String> = setting(&transaction, "processes")?.unwrap_or_default();
            known.push(process);
            let old = known.len().saturating_sub(PROCESSES_KEPT);
            set(&transaction, "processes", &known.split_off(old))?;
            Ok(transaction.commit()?)
        })
        .await
    }

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

    /// Adds a backend, unless its id is known or refused; forgets those that ended long ago.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn insert(&self, request: &SpawnRequest, state: &State) -> Result<Inserted, StoreError> {
        let id = request.backend_id.clone();
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
            let sql = "INSERT INTO backend (id, request, state) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
            let added = transaction.execute(sql, params![id.as_str(), request, state])?;
            transaction.commit()?;
            Ok(if added == 1 { Inserted::New } else { Inserted::Known })
        })
        .await
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
    ///
    /// # Errors
    /// As [`Self::unfinished`].
    pub async fn finals_since(&self, since: Timestamp) -> Result<Vec<Known>, StoreError> {
        self.call(move |connection| {
            let mut statement =
                connection.prepare("SELECT request, state, entered FROM backend WHERE ended IS NULL OR ended >= ?")?;
            let rows = statement.query_map([since.as_millisecond()], columns)?;
            let all: Vec<Known> = rows.map(|row| known(row?)).collect::<Result<_, StoreError>>()?;
            Ok(all.into_iter().filter(|known| known.state.is_final()).collect())
        })
        .await
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

    /// Resolves when something of the outbox has been told.
    pub async fn told(&self) {
        self.told.notified().await;
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

    /// Wakes whoever waits for something new in the outbox.
    pub fn outbox_news(&self) -> Arc<Notify> {
        self.outbox.clone()
    }

    /// What is to be told next: the oldest message of each backend, where its number is above `after`. Gives at most
    /// `limit` messages, in the order of the numbers that they are acknowledged by.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn next_outgoing(&self, after: i64, limit: u32) -> Result<Vec<(i64, Outgoing)>, StoreError> {
        self.call(move |connection| {
            let sql = "SELECT min(number) AS oldest, message FROM outbox GROUP BY backend HAVING oldest > ?
                       ORDER BY oldest LIMIT ?";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![after, limit], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
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

fn setting<T: DeserializeOwned>(connection: &Connection, name: &str) -> Result<Option<T>, StoreError> {
    let sql = "SELECT value FROM setting WHERE name = ?";
    let text: Option<String> = connection.query_row(sql, [name], |row| row.get(0)).optional()?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn set<T: Serialize>(connection: &Connection, name: &str, value: &T) -> Result<(), StoreError> {
    let sql = "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.execute(sql, params![name, serde_json::to_string(value)?])?;
    Ok(())
}

/// Makes the file with its owner's rights only, and keeps other drones away from it for as long as the result lives.
/// The lock is on a file beside it, so that the database itself can be looked into while the drone runs.
fn own(path: &Path) -> Result<File, StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = |path: &Path| File::options().create(true).append(true).mode(0o600).open(path);
    let failed = |error: std::io::Error| StoreError::Open { path: path.to_owned(), cause: error.to_string() };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let lock = open(Path::new(&beside)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    open(path).map_err(failed)?;
    Ok(lock)
}
