//! Jobs: requests that are answered later. Each is stored before it is acknowledged, computed unit by unit by whoever
//! claims it, and its result is kept.
//!
//! ```text
//! request -> priced -> stored -> units claimed, computed, committed -> result
//! ```
//! [`runner`] claims; `work` says what a unit computes; `outcome` puts a sweep's units together.

pub mod compress;
mod outcome;
pub mod runner;
pub mod start;
pub mod strongest;
mod submit;
pub mod view;
mod work;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;

pub use outcome::{LAYOUT, Unfinished};
pub use submit::{Asked, NotTaken};

use crate::owner::{Account, Owner, Weight};
use crate::result::render::json;
use crate::result::sweep::SweepOutcome;
use crate::result::texts::TextsOutcome;
use crate::service::Service;
use crate::spec::kind::Kind;
use crate::store::job::{Job, JobId, State};
use crate::store::{Filter, Page, Store, StoreError};

/// On whose account a job is computed.
fn account(job: &Job) -> Account {
    let weight = Weight::stored(job.weight);
    Account { key: job.key, weight, ..Owner::stored(&job.owner).into() }
}

/// The file of a result that holds what can be drawn of it.
pub const PICTURES_FILE: &str = "pictures";
/// The file of a result's numbers, from which the forms that carry numbers are written.
pub const NUMBERS_FILE: &str = "numbers";

/// How jobs are worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Units of one job on their way at once: one is computed while others are laid out and stored.
    pub units_ahead: u32,
    /// Seconds of computation that a unit is cut to.
    pub unit_s: f64,
    /// How long a process is believed to live without a sign of it.
    pub lease: Duration,
    /// How often one unit may be tried.
    pub max_attempts: u16,
    /// Seconds for which results are kept.
    pub keep_s: u64,
    /// Most jobs of one owner of which nothing has been computed.
    pub queued_per_owner: u32,
    /// Work estimated above this is not waited for.
    pub sync_limit: Duration,
}

/// The jobs of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// Where they are stored.
    pub store: Store,
    /// How they are worked on.
    pub settings: Arc<Settings>,
    service: Arc<OnceLock<Service>>,
}

impl Jobs {
    /// The jobs in a store, computed by a model once it is loaded.
    pub fn new(store: Store, settings: Settings, service: Arc<OnceLock<Service>>) -> Self {
        Self { store, settings: Arc::new(settings), service }
    }

    /// Why jobs can't be stored at present, if so.
    pub fn unhealthy(&self) -> Option<String> {
        self.store.trouble().map(|error| format!("jobs cannot be stored: {error}"))
    }

    /// A job of an owner.
    pub async fn job(&self, owner: &str, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.store.job(id).await?.filter(|job| job.owner == owner))
    }

    /// Jobs of an owner, newest first.
    pub async fn list(&self, owner: &str, filter: Filter, page: Page) -> Result<Vec<Job>, StoreError> {
        self.store.jobs(owner, filter, page).await
    }

    /// Waits until a job is over, for at most so long.
    pub async fn wait(&self, id: JobId, at_most: Duration) -> Result<Option<Job>, StoreError> {
        let deadline = tokio::time::Instant::now() + at_most;
        let mut changes = self.store.subscribe();
        loop {
            let job = self.store.job(id).await?;
            if job.as_ref().is_none_or(|job| job.state.is_over()) || tokio::time::Instant::now() >= deadline {
                return Ok(job);
            }
            // Changes that another process makes may go unnoticed.
            let patience = (tokio::time::Instant::now() + Duration::from_secs(1)).min(deadline);
            let _ = tokio::time::timeout_at(patience, changes.changed()).await;
        }
    }

    /// Cancels a job; what was computed becomes its result, soon after this returns. Until then it is put together
    /// whenever it is asked for.
    pub async fn cancel(&self, owner: &str, id: JobId) -> Result<Option<Job>, StoreError> {
        let job = self.store.cancel(owner, id).await?;
        let cut_short = |job: &Job| job.state == State::Cancelled && job.kind.is_in_units();
        if let Some(job) = job.clone().filter(cut_short) {
            let jobs = self.clone();
            tokio::spawn(async move {
                if let Err(error) = jobs.keep_partial(&job).await {
                    tracing::warn!(job.id = %job.id, "its partial result cannot be stored: {error}");
                }
            });
        }
        Ok(job)
    }

    /// Stores what was computed of a sweep that has ended early, unless that was done before.
    async fn keep_partial(&self, job: &Job) -> Result<(), StoreError> {
        if self.store.file(job.id, "json").await?.is_some() {
            return Ok(());
        }
        let found = match job.kind {
            Kind::Generate => self.texts(job).await?.map(|texts| json(&texts)),
            _ => self.outcome(job).await?.map(|outcome| json(&outcome)),
        };
        match found {
            Ok(found) => {
                let files = vec![compress::file("json", &found)];
                self.store.put_files(job.id, &files).await.map(|_| ())
            }
            // Nothing was computed.
            Err(_) => Ok(()),
        }
    }

    /// What has been computed of a sweep so far.
    pub async fn outcome(&self, job: &Job) -> Result<Result<SweepOutcome, Unfinished>, StoreError> {
        let outputs = self.store.outputs(job.id).await?;
        let job = job.clone();
        let put_together = tokio::task::spawn_blocking(move || outcome::outcome(&job, &outputs));
        Ok(put_together.await.unwrap_or(Err(Unfinished::Unreadable)))
    }

    /// The texts that a job has written so far.
    pub async fn texts(&self, job: &Job) -> Result<Result<TextsOutcome, Unfinished>, StoreError> {
        let outputs = self.store.outputs(job.id).await?;
        let job = job.clone();
        let put_together = tokio::task::spawn_blocking(move || outcome::texts(&job, &outputs));
        Ok(put_together.await.unwrap_or(Err(Unfinished::Unreadable)))
    }

    /// The request of a job, as it was stored.
    pub fn request(job: &Job) -> Value {
        serde_json::from_str(&job.request).unwrap_or_default()
    }
}
