//! Compression of large answers.
//!
//! A layer that compresses as it sends does so on the async workers: a few answers of 10 MB hold up everyone else for tenths of a second.
//! So large answers are compressed where answers are made, on the threads of [`Lane::Finish`], before they are sent. Small ones
//! and streams are left to the layer.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::capacity::{Lane, Share};
use crate::jobs::compress;
use crate::result::render::Format;

/// Bytes from which an answer is large.
const LARGE: usize = 64 << 10;

/// Of a large answer: what its request holds, while the answer may still be compressed.
#[derive(Debug, Clone)]
struct Large(Option<Share>);

/// Marks an answer that is large. Pictures and arrays are compressed as they are, or hardly can be.
pub(super) fn mark(response: &mut Response, format: Format, bytes: usize, share: &Share) {
    if bytes >= LARGE {
        response.extensions_mut().insert(Large(format.is_text().then(|| share.clone())));
    }
}

/// Marks an answer that is sent as it is: it is packed already.
pub(super) fn as_it_is(response: &mut Response) {
    response.extensions_mut().insert(Large(None));
}

/// Whether the layer that compresses as it sends may take an answer.
pub(super) fn is_small(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Large>().is_none()
}

/// Compresses large answers for clients that accept gzip.
pub(super) async fn layer(request: Request, next: Next) -> Response {
    let accepts = accepts_gzip(request.headers());
    let mut response = next.run(request).await;
    let share = response.extensions_mut().get_mut::<Large>().and_then(|large| large.0.take());
    let Some(share) = share else { return response };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !accepts {
        return response;
    }
    let body = std::mem::take(response.body_mut());
    let Ok(bytes) = to_bytes(body, usize::MAX).await else { return response };
    // HEAD asks for no body.
    if bytes.is_empty() {
        return response;
    }
    let packed = share.run(Lane::Finish, move |_| compress::compressed(&bytes)).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(Bytes::from_owner(share.tie(packed)));
    response
}

/// RFC 9110 section 12.5.3, for the one coding that is served.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings = values.flat_map(|value| value.split(',')).map(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|p| p.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0_f32));
        (name, !refused)
    });
    let codings: Vec<(String, bool)> = codings.collect();
    let of = |wanted: &[&str]| {
        codings.iter().find(|(name, _)| wanted.contains(&name.as_str())).map(|found| found.1)
    };
    of(&["gzip", "x-gzip"]).or_else(|| of(&["*"])).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_accepted_where_it_is_named_or_everything_is() {
        let accepts = |value: &str| {
            accepts_gzip(&[(header::ACCEPT_ENCODING, value.parse().unwrap())].into_iter().collect())
        };
        for yes in
            ["gzip", "gzip, deflate, br", "br;q=1.0, GZIP;q=0.2", "x-gzip", "*", "identity;q=0, *;q=0.1"]
        {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "identity", "br, deflate", "gzip;q=0", "gzip; q=0.0, *", "*;q=0"] {
            assert!(!accepts(no), "{no}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
