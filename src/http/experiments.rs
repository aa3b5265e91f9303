//! The experiments (clean runs, lenses, patch runs, causal traces, surprisal, sweeps), their dry run, and tokens.

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Asked, FormatParam, ShowParams, TableParam, with_show};
use super::body::Posted;
use super::enqueue::{Later, fill_in};
use super::prefer::take_async;
use super::{AppState, Kind as ProblemKind, NoQuery, Problem, live, query, stream};
use crate::jobs::strongest;
use crate::jobs::view::JobView;
use crate::result::align::AlignResponse;
use crate::result::common::TokenizeResponse;
use crate::result::dry_run::PlanResponse;
use crate::result::patch::PatchResponse;
use crate::result::render::{Format, TraceAnswer};
use crate::result::run::RunResponse;
use crate::result::surprisal::SurprisalResponse;
use crate::result::sweep::SweepOutcome;
use crate::spec::align::{AlignBody, AlignSpec};
use crate::spec::kind::{Kind, PlanBody, of_kind};
use crate::spec::lens::LensBody;
use crate::spec::patch::PatchBody;
use crate::spec::problem::code;
use crate::spec::run::RunBody;
use crate::spec::surprisal::SurprisalBody;
use crate::spec::sweep::SweepBody;
use crate::spec::tokenize::TokenizeBody;
use crate::spec::trace::TraceBody;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(run))
        .routes(routes!(lens))
        .routes(routes!(surprisal))
        .routes(routes!(patch))
        .routes(routes!(trace))
        .routes(routes!(sweep))
        .routes(routes!(plan))
        .routes(routes!(tokenize))
        .routes(routes!(align))
}

/// Clean runs with bodies up to this are lowered where they come.
const LIGHT: usize = 1024;

/// Reads, computes and answers a request, at once or as a job.
async fn experiment(
    kind: Kind,
    state: &AppState,
    parts: &Parts,
    posted: Posted,
) -> Result<Response, Problem> {
    if stream::is_wanted(&parts.headers) {
        return of_kind!(kind, E => live::answer::<E>(kind, state, parts, posted).await, in_units => {
            let detail = "a sweep is always a job";
            let fix = "send it with `Prefer: respond-async`, and read the events of the job";
            let problem = Problem::new(ProblemKind::NotAcceptable, format!("Accept: {detail}; {fix}"));
            Err(problem.error("Accept", code::NOT_SUPPORTED, detail, fix))
        });
    }
    let own: &[&str] = if kind.is_in_units() { &["format", "table"] } else { &["format"] };
    let asked = Asked::of(&parts.headers, query(parts, &with_show(own))?, &Format::ALL)?;
    let light = kind == Kind::Run && posted.bytes.len() <= LIGHT;
    let (body, share, later) = Later::of(state, parts, kind, posted)?;
    share.set_light(light);
    if later.is_wanted() {
        return later.submit(body).await;
    }
    of_kind!(kind, E => match state.service()?.answer::<E>((body, &share)).await {
        Ok(response) => asked.answer_with(response, share, state.results.clone()).await,
        Err(refusal) => later.instead(refusal).await,
    }, in_units => later.wait(body, asked).await)
}

/// How a request is answered.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents headers")]
pub(super) struct JobHeaders {
    /// respond-async: answer with a job at once
    #[param(rename = "Prefer")]
    prefer: Option<String>,
    /// Of a job: repeated with the same key it is the same job
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
    /// no-store: compute it, whatever was computed before, and keep nothing of it; jobs don't heed it
    #[param(rename = "Cache-Control")]
    cache: Option<String>,
}

/// How an event stream is taken up again.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents a header")]
struct EventHeader {
    /// Of events: the id of the last one that came; those after it follow
    #[param(rename = "Last-Event-ID")]
    last: Option<String>,
}

/// Clean runs
///
/// One or several prompts: tokens, metrics of targets, most probable next tokens, activations.
/// The shortest body is `{"prompt": "..."}`. With `Accept: text/event-stream`, events come
/// while it is computed, and the result last.
#[utoipa::path(post, path = "/v1/run", tag = "experiments", request_body = RunBody,
    params(FormatParam, ShowParams, JobHeaders, EventHeader),
    responses((status = 200, description = "What the runs gave", content(
        (RunResponse = "application/json"), (String = "text/event-stream"))),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn run(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Run, &state, &parts, posted).await
}

/// Logit lens
///
/// What the residual stream leaving each layer would predict at each position of a prompt, through the final norm and the
/// unembedding. The answer is that of a clean run that reads `logit_lens`; as a picture it is a heat map with the most probable token
/// in each cell. The shortest body is `{"prompt": "..."}`.
#[utoipa::path(post, path = "/v1/lens", tag = "experiments", request_body = LensBody,
    params(FormatParam, ShowParams, JobHeaders),
    responses((status = 200, description = "What each layer would predict", body = RunResponse),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn lens(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Lens, &state, &parts, posted).await
}

/// Surprisal
///
/// How likely each token of a text is after all tokens before it: log-probability, surprisal in bits, rank and entropy; with the
/// log-probability and perplexity of the whole text, and of its spans. A run may be another with interventions. The shortest body is
/// `{"prompt": "..."}`.
#[utoipa::path(post, path = "/v1/surprisal", tag = "experiments", request_body = SurprisalBody,
    params(FormatParam, ShowParams, JobHeaders),
    responses((status = 200, description = "How likely the tokens are", body = SurprisalResponse),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn surprisal(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Surprisal, &state, &parts, posted).await
}

/// Patch runs
///
/// Interventions on a base run, jointly or swept over layers, positions and heads.
/// The shortest body is `{"base": "...", "source": "...", "target": " ..."}`: every layer, last position to last.
/// With `Accept: text/event-stream`, events come while it is computed, and the result last.
#[utoipa::path(post, path = "/v1/patch", tag = "experiments", request_body = PatchBody,
    params(FormatParam, ShowParams, JobHeaders, EventHeader),
    responses((status = 200, description = "What the patches did", content(
        (PatchResponse = "application/json"), (String = "text/event-stream"))),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn patch(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Patch, &state, &parts, posted).await
}

/// Causal trace
///
/// Restores clean activations in a corrupted run, one layer and position at a time (ROME, arXiv 2202.05262), or the
/// reverse. The shortest body is `{"prompt": "...", "subject": "...", "target": " ..."}`. With `cases`, many prompts are
/// traced one by one, and their effects averaged by token class with confidence intervals; the answer then is a
/// `CasesResponse`. With `Accept: text/event-stream`, events come while it is computed, and the result last.
#[utoipa::path(post, path = "/v1/trace", tag = "experiments", request_body = TraceBody,
    params(FormatParam, ShowParams, JobHeaders, EventHeader),
    responses((status = 200, description = "The causal map", content(
        (TraceAnswer = "application/json"), (String = "text/event-stream"))),
              (status = 202, description = "The job that will answer", body = JobView), Problem))]
async fn trace(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Trace, &state, &parts, posted).await
}

/// Sweep
///
/// Any grid over cases: arms of interventions, enumerated along layers, positions, heads or columns, for every prompt of
/// a data set, and averaged over prompts with confidence intervals. A sweep is always a job, which survives a restart; if it
/// is estimated to take no longer than `limits.sync_limit_s` and `Prefer: respond-async` is not sent, the answer waits for
/// it.
#[utoipa::path(post, path = "/v1/sweep", tag = "experiments", request_body = SweepBody,
    params(FormatParam, TableParam, ShowParams, JobHeaders),
    responses((status = 200, description = "What it found", body = SweepOutcome),
              (status = 202, description = "The job that will find it", body = JobView), Problem))]
async fn sweep(state: State<AppState>, parts: Parts, posted: Posted) -> Result<Response, Problem> {
    experiment(Kind::Sweep, &state, &parts, posted).await
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
    for (name, kind) in Kind::ALL {
        let Some(inner) = body.get_mut(name) else { continue };
        take_async(inner, &format!("/{name}"))?;
        // The store is asked only if something of it is named.
        if kind.is_in_units() && (inner.pointer("/dataset/id").is_some() || strongest::is_asked(inner)) {
            fill_in(state.jobs()?, inner, &share).await?;
        }
    }
    Ok(Json(state.service()?.plan((body, &share)).await?))
}

/// Tokens of a prompt
///
/// Ids, text and offsets (characters and bytes), with the token ranges of named substrings.
#[utoipa::path(post, path = "/v1/tokenize", tag = "experiments", request_body = TokenizeBody,
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
    Ok(Json(state.service()?.answer::<AlignSpec>((posted.value, &posted.share)).await?))
}
