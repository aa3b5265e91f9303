//! The HTTP adapter: requests in, JSON, numbers and pictures out. No model, no maths.
//!
//! A resource is a module with `pub(super) fn routes() -> OpenApiRouter<AppState>`; `api` merges them, so the OpenAPI
//! document follows the router. Layers are all in `wrap`, the accept loop in [`listen`].

mod activations;
mod admin;
mod admission;
mod answer;
mod body;
mod datasets;
mod encoding;
mod enqueue;
mod events;
mod experiments;
mod gate;
mod generate;
mod guides;
mod health;
mod hub;
mod identity;
mod jobs;
mod json;
mod kept;
mod lists;
pub mod listen;
mod live;
mod me;
mod metrics;
mod models;
mod openai;
mod packing;
mod page;
mod places;
mod prefer;
mod problem;
mod remote;
mod request_id;
mod results;
mod rules;
mod socket;
mod state;
mod status;
mod stream;
pub mod tls;
mod wheel;

use std::any::Any;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, middleware};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

// what bodies say, without a server around them: for `fuzz/`
pub use activations::binary;
pub use body::{JsonBody, NoQuery, query};
pub use datasets::Form;
pub use identity::Caller;
pub use json::{parse, tree_bytes};
pub use kept::Results;
pub use problem::{Kind, MEDIA_TYPE, Problem};
pub use request_id::{HEADER as REQUEST_ID_HEADER, RequestId};
pub use state::{Access, AppState, Readiness, ReadinessReport};
pub use stream::Streams;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mediant",
        description = "Causal mediation analysis of Llama-family models and GPT-2: clean runs, patch runs, causal traces.\n\n\
            Errors are RFC 9457 problem documents; `errors[]` names every wrong field by JSON pointer."
    ),
    components(schemas(problem::ProblemDocument, crate::spec::problem::FieldProblem, openai::Failure)),
    tags(
        (name = "experiments", description = "Clean runs, patch runs, causal traces"),
        (name = "jobs", description = "Requests that are answered later: how far they are and what they found"),
        (name = "datasets", description = "Cases that the server keeps for sweeps"),
        (name = "activations", description = "Activations that the server keeps between requests"),
        (name = "models", description = "What is served and what it can do"),
        (name = "keys", description = "Who may ask for what"),
        (name = "remote", description = "The wire of nnsight 0.8, for `remote=True`; below `/legacy` the same for older notebooks"),
        (name = "operations", description = "Liveness, readiness, version")
    )
)]
struct Api;

/// All resources with their documentation.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Api::openapi())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(status::routes())
        .merge(models::routes())
        .merge(lists::routes())
        .merge(experiments::routes())
        .merge(generate::routes())
        .merge(openai::routes())
        .merge(results::routes())
        .merge(jobs::routes())
        .merge(events::routes())
        .merge(datasets::routes())
        .merge(activations::routes())
        .merge(me::routes())
        .merge(admin::routes())
        .merge(remote::routes())
}

/// The OpenAPI document, as committed in `openapi/openapi.json`: pretty-printed, with a final newline.
pub fn openapi() -> String {
    let mut document = api().into_openapi();
    rules::document(&mut document, rules::RULES);
    render(&document)
}

fn render(document: &utoipa::openapi::OpenApi) -> String {
    let mut text = document.to_pretty_json().expect("BUG: an OpenAPI document has string keys");
    text.push('\n');
    text
}

/// The whole application over `state`: routes, fallbacks and layers.
pub fn router(state: AppState) -> Router {
    wrap(api(), state, rules::RULES)
}

/// What `telemetry.metrics_listen` serves: metrics, status and probes, without keys.
pub fn operations(state: AppState) -> Router {
    let api =
        OpenApiRouter::default().merge(health::probes()).merge(metrics::routes()).merge(status::routes());
    wrap(api, AppState { access: Access::Anyone, ..state }, rules::RULES)
}

/// Layers, from the outside in: compression, request id and access log, panics, strict HTTP, CORS, then the routes behind
/// the rules and the readiness gate: who asks is known before any of a body is read. Compression is outermost, because
/// whatever writes a body outside of it would write it under a head that says it is compressed.
fn wrap(api: OpenApiRouter<AppState>, state: AppState, rules: &'static [rules::Rule]) -> Router {
    let (router, mut document) = api.split_for_parts();
    rules::document(&mut document, rules);
    let router = router
        .merge(page::routes())
        .merge(guides::routes())
        .merge(wheel::routes())
        .merge(remote::legacy())
        .merge(hub::routes())
        .fallback(async || Problem::new(Kind::NotFound, "there is no such path; see /v1/openapi.json"))
        .route_layer(middleware::from_fn_with_state(state.clone(), gate::readiness))
        .route_layer(middleware::from_fn_with_state(identity::Door::new(&state, rules), identity::layer))
        .route_layer(middleware::from_fn(request_id::route))
        // After the rules, which know of routes alone: no route lies behind this.
        .method_not_allowed_fallback(async || {
            Problem::new(Kind::MethodNotAllowed, "the path exists, but not with this method")
        })
        .layer(Extension(health::Document(Arc::from(render(&document)))));
    let router = match cors(&state.config.http.cors_origins) {
        Some(layer) => router.layer(layer),
        None => router,
    };
    let metrics = Arc::clone(&state.metrics);
    for kind in Kind::ALL {
        metrics.expect_problem(kind.slug());
    }
    let inner = router
        .layer(middleware::from_fn(gate::strict_head))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(state);
    // A router of its own: axum adds `Allow` outside of the layers of the router that matched, and the problem
    // documents completed here repeat it.
    Router::new()
        .fallback_service(inner)
        .layer(middleware::from_fn_with_state(metrics, request_id::layer))
        .layer(middleware::from_fn(packing::layer))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(DefaultPredicate::new().and(packing::is_small)),
        )
}

/// CORS for the configured origins; none by default, so that no web page can use a server on the visitor's loopback.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()).collect();
    let allowed = match origins.as_slice() {
        [] => return None,
        [any] if any == "*" => AllowOrigin::any(),
        _ => AllowOrigin::list(origins),
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([
                header::CONTENT_TYPE,
                header::ACCEPT,
                header::AUTHORIZATION,
                header::CACHE_CONTROL,
                HeaderName::from_static("prefer"),
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("last-event-id"),
            ])
            .expose_headers([
                request_id::HEADER,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                HeaderName::from_static("location"),
            ]),
    )
}

/// The default panic hook has already logged message and place; the client learns neither.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Problem::new(
        Kind::Internal,
        "the server failed on this request; its log has the details under this request id",
    )
    .into_response()
}

#[cfg(test)]
mod tests;
