//! Jobs as they are stored: what a client sees of one, what a worker claims and commits.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::spec::choices;
use crate::spec::kind::Kind;

/// Names a job: `job_` and 32 hexadecimal digits of a UUID of version 7, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub Uuid);

choices! {
/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = JobState)]
pub enum State {
    /// Nothing of it has been computed.
    Queued = "queued",
    /// Some of it has been.
    Running = "running",
    /// All of it has been, and its result is there.
    Succeeded = "succeeded",
    /// Something of it cannot be computed. What was computed is kept.
    Failed = "failed",
    /// Somebody cancelled it. What was computed is kept.
    Cancelled = "cancelled",
    /// Its result was deleted when its time was over.
    Expired = "expired",
}
}

/// Who comes first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After all others.
    Low,
    /// Usual.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// Units of one phase can be claimed once every unit of earlier phases is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(i16)]
pub enum Phase {
    /// The unpatched runs of cases.
    Baselines = 0,
    /// Cells, a chunk a unit.
    Cells = 1,
    /// Putting the result together: one unit, the last.
    Finish = 2,
}

/// What is to be stored of a new job, in one transaction.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub owner: String,
    /// The key that asked for it.
    pub key: Option<Uuid>,
    /// How much its work counts beside others', in hundredths.
    pub weight: i64,
    /// Kind of request.
    pub kind: Kind,
    /// Name of the model.
    pub model: String,
    /// What the model must be, byte for byte: only processes that serve it claim its units.
    pub model_sha: String,
    /// The request with every dataset written out, as JSON text.
    pub request: String,
    /// Settings that fix how the request is cut into units, as JSON text.
    pub cut: String,
    /// Who comes first.
    pub priority: Priority,
    /// Units of each phase, `[baselines, cells, finish]`. Their numbers run through: unit `seq` is of the phase in whose
    /// range it lies.
    pub units: [u32; 3],
    /// How often one unit may be tried.
    pub max_attempts: u16,
    /// Seconds for which the result is kept once there is one.
    pub keep_s: u64,
    /// Estimated seconds of computation.
    pub estimate_s: f64,
    /// `Idempotency-Key`, and the SHA-256 of what was asked with it.
    pub idempotency: Option<(String, String)>,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub owner: String,
    /// The key that asked for it.
    pub key: Option<Uuid>,
    /// How much its work counts beside others', in hundredths.
    pub weight: i64,
    /// Kind of request.
    pub kind: Kind,
    /// Where it is.
    pub state: State,
    /// Who comes first.
    pub priority: Priority,
    /// Name of the model.
    pub model: String,
    /// What the model must be, byte for byte.
    pub model_sha: String,
    /// The request, as JSON text.
    pub request: String,
    /// How it is cut into units, as JSON text.
    pub cut: String,
    /// Units of each phase.
    pub units: [u32; 3],
    /// Units done, of all phases.
    pub units_done: u32,
    /// Tries of units beyond the first of each: what failures and lost processes cost.
    pub retries: u32,
    /// Estimated seconds of computation.
    pub estimate_s: f64,
    /// What it has cost, whatever became of it.
    pub cost: Cost,
    /// Why it failed.
    pub error: Option<String>,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
    /// When the first unit was claimed.
    pub started_ms: Option<i64>,
    /// When it succeeded, failed or was cancelled.
    pub finished_ms: Option<i64>,
    /// When its result is deleted.
    pub expires_ms: Option<i64>,
}

/// What was computed for a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobCost)]
pub struct Cost {
    /// Rows: positions of runs, those of each run of a unit once.
    pub rows: u64,
    /// Rows times the layers each passes through.
    pub row_layers: u64,
    /// Seconds of computation.
    pub seconds: f64,
    /// Memory planned at once, at most, weights left out.
    pub peak_bytes: u64,
}

/// What is added to what an owner used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Charged {
    /// Rows times layers.
    pub row_layers: u64,
    /// Seconds of the engine.
    pub seconds: f64,
}

/// A unit of work as one process holds it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Job,
    /// Which of its units.
    pub seq: u32,
    /// Its phase.
    pub phase: Phase,
    /// Which try this is, from 1.
    pub attempt: u16,
    /// What a commit must show: another claim of the unit makes it worthless.
    pub token: Uuid,
}

/// What a unit gave.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// The unit's numbers, in a form that only the worker knows. Empty for [`Phase::Finish`].
    pub output: Vec<u8>,
    /// What it cost.
    pub cost: Cost,
    /// What its owner is charged.
    pub charged: Charged,
    /// The result's files, of [`Phase::Finish`]: then the job has succeeded.
    pub files: Vec<File>,
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its format, as `json`.
    pub name: String,
    /// Bytes, compressed by whoever made it if at all.
    pub bytes: Vec<u8>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It counts.
    Counted {
        /// Units done of the job, this one included.
        units_done: u32,
    },
    /// The unit was not this process's any more, or the job has ended: nothing was stored.
    Stale,
}

/// An event of a job, as `/v1/jobs/{id}/events` sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in the job, from 1.
    pub seq: i64,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// `state`, `progress` or `partial`.
    pub kind: String,
    /// JSON text.
    pub data: String,
}

/// A stored set of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// `ds_` and the first 32 hexadecimal digits of the SHA-256 of its canonical text: equal sets are one set.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// SHA-256 of its canonical text.
    pub sha256: String,
    /// Number of cases.
    pub cases: u32,
    /// Bytes of the canonical text.
    pub bytes: u64,
    /// Milliseconds since 1970, UTC.
    pub created_ms: i64,
}

impl JobId {
    /// A new one.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads what [`std::fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("job_").filter(|hex| hex.len() == 32)?;
        Uuid::try_parse(hex).ok().map(Self)
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "job_{}", self.0.simple())
    }
}

impl State {
    /// Whether nothing more will happen to the job but its expiry.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl Job {
    /// Units of all phases.
    pub fn units_total(&self) -> u32 {
        self.units.iter().sum()
    }

    /// The phase of a unit.
    pub fn phase(&self, seq: u32) -> Phase {
        if seq < self.units[0] {
            Phase::Baselines
        } else if seq < self.units[0] + self.units[1] {
            Phase::Cells
        } else {
            Phase::Finish
        }
    }
}

impl Cost {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            row_layers: self.row_layers + other.row_layers,
            seconds: self.seconds + other.seconds,
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
        }
    }
}
