//! Enqueues a request as a job: because that is asked for, because it would take too long to wait for, or because its kind
//! always is one.

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::Value;

use super::answer::Asked;
use super::body::Posted;
use super::datasets::written_out;
use super::prefer::{self, Wants, accepted, take_async};
use super::{AppState, Problem, jobs, json};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::{self as queue, Jobs, strongest};
use crate::service::Refusal;
use crate::spec::kind::Kind;
use crate::store::Submitted;
use crate::store::job::State;

/// A request that may become a job.
pub(super) struct Later<'s> {
    state: &'s AppState,
    kind: Kind,
    /// The body as it came: what was read of it is used up by the time it is wanted again.
    bytes: Bytes,
    share: Share,
    wants: Wants,
}

impl<'s> Later<'s> {
    /// Reads how a request wants to be answered; what is left is its body, and what it holds.
    pub(super) fn of(
        state: &'s AppState,
        parts: &Parts,
        kind: Kind,
        posted: Posted,
    ) -> Result<(Value, Share, Self), Problem> {
        let Posted { mut value, bytes, share } = posted;
        let wants = Wants::of(parts, &mut value)?;
        Ok((value, share.clone(), Self { state, kind, bytes, share, wants }))
    }

    /// Whether a job is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.wants.later
    }

    /// Enqueues the request if it was refused only because it takes too long; other refusals are returned.
    pub(super) async fn instead(self, refusal: Refusal) -> Result<Response, Problem> {
        match &refusal {
            Refusal::TooLarge { cost, ceiling }
                if cost.row_layers <= ceiling.row_layers && self.state.jobs().is_ok() =>
            {
                let bytes = self.bytes.clone();
                self.share.resize(bytes.len() as u64 + json::tree_bytes(&bytes)).await?;
                let read = move |_: &Abandoned| {
                    let mut body = json::parse(&bytes, "")?;
                    take_async(&mut body, "").map(|_| body)
                };
                let body = self.share.run(Lane::Prepare, read).await?;
                self.submit(body).await
            }
            _ => Err(refusal.into()),
        }
    }

    /// Makes a job of it.
    pub(super) async fn submit(self, body: Value) -> Result<Response, Problem> {
        let submitted = self.taken_on(body).await?;
        accepted(self.state.jobs()?, &submitted).await
    }

    /// Makes a job of it, and waits for its result if that is estimated to be worth it.
    pub(super) async fn wait(self, body: Value, asked: Asked) -> Result<Response, Problem> {
        let submitted = self.taken_on(body).await?;
        // The job has what it needs; its answer is made of what it leaves.
        self.share.shrink(0);
        let jobs = self.state.jobs()?;
        let limit = jobs.settings.sync_limit;
        if submitted.job.estimate_s > limit.as_secs_f64() {
            return accepted(jobs, &submitted).await;
        }
        let job = jobs.wait(submitted.job.id, limit).await?.unwrap_or(submitted.job);
        let (replayed, of_job) = (submitted.replayed, job.id.to_string());
        let mut response = match job.state {
            State::Succeeded => jobs::answered(asked, jobs, &job, self.share)
                .await
                .map_err(|problem| problem.with("job", of_job))?,
            State::Failed => {
                let why = job.error.as_deref().unwrap_or("it could not be computed");
                let detail = format!("the {} failed: {why}", job.kind.name());
                return Err(Problem::new(super::Kind::Internal, detail).with("job", of_job));
            }
            _ => return accepted(jobs, &Submitted { job, replayed }).await,
        };
        prefer::name(response.headers_mut(), &job, replayed);
        Ok(response)
    }

    async fn taken_on(&self, mut body: Value) -> Result<Submitted, Problem> {
        let (service, jobs) = (self.state.service()?, self.state.jobs()?);
        if self.kind.is_in_units() {
            fill_in(jobs, &mut body, &self.share).await?;
        }
        let asked = queue::Asked { kind: self.kind, body, key: self.wants.key.clone() };
        Ok(jobs.submit(service, asked, &self.share).await?)
    }
}

/// Writes out what a sweep names and the store has: a data set, the strongest cells of an earlier sweep.
pub(super) async fn fill_in(jobs: &Jobs, body: &mut Value, share: &Share) -> Result<(), Problem> {
    written_out(jobs, body, "/dataset", share).await?;
    Ok(strongest::write_out(jobs, body, share).await?)
}
