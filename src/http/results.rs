//! Results that were answered, in their other forms.

use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Asked, FormatParam, ShowParams, with_show};
use super::problem::NotFound;
use super::{AppState, Caller, Kind, Problem, query};
use crate::result::render::{Format, TraceAnswer};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(result))
}

/// A result again
///
/// What a run, patch or trace was answered with, in any form, without computing it again: by the `id` of the answer, which was
/// asked for with the same key, as long as it is kept (`results.keep_s`, `results.bytes`).
#[utoipa::path(get, path = "/v1/results/{id}", tag = "experiments",
    params(("id" = String, Path, description = "The answer's id"), FormatParam, ShowParams),
    responses((status = 200, description = "The result", body = TraceAnswer), NotFound, Problem))]
async fn result(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let asked = Asked::of(&parts.headers, query(&parts, &with_show(&["format"]))?, &Format::ALL)?;
    let Some(result) = state.results.find(&caller.owner, &id) else {
        let detail = format!(
            "no result {id:?} of yours is kept; results are kept for {} s, the largest for less: send the request again",
            state.results.settings.keep_s
        );
        return Err(Problem::new(Kind::NotFound, detail));
    };
    let share = state.capacity.share(&caller.owner);
    asked.answer(share, move |asked| result.render(asked.format, &asked.show)).await
}
