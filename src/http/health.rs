//! Operations: liveness, readiness, version, the OpenAPI document. None of them touches the engine.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::NoQuery;
use super::state::{Readiness, ReadinessReport};
use super::{AppState, Problem};

/// The OpenAPI document as served, rendered once.
#[derive(Debug, Clone)]
pub(super) struct Document(pub(super) Arc<str>);

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    probes().routes(routes!(version)).routes(routes!(openapi))
}

/// Those of them that ask whether the server lives and works.
pub(super) fn probes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(healthz)).routes(routes!(readyz))
}

/// Whether the process is alive
///
/// Always 200 while it is; says nothing about the model.
#[utoipa::path(get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests for work can be served
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "Ready", body = ReadinessReport),
        (status = 503, description = "Loading, draining, failed, while the engine is restarted, or while nothing can be stored", body = ReadinessReport)))]
async fn readyz(State(state): State<AppState>) -> Response {
    let readiness = state.readiness();
    let status = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(readiness.report(&state.access))).into_response()
}

/// What is running.
#[derive(Debug, Serialize, ToSchema)]
struct Release {
    /// Always `mediant`.
    #[schema(example = "mediant")]
    name: &'static str,
    /// The package's version.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Operating system and processor.
    #[schema(example = "linux/x86_64")]
    platform: String,
    /// Whether it was built with optimisation; numbers are the same, speed is not.
    optimised: bool,
}

/// Name and version of the server
#[utoipa::path(get, path = "/v1/version", tag = "operations",
    responses((status = 200, description = "The version", body = Release), Problem))]
async fn version(_: NoQuery) -> Json<Release> {
    Json(Release {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        optimised: !cfg!(debug_assertions),
    })
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1 of this server", body = Object), Problem))]
async fn openapi(_: NoQuery, Extension(Document(text)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string())
}
