//! What happened to a job, numbered, so that whoever watches can go on where they stopped.

use super::Store;
use super::error::StoreError;
use super::job::{Event, JobId, State};
use super::row::{append, hold};
use super::sql::args;

impl Store {
    /// Adds an event to a job: its number. `None` if there is no such job, or it has expired.
    pub async fn event(&self, id: JobId, kind: &str, data: &str) -> Result<Option<i64>, StoreError> {
        let mut tx = self.write().await?;
        if hold(&mut tx, id).await?.is_none_or(|stored| stored.job.state == State::Expired) {
            return Ok(None);
        }
        let seq = append(&mut tx, id, kind, data).await?;
        self.publish(tx).await?;
        Ok(Some(seq))
    }

    /// The first `limit` events of a job after the one numbered `after`; 0 is before all.
    pub async fn events(&self, id: JobId, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql =
            "select seq, at_ms, kind, data from event where job = $1 and seq > $2 order by seq limit $3";
        let rows = self.read().await?.rows(sql, args![id, after, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(Event { seq: row.get(0)?, at_ms: row.get(1)?, kind: row.get(2)?, data: row.get(3)? })
            })
            .collect()
    }
}
