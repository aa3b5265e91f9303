//! Results whose time is over.

use super::error::StoreError;
use super::job::{JobId, State};
use super::row::{hold, tell_state};
use super::sql::args;
use super::{Store, wall_clock};

/// Jobs of one call: each is a transaction of its own, and the next call takes the next.
const AT_ONCE: i64 = 100;

impl Store {
    /// Deletes outputs, files and events of jobs whose time is over, and says of how many. The jobs stay, as expired.
    pub async fn expire(&self) -> Result<u64, StoreError> {
        let sql = "select id from job where expires_ms is not null and state <> 'expired' and expires_ms <= $1 \
                   order by expires_ms limit $2";
        let rows = self.read().await?.rows(sql, args![wall_clock(), AT_ONCE]).await?;
        let jobs: Vec<JobId> = rows.iter().map(|row| row.get(0).map(JobId)).collect::<Result<_, _>>()?;
        let mut count = 0;
        for id in jobs {
            count += u64::from(self.expire_job(id).await?);
        }
        Ok(count)
    }

    async fn expire_job(&self, id: JobId) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        // Another server may have been here.
        if hold(&mut tx, id).await?.is_none_or(|stored| stored.job.state == State::Expired) {
            return Ok(false);
        }
        for sql in [
            "delete from output where job = $1",
            "delete from file where job = $1",
            "delete from event where job = $1",
            "update job set state = 'expired' where id = $1",
        ] {
            tx.run(sql, args![id]).await?;
        }
        // Whoever still watches learns of it.
        tell_state(&mut tx, id, State::Expired, None).await?;
        self.publish(tx).await?;
        Ok(true)
    }
}
