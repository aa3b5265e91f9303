//! Reads what a request says: a JSON body within size and time, and query parameters that are known.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::json;
use super::problem::{Kind, Problem};
use super::{AppState, Caller};
use crate::capacity::{Lane, Share};
use crate::config::Http;
use crate::spec::problem::{Problems, code};
use crate::spec::words::{likely, nearest};

/// Bodies up to this are parsed where they come.
const LIGHT: usize = 4096;

/// The smallest useful body of the endpoint family, shown when a body is empty.
const EXAMPLE: &str = r#"{"prompt":"The Eiffel Tower is in the city of"}"#;

/// Extractor of a JSON body as a value without duplicate keys; the size and time limits are the server's.
///
/// Rejects with 400 (not JSON), 408 (too slow), 413 (too large), 415 (declared to be something else) or 429 (no memory).
#[derive(Debug)]
pub struct JsonBody(pub Value);

impl FromRequest<AppState> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        json(request, state, EXAMPLE).await.map(|posted| Self(posted.value))
    }
}

/// A JSON body as [`JsonBody`] reads it, with the memory that it takes.
#[derive(Debug)]
pub(super) struct Posted {
    /// What it says.
    pub(super) value: Value,
    /// How it says that.
    pub(super) bytes: Bytes,
    /// What the request holds.
    pub(super) share: Share,
}

impl FromRequest<AppState> for Posted {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        json(request, state, EXAMPLE).await
    }
}

/// A JSON body as [`JsonBody`] reads it, with the endpoint's own `example` for an empty one.
pub(super) async fn json(
    request: Request,
    state: &AppState,
    example: &'static str,
) -> Result<Posted, Problem> {
    check_declared(request.headers())?;
    let limits = &state.config.http;
    let mut share = state.capacity.share(Caller::of(request.extensions())?.account());
    if is_no_store(request.headers()) {
        share.want_fresh();
    }
    let bytes = read(request, &share, limits, limits.max_body_bytes, "http.max_body_bytes").await?;
    share.of_body(bytes.len() as u64);
    share.resize(bytes.len() as u64 + json::tree_bytes(&bytes)).await?;
    let text = bytes.clone();
    share.set_light(bytes.len() <= LIGHT);
    let value = share.run(Lane::Prepare, move |_| json::parse(&text, example)).await;
    share.set_light(false);
    let value = value?;
    Ok(Posted { value, bytes, share })
}

/// Whether `Cache-Control: no-store` is among what a request says.
fn is_no_store(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("no-store"))
}

/// `Content-Type` must be JSON or absent, `Content-Encoding` absent.
fn check_declared(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: String, fix: &str| {
        let problem = Problem::new(Kind::UnsupportedMediaType, format!("{detail}; {fix}"));
        Err(problem.error("", "media_type", detail, fix))
    };
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|c| c.as_bytes() != b"identity") {
        return refuse(format!("the body is compressed ({coding:?})"), "send it uncompressed");
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(content_type.as_bytes()).to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next() == Some("application/json");
    let is_utf8 = parts
        .filter_map(|parameter| parameter.strip_prefix("charset="))
        .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"));
    if is_json && is_utf8 {
        Ok(())
    } else if is_json {
        refuse(format!("the body is declared as {text}"), "send UTF-8")
    } else {
        refuse(
            format!("the body is declared as {text}"),
            "add the header `content-type: application/json` (with curl: -H 'content-type: application/json')",
        )
    }
}

/// The whole body, within the limits, held by `share` as it comes; `key` is the setting that `max` comes from.
pub(super) async fn read(
    request: Request,
    share: &Share,
    limits: &Http,
    max: usize,
    key: &str,
) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(Kind::BodyTooLarge, format!("the body is over {max} bytes"))
            .with("limit_bytes", max)
            .error(
                "",
                "too_large",
                format!("the body is over {max} bytes"),
                format!("send a smaller body, or raise {key} in the server's configuration"),
            )
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let collected = async {
        let mut body = request.into_body();
        // Room that nothing is written to takes no memory.
        let mut bytes = Vec::with_capacity(declared.unwrap_or(0) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| Problem::new(Kind::BadRequest, format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > max {
                return Err(too_large());
            }
            share.resize((bytes.len() + data.len()) as u64).await?;
            bytes.extend_from_slice(&data);
        }
        Ok(Bytes::from(bytes))
    };
    let seconds = limits.body_timeout_s;
    let too_slow =
        || Problem::new(Kind::RequestTimeout, format!("the body was not complete after {seconds} s"));
    tokio::time::timeout(limits.body_timeout(), collected).await.unwrap_or_else(|_| Err(too_slow()))
}

/// The query parameters of a request, each known and given at most once.
///
/// # Errors
/// An `invalid-request` problem naming every parameter (`?name`) that is unknown or repeated.
pub fn query(parts: &Parts, known: &[&str]) -> Result<BTreeMap<String, String>, Problem> {
    let mut found = BTreeMap::new();
    let mut problems = Problems::default();
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let Ok(axum::extract::Query(pairs)) = pairs else {
        problems.push("?", "malformed", "the query is not name=value&..", "percent-encode names and values");
        return Err(problems.into());
    };
    for (name, value) in pairs {
        let pointer = format!("?{name}");
        if !known.contains(&name.as_str()) {
            let fix = match (nearest(&name, known.iter().copied(), likely), known) {
                (Some(close), _) => format!("did you mean `{close}`?"),
                (None, []) => "remove it; this path takes no query parameters".to_owned(),
                (None, _) => format!("remove it; this path knows {}", known.join(", ")),
            };
            problems.push(pointer, "unknown_parameter", format!("`{name}` is not a parameter here"), fix);
        } else if found.insert(name.clone(), value).is_some() {
            problems.push(pointer, "duplicate_parameter", format!("`{name}` is given twice"), "keep one");
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems.into()) }
}

/// How many entries of a list are asked for by `?limit=`, from 1 to `most`.
pub(super) fn limit(
    query: &BTreeMap<String, String>,
    usual: u32,
    most: u32,
    out: &mut Problems,
) -> Option<u32> {
    let Some(text) = query.get("limit") else { return Some(usual) };
    let limit = text.parse().ok().filter(|n| (1..=most).contains(n));
    if limit.is_none() {
        out.push("?limit", code::OUT_OF_RANGE, format!("limit {text}"), format!("write 1 to {most}"));
    }
    limit
}

/// Extractor for paths without query parameters: refuses any.
#[derive(Debug, Clone, Copy)]
pub struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query(parts, &[]).map(|_| Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(headers: &[(header::HeaderName, &str)]) -> Result<(), Problem> {
        check_declared(&headers.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect())
    }

    #[test]
    fn json_or_nothing_may_be_declared() {
        for ok in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert_eq!(declared(&[(header::CONTENT_TYPE, ok)]), Ok(()), "{ok}");
        }
        assert_eq!(declared(&[]), Ok(()));
        for bad in ["application/x-www-form-urlencoded", "text/json", "application/json; charset=utf-16", ""]
        {
            let problem = declared(&[(header::CONTENT_TYPE, bad)]).unwrap_err();
            assert_eq!(problem.kind, Kind::UnsupportedMediaType, "{bad}");
        }
        let curl_default =
            declared(&[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")]).unwrap_err();
        assert!(curl_default.detail.contains("-H 'content-type: application/json'"));
        assert!(declared(&[(header::CONTENT_ENCODING, "gzip")]).is_err());
    }

    #[test]
    fn unknown_and_repeated_parameters_are_all_named() {
        let parts = |uri: &str| Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        let found = query(&parts("/v1/trace?format=svg"), &["format"]).unwrap();
        assert_eq!(found["format"], "svg");
        let problem = query(&parts("/v1/trace?fromat=svg&format=a&format=b&zzz"), &["format"]).unwrap_err();
        let seen: Vec<_> = problem.errors.iter().map(|e| (e.pointer.as_str(), e.code)).collect();
        assert_eq!(
            seen,
            [
                ("?fromat", "unknown_parameter"),
                ("?format", "duplicate_parameter"),
                ("?zzz", "unknown_parameter")
            ]
        );
        assert!(problem.errors[0].fix.contains("`format`"));
    }
}
