//! This process as others know it: alive for as long as it renews its lease.

use std::time::Duration;

use super::error::StoreError;
use super::sql::{Open, args};
use super::{Store, wall_clock};

/// The lease with which a process begins: it renews it with [`Store::heartbeat`] long before.
const FIRST_LEASE: Duration = Duration::from_secs(30);
/// Rows of dead processes are for reading in the database by hand; after a day they are removed.
const REMEMBERED_MS: i64 = 86_400_000;

impl Store {
    /// Makes this process known. In SQLite it is then the only one: the others have lost the folder's lock.
    pub(super) async fn enter(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        if matches!(tx.open, Open::Sqlite(_)) {
            tx.run("delete from process", args![]).await?;
            // Their clock ended with them.
            tx.run("update unit set run_after = 0 where run_after > 0", args![]).await?;
        }
        tx.commit().await?;
        self.heartbeat(FIRST_LEASE).await
    }

    /// Says that this process lives, and that its units are to be put back if it has not said so again when the lease is
    /// over. In SQLite nobody else could, and nothing is written.
    pub async fn heartbeat(&self, lease: Duration) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = self.lease_clock(&mut tx).await?;
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let until = if matches!(tx.open, Open::Sqlite(_)) { i64::MAX } else { now.saturating_add(lease_ms) };
        let sql = "insert into process (id, lease_until) values ($1, $2) \
                   on conflict (id) do update set lease_until = excluded.lease_until \
                   where process.lease_until <> excluded.lease_until";
        tx.run(sql, args![self.process(), until]).await?;
        if matches!(tx.open, Open::Postgres(_)) {
            let old = now.saturating_sub(REMEMBERED_MS);
            tx.run("delete from process where lease_until < $1", args![old]).await?;
        }
        tx.commit().await
    }

    /// Gives back whatever this process holds, and says that it goes.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "select distinct job from unit where process = $1 order by job";
        let jobs: Vec<uuid::Uuid> = {
            let rows = tx.rows(sql, args![self.process()]).await?;
            rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?
        };
        for job in jobs {
            super::row::hold(&mut tx, super::job::JobId(job)).await?;
        }
        let sql = "update unit set token = null, process = null where process = $1";
        tx.run(sql, args![self.process()]).await?;
        tx.run("delete from process where id = $1", args![self.process()]).await?;
        self.publish(tx).await
    }

    /// Whether something can be stored now: writes a little, and says why it could not.
    pub async fn check(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "update process set checked_ms = $2 where id = $1";
        tx.run(sql, args![self.process(), wall_clock()]).await?;
        tx.commit().await?;
        self.0.place.is_well()
    }

    /// Why nothing can be stored at present, if that is known: what failed last, until a [`Store::check`] succeeds; and, as
    /// soon as it is so, that the files are no longer those that were opened.
    pub fn trouble(&self) -> Option<StoreError> {
        self.0.place.trouble()
    }
}
