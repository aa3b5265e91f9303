//! A job as clients see it.

use serde::Serialize;
use utoipa::ToSchema;

use super::Jobs;
use crate::activations::Timestamp;
use crate::lower::lint::Lint;
use crate::service::cut::Cut;
use crate::spec::kind::Kind;
use crate::store::StoreError;
use crate::store::job::{Cost, Job, Priority, State};

/// A job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// Kind of request.
    pub kind: Kind,
    /// Where it is.
    pub state: State,
    /// Who comes first.
    pub priority: Priority,
    /// Name of the model.
    pub model: String,
    /// How far it is.
    pub progress: Progress,
    /// Jobs that come before it; only while it is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Seconds until it is done, from its own pace so far, or by estimate; only while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<f64>,
    /// What it was estimated to take.
    pub estimate: Estimate,
    /// What it has cost so far, whatever became of it.
    pub cost: Cost,
    /// Tries of units beyond the first of each: what failures and lost processes cost.
    pub retries: u32,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was acknowledged.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When its first unit was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<Timestamp>,
    /// When it succeeded, failed or was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// When its result is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// Remarks found before it was run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub lints: Vec<Lint>,
    /// Where the rest is.
    pub links: Links,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    /// Units done.
    pub done: u32,
    /// Units in all.
    pub total: u32,
    /// Cells in all; null where the request is one unit, and in lists of jobs.
    pub cells: Option<u64>,
}

/// What a job was estimated to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = JobEstimate)]
pub struct Estimate {
    /// Seconds of computation.
    pub seconds: f64,
}

/// Paths of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Links {
    /// Itself.
    pub job: String,
    /// Its events as they come.
    pub events: String,
    /// Its result.
    pub result: String,
    /// A picture of its result.
    pub plot: String,
}

/// Jobs, newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// What to give as `before` for those that are older; null at the end.
    pub next: Option<String>,
}

impl JobView {
    /// A job as it is now.
    pub fn new(job: &Job) -> Self {
        // Of a sweep; any other request is one unit, and what another version stored is not read.
        let cut: Option<Cut> = super::outcome::cut(job).ok();
        let cells = cut.as_ref().map(Cut::cells_total);
        let path = format!("/v1/jobs/{}", job.id);
        Self {
            id: job.id.to_string(),
            kind: job.kind,
            state: job.state,
            priority: job.priority,
            model: job.model.clone(),
            progress: Progress { done: job.units_done, total: job.units_total(), cells },
            position: None,
            eta_s: eta(job, Timestamp::now().0 as i64),
            estimate: Estimate { seconds: job.estimate_s },
            cost: job.cost,
            retries: job.retries,
            error: job.error.clone(),
            created: time(job.created_ms),
            started: job.started_ms.map(time),
            finished: job.finished_ms.map(time),
            expires: job.expires_ms.map(time),
            lints: cut.map(|cut| cut.lints).unwrap_or_default(),
            links: Links {
                events: format!("{path}/events"),
                result: format!("{path}/result"),
                plot: format!("{path}/plot"),
                job: path,
            },
        }
    }

    /// The same with its place in the queue.
    pub async fn placed(jobs: &Jobs, job: &Job) -> Result<Self, StoreError> {
        let mut view = Self::new(job);
        if job.state == State::Queued {
            view.position = jobs.store.position(job.id).await?;
        }
        Ok(view)
    }
}

/// Seconds until a job is done: at its own pace so far, else by its estimate.
pub fn eta(job: &Job, now_ms: i64) -> Option<f64> {
    let left = f64::from(job.units_total().saturating_sub(job.units_done));
    match (job.state, job.started_ms) {
        (State::Running, Some(started)) if job.units_done > 0 => {
            let elapsed = (now_ms - started).max(0) as f64 / 1000.0;
            Some(elapsed / f64::from(job.units_done) * left)
        }
        (State::Queued | State::Running, _) => Some(job.estimate_s),
        _ => None,
    }
}

fn time(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or(0))
}
