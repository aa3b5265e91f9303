//! Calling a job off.

use super::Store;
use super::error::StoreError;
use super::job::{Job, JobId, State};
use super::row::{end, hold, look};
use super::sql::args;
use super::submit::with_texts;

impl Store {
    /// Calls an owner's job off: no further unit of it is claimed, and those at work are worthless. What was computed is
    /// kept. A job that has ended stays as it is. `None` if the owner has no such job.
    pub async fn cancel(&self, owner: &str, id: JobId) -> Result<Option<Job>, StoreError> {
        let mut tx = self.write_asked().await?;
        let Some(mut stored) = hold(&mut tx, id).await?.filter(|stored| stored.job.owner == owner) else {
            return Ok(None);
        };
        let changes = !stored.job.state.is_over();
        if changes {
            end(&mut tx, id, State::Cancelled, None).await?;
            stored = look(&mut tx, id).await?.ok_or_else(|| tx.lost_row())?;
        }
        let job = with_texts(&mut tx, stored.job).await?;
        if changes {
            self.publish(tx).await?;
        }
        Ok(Some(job))
    }

    /// Forgets a job that has ended, with everything of it; whether there was one.
    pub async fn delete(&self, owner: &str, id: JobId) -> Result<bool, StoreError> {
        let mut tx = self.write_asked().await?;
        let sql = "delete from job where id = $1 and owner = $2 and state not in ('queued', 'running')";
        let deleted = tx.run(sql, args![id, owner]).await? > 0;
        self.publish(tx).await?;
        Ok(deleted)
    }
}
