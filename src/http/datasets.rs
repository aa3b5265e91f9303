//! Data sets: cases that the server keeps for sweeps.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::NotFound;
use super::{AppState, Caller, Kind, NoQuery, Problem, answer, body, json, query};
use crate::activations::Timestamp;
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::Jobs;
use crate::result::render::Format;
use crate::spec::dataset::{self, Cases};
use crate::spec::problem::{Problems, code};
use crate::spec::read::check_label;
use crate::spec::sweep::CaseForm;
use crate::store::job::Dataset;

/// Shown when the body is empty.
const EXAMPLE: &str =
    r#"[{"prompt":"The Eiffel Tower is in the city of","subject":"Eiffel Tower","target":" Paris"}]"#;
/// Longest name.
const NAME_BYTES: usize = 128;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(list, upload)).routes(routes!(get, delete))
}

/// A stored data set.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DatasetView {
    /// What sweeps name: `{"dataset": {"id": …}}`. Equal sets have equal ids.
    id: String,
    /// Its name.
    name: Option<String>,
    /// SHA-256 of its cases as JSON lines, fields in the order of their names.
    sha256: String,
    /// Number of cases.
    cases: u32,
    /// Bytes of those lines.
    bytes: u64,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
}

/// Stored data sets.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct DatasetList {
    /// Newest first.
    datasets: Vec<DatasetView>,
}

impl From<Dataset> for DatasetView {
    fn from(set: Dataset) -> Self {
        let created = Timestamp(u64::try_from(set.created_ms).unwrap_or(0));
        let Dataset { id, name, sha256, cases, bytes, .. } = set;
        Self { id, name, sha256, cases, bytes, created }
    }
}

/// What is stored
#[utoipa::path(get, path = "/v1/datasets", tag = "datasets",
    responses((status = 200, description = "Data sets, without their cases", body = DatasetList), Problem))]
async fn list(state: State<AppState>, caller: Caller, _: NoQuery) -> Result<Json<DatasetList>, Problem> {
    let sets = state.jobs()?.store.datasets(&caller.owner).await?;
    Ok(Json(DatasetList { datasets: sets.into_iter().map(DatasetView::from).collect() }))
}

/// Store a data set
///
/// Cases as a JSON list, as JSON lines (`application/x-ndjson`) or as CSV (`text/csv`) with the columns id, group, prompt,
/// subject, corrupted, target, foil, `target_scoring`, bos, tokens. Every case is checked, and what is wrong is said with its
/// line. The same cases are stored once.
#[utoipa::path(post, path = "/v1/datasets", tag = "datasets",
    params(("name" = Option<String>, Query, description = "A name to find it by")),
    request_body(content((Vec<CaseForm> = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
    responses((status = 201, description = "Stored", body = DatasetView,
               headers(("location" = String, description = "Path of the set"))),
              (status = 200, description = "It was there already", body = DatasetView), Problem))]
async fn upload(state: State<AppState>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let jobs = state.jobs()?;
    let (parts, content) = request.into_parts();
    let mut query = query(&parts, &["name"])?;
    let name = query.remove("name");
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES) {
        let detail = "the name is not of 1 to 128 bytes";
        let problem = Problem::new(Kind::InvalidRequest, format!("?name: {detail}"));
        return Err(problem.error("?name", code::OUT_OF_RANGE, detail, "shorten it"));
    }
    let mut unfit = Problems::default();
    check_label(name.as_deref().unwrap_or_default(), "?name", &mut unfit);
    unfit.or(Some(()))?;
    let form = Form::of(&parts)?;
    let request = Request::from_parts(parts, content);
    let (max, share) = (state.config.jobs.dataset_bytes, state.capacity.share(caller.account()));
    let bytes = body::read(request, &share, &state.config.http, max, "jobs.dataset_bytes").await?;
    let length = bytes.len() as u64;
    share.of_body(length);
    share.resize(Form::COPIES * length + Form::A_CASE.min(64 * length)).await?;
    let cases = share.run(Lane::Prepare, move |abandoned| form.read(&bytes, abandoned)).await?;
    let (set, new) =
        jobs.store.put_dataset(&caller.owner, name.as_deref(), cases.len as u32, &cases.text).await?;
    let location = format!("/v1/datasets/{}", set.id);
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, location)], Json(DatasetView::from(set))).into_response())
}

/// How a body says its cases.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// A list.
    Json,
    /// An object a line.
    Lines,
    /// With a header.
    Csv,
}

impl Form {
    /// The body, its cases as they are stored, and once more on their way there.
    const COPIES: u64 = 3;
    /// Most bytes of one case while it is read.
    const A_CASE: u64 = 32 << 20;

    fn of(parts: &Parts) -> Result<Self, Problem> {
        let refuse = |detail: String, fix: &str| {
            let problem = Problem::new(Kind::UnsupportedMediaType, format!("{detail}; {fix}"));
            Err(problem.error("", "media_type", detail, fix))
        };
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return refuse("the body is compressed".to_owned(), "send it uncompressed");
        }
        let declared = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = declared.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines" => Ok(Self::Lines),
            "text/csv" => Ok(Self::Csv),
            other => refuse(
                format!("the body is declared as {other}"),
                "declare it as application/json, application/x-ndjson or text/csv",
            ),
        }
    }

    /// Reads and checks the cases of a body.
    ///
    /// # Errors
    /// Everything wrong, each with its line.
    pub fn read(self, bytes: &[u8], abandoned: &Abandoned) -> Result<Cases, Problem> {
        let stop = || abandoned.is_set();
        let mut cases = dataset::Reader::new(&stop);
        match self {
            Self::Json => {
                if let Some(other) = json::items(bytes, EXAMPLE, |case| cases.case(&case))? {
                    return Err(dataset::no_list(&other).into());
                }
            }
            Self::Lines => cases.lines(text(bytes)?, |line| {
                json::parse(line.as_bytes(), EXAMPLE).map_err(|problem| match problem.errors.first() {
                    Some(error) => format!("{}: {}", error.pointer, error.detail),
                    None => problem.detail,
                })
            }),
            Self::Csv => cases.csv(text(bytes)?),
        }
        Ok(cases.finish()?)
    }
}

/// UTF-8, perhaps with the mark that spreadsheets put first.
fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
        Problem::new(Kind::BadRequest, detail)
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn unknown(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no data set {id:?}; GET /v1/datasets lists yours"))
}

/// A data set's cases
#[utoipa::path(get, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = String, Path, description = "The data set")),
    responses((status = 200, description = "Its cases as JSON lines", body = String, content_type = "application/x-ndjson"),
              NotFound, Problem))]
async fn get(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let text = state.jobs()?.store.dataset_text(&caller.owner, &id).await?.ok_or_else(|| unknown(&id))?;
    let share = state.capacity.share(caller.account());
    share.resize(text.len() as u64).await?;
    Ok(answer::tied(Format::Jsonl, text.into_bytes(), share))
}

/// Delete a data set
///
/// Sweeps that were submitted with it keep their cases.
#[utoipa::path(delete, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = String, Path, description = "The data set")),
    responses((status = 204, description = "Deleted"),
              NotFound, Problem))]
async fn delete(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    if state.jobs()?.store.delete_dataset(&caller.owner, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(unknown(&id))
    }
}

/// Writes a stored data set out in a request that names it `at` a place.
pub(super) async fn written_out(
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
        problems.push(format!("{at}/id"), code::UNKNOWN_NAME, detail, "GET /v1/datasets lists yours");
        return Err(problems.into());
    };
    share.of_body(text.len() as u64);
    share.resize(share.bytes() + text.len() as u64 + json::tree_bytes(text.as_bytes())).await?;
    let read = move |_: &Abandoned| text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let cases = share.run(Lane::Prepare, read).await;
    let cases = cases.map_err(|_| Problem::new(Kind::Internal, "the stored data set cannot be read"))?;
    dataset.insert("inline".to_owned(), Value::Array(cases));
    Ok(())
}
