//! The job queue: what is there, how far it is, what it found.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Asked, FormatParam, ShowParams, TableParam, one_of, tied, with_show};
use super::prefer::retry_after;
use super::problem::{NoResult, NotFound};
use super::{AppState, Caller, Kind, NoQuery, Problem, body, query};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::view::{JobList, JobView};
use crate::jobs::{Jobs, NUMBERS_FILE, NotTaken, PICTURES_FILE, Unfinished, compress};
use crate::result::numbers::Numbers;
use crate::result::plates::{Pictures, Show};
use crate::result::render::{Format, json};
use crate::result::sweep::{SweepOutcome, render};
use crate::spec::kind as job_kind;
use crate::spec::problem::{Problems, code};
use crate::store::job::{Job, JobId, State as JobState};
use crate::store::{Filter, Page};

/// Entries of a list: by default, and at most.
const PAGE: (u32, u32) = (50, 500);
/// Forms of a picture.
const PICTURES: [Format; 2] = [Format::Svg, Format::Png];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get, cancel))
        .routes(routes!(result))
        .routes(routes!(plot))
}

/// The result of a job that has one, as it is asked for.
pub(super) async fn answered(
    asked: Asked,
    jobs: &Jobs,
    job: &Job,
    share: Share,
) -> Result<Response, Problem> {
    if !job.kind.is_in_units() {
        return stored(asked, jobs, job, share).await;
    }
    if job.kind == job_kind::Kind::Generate {
        if asked.format != Format::Json || jobs.store.file(job.id, "json").await?.is_some() {
            return stored(asked, jobs, job, share).await;
        }
        let texts = jobs.texts(job).await?.map_err(|why| unfinished(job, why))?;
        return Ok(tied(
            Format::Json,
            share.run(Lane::Finish, move |_: &Abandoned| json(&texts)).await,
            share,
        ));
    }
    let outcome = match file(jobs, job.id, "json", &share).await? {
        Some(json) if asked.format == Format::Json => return Ok(tied(Format::Json, json, share)),
        Some(json) => {
            let read = move |_: &Abandoned| serde_json::from_slice::<SweepOutcome>(&json);
            share.run(Lane::Finish, read).await.map_err(|_| of_another_version(&job.id))?
        }
        None => so_far(jobs, job).await?,
    };
    asked.answer(share, move |asked| render(&outcome, asked.format, asked.table, &asked.show)).await
}

/// A result with what its forms are made from: they are written and drawn as they are asked for, as those of an answer are.
async fn stored(asked: Asked, jobs: &Jobs, job: &Job, share: Share) -> Result<Response, Problem> {
    let format = asked.format;
    if asked.table.is_some() {
        let detail = format!("the result of a {} has no table to choose", job.kind.name());
        let problem = Problem::new(Kind::InvalidRequest, format!("?table: {detail}"));
        return Err(problem.error("?table", code::NOT_SUPPORTED, detail, "leave it out"));
    }
    let another = || of_another_version(&job.id);
    if format.is_picture() {
        if let Some(file) = file(jobs, job.id, PICTURES_FILE, &share).await? {
            let read = move |_: &Abandoned| serde_json::from_slice::<Pictures>(&file);
            let pictures = share.run(Lane::Finish, read).await.map_err(|_| another())?;
            return asked.answer(share, move |asked| pictures.draw(&asked.show, asked.format)).await;
        }
    } else if format != Format::Json
        && let Some(file) = file(jobs, job.id, NUMBERS_FILE, &share).await?
    {
        let read = move |_: &Abandoned| Numbers::from_bytes(&file);
        let numbers = share.run(Lane::Finish, read).await.ok_or_else(another)?;
        return asked
            .answer(share, move |asked| numbers.write(asked.format, asked.show.metric.as_deref()))
            .await;
    }
    // The answer itself, and what an earlier version stored.
    if asked.show == Show::default()
        && let Some(file) = file(jobs, job.id, format.name(), &share).await?
    {
        return Ok(tied(format, file, share));
    }
    let there = jobs.store.files(job.id).await?;
    if there.is_empty() {
        return Err(Problem::new(Kind::Gone, "the job left no result"));
    }
    let forms: Vec<String> = there
        .iter()
        .map(|file| match file.as_str() {
            PICTURES_FILE => "svg, png".to_owned(),
            NUMBERS_FILE => Format::NUMBERS.map(Format::name).join(", "),
            form => form.to_owned(),
        })
        .collect();
    let fix = format!("ask for one of {}", forms.join(", "));
    let detail = format!("this result has no form called {}", format.name());
    let problem = Problem::new(Kind::InvalidRequest, format!("?format: {detail}; {fix}"));
    Err(problem.error("?format", code::NOT_SUPPORTED, detail, fix))
}

/// A file of a job's result, as it was before it was compressed.
async fn file(jobs: &Jobs, id: JobId, name: &str, share: &Share) -> Result<Option<Vec<u8>>, Problem> {
    let Some(packed) = jobs.store.file(id, name).await? else { return Ok(None) };
    share.resize(packed.len() as u64 + compress::length(&packed)).await?;
    Ok(share.run(Lane::Finish, move |_| compress::restored(&packed)).await)
}

/// What a sweep that has no stored result has found so far.
async fn so_far(jobs: &Jobs, job: &Job) -> Result<SweepOutcome, Problem> {
    jobs.outcome(job).await?.map_err(|why| unfinished(job, why))
}

fn unfinished(job: &Job, why: Unfinished) -> Problem {
    match why {
        Unfinished::Nothing => not_ready(job, "nothing of it has been computed"),
        Unfinished::Unreadable => {
            let detail = "another version of the server computed what there is of this job, and this one can't read it";
            Problem::new(Kind::Gone, format!("{detail}; send its request again"))
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
           ("kind" = Option<job_kind::Kind>, Query, description = "Only those of this kind"),
           ("limit" = Option<u32>, Query, description = "At most so many, 1 to 500; 50 if left out"),
           ("before" = Option<String>, Query, description = "Those older than this job")),
    responses((status = 200, description = "Jobs", body = JobList), Problem))]
async fn list(state: State<AppState>, caller: Caller, parts: Parts) -> Result<Json<JobList>, Problem> {
    let query = query(&parts, &["state", "kind", "limit", "before"])?;
    let in_state = query.get("state").map(|name| one_of("state", name, &JobState::ALL)).transpose()?;
    let kind = query.get("kind").map(|name| one_of("kind", name, &job_kind::Kind::ALL)).transpose()?;
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
              NotFound, Problem))]
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

/// Cancel a job
///
/// Nothing more of it is begun, and what is being computed is dropped. What was computed stays its result. A job that is
/// over stays as it is, unless `purge` is given: then it is forgotten with all that it found.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("purge" = Option<bool>, Query, description = "Forget a job that is over")),
    responses((status = 200, description = "The job as it is now", body = JobView),
              NotFound, Problem))]
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
/// Of a sweep that was cancelled or failed, what was computed before; of one that is running, with `partial`, what has
/// been computed so far. Its `complete` then is false.
#[utoipa::path(get, path = "/v1/jobs/{id}/result", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           FormatParam, TableParam, ShowParams,
           ("partial" = Option<bool>, Query, description = "Answer with what a running sweep has found so far")),
    responses((status = 200, description = "The result: of a sweep a SweepOutcome, of generated text a TextsOutcome, of a run, patch or trace as its endpoint answers it", body = SweepOutcome),
              NoResult, Problem))]
async fn result(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = query(&parts, &with_show(&["format", "table", "partial"]))?;
    let partial = partial(&query)?;
    let asked = Asked::of(&parts.headers, query, &Format::ALL)?;
    let jobs = state.jobs()?;
    let job = with_result(jobs, &caller, &id, partial).await?;
    answered(asked, jobs, &job, state.capacity.share(caller.account())).await
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
        JobState::Queued | JobState::Running if partial && job.kind.is_in_units() => Ok(job),
        JobState::Queued | JobState::Running => {
            let hint =
                if job.kind.is_in_units() { "; add ?partial=true for what it has found so far" } else { "" };
            Err(not_ready(&job, &format!("its result is not there yet{hint}")))
        }
        JobState::Failed | JobState::Cancelled if job.kind.is_in_units() => Ok(job),
        JobState::Failed => Err(not_ready(&job, job.error.as_deref().unwrap_or("it has no result"))),
        JobState::Cancelled => Err(not_ready(&job, "it was cancelled before it was done")),
    }
}

/// A picture of what a job found
///
/// Of a sweep its average effects: bars with confidence intervals by layer, or a heatmap of layers by token classes, heads
/// or positions.
#[utoipa::path(get, path = "/v1/jobs/{id}/plot", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("format" = Option<String>, Query, description = "svg or png; else by Accept"), ShowParams,
           ("partial" = Option<bool>, Query, description = "Draw what a running sweep has found so far")),
    responses((status = 200, description = "The picture", body = String, content_type = "image/svg+xml"),
              NoResult, Problem))]
async fn plot(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = query(&parts, &with_show(&["format", "partial"]))?;
    let partial = partial(&query)?;
    let asked = Asked::of(&parts.headers, query, &PICTURES)?;
    let jobs = state.jobs()?;
    let job = with_result(jobs, &caller, &id, partial).await?;
    answered(asked, jobs, &job, state.capacity.share(caller.account())).await
}

/// Whether what there is so far is asked for.
fn partial(query: &BTreeMap<String, String>) -> Result<bool, Problem> {
    let flags = [("true", true), ("false", false)];
    Ok(query.get("partial").map(|text| one_of("partial", text, &flags)).transpose()?.unwrap_or(false))
}

impl From<NotTaken> for Problem {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Refused(refusal) => refusal.into(),
            NotTaken::Store(error) => error.into(),
        }
    }
}
