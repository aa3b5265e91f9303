//! What the server counts, for Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::NoQuery;
use super::state::Readiness;
use super::{AppState, Problem};
use crate::store::job::State as JobState;
use crate::telemetry::metrics::{MEDIA_TYPE, Snapshot};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(metrics))
}

/// What the server has counted, in the text format of OpenMetrics
///
/// Requests by route and status, problems by type, jobs by state, the engine's batches, rows and restarts, memory. Labels hold
/// no prompt and no key.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Metrics", body = String, content_type = "application/openmetrics-text"), Problem))]
async fn metrics(State(state): State<AppState>, _: NoQuery) -> Response {
    let text = state.metrics.text(&snapshot(&state).await);
    ([(header::CONTENT_TYPE, MEDIA_TYPE), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

async fn snapshot(state: &AppState) -> Snapshot {
    let now = state.readiness().report(&state.access).status;
    let (free, total) = (state.capacity.free(), state.capacity.total());
    // A database that is away must not hide what else is counted: readiness shows it.
    let jobs = match state.jobs.get() {
        Some(jobs) => jobs.store.counts().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let service = state.service.get();
    Snapshot {
        status: Readiness::STATUSES.into_iter().map(|status| (status, status == now)).collect(),
        engine: service.map(|service| service.engine.activity()).unwrap_or_default(),
        found: service.map(|service| service.found.counts()).unwrap_or_default(),
        jobs: jobs.into_iter().map(|(state, n): (JobState, u64)| (state.name(), n)).collect(),
        memory: [total - free, total],
        activations: service.map_or(0, |service| service.served.activations.used_bytes()),
        positions: service.map_or([0; 2], |service| {
            let slots = service.engine.slots();
            [slots.total(), slots.free()]
        }),
    }
}
