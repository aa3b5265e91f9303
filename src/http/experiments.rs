//! The experiments: clean runs, patch runs, causal traces, and their dry run.

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ShowParams, format, show, tied, with_show};
use super::body::Posted;
use super::enqueue::Later;
use super::prefer::take_async;
use super::sweeps::with_dataset;
use super::{AppState, Encoding, NoQuery, Problem, problem, query};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::strongest;
use crate::jobs::view::JobView;
use crate::result::align::AlignResponse;
use crate::result::common::TokenizeResponse;
use crate::result::dry_run::PlanResponse;
use crate::result::patch::PatchResponse;
use crate::result::plates::Show;
use crate::result::render::{RenderError, Rendered, TraceAnswer};
use crate::result::run::RunResponse;
use crate::spec::body::{AlignBody, PatchBody, PlanBody, RunBody, TraceBody};
use crate::spec::problem::Problems;
use crate::spec::tokenize::TokenizeSpec;
use crate::store::job::Kind;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(run))
        .routes(routes!(patch))
        .routes(routes!(trace))
        .routes(routes!(plan))
        .routes(routes!(tokenize))
        .routes(routes!(align))
}

/// In which form a result is asked for.
struct Asked {
    encoding: Encoding,
    show: Show,
}

impl Asked {
    fn of(parts: &Parts) -> Result<Self, Problem> {
        let mut query = query(parts, &with_show(&["format"]))?;
        let format = query.get("format").map(String::as_str);
        let encoding = Encoding::negotiate(&parts.headers, format, &Encoding::ALL)?;
        Ok(Self { encoding, show: show(&mut query, encoding)? })
    }

    /// Encodes on a thread where it may take its time: a picture takes a good part of a second. The memory is held until the
    /// client has taken the last byte.
    async fn answer<R>(self, result: R, share: Share) -> Result<Response, Problem>
    where
        R: Rendered + serde::Serialize + Send + 'static,
    {
        let Self { encoding, show } = self;
        let encode = move |_: &Abandoned| match format(encoding) {
            None => Ok(serde_json::to_vec(&result).expect("BUG: results have string keys")),
            Some(format) => result.render(format, &show),
        };
        let bytes = share.run(Lane::Finish, encode).await?;
        Ok(tied(encoding, bytes, share))
    }
}

impl From<RenderError> for Problem {
    fn from(error: RenderError) -> Self {
        match error.problem() {
            Some(problem) => Problems(vec![problem]).into(),
            None => Self::new(problem::Kind::Internal, error.to_string()),
        }
    }
}

/// Clean runs
///
/// One or several prompts: tokens, metrics of targets, most probable next tokens, activations.
/// The shortest body is `{"prompt": "..."}`.
#[utoipa::path(post, path = "/v1/run", tag = "experiments", request_body = RunBody,
    params(("format" = Option<String>, Query, description = "json, csv, jsonl, parquet, npz, safetensors, svg or png; else by Accept"), ShowParams,
           ("Prefer" = Option<String>, Header, description = "respond-async: answer with a job at once"),
           ("Idempotency-Key" = Option<String>, Header, description = "Of a job: repeated with the same key it is the same job")),
    responses((status = 200, description = "What the runs gave", body = RunResponse),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn run(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    let asked = Asked::of(&parts)?;
    let (body, share, later) = Later::of(&state, &parts, Kind::Run, posted)?;
    if later.is_wanted() {
        return later.submit(body).await;
    }
    match state.service()?.run((body, &share)).await {
        Ok(response) => asked.answer(response, share).await,
        Err(refusal) => later.instead(refusal).await,
    }
}

/// Patch runs
///
/// Interventions on a base run, jointly or swept over layers, positions and heads.
/// The shortest body is `{"base": "...", "source": "...", "target": " ..."}`: every layer, last position to last.
#[utoipa::path(post, path = "/v1/patch", tag = "experiments", request_body = PatchBody,
    params(("format" = Option<String>, Query, description = "json, csv, jsonl, parquet, npz, safetensors, svg or png; else by Accept"), ShowParams,
           ("Prefer" = Option<String>, Header, description = "respond-async: answer with a job at once"),
           ("Idempotency-Key" = Option<String>, Header, description = "Of a job: repeated with the same key it is the same job")),
    responses((status = 200, description = "What the patches did", body = PatchResponse),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn patch(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    let asked = Asked::of(&parts)?;
    let (body, share, later) = Later::of(&state, &parts, Kind::Patch, posted)?;
    if later.is_wanted() {
        return later.submit(body).await;
    }
    match state.service()?.patch((body, &share)).await {
        Ok(response) => asked.answer(response, share).await,
        Err(refusal) => later.instead(refusal).await,
    }
}

/// Causal trace
///
/// Restores clean activations in a corrupted run, one layer and position at a time (ROME, arXiv 2202.05262), or the
/// reverse. The shortest body is `{"prompt": "...", "subject": "...", "target": " ..."}`. With `cases`, many prompts are
/// traced one by one, and their effects averaged by token class with confidence intervals; the answer then is a
/// `CasesResponse`.
#[utoipa::path(post, path = "/v1/trace", tag = "experiments", request_body = TraceBody,
    params(("format" = Option<String>, Query, description = "json, csv, jsonl, parquet, npz, safetensors, svg or png; else by Accept"), ShowParams,
           ("Prefer" = Option<String>, Header, description = "respond-async: answer with a job at once"),
           ("Idempotency-Key" = Option<String>, Header, description = "Of a job: repeated with the same key it is the same job")),
    responses((status = 200, description = "The causal map", body = TraceAnswer),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn trace(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    let asked = Asked::of(&parts)?;
    let (body, share, later) = Later::of(&state, &parts, Kind::Trace, posted)?;
    if later.is_wanted() {
        return later.submit(body).await;
    }
    let mut result = match state.service()?.trace((body, &share)).await {
        Ok(answered) => answered,
        Err(refusal) => return later.instead(refusal).await,
    };
    if result.wants_plots() {
        let draw = move |_: &Abandoned| {
            result.fill_plots();
            result
        };
        result = share.run(Lane::Finish, draw).await;
    }
    asked.answer(result, share).await
}

/// Dry run
///
/// What a request would do and cost, with every lint that needs no computation. Nothing is run.
#[utoipa::path(post, path = "/v1/plan", tag = "experiments", request_body = PlanBody,
    responses((status = 200, description = "Cost and lints", body = PlanResponse), Problem))]
async fn plan(
    state: State<AppState>,
    _: NoQuery,
    Posted { value: mut body, share, .. }: Posted,
) -> Result<Json<PlanResponse>, Problem> {
    for kind in ["run", "patch", "trace", "sweep"] {
        if let Some(inner) = body.get_mut(kind) {
            take_async(inner, &format!("/{kind}"))?;
        }
    }
    if let Some(sweep) = body.get_mut("sweep")
        && (sweep.pointer("/dataset/id").is_some() || strongest::is_asked(sweep))
    {
        let jobs = state.jobs()?;
        with_dataset(jobs, sweep, &share).await?;
        strongest::write_out(jobs, sweep, &share).await?;
    }
    Ok(Json(state.service()?.plan((body, &share)).await?))
}

/// Tokens of a prompt
///
/// Ids, text and offsets (characters and bytes), with the token ranges of named substrings.
#[utoipa::path(post, path = "/v1/tokenize", tag = "experiments", request_body = TokenizeSpec,
    responses((status = 200, description = "Tokens", body = TokenizeResponse), Problem))]
async fn tokenize(
    state: State<AppState>,
    _: NoQuery,
    posted: Posted,
) -> Result<Json<TokenizeResponse>, Problem> {
    Ok(Json(state.service()?.tokenize((posted.value, &posted.share)).await?))
}

/// Alignment of two prompts
///
/// The diff of their tokens, the position map that follows from it, and, if targets are named, whether the model
/// answers the two differently: what makes two prompts a minimal pair. The model runs only if targets are named.
/// The shortest body is `{"a": "...", "b": "..."}`.
#[utoipa::path(post, path = "/v1/align", tag = "experiments", request_body = AlignBody,
    responses((status = 200, description = "Diff, map and contrast", body = AlignResponse), Problem))]
async fn align(state: State<AppState>, _: NoQuery, posted: Posted) -> Result<Json<AlignResponse>, Problem> {
    Ok(Json(state.service()?.align((posted.value, &posted.share)).await?))
}
