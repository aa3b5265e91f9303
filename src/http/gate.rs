//! Checks before any handler: HTTP that can be read in two ways, and work that cannot be served now.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::listen::NoPlace;
use super::places::Peer;
use super::problem::{Kind, Problem};
use super::state::{AppState, Readiness};

/// Longest path with query; hyper has no limit of its own below that of the whole head.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Refuses what proxies and servers are known to read differently: no host or two, and bodies in codings that nobody here
/// takes off. The connection is closed after the answer, since what follows on it may be the body.
///
/// Two lengths, or a malformed one, hyper refuses itself; a length beside chunks it drops and closes the connection
/// after its answer, as RFC 9112 section 6.1 asks, so that no second request can hide there.
///
/// Only of requests that came through a socket: what the program sends to its own router need not carry a `Host`.
pub(super) async fn strict_head(request: Request, next: Next) -> Response {
    if request.extensions().get::<NoPlace>().is_some() {
        let detail = "as many connections are open as the server serves at once, in all or from your address";
        let refused = Problem::new(Kind::Unavailable, detail).retry_after(5).into_response();
        return ([(header::CONNECTION, "close")], refused).into_response();
    }
    if request.extensions().get::<Peer>().is_none() {
        return next.run(request).await;
    }
    match ambiguous(&request) {
        Some(detail) => Problem::new(Kind::BadRequest, detail).into_response(),
        None => next.run(request).await,
    }
}

/// What is wrong with a head, if it can be read in two ways.
fn ambiguous(request: &Request) -> Option<String> {
    let headers = request.headers();
    let hosts: Vec<&HeaderValue> = headers.get_all(header::HOST).iter().collect();
    let missing = hosts.is_empty() && request.version() == Version::HTTP_11 && request.uri().host().is_none();
    if hosts.len() > 1 || missing {
        return Some(format!("the request has {} Host headers; send exactly one", hosts.len()));
    }
    if hosts.iter().any(|host| host.is_empty()) {
        return Some("the Host header is empty; name the server".to_owned());
    }
    let codings = codings(headers, &header::TRANSFER_ENCODING);
    if !matches!(&codings[..], [] | [_]) || codings.iter().any(|coding| coding != "chunked") {
        let codings = codings.join(", ");
        return Some(format!(
            "the body is in the transfer codings {codings:?}; send it chunked or with a length"
        ));
    }
    // RFC 9112 section 7.4: who takes answers in chunks never says so.
    if self::codings(headers, &header::TE).iter().any(|coding| coding == "chunked") {
        return Some(
            "the header TE names chunked; leave it out, or write the transfer coding into Transfer-Encoding"
                .to_owned(),
        );
    }
    let path = request.uri().path_and_query();
    path.is_some_and(|path| path.as_str().len() > MAX_URI_BYTES)
        .then(|| format!("the path and query are over {MAX_URI_BYTES} bytes"))
}

/// The codings of a header, in small letters and without parameters.
fn codings(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let lists: Vec<String> = values.collect();
    let codings = lists.iter().flat_map(|list| list.split(','));
    codings.map(|coding| coding.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).collect()
}

/// Refuses work (POST) that cannot be served: while loading, draining or failed. Reads are always answered, and keys are
/// made without a model.
pub(super) async fn readiness(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if request.method() != axum::http::Method::POST || request.uri().path().starts_with("/v1/admin/") {
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
    let reason = readiness.report(&state.access).reason.unwrap_or_default();
    Problem::new(Kind::Unavailable, reason).retry_after(retry_after_s).into_response()
}
