//! The model as a model hub serves it, so that `HF_ENDPOINT` may name this server: configuration and tokenizer, no weights.
//!
//! Another protocol than the rest of the API, so it stands in no document of it. Errors are told as that protocol does, in
//! headers, and as problems for people.

#![allow(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "names of files are compared as they are"
)]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::{AppState, Kind, Problem};
use crate::remote::hub::Hub;
use crate::remote::names::is_served;

const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const ERROR: HeaderName = HeaderName::from_static("x-error-code");

/// Names of repositories have one part or two.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/api/models/{*path}", get(about))
        .route("/{name}/resolve/{*path}", get(of_one_part))
        .route("/{owner}/{name}/resolve/{*path}", get(of_two_parts))
}

/// What the protocol calls what is not there.
#[derive(Debug, Clone, Copy)]
enum Lacking {
    Repository,
    Revision,
    Entry,
}

fn lacking(what: Lacking, detail: String) -> Response {
    let code = match what {
        Lacking::Repository => "RepoNotFound",
        Lacking::Revision => "RevisionNotFound",
        Lacking::Entry => "EntryNotFound",
    };
    let mut response = Problem::new(Kind::NotFound, detail).into_response();
    response.headers_mut().insert(ERROR, HeaderValue::from_static(code));
    response
}

/// The model's files, if it is the one asked for, in the one revision.
async fn found(state: &AppState, name: &str, revision: Option<&str>) -> Result<Arc<Hub>, Response> {
    if !state.config.remote.hub {
        return Err(lacking(Lacking::Repository, "remote.hub is off on this server".to_owned()));
    }
    let served = Arc::clone(&state.service().map_err(IntoResponse::into_response)?.served);
    let hub = state.remote.hub(&served).await;
    let hub = hub.map_err(|reason| Problem::new(Kind::Internal, reason).into_response())?;
    if !is_served(&served, name) {
        let detail = format!("{name:?} is not served here; served is {:?}", hub.repo_id);
        return Err(lacking(Lacking::Repository, detail));
    }
    if let Some(revision) = revision.filter(|revision| !hub.has(revision)) {
        let detail =
            format!("the revision {revision:?} is not served; served are \"main\" and {:?}", hub.commit);
        return Err(with_commit(lacking(Lacking::Revision, detail), &hub));
    }
    Ok(hub)
}

fn with_commit(mut response: Response, hub: &Hub) -> Response {
    if let Ok(commit) = HeaderValue::try_from(&hub.commit) {
        response.headers_mut().insert(COMMIT, commit);
    }
    response
}

/// `GET /api/models/{id}`, `.../revision/{revision}`, `.../tree/{revision}` and folders below that.
async fn about(State(state): State<AppState>, Path(path): Path<String>) -> Result<Response, Response> {
    let parts: Vec<&str> = path.split('/').collect();
    let (name, rest) = match parts.iter().position(|part| matches!(*part, "revision" | "tree")) {
        Some(at @ 1..=2) => (parts[..at].join("/"), &parts[at..]),
        _ => (path.clone(), &[][..]),
    };
    match rest {
        [] => Ok(Json(found(&state, &name, None).await?.info()).into_response()),
        ["revision", revision] => {
            Ok(Json(found(&state, &name, Some(revision)).await?.info()).into_response())
        }
        ["tree", revision] => Ok(Json(found(&state, &name, Some(revision)).await?.tree()).into_response()),
        ["tree", revision, folder @ ..] => {
            let hub = found(&state, &name, Some(revision)).await?;
            let detail = format!("there is no folder {:?}", folder.join("/"));
            Err(with_commit(lacking(Lacking::Entry, detail), &hub))
        }
        _ => Err(Problem::new(Kind::NotFound, "a hub has no such path here").into_response()),
    }
}

async fn of_one_part(
    state: State<AppState>,
    headers: HeaderMap,
    Path((name, path)): Path<(String, String)>,
) -> Result<Response, Response> {
    file(&state, &headers, &name, &path).await
}

async fn of_two_parts(
    state: State<AppState>,
    headers: HeaderMap,
    Path((owner, name, path)): Path<(String, String, String)>,
) -> Result<Response, Response> {
    file(&state, &headers, &format!("{owner}/{name}"), &path).await
}

/// A file of a revision: `{revision}/{name}`.
async fn file(state: &AppState, headers: &HeaderMap, name: &str, path: &str) -> Result<Response, Response> {
    let (revision, wanted) = path.split_once('/').unwrap_or((path, ""));
    let hub = found(state, name, Some(revision)).await?;
    let Some(file) = hub.file(wanted) else {
        let detail =
            format!("{wanted:?} is not among what is given out: configuration and tokenizer, no weights");
        return Err(with_commit(lacking(Lacking::Entry, detail), &hub));
    };
    let tag = format!("\"{}\"", file.tag);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let kind = if wanted.ends_with(".json") { "application/json" } else { "text/plain; charset=utf-8" };
    let kept = [(header::ETAG, tag), (header::CONTENT_TYPE, kind.to_owned())];
    let response = if known {
        (StatusCode::NOT_MODIFIED, kept).into_response()
    } else {
        (kept, file.bytes.to_vec()).into_response()
    };
    Ok(with_commit(response, &hub))
}
