//! A row of `job` as a [`Job`], and the changes of it that several operations share.

use super::error::StoreError;
use super::job::{Cost, Job, JobId, Priority, State};
use super::sql::{Row, Tx, args};
use super::wall_clock;
use crate::spec::kind::Kind;

/// The columns that [`Stored::of`] reads, in its order.
macro_rules! job_columns {
    () => {
        "job.id, job.owner, job.kind, job.state, job.priority, job.model, job.model_sha, job.units_0, job.units_1, \
         job.units_2, job.units_done, job.retries, job.estimate_s, job.cost_rows, job.cost_row_layers, \
         job.cost_seconds, job.cost_peak_bytes, job.error, job.created_ms, job.started_ms, job.finished_ms, \
         job.expires_ms, job.next_unit, job.open_units, job.max_attempts, job.key_id, job.weight"
    };
}
pub(super) use job_columns;

/// Units of a job that are not done.
macro_rules! units_left {
    ($job:literal) => {
        concat!($job, ".units_0 + ", $job, ".units_1 + ", $job, ".units_2 - ", $job, ".units_done")
    };
}
pub(super) use units_left;

/// A job with what only the store knows of it. Its texts are empty: they are in another table.
pub(super) struct Stored {
    pub(super) job: Job,
    /// Units below this number have been claimed at least once.
    pub(super) next_unit: u32,
    /// Units below this number may be claimed.
    pub(super) open_units: u32,
    pub(super) max_attempts: i64,
}

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

impl Stored {
    pub(super) fn of(row: &Row) -> Result<Self, StoreError> {
        let unsigned = |column| row.get::<i64>(column).map(|n| u64::try_from(n).unwrap_or_default());
        let priority = usize::try_from(row.get::<i64>(4)?).ok().and_then(|at| PRIORITIES.get(at).copied());
        let job = Job {
            id: JobId(row.get(0)?),
            owner: row.get(1)?,
            key: row.get(25)?,
            weight: row.get(26)?,
            kind: row.named(2, &Kind::ALL)?,
            state: row.named(3, &State::ALL)?,
            priority: priority.unwrap_or_default(),
            model: row.get(5)?,
            model_sha: row.get(6)?,
            request: String::new(),
            cut: String::new(),
            units: [row.count(7)?, row.count(8)?, row.count(9)?],
            units_done: row.count(10)?,
            retries: row.count(11)?,
            estimate_s: row.get(12)?,
            cost: Cost {
                rows: unsigned(13)?,
                row_layers: unsigned(14)?,
                seconds: row.get(15)?,
                peak_bytes: unsigned(16)?,
            },
            error: row.get(17)?,
            created_ms: row.get(18)?,
            started_ms: row.get(19)?,
            finished_ms: row.get(20)?,
            expires_ms: row.get(21)?,
        };
        Ok(Self { job, next_unit: row.count(22)?, open_units: row.count(23)?, max_attempts: row.get(24)? })
    }
}

/// A priority as it sorts.
pub(super) fn rank(priority: Priority) -> i64 {
    priority as i64
}

/// The job's row, held until the transaction ends: its units change only under it.
pub(super) async fn hold(tx: &mut Tx, id: JobId) -> Result<Option<Stored>, StoreError> {
    let sql = tx.pick(
        concat!("select ", job_columns!(), " from job where id = $1"),
        concat!("select ", job_columns!(), " from job where id = $1 for update"),
    );
    tx.row(sql, args![id]).await?.map(|row| Stored::of(&row)).transpose()
}

/// The job's row as it is now.
pub(super) async fn look(tx: &mut Tx, id: JobId) -> Result<Option<Stored>, StoreError> {
    let sql = concat!("select ", job_columns!(), " from job where id = $1");
    tx.row(sql, args![id]).await?.map(|row| Stored::of(&row)).transpose()
}

/// Adds an event to a job that is held: its number.
pub(super) async fn append(tx: &mut Tx, id: JobId, kind: &str, data: &str) -> Result<i64, StoreError> {
    let row = tx.row("update job set events = events + 1 where id = $1 returning events", args![id]).await?;
    let seq = row.map_or(Ok(0), |row| row.get::<i64>(0))?;
    let sql = "insert into event (job, seq, at_ms, kind, data) values ($1, $2, $3, $4, $5)";
    tx.run(sql, args![id, seq, wall_clock(), kind, data]).await?;
    Ok(seq)
}

/// Adds the event of a new state.
pub(super) async fn tell_state(
    tx: &mut Tx,
    id: JobId,
    state: State,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let mut data = serde_json::json!({ "state": state });
    if let Some(error) = error {
        data["error"] = error.into();
    }
    append(tx, id, "state", &data.to_string()).await?;
    Ok(())
}

/// Ends a job that is held: its units are withdrawn, from whoever works on them too; what they gave stays.
pub(super) async fn end(tx: &mut Tx, id: JobId, state: State, error: Option<&str>) -> Result<(), StoreError> {
    let sql =
        "update job set state = $2, error = $3, finished_ms = $4, expires_ms = $4 + keep_ms where id = $1";
    tx.run(sql, args![id, state.name(), error, wall_clock()]).await?;
    tx.run("delete from unit where job = $1", args![id]).await?;
    tell_state(tx, id, state, error).await
}
