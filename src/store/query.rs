//! What is known of jobs.

use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use super::job::{Job, JobId, State};
use super::row::{Stored, job_columns, look, units_left};
use super::sql::{Arg, args, listed};
use super::submit::with_texts;
use crate::spec::kind::Kind;

/// Which jobs to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those of this kind.
    pub kind: Option<Kind>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Most jobs.
    pub limit: u32,
    /// Only those older than this one.
    pub before: Option<JobId>,
}

impl Store {
    /// A job with its request.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let mut tx = self.read().await?;
        match look(&mut tx, id).await? {
            Some(stored) => with_texts(&mut tx, stored.job).await.map(Some),
            None => Ok(None),
        }
    }

    /// Jobs of an owner, newest first. Their requests, which may be long, are left empty.
    pub async fn jobs(&self, owner: &str, filter: Filter, page: Page) -> Result<Vec<Job>, StoreError> {
        let sql = concat!(
            "select ",
            job_columns!(),
            " from job where owner = $1 and id < $2 and (cast($3 as text) is null or state = $3) \
             and (cast($4 as text) is null or kind = $4) order by id desc limit $5"
        );
        let before = page.before.map_or(Uuid::max(), |id| id.0);
        let (state, kind) = (filter.state.map(State::name), filter.kind.map(Kind::name));
        let mut tx = self.read().await?;
        let rows = tx.rows(sql, args![owner, before, state, kind, page.limit]).await?;
        rows.iter().map(|row| Stored::of(row).map(|stored| stored.job)).collect()
    }

    /// How many jobs of all owners are in each state.
    pub async fn counts(&self) -> Result<Vec<(State, u64)>, StoreError> {
        let mut tx = self.read().await?;
        let rows = tx.rows("select state, count(*) from job group by state", &[]).await?;
        let found = rows.iter().map(|row| Ok((row.get::<String>(0)?, u64::from(row.count(1)?))));
        let found = found.collect::<Result<Vec<_>, StoreError>>()?;
        let count = |state: State| found.iter().find(|(name, _)| name == state.name()).map_or(0, |(_, n)| *n);
        Ok(State::ALL.into_iter().map(|(_, state)| (state, count(state))).collect())
    }

    /// How many jobs would be claimed from before this one, as things stand; `None` if it is not waiting.
    pub async fn position(&self, id: JobId) -> Result<Option<u64>, StoreError> {
        let sql = concat!(
            "with me as (select job.id, job.priority, job.model_sha, coalesce(share.clock, 0) as clock, ",
            units_left!("job"),
            " as units from job left join share on share.owner = job.owner where job.id = $1 and job.state = 'queued') \
             select (select count(*) from me), count(job.id) from me join job on job.model_sha = me.model_sha \
             left join share on share.owner = job.owner \
             where job.state in ('queued', 'running') and job.next_unit < job.open_units and job.id <> me.id \
             and (job.priority > me.priority or (job.priority = me.priority \
             and (coalesce(share.clock, 0) < me.clock or (coalesce(share.clock, 0) = me.clock \
             and (",
            units_left!("job"),
            " < me.units or (",
            units_left!("job"),
            " = me.units and job.id < me.id))))))"
        );
        let mut tx = self.read().await?;
        let Some(row) = tx.row(sql, args![id]).await? else { return Ok(None) };
        let waiting = row.get::<i64>(0)? > 0;
        Ok(waiting.then_some(u64::from(row.count(1)?)))
    }

    /// Which of these jobs have ended, in whatever way, or are not there: nothing more of them need be computed.
    pub async fn ended(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let args: Vec<Arg<'_>> = ids.iter().map(|id| Arg::Id(id.0)).collect();
        let sql = listed("select id from job where id in", ids.len(), "and state in ('queued', 'running')");
        let mut tx = self.read().await?;
        let rows = tx.rows(sql, &args).await?;
        let alive: Vec<JobId> = rows.iter().map(|row| row.get(0).map(JobId)).collect::<Result<_, _>>()?;
        Ok(ids.iter().filter(|id| !alive.contains(id)).copied().collect())
    }
}
