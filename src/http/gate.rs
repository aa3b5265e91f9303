//! Checks before any handler: HTTP that can be read in two ways, and work that cannot be served now.

use axum::extract::{Request, State};
use axum::http::{Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::listen::Peer;
use super::problem::{Kind, Problem};
use super::state::{AppState, Readiness};

/// Longest path with query; hyper has no limit of its own below that of the whole head.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Refuses what proxies and servers are known to read differently: no host or two.
///
/// Two lengths, or a malformed one, hyper refuses itself; a length beside chunks it drops and closes the connection
/// after its answer, as RFC 9112 section 6.1 asks, so that no second request can hide there.
///
/// Only of requests that came through a socket: what the program sends to its own router need not carry a `Host`.
pub(super) async fn strict_head(request: Request, next: Next) -> Response {
    if request.extensions().get::<Peer>().is_none() {
        return next.run(request).await;
    }
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    let missing = hosts == 0 && request.version() == Version::HTTP_11 && request.uri().host().is_none();
    let fault = if hosts > 1 || missing {
        Some(format!("the request has {hosts} Host headers; send exactly one"))
    } else if request.uri().path_and_query().is_some_and(|p| p.as_str().len() > MAX_URI_BYTES) {
        Some(format!("the path and query are over {MAX_URI_BYTES} bytes"))
    } else {
        None
    };
    match fault {
        Some(detail) => Problem::new(Kind::BadRequest, detail).into_response(),
        None => next.run(request).await,
    }
}

/// Refuses work (POST) that cannot be served: while loading, draining or failed. Reads are always answered.
pub(super) async fn readiness(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if request.method() != axum::http::Method::POST {
        return next.run(request).await;
    }
    let readiness = state.readiness();
    let retry_after_s = match readiness {
        // Work that comes while the engine is restarted waits for it; what needs the store says so itself.
        Readiness::Ready | Readiness::Restarting(_) | Readiness::StoreFailed(_) => {
            return next.run(request).await;
        }
        Readiness::Loading | Readiness::Draining => 5,
        Readiness::Unhealthy(_) | Readiness::Failed(_) => 60,
    };
    let reason = readiness.report().reason.unwrap_or_default();
    Problem::new(Kind::Unavailable, reason).retry_after(retry_after_s).into_response()
}
