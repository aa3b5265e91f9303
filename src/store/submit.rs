//! Taking a job on.

use super::error::StoreError;
use super::job::{Job, JobId, NewJob, State};
use super::row::{look, rank, tell_state};
use super::sql::{Open, Tx, args, storable};
use super::{Store, checksum, share, wall_clock};

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most jobs of one owner of which nothing has been computed yet.
    pub queued_per_owner: u32,
    /// Most of them that one key has made, if there is such a limit.
    pub queued_per_key: Option<u32>,
}

/// An acknowledged job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job, or the one that the same key named before.
    pub job: Job,
    /// Whether it was there already.
    pub replayed: bool,
}

/// A hundred years in milliseconds. Nobody means more, and sums with it stay far from the end of the numbers.
const LONGEST_MS: u64 = 100 * 366 * 86_400_000;

impl Store {
    /// Stores a job with all its units. When this returns it is on the disk.
    ///
    /// # Errors
    /// The key was used for another request; the owner has too many jobs waiting; the database fails.
    pub async fn submit(&self, new: NewJob, limits: Limits) -> Result<Submitted, StoreError> {
        let mut tx = self.write_asked().await?;
        // Of submissions of one owner one is at work at a time, so that neither the key nor the limit is passed twice. In
        // SQLite that is so for all transactions that write.
        if matches!(tx.open, Open::Postgres(_)) {
            let sql = "select 1 from pg_advisory_xact_lock(hashtextextended($1, 0))";
            tx.rows(sql, args![&new.owner]).await?;
        }
        if let Some((key, sha)) = &new.idempotency
            && let Some((job, same)) = used(&mut tx, &new.owner, key, sha).await?
        {
            return if same {
                Ok(Submitted { job: with_texts(&mut tx, job).await?, replayed: true })
            } else {
                Err(StoreError::IdempotencyMismatch { job: job.id })
            };
        }
        let waiting = tx
            .row("select count(*) from job where owner = $1 and state = 'queued'", args![&new.owner])
            .await?;
        if waiting.map_or(Ok(0), |row| row.count(0))? >= limits.queued_per_owner {
            return Err(StoreError::TooManyQueued { limit: limits.queued_per_owner });
        }
        if let (Some(limit), Some(key)) = (limits.queued_per_key, new.key) {
            let sql = "select count(*) from job where owner = $1 and key_id = $2 and state = 'queued'";
            let waiting = tx.row(sql, args![&new.owner, key]).await?;
            if waiting.map_or(Ok(0), |row| row.count(0))? >= limit {
                return Err(StoreError::TooManyQueued { limit });
            }
        }
        share::join(&mut tx, &new.owner).await?;
        insert(&mut tx, &new).await?;
        tell_state(&mut tx, new.id, State::Queued, None).await?;
        let stored = look(&mut tx, new.id).await?.ok_or_else(|| tx.lost_row())?;
        self.publish(tx).await?;
        let job = Job { request: new.request, cut: new.cut, ..stored.job };
        Ok(Submitted { job, replayed: false })
    }
}

/// The job that has the key, and whether it was asked for in the same words.
async fn used(tx: &mut Tx, owner: &str, key: &str, sha: &str) -> Result<Option<(Job, bool)>, StoreError> {
    let sql = "select id, idempotency_sha from job where owner = $1 and idempotency_key = $2";
    let Some(row) = tx.row(sql, args![owner, key]).await? else { return Ok(None) };
    let same = row.get::<String>(1)? == sha;
    Ok(look(tx, JobId(row.get(0)?)).await?.map(|stored| (stored.job, same)))
}

/// The job with its request.
pub(super) async fn with_texts(tx: &mut Tx, mut job: Job) -> Result<Job, StoreError> {
    let sql = "select request, cut, sha256 from request where job = $1";
    if let Some(row) = tx.row(sql, args![job.id]).await? {
        job.request = row.get(0)?;
        job.cut = row.get(1)?;
        let sha256: Option<Vec<u8>> = row.get(2)?;
        let what = format_args!("the request of {}", job.id);
        let parts = [job.request.as_bytes(), job.cut.as_bytes()];
        checksum::verify(&tx.place, &what, sha256.as_deref(), &parts)?;
    }
    Ok(job)
}

async fn insert(tx: &mut Tx, new: &NewJob) -> Result<(), StoreError> {
    let sql = "insert into job (id, owner, kind, state, priority, model, model_sha, units_0, units_1, units_2, \
               open_units, max_attempts, estimate_s, keep_ms, created_ms, idempotency_key, idempotency_sha, key_id, weight) \
               values ($1, $2, $3, 'queued', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
    let [baselines, cells, finish] = new.units;
    // Phases without units are passed over.
    let open = [baselines, cells, finish].into_iter().find(|units| *units > 0).unwrap_or_default();
    let keep_ms = new.keep_s.saturating_mul(1000).min(LONGEST_MS);
    let (key, sha) = new.idempotency.as_ref().map(|(key, sha)| (key.as_str(), sha.as_str())).unzip();
    tx.run(
        sql,
        args![
            new.id,
            &new.owner,
            new.kind.name(),
            rank(new.priority),
            &new.model,
            &new.model_sha,
            baselines,
            cells,
            finish,
            open,
            new.max_attempts.max(1),
            new.estimate_s,
            keep_ms,
            wall_clock(),
            key,
            sha,
            new.key,
            new.weight
        ],
    )
    .await?;
    let sql = "insert into request (job, request, cut, sha256) values ($1, $2, $3, $4)";
    let sha256 = checksum::of(&[storable(&new.request).as_bytes(), storable(&new.cut).as_bytes()]);
    tx.run(sql, args![new.id, &new.request, &new.cut, &sha256]).await?;
    Ok(())
}
