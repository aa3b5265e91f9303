//! A request id, a span, one access-log line, a count, and problem documents completed with the id.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::places::Peer;
use super::problem::{self, Problem};
use crate::capacity::InEngine;
use crate::keys::redacted;
use crate::telemetry::metrics::Metrics;

/// Response header that carries the request id.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Identifies one request in the answer's header, in problem documents and in the log. Always the server's own: ids
/// that clients choose could collide or forge log lines. UUID v7, so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A fresh id.
    #[expect(clippy::new_without_default, reason = "two defaults should be equal")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells [`layer`], which is outside of the router, which route was found.
pub(super) async fn route(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// Middleware; handlers find the [`RequestId`] in the request's extensions.
pub(super) async fn layer(State(metrics): State<Arc<Metrics>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::new();
    request.extensions_mut().insert(id);
    let method = request.method().clone();
    // The path without its query: queries may hold what users type.
    let path = redacted(request.uri().path()).into_owned();
    let client = request.extensions().get::<Peer>().map(|peer| tracing::field::display(peer.0));
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        client,
        key.id = Empty,
        otel.name = Empty,
        otel.kind = Empty,
        http.request.method = Empty,
        http.route = Empty,
        http.response.status_code = Empty
    );
    let started = Instant::now();
    async move {
        let answer = next.run(request).await;
        if let Some(problem) = answer.extensions().get::<Problem>() {
            metrics.refused(problem.kind.slug());
        }
        let mut response = problem::stamp(answer, id, method == Method::HEAD);
        let value = HeaderValue::from_str(&id.to_string()).expect("BUG: a UUID is ASCII");
        response.headers_mut().insert(HEADER, value);
        let status = response.status().as_u16();
        let took = started.elapsed();
        if let Some(InEngine(in_engine)) = response.extensions_mut().remove::<InEngine>() {
            metrics.host(took.saturating_sub(in_engine));
        }
        let duration_ms = (took.as_secs_f64() * 1e4).round() / 10.0;
        let route = response.extensions_mut().remove::<MatchedPath>();
        metrics.answered(route.as_ref().map(MatchedPath::as_str), &method, status, took);
        if matches!(path.as_str(), "/healthz" | "/readyz") {
            // Probes come every few seconds for ever.
            tracing::debug!(%method, path, status, duration_ms, "{method} {path} -> {status}");
        } else {
            tracing::info!(%method, path, status, duration_ms, "{method} {path} -> {status}");
        }
        // After the line above, which says the same: these are for spans that are sent somewhere.
        let (span, route) = (Span::current(), route.as_ref().map_or("none", MatchedPath::as_str));
        span.record("otel.name", format_args!("{method} {route}").to_string());
        span.record("otel.kind", "server");
        span.record("http.request.method", method.as_str());
        span.record("http.route", route);
        span.record("http.response.status_code", status);
        response
    }
    .instrument(span)
    .await
}
