//! Activations that the server keeps: captures by handle, and uploads.

use axum::Json;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{chosen, tied};
use super::datasets::written_out;
use super::encoding::negotiate;
use super::problem::NotFound;
use super::{AppState, Caller, Kind, NoQuery, Problem, body, query};
use crate::activations::{Activation, import, indices};
use crate::capacity::{Abandoned, Lane};
use crate::result::activation::{ActivationList, ActivationNumbers, Reduction};
use crate::result::render::Format;
use crate::service::NumbersAsked;
use crate::spec::Declared;
use crate::spec::activation::UploadSpec;
use crate::spec::dtype::Dtype;
use crate::spec::problem::{Problems, code};

/// Shown when the body of an upload is empty.
const EXAMPLE: &str = r#"{"site":"resid_post","layers":12,"name":"direction","values":[0.1,-0.2]}"#;
/// Media types of a binary upload.
const BINARY: [&str; 3] =
    ["application/octet-stream", "application/x-safetensors", "application/vnd.safetensors"];
const SERVED: [Format; 3] = [Format::Json, Format::Npz, Format::Safetensors];
/// Entries of a list: by default, and at most.
const PAGE: (u32, u32) = (100, 1000);
/// What an upload takes while it is read: its bytes, and its numbers as f32.
const COPIES: u64 = 3;
/// Layers or positions that an upload may name.
const MOST_INDICES: usize = 1 << 20;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(list, upload)).routes(routes!(get, delete))
}

/// What is stored
///
/// Oldest first. `next` is what to give as `after` for those that follow.
#[utoipa::path(get, path = "/v1/activations", tag = "activations",
    params(("limit" = Option<usize>, Query, description = "At most so many, 1 to 1000; 100 if left out"),
           ("after" = Option<String>, Query, description = "Those stored after this one")),
    responses((status = 200, description = "Metadata of stored sets", body = ActivationList), Problem))]
async fn list(state: State<AppState>, caller: Caller, parts: Parts) -> Result<Json<ActivationList>, Problem> {
    let query = query(&parts, &["limit", "after"])?;
    let mut out = Problems::default();
    let limit = body::limit(&query, PAGE.0, PAGE.1, &mut out);
    let after = query.get("after").map_or(Some(None), |text| {
        let id = text.parse().ok();
        if id.is_none() {
            out.push(
                "?after",
                code::UNKNOWN_VALUE,
                format!("{text:?} is no handle"),
                "write `next` of a list",
            );
        }
        id.map(Some)
    });
    let (limit, after) = out.or(limit.zip(after))?;
    Ok(Json(state.service()?.activations(&caller.owner, after.as_ref(), limit as usize)))
}

/// Store activations
///
/// Vectors to steer with, means to replace by: one vector `[width]`, `[layers, width]` or `[layers, positions, width]`.
/// As JSON with the numbers in `values`; or the file of a safetensors writer as `application/octet-stream`, with all
/// other fields as query parameters and `tensor` to choose one of several tensors.
#[utoipa::path(post, path = "/v1/activations", tag = "activations",
    params(("site" = Option<String>, Query, description = "Binary uploads: the site"),
           ("layers" = Option<String>, Query, description = "Binary uploads: as 0,4:8, or all"),
           ("positions" = Option<String>, Query, description = "Binary uploads: as 0,4:8"),
           ("name" = Option<String>, Query, description = "Binary uploads: a name to find them by"),
           ("ttl_s" = Option<u64>, Query, description = "Binary uploads: seconds until they are deleted"),
           ("dtype" = Option<Dtype>, Query, description = "Binary uploads: format in which they are stored; the tensor's if left out"),
           ("model" = Option<String>, Query, description = "Binary uploads: the model they are of"),
           ("tensor" = Option<String>, Query, description = "Binary uploads: the tensor's name; `values`, or the only one, if left out")),
    request_body(content((UploadSpec = "application/json"), (Vec<u8> = "application/octet-stream"), (Vec<u8> = "application/x-safetensors"))),
    responses((status = 201, description = "Stored", body = Activation,
               headers(("location" = String, description = "Path of the set"))), Problem))]
async fn upload(state: State<AppState>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let service = state.service()?;
    let (mut parts, content) = request.into_parts();
    let declared = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        declared.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let spec = if BINARY.contains(&essence.as_str()) {
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            let detail = "the body is compressed; send it as it is";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        // The numbers are the body.
        let fields = UploadSpec::FIELDS.iter().filter(|name| !["values", "mean_of"].contains(name));
        let known: Vec<&str> = fields.copied().chain(["tensor"]).collect();
        let query = query(&parts, &known)?;
        let max = state.config.activations.upload_bytes;
        let (request, share) = (Request::from_parts(parts, content), state.capacity.share(caller.account()));
        let bytes = body::read(request, &share, &state.config.http, max, "activations.upload_bytes").await?;
        // Its turn comes when all of it is there: who sends slowly keeps nobody waiting.
        share.of_body(bytes.len() as u64);
        share.resize(COPIES * bytes.len() as u64).await?;
        let spec = share.run(Lane::Prepare, move |_| binary(&query, &bytes)).await?;
        service.upload(spec, &share).await.map_err(|refusal| as_query(refusal.into()))
    } else {
        let _: NoQuery = NoQuery::from_request_parts(&mut parts, &state).await?;
        let body::Posted { mut value, share, .. } =
            body::json(Request::from_parts(parts, content), &state, EXAMPLE).await?;
        for at in ["/mean_of/dataset", "/mean_of/minus"] {
            if value.pointer(at).is_some() {
                written_out(state.jobs()?, &mut value, at, &share).await?;
            }
        }
        let read = move |_: &Abandoned| {
            let mut out = Problems::default();
            let spec = UploadSpec::read(&value, &mut out);
            out.or(spec)
        };
        let spec = share.run(Lane::Prepare, read).await?;
        service.upload(spec, &share).await.map_err(Problem::from)
    };
    let meta = spec?;
    let place = format!("/v1/activations/{}", meta.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json((*meta).clone())).into_response())
}

/// An upload out of query parameters and a file.
///
/// # Errors
/// Everything wrong, with pointers to parameters (`?site`) and, empty, to the file.
pub fn binary(
    query: &std::collections::BTreeMap<String, String>,
    bytes: &[u8],
) -> Result<UploadSpec, Problem> {
    let mut out = Problems::default();
    let mut fields = Map::new();
    for (name, text) in query {
        let value = match name.as_str() {
            "tensor" => continue,
            "layers" if text == "all" => Value::from("all"),
            "layers" | "positions" => {
                let Some(list) = indices(text, &format!("?{name}"), MOST_INDICES, &mut out) else { continue };
                Value::from(list)
            }
            "ttl_s" => text.parse::<u64>().map_or_else(|_| Value::from(text.as_str()), Value::from),
            _ => Value::from(text.as_str()),
        };
        fields.insert(name.clone(), value);
    }
    let imported = import(bytes, query.get("tensor").map(String::as_str), &mut out);
    // The same reader as for JSON, with the numbers put in place afterwards.
    fields.insert("values".to_owned(), Value::from(vec![0]));
    let mut read = Problems::default();
    let spec = UploadSpec::read(&Value::Object(fields), &mut read);
    let Problem { errors, .. } = as_query(read.into());
    out.0.extend(errors);
    let spec = spec.zip(imported).map(|(mut spec, (values, dtype))| {
        if !query.contains_key("dtype") {
            spec.dtype = dtype;
        }
        spec.values = values;
        spec
    });
    Ok(out.or(spec)?)
}

/// Pointers into a JSON body as those of a binary upload: `?site` for `/site`, the body itself for `/values`.
fn as_query(mut problem: Problem) -> Problem {
    for error in &mut problem.errors {
        let Some(rest) = error.pointer.strip_prefix('/') else { continue };
        let name = rest.split('/').next().unwrap_or_default();
        error.pointer = if name == "values" { String::new() } else { format!("?{name}") };
    }
    if let ([only], Kind::InvalidRequest) = (&problem.errors[..], problem.kind) {
        problem.detail = format!("{}: {}", only.pointer, only.detail);
    }
    problem
}

/// A stored set, or its numbers.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ActivationAnswer {
    /// Without `format` and selections.
    Metadata(Activation),
    /// With them.
    Numbers(ActivationNumbers),
}

/// A stored set
///
/// Its metadata; with `format`, any selection or reduction, or another `Accept`, its numbers. Selections are made before
/// anything is sent: layers and positions by the numbers they have in the model and the prompt, ranges half-open.
#[utoipa::path(get, path = "/v1/activations/{id}", tag = "activations",
    params(("id" = String, Path, description = "The handle"),
           ("format" = Option<String>, Query, description = "json, npz or safetensors: the numbers; else by Accept"),
           ("layers" = Option<String>, Query, description = "As 0,4:8; all if left out"),
           ("positions" = Option<String>, Query, description = "As -1 or 0,4:8; all if left out"),
           ("heads" = Option<String>, Query, description = "Of a per-head site, as 0,4:8; all if left out"),
           ("dtype" = Option<Dtype>, Query, description = "Format of the numbers; the set's own if left out"),
           ("reduce" = Option<String>, Query, description = "norm: length of each row; mean: over the positions"),
           ("cosine" = Option<String>, Query, description = "Handle of a set of the same shape: cosine of each row with its own")),
    responses((status = 200, description = "Metadata or numbers", body = ActivationAnswer),
              NotFound,
              (status = 410, description = "gone, damaged", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn get(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    const PARTS: [&str; 6] = ["layers", "positions", "heads", "dtype", "reduce", "cosine"];
    let mut query = query(&parts, &["format", "layers", "positions", "heads", "dtype", "reduce", "cosine"])?;
    let service = state.service()?;
    let format = query.get("format").map(String::as_str);
    let encoding = negotiate(&parts.headers, format, &SERVED)?;
    if encoding == Format::Json && format.is_none() && PARTS.iter().all(|name| !query.contains_key(*name)) {
        return Ok(Json((*service.activation(id, &state.capacity.share(caller.account())).await?).clone())
            .into_response());
    }
    let mut out = Problems::default();
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16].map(|dtype| (dtype.name(), dtype));
    let dtype = chosen("dtype", query.get("dtype").map(String::as_str), &dtypes, &mut out);
    let reduce = chosen("reduce", query.get("reduce").map(String::as_str), &Reduction::NAMED, &mut out);
    if !out.is_empty() {
        return Err(out.into());
    }
    let asked = NumbersAsked {
        layers: query.remove("layers"),
        positions: query.remove("positions"),
        heads: query.remove("heads"),
        dtype,
        reduce,
        cosine: query.remove("cosine"),
        as_json: encoding == Format::Json,
    };
    let share = state.capacity.share(caller.account());
    let numbers = service.numbers(id, asked, &share).await?;
    if encoding == Format::Npz && numbers.dtype == Dtype::Bf16 {
        let (detail, fix) = ("NumPy has no bfloat16", "ask for dtype=f32, or for safetensors");
        let problem = Problem::new(Kind::InvalidRequest, format!("?dtype: {detail}; {fix}"));
        return Err(problem.error("?dtype", code::NOT_SUPPORTED, detail, fix));
    }
    let encode = move |_: &Abandoned| numbers.render(encoding);
    let bytes = share.run(Lane::Finish, encode).await;
    let bytes = bytes.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    share.resize(bytes.len() as u64).await?;
    Ok(tied(encoding, bytes, share))
}

/// Delete a stored set
///
/// Requests that read it meanwhile are served to their end.
#[utoipa::path(delete, path = "/v1/activations/{id}", tag = "activations",
    params(("id" = String, Path, description = "The handle")),
    responses((status = 204, description = "Deleted"),
              NotFound,
              (status = 410, description = "gone", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn delete(
    state: State<AppState>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    state.service()?.delete_activation(id, &state.capacity.share(caller.account())).await?;
    Ok(StatusCode::NO_CONTENT)
}
