//! The job queue: what is there, how far it is, what it found.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::sweeps::tied;
use super::wants::retry_after;
use super::{AppState, Caller, Encoding, Kind, NoQuery, Problem, body, query};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::view::{JobList, JobView};
use crate::jobs::{Jobs, NotTaken, Unfinished, compress};
use crate::result::render::Format;
use crate::result::sweep::{Plot, SweepOutcome, Table, picture, render};
use crate::spec::problem::{Problems, code};
use crate::store::job::{self, Job, JobId, State as JobState};
use crate::store::{Filter, Page};

/// Entries of a list: by default, and at most.
const PAGE: (u32, u32) = (50, 500);
/// Forms of a sweep's result.
const TABLES: [Encoding; 6] =
    [Encoding::Json, Encoding::Jsonl, Encoding::Csv, Encoding::Npz, Encoding::Safetensors, Encoding::Parquet];
/// Forms of a picture.
const PICTURES: [Encoding; 2] = [Encoding::Svg, Encoding::Png];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get, cancel))
        .routes(routes!(result))
        .routes(routes!(plot))
}

/// A result in the form in which it is asked for.
pub(super) struct Answer {
    encoding: Encoding,
    table: Option<Table>,
    metric: Option<String>,
}

impl Answer {
    pub(super) fn of(headers: &HeaderMap, query: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let encoding = Encoding::negotiate(headers, query.get("format").map(String::as_str), &Encoding::ALL)?;
        let table = match query.get("table") {
            Some(name) => Some(one_of("table", name, &Table::ALL)?),
            None => None,
        };
        let metric = query.get("metric").cloned();
        let tables = [Encoding::Jsonl, Encoding::Csv, Encoding::Parquet];
        let without = [
            ("table", table.is_some() && !tables.contains(&encoding)),
            ("metric", metric.is_some() && encoding == Encoding::Json),
        ];
        if let Some((name, _)) = without.iter().find(|(_, refused)| *refused) {
            let detail = format!("{} has no {name} to choose", encoding.name());
            let fix = "leave it out, or ask for csv, jsonl or parquet";
            let problem = Problem::new(Kind::InvalidRequest, format!("?{name}: {detail}; {fix}"));
            return Err(problem.error(format!("?{name}"), code::NOT_SUPPORTED, detail, fix));
        }
        Ok(Self { encoding, table, metric })
    }

    /// The result of a job that has one.
    pub(super) async fn answer(self, jobs: &Jobs, job: &Job, share: Share) -> Result<Response, Problem> {
        if job.kind != job::Kind::Sweep {
            return self.stored(jobs, job, share).await;
        }
        let stored = file(jobs, job.id, "json", &share).await?;
        match (self.encoding, stored) {
            (Encoding::Json, Some(json)) => Ok(tied(Encoding::Json, json, share)),
            (_, Some(json)) => {
                let read = move |_: &Abandoned| serde_json::from_slice::<SweepOutcome>(&json);
                let outcome = share.run(Lane::Finish, read).await.map_err(|_| of_another_version(&job.id))?;
                self.rendered(outcome, share).await
            }
            (_, None) => self.rendered(so_far(jobs, job).await?, share).await,
        }
    }

    /// A result that was stored in every form that it has.
    async fn stored(self, jobs: &Jobs, job: &Job, share: Share) -> Result<Response, Problem> {
        if let Some((name, _)) = [("metric", self.metric.is_some()), ("table", self.table.is_some())]
            .iter()
            .find(|(_, given)| *given)
        {
            let detail = format!("the result of a {} has no {name} to choose", job.kind.name());
            let problem = Problem::new(Kind::InvalidRequest, format!("?{name}: {detail}"));
            return Err(problem.error(format!("?{name}"), code::NOT_SUPPORTED, detail, "leave it out"));
        }
        let name = self.encoding.name();
        if let Some(file) = file(jobs, job.id, name, &share).await? {
            return Ok(tied(self.encoding, file, share));
        }
        let there = jobs.store.files(job.id).await?;
        if there.is_empty() {
            return Err(Problem::new(Kind::Gone, "the job left no result"));
        }
        let fix = format!("ask for one of {}", there.join(", "));
        let detail = format!("this result has no form called {name}");
        let problem = Problem::new(Kind::InvalidRequest, format!("?format: {detail}; {fix}"));
        Err(problem.error("?format", code::NOT_SUPPORTED, detail, fix))
    }

    async fn rendered(self, outcome: SweepOutcome, share: Share) -> Result<Response, Problem> {
        let Self { encoding, table, metric } = self;
        let rendered = share.run(Lane::Finish, move |_| {
            let metric = metric.as_deref();
            let format = match encoding {
                Encoding::Json => {
                    return Ok(serde_json::to_vec(&outcome).expect("BUG: results have string keys"));
                }
                Encoding::Svg => return picture(&outcome, metric, None, Format::Svg),
                Encoding::Png => return picture(&outcome, metric, None, Format::Png),
                Encoding::Jsonl => Format::Jsonl,
                Encoding::Csv => Format::Csv,
                Encoding::Npz => Format::Npz,
                Encoding::Safetensors => Format::Safetensors,
                Encoding::Parquet => Format::Parquet,
            };
            render(&outcome, format, table, metric)
        });
        let rendered = rendered.await?;
        Ok(tied(encoding, rendered, share))
    }
}

/// One of a few words in the query.
fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&'static str, T)]) -> Result<T, Problem> {
    if let Some((_, found)) = choices.iter().find(|(word, _)| *word == value) {
        return Ok(*found);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let detail = format!("{value:?} is not known");
    let fix = format!("write one of {}", words.join(", "));
    let problem = Problem::new(Kind::InvalidRequest, format!("?{name}: {detail}; {fix}"));
    Err(problem.error(format!("?{name}"), code::UNKNOWN_VALUE, detail, fix))
}

/// What a sweep that has no stored result has found so far.
/// A file of a job's result, as it was before it was compressed.
async fn file(jobs: &Jobs, id: JobId, name: &str, share: &Share) -> Result<Option<Vec<u8>>, Problem> {
    let Some(packed) = jobs.store.file(id, name).await? else { return Ok(None) };
    share.resize(packed.len() as u64 + compress::length(&packed)).await?;
    Ok(share.run(Lane::Finish, move |_| compress::restored(&packed)).await)
}

async fn so_far(jobs: &Jobs, job: &Job) -> Result<SweepOutcome, Problem> {
    match jobs.outcome(job).await? {
        Ok(outcome) => Ok(outcome),
        Err(Unfinished::Nothing) => Err(not_ready(job, "nothing of it has been computed")),
        Err(Unfinished::Unreadable) => {
            let detail = "another version of the server computed what there is of this job, and this one can't read it";
            Err(Problem::new(Kind::Gone, format!("{detail}; send its request again")))
        }
    }
}

/// A result that can be handed out as it was stored, and not be turned into anything else.
fn of_another_version(id: &JobId) -> Problem {
    let detail =
        "another version of the server stored this result, and this one can only hand it out as it is";
    let fix = format!("ask for GET /v1/jobs/{id}/result?format=json, or send the request again");
    Problem::new(Kind::Gone, format!("{detail}; {fix}")).error("?format", code::NOT_SUPPORTED, detail, fix)
}

fn not_ready(job: &Job, why: &str) -> Problem {
    let detail = format!("the job is {}: {why}", job.state.name());
    let problem = Problem::new(Kind::NotReady, detail).with("state", job.state.name());
    if job.state.is_over() { problem } else { problem.retry_after(retry_after(job)) }
}

/// Finds the caller's job of a path. Of other owners' jobs it says what it says of none.
pub(super) async fn find(jobs: &Jobs, caller: &Caller, id: &str) -> Result<Job, Problem> {
    let unknown =
        || Problem::new(Kind::NotFound, format!("there is no job {id:?}; GET /v1/jobs lists yours"));
    let job = jobs.job(&caller.owner, JobId::parse(id).ok_or_else(unknown)?).await?;
    job.ok_or_else(unknown)
}

/// Jobs
///
/// One's own, newest first. `next` is what to give as `before` for those that are older.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs",
    params(("state" = Option<JobState>, Query, description = "Only those in this state"),
           ("kind" = Option<job::Kind>, Query, description = "Only those of this kind"),
           ("limit" = Option<u32>, Query, description = "At most so many, 1 to 500; 50 if left out"),
           ("before" = Option<String>, Query, description = "Those older than this job")),
    responses((status = 200, description = "Jobs", body = JobList), Problem))]
async fn list(state: State<AppState>, caller: Caller, parts: Parts) -> Result<Json<JobList>, Problem> {
    let query = query(&parts, &["state", "kind", "limit", "before"])?;
    let in_state = query.get("state").map(|name| one_of("state", name, &JobState::ALL)).transpose()?;
    let kind = query.get("kind").map(|name| one_of("kind", name, &job::Kind::ALL)).transpose()?;
    let mut out = Problems::default();
    let limit = body::limit(&query, PAGE.0, PAGE.1, &mut out);
    let before = query.get("before").map_or(Some(None), |text| {
        let id = JobId::parse(text);
        if id.is_none() {
            out.push("?before", code::UNKNOWN_VALUE, format!("{text:?} is no job"), "write `next` of a list");
        }
        id.map(Some)
    });
    let (limit, before) = out.or(limit.zip(before))?;
    let filter = Filter { state: in_state, kind };
    let jobs = state.jobs()?.list(&caller.owner, filter, Page { limit, before }).await?;
    let next = if jobs.len() == limit as usize { jobs.last().map(|job| job.id.to_string()) } else { None };
    Ok(Json(JobList { jobs: jobs.iter().map(JobView::new).collect(), next }))
}

/// A job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "How far it is", body = JobView),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn get(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let jobs = state.jobs()?;
    let job = find(jobs, &caller, &id).await?;
    let view = JobView::placed(jobs, &job).await?;
    let mut response = Json(view).into_response();
    if !job.state.is_over() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after(&job)));
    }
    Ok(response)
}

/// Call a job off
///
/// Nothing more of it is begun, and what is being computed is dropped. What was computed stays its result. A job that is
/// over stays as it is, unless `purge` is given: then it is forgotten with all that it found.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("purge" = Option<bool>, Query, description = "Forget a job that is over")),
    responses((status = 200, description = "The job as it is now", body = JobView),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn cancel(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Json<JobView>, Problem> {
    let query = query(&parts, &["purge"])?;
    let flags = [("true", true), ("false", false)];
    let purge = query.get("purge").map(|text| one_of("purge", text, &flags)).transpose()?.unwrap_or(false);
    let jobs = state.jobs()?;
    let found = find(jobs, &caller, &id).await?;
    let job = jobs.cancel(&caller.owner, found.id).await?.unwrap_or(found);
    if purge {
        jobs.store.delete(&caller.owner, job.id).await?;
    }
    Ok(Json(JobView::new(&job)))
}

/// What a job found
///
/// Of a sweep that was called off or failed, what was computed before; of one that is running, with `partial`, what has
/// been computed so far. Its `complete` then is false.
#[utoipa::path(get, path = "/v1/jobs/{id}/result", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("format" = Option<String>, Query, description = "json, jsonl, csv, npz, safetensors or parquet (of a run, patch or trace json, csv, npz, safetensors, svg or png); else by Accept"),
           ("table" = Option<String>, Query, description = "Of jsonl, csv and parquet: averages (by default), cells, cases, differences or top"),
           ("metric" = Option<String>, Query, description = "The one metric of a table or file; all by default"),
           ("partial" = Option<bool>, Query, description = "Answer with what a running sweep has found so far")),
    responses((status = 200, description = "The result; of a run, patch or trace as its endpoint answers it", body = SweepOutcome),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
              (status = 409, description = "not-ready", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
              (status = 410, description = "gone", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn result(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = query(&parts, &["format", "table", "metric", "partial"])?;
    let asked = Answer::of(&parts.headers, &query)?;
    let flags = [("true", true), ("false", false)];
    let partial =
        query.get("partial").map(|text| one_of("partial", text, &flags)).transpose()?.unwrap_or(false);
    let jobs = state.jobs()?;
    let job = with_result(jobs, &caller, &id, partial).await?;
    if job.kind == job::Kind::Sweep && !TABLES.contains(&asked.encoding) {
        let fix = "ask for a picture at /v1/jobs/{id}/plot";
        let detail = format!("the result of a sweep has no form called {}", asked.encoding.name());
        let problem = Problem::new(Kind::InvalidRequest, format!("?format: {detail}; {fix}"));
        return Err(problem.error("?format", code::NOT_SUPPORTED, detail, fix));
    }
    asked.answer(jobs, &job, state.capacity.share(&caller.owner)).await
}

/// A job whose result can be asked for.
async fn with_result(jobs: &Jobs, caller: &Caller, id: &str, partial: bool) -> Result<Job, Problem> {
    let job = find(jobs, caller, id).await?;
    match job.state {
        JobState::Succeeded => Ok(job),
        JobState::Expired => {
            let problem = Problem::new(Kind::Gone, "the job's result was deleted when its time was over");
            Err(problem)
        }
        JobState::Queued | JobState::Running if partial && job.kind == job::Kind::Sweep => Ok(job),
        JobState::Queued | JobState::Running => {
            let hint = if job.kind == job::Kind::Sweep {
                "; add ?partial=true for what it has found so far"
            } else {
                ""
            };
            Err(not_ready(&job, &format!("its result is not there yet{hint}")))
        }
        JobState::Failed | JobState::Cancelled if job.kind == job::Kind::Sweep => Ok(job),
        JobState::Failed => Err(not_ready(&job, job.error.as_deref().unwrap_or("it has no result"))),
        JobState::Cancelled => Err(not_ready(&job, "it was called off before it was done")),
    }
}

/// A picture of what a job found
///
/// Of a sweep its average effects: bars with confidence intervals by layer, or a heatmap of layers by token classes, heads
/// or positions.
#[utoipa::path(get, path = "/v1/jobs/{id}/plot", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("kind" = Option<String>, Query, description = "Of a sweep: bars or heatmap; what suits its averages if left out"),
           ("metric" = Option<String>, Query, description = "Of a sweep: the metric drawn; the first if left out"),
           ("format" = Option<String>, Query, description = "svg or png; else by Accept"),
           ("partial" = Option<bool>, Query, description = "Draw what a running sweep has found so far")),
    responses((status = 200, description = "The picture", body = String, content_type = "image/svg+xml"),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
              (status = 409, description = "not-ready", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
              (status = 410, description = "gone", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn plot(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = query(&parts, &["kind", "metric", "format", "partial"])?;
    let encoding = Encoding::negotiate(&parts.headers, query.get("format").map(String::as_str), &PICTURES)?;
    let kind = query.get("kind").map(|name| one_of("kind", name, &Plot::ALL)).transpose()?;
    let flags = [("true", true), ("false", false)];
    let partial =
        query.get("partial").map(|text| one_of("partial", text, &flags)).transpose()?.unwrap_or(false);
    let metric = query.get("metric").cloned();
    let jobs = state.jobs()?;
    let (job, share) = (with_result(jobs, &caller, &id, partial).await?, state.capacity.share(&caller.owner));
    if job.kind != job::Kind::Sweep {
        return Answer { encoding, table: None, metric }.answer(jobs, &job, share).await;
    }
    let outcome = match file(jobs, job.id, "json", &share).await? {
        Some(json) => {
            let read = move |_: &Abandoned| serde_json::from_slice::<SweepOutcome>(&json);
            share.run(Lane::Finish, read).await.map_err(|_| of_another_version(&job.id))?
        }
        None => so_far(jobs, &job).await?,
    };
    let format = if encoding == Encoding::Png { Format::Png } else { Format::Svg };
    let draw = move |_: &Abandoned| picture(&outcome, metric.as_deref(), kind, format);
    let drawn = share.run(Lane::Finish, draw).await?;
    Ok(tied(encoding, drawn, share))
}

impl From<NotTaken> for Problem {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Refused(refusal) => refusal.into(),
            NotTaken::Store(error) => error.into(),
        }
    }
}
