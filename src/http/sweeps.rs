//! Sweeps: taken on as jobs, and answered at once if they are short.

use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ShowParams, with_show};
use super::body::Posted;
use super::prefer::{self, Wants, accepted};
use super::{AppState, Problem, jobs, json, query};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::view::JobView;
use crate::jobs::{Asked, Jobs, strongest};
use crate::result::sweep::SweepOutcome;
use crate::spec::body::SweepBody;
use crate::spec::problem::{Problems, code};
use crate::store::Submitted;
use crate::store::job::{Kind, State as JobState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(sweep))
}

/// Sweep
///
/// Any grid over cases: arms of interventions, enumerated along layers, positions, heads or columns, for every prompt of
/// a data set, and averaged over prompts with confidence intervals. A sweep is always a job, which survives a restart; if it
/// is estimated to take no longer than `limits.sync_limit_s` and `Prefer: respond-async` is not sent, the answer waits for
/// it.
#[utoipa::path(post, path = "/v1/sweep", tag = "experiments", request_body = SweepBody,
    params(("format" = Option<String>, Query, description = "json, jsonl, csv, npz, safetensors or parquet, svg or png; else by Accept"), ShowParams,
           ("table" = Option<String>, Query, description = "Of jsonl, csv and parquet: averages (by default), cells, cases, differences or top"),
           ("Prefer" = Option<String>, Header, description = "respond-async: answer with a job at once"),
           ("Idempotency-Key" = Option<String>, Header, description = "A request repeated with the same key is the same job")),
    responses((status = 200, description = "What it found", body = SweepOutcome),
              (status = 202, description = "The job that will find it", body = JobView), Problem))]
async fn sweep(
    state: State<AppState>,
    parts: Parts,
    Posted { value: mut body, share, .. }: Posted,
) -> Result<Response, Problem> {
    let wants = Wants::of(&parts, &mut body)?;
    let known = query(&parts, &with_show(&["format", "table"]))?;
    let asked = jobs::Answer::of(&parts.headers, known)?;
    let (service, jobs) = (state.service()?, state.jobs()?);
    with_dataset(jobs, &mut body, &share).await?;
    strongest::write_out(jobs, &mut body, &share).await?;
    let asked_for = Asked { kind: Kind::Sweep, body, key: wants.key };
    let submitted = jobs.submit(service, asked_for, &share).await?;
    // The job has what it needs; its answer is made of what it leaves.
    share.shrink(0);
    let limit = jobs.settings.sync_limit;
    if wants.later || submitted.job.estimate_s > limit.as_secs_f64() {
        return accepted(jobs, &submitted).await;
    }
    let job = jobs.wait(submitted.job.id, limit).await?.unwrap_or(submitted.job);
    let replayed = submitted.replayed;
    let mut response = match job.state {
        JobState::Succeeded => asked
            .answer(jobs, &job, share)
            .await
            .map_err(|problem| problem.with("job", job.id.to_string()))?,
        JobState::Failed => {
            let why = job.error.as_deref().unwrap_or("it could not be computed");
            let problem = Problem::new(super::Kind::Internal, format!("the sweep failed: {why}"));
            return Err(problem.with("job", job.id.to_string()));
        }
        _ => return accepted(jobs, &Submitted { job, replayed }).await,
    };
    prefer::name(response.headers_mut(), &job, replayed);
    Ok(response)
}

/// Writes a stored data set out in a request that names it.
pub(super) async fn with_dataset(jobs: &Jobs, body: &mut Value, share: &Share) -> Result<(), Problem> {
    with_dataset_at(jobs, body, "/dataset", share).await
}

/// The same of one that stands elsewhere.
pub(super) async fn with_dataset_at(
    jobs: &Jobs,
    body: &mut Value,
    at: &str,
    share: &Share,
) -> Result<(), Problem> {
    let Some(dataset) = body.pointer_mut(at).and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(id) = dataset.get("id").and_then(Value::as_str).map(str::to_owned) else { return Ok(()) };
    let mut problems = Problems::default();
    if dataset.get("inline").is_some_and(|inline| !inline.is_null()) {
        let detail = "`id` and `inline` exclude each other";
        problems.push(format!("{at}/id"), code::CONFLICT, detail, "leave out one of them");
        return Err(problems.into());
    }
    let Some(text) = jobs.store.dataset_text(share.owner(), &id).await? else {
        let detail = format!("no data set is called {id:?}");
        problems.push(
            format!("{at}/id"),
            code::UNKNOWN_NAME,
            detail,
            "GET /v1/datasets lists those that there are",
        );
        return Err(problems.into());
    };
    share.of_body(text.len() as u64);
    share.resize(share.bytes() + text.len() as u64 + json::tree_bytes(text.as_bytes())).await?;
    let read = move |_: &Abandoned| text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let cases = share.run(Lane::Prepare, read).await;
    let cases =
        cases.map_err(|_| Problem::new(super::Kind::Internal, "the stored data set cannot be read"))?;
    dataset.insert("inline".to_owned(), Value::Array(cases));
    Ok(())
}
