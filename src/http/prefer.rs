//! How a request for work wants to be answered: now or later, and whether a retry of it is the same request.

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::problem::{Kind, Problem};
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::spec::problem::code;
use crate::store::Submitted;
use crate::store::job::Job;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Longest `Idempotency-Key`.
const KEY_BYTES: usize = 255;

/// How a request wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wants {
    /// At once, with a job: `Prefer: respond-async` (RFC 7240), or `"async": true` in the body.
    pub later: bool,
    /// `Idempotency-Key`
    pub key: Option<String>,
}

impl Wants {
    /// Reads the headers, and takes `async` out of the body.
    pub(super) fn of(parts: &Parts, body: &mut Value) -> Result<Self, Problem> {
        let flag = take_async(body, "")?;
        Ok(Self { later: flag || prefers_async(&parts.headers), key: key(&parts.headers)? })
    }
}

/// Takes `async` out of a body that stands at `at`.
pub(super) fn take_async(body: &mut Value, at: &str) -> Result<bool, Problem> {
    match body.as_object_mut().and_then(|map| map.shift_remove("async")) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => {
            let detail = format!("expected true or false, got {}", crate::spec::read::describe(&other));
            let problem = Problem::new(Kind::InvalidRequest, format!("{at}/async: {detail}"));
            Err(problem.error(format!("{at}/async"), code::WRONG_TYPE, detail, "write true or false"))
        }
    }
}

fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(',')).map(str::trim);
    preferences.any(|preference| {
        preference.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("respond-async"))
    })
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let printable = |byte: &u8| (0x20..0x7f).contains(byte);
    let bytes = value.as_bytes();
    let known =
        values.next().is_none() && (1..=KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(printable);
    match value.to_str() {
        Ok(text) if known => Ok(Some(text.to_owned())),
        _ => {
            let detail = "the Idempotency-Key is not one value of 1 to 255 printable ASCII characters";
            let problem = Problem::new(Kind::InvalidRequest, detail);
            Err(problem.error("", "idempotency_key", detail, "send a UUID"))
        }
    }
}

/// `202`: the job, and where to look for it.
pub(super) async fn accepted(jobs: &Jobs, submitted: &Submitted) -> Result<Response, Problem> {
    let view = JobView::placed(jobs, &submitted.job).await?;
    let mut response = (StatusCode::ACCEPTED, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(&submitted.job)));
    headers.insert(APPLIED, HeaderValue::from_static("respond-async"));
    name(headers, &submitted.job, submitted.replayed);
    Ok(response)
}

/// Names the job in the headers of an answer.
pub(super) fn name(headers: &mut HeaderMap, job: &Job, replayed: bool) {
    if let Ok(location) = HeaderValue::try_from(format!("/v1/jobs/{}", job.id)) {
        headers.insert(header::LOCATION, location);
    }
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Seconds after which it is worth asking again: a tenth of what is left, from 1 to 60.
pub(super) fn retry_after(job: &Job) -> u64 {
    let now = crate::activations::Timestamp::now().0 as i64;
    let left = crate::jobs::view::eta(job, now).unwrap_or(0.0);
    (left / 10.0).clamp(1.0, 60.0) as u64
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde_json::json;

    use super::*;

    fn of(headers: &[(&str, &str)], mut body: Value) -> Result<(Wants, Value), Problem> {
        let request = headers.iter().fold(Request::builder(), |r, (name, value)| r.header(*name, *value));
        let parts = request.body(()).unwrap().into_parts().0;
        Wants::of(&parts, &mut body).map(|wants| (wants, body))
    }

    #[test]
    fn a_job_is_asked_for_by_header_or_field_and_the_field_is_not_part_of_the_request() {
        for value in ["respond-async", "wait=10, Respond-Async", "respond-async; x=1"] {
            assert!(of(&[("prefer", value)], json!({})).unwrap().0.later, "{value}");
        }
        let (wants, body) =
            of(&[("prefer", "return=minimal")], json!({"async": true, "prompt": "a"})).unwrap();
        assert!(wants.later);
        assert_eq!(body, json!({"prompt": "a"}));
        assert!(!of(&[], json!({"async": null})).unwrap().0.later);
        assert_eq!(of(&[], json!({"async": 1})).unwrap_err().errors[0].pointer, "/async");
    }

    #[test]
    fn a_key_is_one_printable_value() {
        assert_eq!(of(&[("idempotency-key", "a b")], json!({})).unwrap().0.key.as_deref(), Some("a b"));
        let long = "x".repeat(256);
        for bad in ["", &long, "\u{e9}"] {
            assert!(of(&[("idempotency-key", bad)], json!({})).is_err(), "{bad:?}");
        }
        assert!(of(&[("idempotency-key", "a"), ("idempotency-key", "b")], json!({})).is_err());
    }
}
