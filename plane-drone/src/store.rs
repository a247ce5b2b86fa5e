//! What must survive a restart, in SQLite: the drone's id, whether it drains, each backend with its state, and the
//! outbox of what controllers and readers have not been told yet.
//!
//! One thread owns the database; callers wait for it without blocking theirs. A state and what it has to say are
//! written in one transaction, synced to disk before the call returns. The file holds secrets of requests and is
//! readable by its owner only. What a state means is not known here.
//!
//! This module has the thread, and what concerns the drone itself; `backends` has those, `outbox` what is to be told.

mod backends;
mod outbox;
mod schema;
#[cfg(test)]
mod tests;

pub use backends::{Inserted, Known};
pub use outbox::Outgoing;

use plane_core::id::DroneId;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};
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
