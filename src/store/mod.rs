//! What outlives the process: jobs with their units, events and results, and datasets. In SQLite in the data folder, or in
//! PostgreSQL where several processes share the work.
//!
//! Every change is one transaction. A job is acknowledged only after its own is committed and synced; a unit counts only
//! once its numbers are committed with it. Whatever changes a job or its units holds the job's row first, so that
//! transactions wait for each other in one order.

pub mod job;

mod cancel;
mod checksum;
mod claim;
mod commit;
mod datasets;
mod error;
mod events;
mod expire;
mod give_back;
mod keys;
mod lock;
mod outputs;
mod postgres;
mod process;
mod query;
mod row;
mod schema;
mod settings;
mod share;
mod sql;
mod sqlite;
mod submit;
mod usage;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use uuid::Uuid;

use claim::Texts;
use error::Place;
use sql::{Open, Tx, args};

pub use error::StoreError;
pub use give_back::GivenBack;
pub use keys::{InUse, StoredKey, StoredTerms};
pub use query::{Filter, Page};
pub use settings::Settings;
pub use share::turn;
pub use submit::{Limits, Submitted};
pub use usage::{KeyUsage, OwnerUsage};

/// Changes that clients ask for and that wait for the database at once.
const ASKED: usize = 3;
/// How long others wait for a turn; then there is too much of it.
const FOR_A_TURN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });

/// An open database. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// This opening of the store: another start of the same program is another process.
    process: Uuid,
    place: Arc<Place>,
    pools: Pools,
    changed: watch::Sender<u64>,
    /// SQLite's clock of leases: it belongs to one process, and is not set by anybody.
    started: Instant,
    listener: Option<AbortHandle>,
    /// Requests of the jobs last worked on.
    texts: Mutex<Texts>,
    /// Turns of changes that clients ask for.
    asked: Arc<Semaphore>,
    /// Units claimed since it was opened.
    claims: AtomicU64,
}

#[derive(Debug)]
enum Pools {
    Sqlite(sqlite::Pools),
    Postgres(sqlx::PgPool),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Store {
    /// Opens the database and brings its tables up to date. In SQLite, units that an ended process held are put back.
    ///
    /// # Errors
    /// Another server has the folder; the file is damaged; its tables are of a newer version; it cannot be reached.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let (changed, _) = watch::channel(0);
        let (pools, place, listener) = if settings.url.is_empty() {
            let (pools, place) = sqlite::open(&settings.data_dir).await?;
            (Pools::Sqlite(pools), place, None)
        } else {
            let (pool, place) = postgres::open(&settings.url).await?;
            let listener = postgres::listen(pool.clone(), changed.clone());
            (Pools::Postgres(pool), place, Some(listener))
        };
        let store = Self(Arc::new(Inner {
            process: Uuid::now_v7(),
            place,
            pools,
            changed,
            started: Instant::now(),
            listener,
            texts: Mutex::default(),
            asked: Arc::new(Semaphore::new(ASKED)),
            claims: AtomicU64::new(0),
        }));
        store.enter().await?;
        store.recover().await?;
        Ok(store)
    }

    /// Which database it is: `sqlite` or `postgresql`.
    pub fn kind(&self) -> &'static str {
        match &self.0.pools {
            Pools::Sqlite(_) => "sqlite",
            Pools::Postgres(_) => "postgresql",
        }
    }

    /// Names this opening of the store, as units know it that it works on.
    pub fn process(&self) -> Uuid {
        self.0.process
    }

    /// Wakes whoever waits for a change: [`watch::Receiver::changed`] returns after any that this process makes and, in
    /// PostgreSQL, soon after any that another does. Some of those are missed while the connection is away: ask again
    /// every second or two as well.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Gives back what this process still holds and closes the database. Without it the next start, or another process
    /// after the lease, does so.
    pub async fn close(&self) -> Result<(), StoreError> {
        let left = self.leave().await;
        match &self.0.pools {
            Pools::Sqlite(pools) => pools.close().await,
            Pools::Postgres(pool) => pool.close().await,
        }
        left
    }

    /// A transaction that changes something because a client asks for it. Only a few of them wait for the database at once, so
    /// that what the server itself has to store is not behind them all.
    async fn write_asked(&self) -> Result<Tx, StoreError> {
        let turn = timeout(FOR_A_TURN, Arc::clone(&self.0.asked).acquire_owned()).await;
        let Ok(turn) = turn else { return Err(self.0.place.busy()) };
        let tx = self.write().await?;
        Ok(Tx { _turn: turn.ok(), ..tx })
    }

    /// A transaction that changes something.
    async fn write(&self) -> Result<Tx, StoreError> {
        let place = Arc::clone(&self.0.place);
        place.writable()?;
        let open = match &self.0.pools {
            // A transaction that reads first and locks later fails where it would have waited.
            Pools::Sqlite(pools) => sqlite::begin(&pools.writer, "begin immediate").await.map(Open::Sqlite),
            Pools::Postgres(pool) => pool.begin().await.map(Open::Postgres),
        };
        let open = open.map_err(|error| place.error(error))?;
        Ok(Tx { open, place, _turn: None })
    }

    /// A transaction that only reads.
    async fn read(&self) -> Result<Tx, StoreError> {
        let place = Arc::clone(&self.0.place);
        let open = match &self.0.pools {
            Pools::Sqlite(pools) => sqlite::begin(&pools.readers, "begin").await.map(Open::Sqlite),
            Pools::Postgres(pool) => pool.begin_with("begin read only").await.map(Open::Postgres),
        };
        let open = open.map_err(|error| place.error(error))?;
        Ok(Tx { open, place, _turn: None })
    }

    /// Commits a change that others may be waiting for, and wakes them.
    async fn publish(&self, mut tx: Tx) -> Result<(), StoreError> {
        if matches!(tx.open, Open::Postgres(_)) {
            tx.rows("select pg_notify('mediant', '')", args![]).await?;
        }
        tx.commit().await?;
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Milliseconds on the clock of leases: the database's where several processes use it.
    async fn lease_clock(&self, tx: &mut Tx) -> Result<i64, StoreError> {
        if matches!(tx.open, Open::Sqlite(_)) {
            return Ok(i64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(i64::MAX));
        }
        let sql = "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)";
        let row = tx.row(sql, args![]).await?;
        row.map_or(Ok(0), |row| row.get(0))
    }
}

/// Milliseconds since 1970, UTC: for people and for times to keep results, never for leases.
fn wall_clock() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_changes_than_the_database_makes_are_refused_and_the_servers_own_are_not_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: folder.path().to_owned(), url: String::new() };
        let store = Store::open(&settings).await.unwrap();
        let held = store.write_asked().await.unwrap();
        let waits = || {
            let store = store.clone();
            tokio::spawn(async move { store.write_asked().await.map(drop) })
        };
        let waiting: Vec<_> = (1..ASKED).map(|_| waits()).collect();
        while store.0.asked.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = store.write_asked().await.map(drop);
        assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
        assert_eq!(store.0.place.trouble(), None, "the database is well");
        let behind = waits();
        let own = {
            let store = store.clone();
            tokio::spawn(async move { store.write().await.map(drop) })
        };
        tokio::task::yield_now().await;
        drop(held);
        own.await.unwrap().unwrap();
        for client in waiting.into_iter().chain([behind]) {
            client.await.unwrap().unwrap();
        }
        store.close().await.unwrap();
    }
}
