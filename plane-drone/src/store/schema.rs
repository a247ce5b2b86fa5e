//! The tables, and how an older file becomes a newer one.

use rusqlite::Connection;

/// One script a version; a file of version n has had the first n of them.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    -- A backend, its request and its state as JSON; when its life was over, in ms since 1970.
    CREATE TABLE backend (id TEXT PRIMARY KEY, request TEXT NOT NULL, state TEXT NOT NULL, ended INTEGER) STRICT;
    CREATE INDEX backend_ended ON backend (ended);
    -- What has not been told yet, as JSON, in the order in which it has to be.
    CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, backend TEXT NOT NULL, message TEXT NOT NULL) STRICT;
",
    // Backends that are not known here and that the log gave to this drone: given up, and never to be started.
    "CREATE TABLE refused (id TEXT PRIMARY KEY, since INTEGER NOT NULL) STRICT;",
    // When a backend's state was entered, on the clock of a boot of the machine, as JSON.
    "ALTER TABLE backend ADD COLUMN entered TEXT;",
];

/// Brings a file up to this version. FULL: what is committed survives a loss of power.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), String> {
    let wrong = |error: rusqlite::Error| error.to_string();
    connection.pragma_update(None, "journal_mode", "WAL").map_err(wrong)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(wrong)?;
    connection.busy_timeout(std::time::Duration::from_secs(2)).map_err(wrong)?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrong)?;
    let newer = MIGRATIONS
        .get(version as usize..)
        .ok_or_else(|| format!("it is of version {version}, this program knows versions up to {}", MIGRATIONS.len()))?;
    for (number, script) in (version + 1..).zip(newer) {
        let transaction = connection.transaction().map_err(wrong)?;
        transaction.execute_batch(script).map_err(wrong)?;
        transaction.pragma_update(None, "user_version", number).map_err(wrong)?;
        transaction.commit().map_err(wrong)?;
    }
    Ok(())
}
