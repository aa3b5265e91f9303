//! RFC 9457 problem documents: what every error answer looks like.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::request_id::RequestId;
use crate::activations::StoreError;
use crate::capacity::Busy;
use crate::engine::EngineError;
use crate::keys::redacted;
use crate::plan::output::Lost;
use crate::service::Refusal;
use crate::spec::problem::{FieldProblem, Problems};
use crate::store;

/// Media type of every error answer.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The catalogue of problems. Each kind has one stable `type`, title and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The body is not JSON, or JSON that cannot mean one thing (duplicate keys).
    MalformedJson,
    /// The request breaks HTTP itself.
    BadRequest,
    /// There is no key, or none that can be used.
    Unauthorized,
    /// The key may not do that.
    Forbidden,
    /// No such path or resource.
    NotFound,
    /// There was such a resource; its time is over.
    Gone,
    /// What was stored is damaged; it is not given out.
    Damaged,
    /// It is not there yet, or will never be, as `state` says.
    NotReady,
    /// The key of a request was used for another one.
    IdempotencyMismatch,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// None of the media types the client accepts is served.
    NotAcceptable,
    /// The body came too slowly.
    RequestTimeout,
    /// The body is over the size limit.
    BodyTooLarge,
    /// The body is declared to be something that is not read here.
    UnsupportedMediaType,
    /// Fields or query parameters are wrong; `errors` lists all of them.
    InvalidRequest,
    /// The request is valid but would cost more than the server allows; `estimate` says how much.
    TooLarge,
    /// The queue or the memory for requests is full; try again after `retry_after_s`.
    Overloaded,
    /// Loading, draining or failed.
    Unavailable,
    /// A fault of the server.
    Internal,
    /// The engine died whenever it computed this request.
    EngineCrash,
    /// What was to be stored does not fit the quota or the disk.
    InsufficientStorage,
}

impl Kind {
    /// All kinds, for documentation and tests.
    pub const ALL: [Self; 21] = [
        Self::MalformedJson,
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Gone,
        Self::Damaged,
        Self::NotReady,
        Self::IdempotencyMismatch,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidRequest,
        Self::TooLarge,
        Self::Overloaded,
        Self::Unavailable,
        Self::Internal,
        Self::EngineCrash,
        Self::InsufficientStorage,
    ];

    /// The stable name, last part of the `type` URI.
    pub const fn slug(self) -> &'static str {
        self.parts().0
    }

    /// Human-readable name.
    pub const fn title(self) -> &'static str {
        self.parts().1
    }

    /// HTTP status.
    pub const fn status(self) -> StatusCode {
        self.parts().2
    }

    /// What to do about it.
    pub const fn cure(self) -> &'static str {
        match self {
            Self::MalformedJson => "send one JSON value; each name once in an object",
            Self::BadRequest => "use an HTTP client that sends one Host header and one body",
            Self::Unauthorized => {
                "send a key: `Authorization: Bearer mdt_…`, `MEDIANT_KEY`, or the field on the page"
            }
            Self::Forbidden => "ask for a key with the scope that is named",
            Self::NotFound => "look at the path or the id; lists name what is there",
            Self::Gone => "send its request again",
            Self::Damaged => "send its request again, and look at the disk",
            Self::NotReady => "wait; `Retry-After` says how long",
            Self::IdempotencyMismatch => "use a new key for a new request",
            Self::MethodNotAllowed => "use a method of the header `Allow`",
            Self::NotAcceptable => "accept a format that is served, or leave `Accept` out",
            Self::RequestTimeout => "send the body without pauses",
            Self::BodyTooLarge => "send less; store cases with `POST /v1/datasets`",
            Self::UnsupportedMediaType => "say `Content-Type: application/json`",
            Self::InvalidRequest => "mend each field of `errors`; each has its fix",
            Self::TooLarge => {
                "ask for fewer layers, positions or samples; `estimate` says what it would cost"
            }
            Self::Overloaded => "come back after `Retry-After`",
            Self::Unavailable => "come back after `Retry-After`; `/readyz` says why",
            Self::Internal => "look at the log under the id of the request",
            Self::EngineCrash => "ask for less, and look at the log under the id of the request",
            Self::InsufficientStorage => "delete data sets, activations or jobs that nobody needs",
        }
    }

    const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::MalformedJson => ("malformed-json", "The body is not valid JSON", StatusCode::BAD_REQUEST),
            Self::BadRequest => ("bad-request", "The request breaks HTTP", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", "A key is needed", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "The key may not do that", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "There is nothing here", StatusCode::NOT_FOUND),
            Self::Gone => ("gone", "It was here, and is deleted", StatusCode::GONE),
            Self::Damaged => ("damaged", "What was stored is damaged", StatusCode::GONE),
            Self::NotReady => ("not-ready", "There is no result", StatusCode::CONFLICT),
            Self::IdempotencyMismatch => (
                "idempotency-mismatch",
                "The key was used for another request",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "The method is not served here", StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::NotAcceptable => {
                ("not-acceptable", "None of the accepted formats is served", StatusCode::NOT_ACCEPTABLE)
            }
            Self::RequestTimeout => {
                ("request-timeout", "The body came too slowly", StatusCode::REQUEST_TIMEOUT)
            }
            Self::BodyTooLarge => ("body-too-large", "The body is too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                "The body is not of a kind that is read here",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ),
            Self::InvalidRequest => {
                ("invalid-request", "The request is not valid", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::TooLarge => {
                ("too-large", "The request would cost too much", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::Overloaded => ("overloaded", "The server has enough to do", StatusCode::TOO_MANY_REQUESTS),
            Self::Unavailable => {
                ("unavailable", "The server cannot serve now", StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Internal => ("internal", "The server failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::EngineCrash => {
                ("engine-crash", "The engine died of this request", StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::InsufficientStorage => {
                ("insufficient-storage", "There is no room to store it", StatusCode::INSUFFICIENT_STORAGE)
            }
        }
    }
}

/// An error answer. Return it from a handler; the outer layer adds `instance`.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// What kind of problem.
    pub kind: Kind,
    /// What is wrong this time.
    pub detail: String,
    /// Each field that is wrong.
    pub errors: Vec<FieldProblem>,
    /// When to try again; also sent as `Retry-After`.
    pub retry_after_s: Option<u64>,
    /// Further members of the document, such as `estimate`.
    pub extra: Vec<(&'static str, Value)>,
}

impl Problem {
    /// A problem with nothing but a detail.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after_s: None, extra: Vec::new() }
    }

    /// Adds one wrong field.
    #[must_use]
    pub fn error(
        mut self,
        pointer: impl Into<String>,
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        self.errors.push(FieldProblem {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
            fix: fix.into(),
        });
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds a member to the document. Standard members cannot be overwritten this way.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// A member added by [`Problem::with`].
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.extra.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(super) fn document(&self, instance: Option<RequestId>) -> ProblemDocument {
        let extra = self.extra.iter().filter(|(name, _)| !STANDARD_MEMBERS.contains(name));
        let extra = extra.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        ProblemDocument {
            r#type: format!("urn:mediant:problem:{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            instance: instance.map(|id| id.to_string()),
            errors: self.errors.clone(),
            retry_after_s: self.retry_after_s,
            extra,
        }
    }

    fn body(&self, instance: Option<RequestId>) -> Vec<u8> {
        let text = serde_json::to_string(&self.document(instance))
            .expect("BUG: a problem has string keys and finite numbers");
        // What a client wrote is repeated to it, but a token that it wrote in the wrong place is not.
        redacted(&text).into_owned().into_bytes()
    }
}

const STANDARD_MEMBERS: [&str; 7] =
    ["type", "title", "status", "detail", "instance", "errors", "retry_after_s"];

impl From<Problems> for Problem {
    /// All field problems as one `invalid-request`.
    fn from(problems: Problems) -> Self {
        let n = problems.0.len();
        let detail = match problems.0.as_slice() {
            [only] => format!("{}: {}", only.pointer, only.detail),
            _ if n >= Problems::MOST => format!("many fields are wrong; see `errors` for the first {n}"),
            _ => format!("{n} fields are wrong; see `errors`"),
        };
        Self { errors: problems.0, ..Self::new(Kind::InvalidRequest, detail) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(problems) => problems.into(),
            Refusal::TooLarge { cost, ceiling } => {
                let detail = format!(
                    "{} row-layers and about {:.1} s, over the limit of {} and {} s",
                    cost.row_layers, cost.seconds, ceiling.row_layers, ceiling.seconds
                );
                let fix = "sweep fewer layers, positions, arms or samples, or shorten the prompt";
                Self::new(Kind::TooLarge, format!("{detail}; {fix}"))
                    .error("", "too_large", detail, fix)
                    .with("estimate", serde_json::json!(cost))
                    .with("ceiling", serde_json::json!(ceiling))
            }
            Refusal::Engine(error) => error.into(),
            Refusal::Busy(busy) => busy.into(),
            Refusal::Lost(lost) => lost.into(),
            Refusal::Store(error) => error.into(),
            Refusal::Checkpoint(error) => {
                tracing::error!("the model's files can no longer be read: {error}");
                Self::new(Kind::Unavailable, format!("the model's files can no longer be read: {error}"))
            }
        }
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::new(Kind::Overloaded, format!("{busy}; try again in a moment")).retry_after(2)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        const ROOM: &str = "delete activations that are not needed (DELETE /v1/activations/{id})";
        let detail = error.to_string();
        match error {
            StoreError::Unknown { .. } => Self::new(Kind::NotFound, detail),
            StoreError::Expired { at, .. } => Self::new(Kind::Gone, detail).with("expired", at.to_string()),
            StoreError::Foreign { .. } => Self::new(Kind::InvalidRequest, detail),
            StoreError::Quota { needed, used, limit } => {
                let fix = format!("{ROOM}, or store fewer layers or positions, or in bf16");
                Self::new(Kind::InsufficientStorage, format!("{detail}; {fix}"))
                    .error("", "quota", detail, fix)
                    .with("needed_bytes", needed)
                    .with("used_bytes", used)
                    .with("limit_bytes", limit)
            }
            StoreError::DiskFull => Self::new(
                Kind::InsufficientStorage,
                format!("{detail}; nothing was stored"),
            )
            .error("", "disk_full", detail, ROOM),
            StoreError::Damaged { .. } => Self::new(Kind::Damaged, detail),
            StoreError::Displaced(_) => {
                tracing::error!("{detail}");
                Self::new(Kind::Unavailable, format!("activations cannot be stored: {detail}"))
                    .retry_after(60)
            }
            StoreError::Io { .. } => {
                tracing::error!("{detail}");
                Self::new(Kind::Internal, "the server cannot read or write its stored activations")
            }
        }
    }
}

impl From<store::StoreError> for Problem {
    fn from(error: store::StoreError) -> Self {
        use store::StoreError as E;
        let detail = error.to_string();
        match error {
            E::IdempotencyMismatch { job } => {
                let fix = "send a key of its own with every request";
                Self::new(Kind::IdempotencyMismatch, format!("{detail}; {fix}")).with("job", job.to_string())
            }
            E::Busy { .. } => Self::new(Kind::Overloaded, detail).retry_after(20),
            E::TooManyQueued { .. } => Self::new(Kind::Overloaded, detail).retry_after(30),
            E::Full { .. } => {
                tracing::error!("{detail}");
                Self::new(Kind::Unavailable, detail).retry_after(30)
            }
            E::Unavailable { .. } | E::Locked { .. } | E::Io { .. } => {
                tracing::error!("{detail}");
                Self::new(Kind::Unavailable, format!("the job store cannot be used: {detail}")).retry_after(5)
            }
            E::Displaced { .. }
            | E::Corrupt { .. }
            | E::LostDatabase { .. }
            | E::HeldByOther { .. }
            | E::NewerSchema { .. } => {
                tracing::error!("{detail}");
                Self::new(Kind::Unavailable, format!("the job store cannot be used: {detail}"))
                    .retry_after(60)
            }
            E::Refused { .. } => {
                tracing::error!("{detail}");
                Self::new(
                    Kind::Internal,
                    "the job store refused what should be possible; the log has the details",
                )
            }
        }
    }
}

impl From<Lost> for Problem {
    /// Of what a result cannot do without.
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::EngineCrash => {
                let detail = "the engine died whenever it computed this request's runs; it was started again, and other \
                              requests are served; please report this request";
                Self::new(Kind::EngineCrash, detail)
            }
            Lost::OutOfMemory => {
                let fix = "shorten the prompt, or give the server more memory";
                let problem = Self::new(Kind::TooLarge, format!("memory ran out on a single run; {fix}"));
                problem.error("", lost.name(), lost.to_string(), fix)
            }
        }
    }
}

/// As `Retry-After` counts: none of them too early.
pub(super) fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 86_400.0) as u64
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { queue, .. } => {
                let detail = format!(
                    "{error}; in fair turns this one would be answered as number {} in about {:.0} s",
                    queue.place,
                    queue.seconds.max(1.0)
                );
                let fix = "try again after Retry-After, or send `Prefer: respond-async`";
                Self::new(Kind::Overloaded, format!("{detail}; {fix}"))
                    .error("", "queue_full", detail, fix)
                    .with("queue", serde_json::json!(queue))
                    .retry_after(whole_seconds(queue.seconds))
            }
            EngineError::Pack(too_large) => {
                let fix = "shorten the prompt, or give the server a larger row budget";
                let problem = Self::new(Kind::TooLarge, format!("{too_large}; {fix}"));
                problem.error("", "too_large", too_large.to_string(), fix)
            }
            EngineError::LayOut => Self::new(Kind::Internal, error.to_string()),
            EngineError::Unhealthy { .. } | EngineError::Stopped => {
                Self::new(Kind::Unavailable, error.to_string()).retry_after(60)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), self.body(None)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if matches!(self.kind, Kind::BadRequest | Kind::RequestTimeout | Kind::BodyTooLarge) {
            // What follows on this connection may be the rest of a body that nobody will read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Completes a problem answer with what only an outer layer knows: the request id as `instance`, and the methods that the
/// router put into `Allow`. `bodiless`: what answers HEAD has the length of the body, and none.
pub(super) fn stamp(mut response: Response, id: RequestId, bodiless: bool) -> Response {
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return response };
    if let Some(allow) = response.headers().get(header::ALLOW).and_then(|value| value.to_str().ok()) {
        problem.detail = format!("{}; use {}", problem.detail, allow.replace(',', " or "));
    }
    let body = problem.body(Some(id));
    // The router copies the length of the first rendering into the head of its answers.
    response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    *response.body_mut() = if bodiless { Body::empty() } else { body.into() };
    response
}

/// The wire form of a problem (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// Stable URI of the kind of problem.
    #[schema(example = "urn:mediant:problem:invalid-request")]
    r#type: String,
    /// Human-readable name of the kind.
    title: &'static str,
    /// The HTTP status, repeated.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time.
    detail: String,
    /// The request id, as in the `x-request-id` header and in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Every field that is wrong, not just the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// When to try again, in seconds; also in `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
    /// Further members, such as `estimate`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    extra: Map<String, Value>,
}

/// Documents the problems that any endpoint with a JSON body may answer: `responses(.., Problem)`.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        documented(Kind::ALL.into_iter().filter(|kind| {
            !matches!(
                kind,
                // Of every route that needs a key, `rules` adds them.
                Kind::Unauthorized
                    | Kind::Forbidden
                    | Kind::NotFound
                    | Kind::Gone
                    | Kind::Damaged
                    | Kind::NotReady
                    | Kind::MethodNotAllowed
            )
        }))
    }
}

/// Documents that what a path names may not be there.
pub(super) struct NotFound;

impl IntoResponses for NotFound {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        documented([Kind::NotFound])
    }
}

/// Documents that a job has no result, not yet, or not any more.
pub(super) struct NoResult;

impl IntoResponses for NoResult {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        documented([Kind::NotFound, Kind::NotReady, Kind::Gone])
    }
}

/// The answers of some kinds of problems, by status.
fn documented(
    kinds: impl IntoIterator<Item = Kind>,
) -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
    let mut by_status: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for kind in kinds {
        by_status.entry(kind.status().as_str().to_owned()).or_default().push(kind.slug());
    }
    let response = |(status, slugs): (String, Vec<&str>)| {
        let content = ContentBuilder::new()
            .schema(Some(RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name("Problem"))))
            .build();
        let response =
            ResponseBuilder::new().description(slugs.join(", ")).content(MEDIA_TYPE, content).build();
        (status, RefOr::T(response))
    };
    by_status.into_iter().map(response).collect()
}

#[cfg(test)]
mod tests;
