//! SQLite in the data folder: one server, one writer, several readers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool};

use super::error::{Place, StoreError};
use super::lock::FolderLock;
use super::schema;

/// How long a statement waits for another program that has locked the file.
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// Bytes that a grown log keeps of the disk once it has been written back.
const LOG_KEPT: &str = "67108864";

/// Two pools of one file.
#[derive(Debug)]
pub(super) struct Pools {
    /// One connection: SQLite has one writer at a time, and waiting in a queue is fair and costs nothing.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    /// Given back after the pools are closed.
    _lock: FolderLock,
}

/// Opens the file, made if it is absent; checks it; brings its tables up to date.
pub(super) async fn open(folder: &Path) -> Result<(Pools, Arc<Place>), StoreError> {
    std::fs::create_dir_all(folder).map_err(|error| StoreError::file("make the folder", folder, &error))?;
    let lock = FolderLock::take(folder)?;
    let file = folder.join("mediant.sqlite3");
    let place = Arc::new(Place::new(format!("the database {}", file.display())));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Every commit is on the disk before it is answered.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("journal_size_limit", LOG_KEPT);
    let pool = |size: u32| {
        SqlitePoolOptions::new()
            .max_connections(size)
            .min_connections(1)
            // Longer than the busy timeout, so that whoever waits hears of the lock and not of the queue.
            .acquire_timeout(2 * BUSY)
            .idle_timeout(None)
            .max_lifetime(None)
            // Ends a transaction that was not committed. After one that was it fails, which is as well.
            .after_release(|connection, _| {
                Box::pin(async move {
                    sqlx::query("rollback").execute(connection).await.ok();
                    Ok(true)
                })
            })
    };
    let failed = |error| place.error(error);
    let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
    check(&writer, &place).await?;
    schema::sqlite().run(&writer).await.map_err(|error| place.migration(error))?;
    let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await.map_err(failed)?;
    Ok((Pools { writer, readers, _lock: lock }, place))
}

/// A connection that has begun a transaction.
pub(super) async fn begin(
    pool: &SqlitePool,
    how: &'static str,
) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    sqlx::query(how).execute(&mut *connection).await?;
    Ok(connection)
}

/// Refuses a damaged file before anything is written to it.
async fn check(writer: &SqlitePool, place: &Place) -> Result<(), StoreError> {
    let faults: Vec<String> = sqlx::query_scalar::<Sqlite, _>("pragma quick_check(3)")
        .fetch_all(writer)
        .await
        .map_err(|error| place.error(error))?;
    if faults == ["ok"] { Ok(()) } else { Err(place.corrupt(faults.join("; ").replace('\n', " "))) }
}
