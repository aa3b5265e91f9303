//! Taking a unit of work.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use super::error::StoreError;
use super::job::{Claim, Job, JobId, State};
use super::row::{Stored, hold, tell_state, units_left};
use super::sql::{Open, Tx, args};
use super::submit::with_texts;
use super::{Store, share, wall_clock};

/// How often a job is chosen anew when others have taken what it had.
const TRIES: usize = 16;

/// Requests of the jobs last claimed from: the same job is claimed from again and again, and they may be long.
pub(super) type Texts = VecDeque<(JobId, Arc<(String, String)>)>;
const TEXTS_KEPT: usize = 8;

/// Every so many claims of a process the oldest of an owner's jobs comes first, so that a long one ends.
const OLDEST: u64 = 4;

/// The job to claim from: the highest priority first, then whose owner's clock is lowest, then the one with the fewest units
/// left, or the oldest. It has units that nobody has claimed yet, or one that was given back and whose time has come, and this
/// process is not at work on too many of it already.
const CHOICE: &str = concat!(
    "with open as (select id from job where model_sha = $1 and state in ('queued', 'running') and next_unit < open_units \
     union select unit.job from unit join job on job.id = unit.job \
     where unit.token is null and unit.run_after <= $2 and job.model_sha = $1) \
     select job.id from open join job on job.id = open.id left join share on share.owner = job.owner \
     where (select count(*) from unit where unit.job = job.id and unit.token is not null and unit.process = $3) < $4 \
     order by job.priority desc, coalesce(share.clock, 0), case when $5 = 1 then 0 else ",
    units_left!("job"),
    " end, job.id limit 1"
);

impl Store {
    /// Takes the next unit for a process that serves this model, if there is one of a job of which it has fewer than `ahead`
    /// at work. No other holds it until it is given back, or this process has lost its lease.
    pub async fn claim(&self, model_sha: &str, ahead: u32) -> Result<Option<Claim>, StoreError> {
        for _ in 0..TRIES {
            let mut tx = self.write().await?;
            if matches!(tx.open, Open::Postgres(_)) {
                // What a crash forgets of a claim is only that somebody was at work.
                tx.run("set local synchronous_commit = off", args![]).await?;
            }
            let now = self.lease_clock(&mut tx).await?;
            let oldest = i64::from(self.0.claims.load(Ordering::Relaxed) % OLDEST == OLDEST - 1);
            let choice = args![model_sha, now, self.process(), ahead, oldest];
            let Some(row) = tx.row(CHOICE, choice).await? else { return Ok(None) };
            let id = JobId(row.get(0)?);
            // Somebody else may have held the job, and taken its last unit, between the two statements.
            let Some(stored) = hold(&mut tx, id).await? else { continue };
            if stored.job.state.is_over() {
                continue;
            }
            let Some((seq, attempt, token)) = self.take(&mut tx, &stored, now).await? else { continue };
            let mut job = stored.job;
            share::charge(&mut tx, &job).await?;
            let first = job.state == State::Queued;
            if first {
                job.state = State::Running;
                job.started_ms = Some(wall_clock());
                let sql = "update job set state = 'running', started_ms = $2 where id = $1";
                tx.run(sql, args![id, job.started_ms]).await?;
                tell_state(&mut tx, id, State::Running, None).await?;
            }
            let job = self.with_known_texts(&mut tx, job).await?;
            if first {
                self.publish(tx).await?;
            } else {
                tx.commit().await?;
            }
            self.0.claims.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(Claim { phase: job.phase(seq), job, seq, attempt, token }));
        }
        Ok(None)
    }

    /// The lowest unit of a held job: one that was given back, else the next that nobody has claimed yet.
    async fn take(
        &self,
        tx: &mut Tx,
        from: &Stored,
        now: i64,
    ) -> Result<Option<(u32, u16, Uuid)>, StoreError> {
        let id = from.job.id;
        let token = Uuid::now_v7();
        let sql = "select seq, failures + losses from unit \
                   where job = $1 and token is null and run_after <= $2 order by seq limit 1";
        if let Some(row) = tx.row(sql, args![id, now]).await? {
            let seq = row.count(0)?;
            let sql = "update unit set token = $3, process = $4 where job = $1 and seq = $2";
            tx.run(sql, args![id, seq, token, self.process()]).await?;
            let before = u16::try_from(row.get::<i64>(1)?).unwrap_or(u16::MAX);
            return Ok(Some((seq, before.saturating_add(1), token)));
        }
        if from.next_unit >= from.open_units {
            return Ok(None);
        }
        let seq = from.next_unit;
        let sql = "insert into unit (job, seq, token, process) values ($1, $2, $3, $4)";
        tx.run(sql, args![id, seq, token, self.process()]).await?;
        tx.run("update job set next_unit = $2 where id = $1", args![id, seq + 1]).await?;
        Ok(Some((seq, 1, token)))
    }

    async fn with_known_texts(&self, tx: &mut Tx, mut job: Job) -> Result<Job, StoreError> {
        let texts = || self.0.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = texts().iter().find(|(id, _)| *id == job.id).map(|(_, texts)| Arc::clone(texts));
        if let Some(known) = known {
            (job.request, job.cut) = (*known).clone();
            return Ok(job);
        }
        let job = with_texts(tx, job).await?;
        let mut texts = texts();
        texts.truncate(TEXTS_KEPT - 1);
        texts.push_front((job.id, Arc::new((job.request.clone(), job.cut.clone()))));
        Ok(job)
    }
}
