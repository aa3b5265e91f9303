//! SQLite in the data folder: one server, one writer, several readers.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool};

use super::error::{Place, StoreError};
use super::lock::FolderLock;
use super::schema;
use crate::disk::{Anchor, close_to_others, open_private, private_folder};

/// How long a statement waits for another program that has locked the file.
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// Bytes that a grown log keeps of the disk once it has been written back.
const LOG_KEPT: &str = "67108864";

const FILE: &str = "mediant.sqlite3";
/// The log, and the index of it in shared memory. SQLite gives them the database's permissions.
const LOG: &str = "mediant.sqlite3-wal";
const BESIDE: [&str; 2] = [LOG, "mediant.sqlite3-shm"];

/// Two pools of one file.
#[derive(Debug)]
pub(super) struct Pools {
    /// One connection: SQLite has one writer at a time, and waiting in a queue is fair and costs nothing.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    place: Arc<Place>,
    /// Given back after the pools are closed.
    _lock: FolderLock,
}

impl Pools {
    /// Closes all connections, if that does no harm.
    pub(super) async fn close(&self) {
        if self.place.in_place().is_ok() {
            self.place.let_go();
            self.readers.close().await;
            self.writer.close().await;
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        if self.place.in_place().is_err() {
            // The last connection that is closed deletes the log, by its name. That would be another server's by now: these
            // stay open until the process ends.
            std::mem::forget((self.writer.clone(), self.readers.clone()));
        }
    }
}

/// Whether a name in the data folder is of this program.
fn is_ours(name: &OsStr) -> bool {
    name == "activations" || name.as_encoded_bytes().starts_with(b"mediant.")
}

/// Opens the file, made if it is absent; checks it; brings its tables up to date.
pub(super) async fn open(folder: &Path) -> Result<(Pools, Arc<Place>), StoreError> {
    private_folder(folder, is_ours).map_err(|error| StoreError::file("make the folder", folder, &error))?;
    let lock = FolderLock::take(folder)?;
    let file = folder.join(FILE);
    make(folder, &file, lock.was_used)?;
    let place = Arc::new(Place::new(format!("the database {}", file.display())));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        // It has just been made. Later, a new one would be somebody else's.
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // Every commit is on the disk before it is answered.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("journal_size_limit", LOG_KEPT);
    let pool = |size: u32| {
        let place = Arc::clone(&place);
        SqlitePoolOptions::new()
            .max_connections(size)
            .min_connections(1)
            // Longer than the busy timeout, so that whoever waits hears of the lock and not of the queue.
            .acquire_timeout(2 * BUSY)
            .idle_timeout(None)
            .max_lifetime(None)
            // One made later opens whatever has the file's name by then.
            .after_connect(move |_, _| {
                let place = Arc::clone(&place);
                Box::pin(
                    async move { place.in_place().map_err(|error| sqlx::Error::Io(io::Error::other(error))) },
                )
            })
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
    let file = Anchor::of(&file).map_err(|error| StoreError::file("find it", &file, &error))?;
    let beside = BESIDE.iter().flat_map(|name| Anchor::of(&folder.join(name)));
    let anchors = lock.anchors.iter().cloned().chain([file]).chain(beside);
    place.anchor(anchors.collect());
    Ok((Pools { writer, readers, place: Arc::clone(&place), _lock: lock }, place))
}

/// Makes an empty file if there is none. Where there is a log, there was a database: that is never begun anew.
fn make(folder: &Path, file: &Path, was_used: bool) -> Result<(), StoreError> {
    let failed = |error| StoreError::file("make it", file, &error);
    let length = match std::fs::metadata(file) {
        Ok(meta) => Some(meta.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let log = folder.join(LOG);
    if let (None | Some(0), Ok(meta)) = (length, std::fs::metadata(&log)) {
        let (file, empty) = (file.to_owned(), length.is_some());
        return Err(StoreError::LostDatabase { file, empty, log, bytes: meta.len() });
    }
    if length.is_none() {
        if was_used {
            tracing::warn!(
                "{} is gone since this folder was last used; an empty one is made",
                file.display()
            );
        }
        open_private(File::options().write(true).create_new(true), file).map_err(failed)?;
    }
    [FILE].iter().chain(&BESIDE).for_each(|name| close_to_others(&folder.join(name)));
    Ok(())
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
