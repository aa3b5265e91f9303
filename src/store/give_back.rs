//! Units that were not done: given back unharmed, failed, or lost with their process.

use super::Store;
use super::error::StoreError;
use super::job::{Claim, JobId, State};
use super::row::{Stored, end, hold};
use super::sql::{Tx, args};
use uuid::Uuid;

/// The first try after a failure waits this long, each further one twice as long, up to the longest.
const BACKOFF_MS: i64 = 500;
const LONGEST_BACKOFF_MS: i64 = 60_000;
/// A unit whose process is lost is not to blame: servers are stopped and machines fail. But one that was lost this often
/// without ever being done takes its process with it.
const MOST_LOSSES: i64 = 20;

/// What became of a unit that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// It waits for its next try.
    Waits,
    /// That was its last try: its job has failed.
    JobFailed,
    /// It was not this process's any more, or the job has ended: nothing has changed.
    Stale,
}

impl Store {
    /// Gives a unit back unharmed, as at shutdown: it can be claimed at once, and this was no try.
    pub async fn release(&self, claim: &Claim) -> Result<GivenBack, StoreError> {
        let mut tx = self.write().await?;
        if hold(&mut tx, claim.job.id).await?.is_none() || !put_back(&mut tx, claim, 0, 0).await? {
            return Ok(GivenBack::Stale);
        }
        self.publish(tx).await?;
        Ok(GivenBack::Waits)
    }

    /// Says that a unit could not be computed. With `retry` it waits for its next try, longer each time, until it has had as
    /// many as its job allows; else the job fails, its other units are withdrawn, and what they gave is kept.
    pub async fn fail(&self, claim: &Claim, error: &str, retry: bool) -> Result<GivenBack, StoreError> {
        let id = claim.job.id;
        let mut tx = self.write().await?;
        let Some(Stored { max_attempts, .. }) = hold(&mut tx, id).await? else { return Ok(GivenBack::Stale) };
        let sql = "select failures from unit where job = $1 and seq = $2 and token = $3";
        let Some(row) = tx.row(sql, args![id, claim.seq, claim.token]).await? else {
            return Ok(GivenBack::Stale);
        };
        let failures = row.get::<i64>(0)? + 1;
        if !retry || failures >= max_attempts {
            end(&mut tx, id, State::Failed, Some(error)).await?;
            self.publish(tx).await?;
            return Ok(GivenBack::JobFailed);
        }
        let wait = BACKOFF_MS.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_BACKOFF_MS);
        let run_after = self.lease_clock(&mut tx).await? + wait;
        put_back(&mut tx, claim, 1, run_after).await?;
        tx.run("update job set retries = retries + 1 where id = $1", args![id]).await?;
        self.publish(tx).await?;
        Ok(GivenBack::Waits)
    }

    /// Puts back what processes held that are gone, and says how much. Everybody calls it every few seconds; in SQLite there
    /// is something to do at the start only.
    pub async fn recover(&self) -> Result<u64, StoreError> {
        let mut tx = self.read().await?;
        let now = self.lease_clock(&mut tx).await?;
        let sql = "select distinct job from unit where token is not null \
                   and not exists (select 1 from process where process.id = unit.process and lease_until > $1)";
        let rows = tx.rows(sql, args![now]).await?;
        let jobs: Vec<JobId> = rows.iter().map(|row| row.get(0).map(JobId)).collect::<Result<_, _>>()?;
        drop(tx);
        let mut count = 0;
        for job in jobs {
            count += self.recover_job(job, now).await?;
        }
        if count > 0 {
            tracing::warn!(units = count, "put back {count} units of work of processes that are gone");
        }
        Ok(count)
    }

    /// Puts back what this process holds but for claims with these tokens, unharmed, and says how much: units whose giving
    /// back failed, or whose claim was made and its answer lost. Only for whoever makes all claims of this process.
    pub async fn keep_only(&self, held: &[Uuid]) -> Result<u64, StoreError> {
        let sql = "select job, seq, token from unit where token is not null and process = $1";
        let rows = self.read().await?.rows(sql, args![self.process()]).await?;
        let mut count = 0;
        for row in &rows {
            let (job, seq, token) = (JobId(row.get(0)?), row.get::<i64>(1)?, row.get::<Uuid>(2)?);
            if held.contains(&token) {
                continue;
            }
            let mut tx = self.write().await?;
            if hold(&mut tx, job).await?.is_none() {
                continue;
            }
            let sql = "update unit set token = null, process = null, run_after = 0 \
                       where job = $1 and seq = $2 and token = $3";
            count += tx.run(sql, args![job, seq, token]).await?;
            self.publish(tx).await?;
        }
        Ok(count)
    }

    async fn recover_job(&self, id: JobId, now: i64) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        if hold(&mut tx, id).await?.is_none() {
            return Ok(0);
        }
        let sql = "update unit set token = null, process = null, losses = losses + 1, run_after = 0 \
                   where job = $1 and token is not null \
                   and not exists (select 1 from process where process.id = unit.process and lease_until > $2) \
                   returning losses";
        let rows = tx.rows(sql, args![id, now]).await?;
        let losses: Vec<i64> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        let count = losses.len() as u64;
        tx.run("update job set retries = retries + $2 where id = $1", args![id, count]).await?;
        if losses.iter().any(|losses| *losses >= MOST_LOSSES) {
            let error = format!("the server that computed a part of it was lost {MOST_LOSSES} times");
            end(&mut tx, id, State::Failed, Some(&error)).await?;
        }
        self.publish(tx).await?;
        Ok(count)
    }
}

/// Puts back a unit that the claim holds; whether it did.
async fn put_back(tx: &mut Tx, claim: &Claim, failures: i64, run_after: i64) -> Result<bool, StoreError> {
    let sql = "update unit set token = null, process = null, failures = failures + $4, run_after = $5 \
               where job = $1 and seq = $2 and token = $3";
    let changed = tx.run(sql, args![claim.job.id, claim.seq, claim.token, failures, run_after]).await?;
    Ok(changed > 0)
}
