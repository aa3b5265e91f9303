//! The lab page at `/`: the files of `clients/page`, embedded. A debug build reads them from disk, so that a change shows at the
//! next reload.
//!
//! The document is asked for again at every visit. All else lies under the build's own path and may be kept for ever: relative
//! imports stay inside of it, so that no page mixes two builds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};
use sha2::{Digest, Sha256};

use super::{AppState, Kind, Problem, packing};
use crate::jobs::compress;

#[derive(RustEmbed)]
#[folder = "clients/page"]
#[include = "*.html"]
#[include = "*.css"]
#[include = "*.js"]
#[include = "*.txt"]
struct Files;

/// The document; its `{build}` and `{modules}` are filled in.
const DOCUMENT: &str = "index.html";
/// Nothing from elsewhere, no inline script or style, and no string that becomes a script but through Lit's own templates.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types lit-html";

/// The routes of this module. They are no part of the API, so its document does not have them.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/", get(document)).route("/assets/{build}/{*path}", get(asset))
}

/// What does not change while the program runs, except in a debug build.
struct Build {
    id: String,
    document: String,
}

impl Build {
    fn new() -> Self {
        let mut names: Vec<_> = Files::iter().collect();
        names.sort();
        let mut hash = Sha256::new();
        let mut modules = String::new();
        for name in &names {
            if let Some(file) = Files::get(name) {
                hash.update(name.as_bytes());
                hash.update(file.metadata.sha256_hash());
            }
            if name.ends_with(".js") {
                let _ = write!(modules, r#"<link rel="modulepreload" href="/assets/{{build}}/{name}">"#);
            }
        }
        let mut id = String::new();
        for byte in &hash.finalize()[..8] {
            let _ = write!(id, "{byte:02x}");
        }
        let html = Files::get(DOCUMENT).map(|file| String::from_utf8_lossy(&file.data).into_owned());
        let document = html.unwrap_or_default().replace("{modules}", &modules).replace("{build}", &id);
        Self { id, document }
    }

    /// Gives `read` the build as it is now.
    fn with<R>(read: impl FnOnce(&Self) -> R) -> R {
        static BUILD: OnceLock<Build> = OnceLock::new();
        if cfg!(debug_assertions) { read(&Self::new()) } else { read(BUILD.get_or_init(Self::new)) }
    }
}

async fn document(headers: HeaderMap) -> Response {
    Build::with(|build| {
        // Weak: what is sent may be compressed.
        let tag = format!("W/\"{}\"", build.id);
        let known = headers.get_all(header::IF_NONE_MATCH).iter();
        let known = known.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let is_known = known.map(str::trim).any(|known| known == tag || known == "*");
        let kept = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
        if is_known {
            return (StatusCode::NOT_MODIFIED, kept).into_response();
        }
        let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (kept, kind, guards(), NO_GUESSES, build.document.clone()).into_response()
    })
}

async fn asset(headers: HeaderMap, Path((build, path)): Path<(String, String)>) -> Result<Response, Problem> {
    let of_another = || {
        let detail = "this file belongs to another version of the page; load `/` again";
        Problem::new(Kind::NotFound, detail)
    };
    if !Build::with(|now| now.id == build) || path == DOCUMENT {
        return Err(of_another());
    }
    let file = Files::get(&path).ok_or_else(of_another)?;
    let kind = match path.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    let kept = [(header::CACHE_CONTROL, "public, max-age=31536000, immutable"), (header::CONTENT_TYPE, kind)];
    if !packing::accepts_gzip(&headers) {
        return Ok((kept, NO_GUESSES, file.data.into_owned()).into_response());
    }
    let coded = [(header::CONTENT_ENCODING, "gzip"), (header::VARY, "accept-encoding")];
    Ok((kept, coded, NO_GUESSES, packed(&file)).into_response())
}

/// A file as gzip, as small as it gets: made once.
fn packed(file: &EmbeddedFile) -> Bytes {
    static PACKED: Mutex<BTreeMap<[u8; 32], Bytes>> = Mutex::new(BTreeMap::new());
    let mut all = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || Bytes::from(compress::smallest(&file.data));
    all.entry(file.metadata.sha256_hash()).or_insert_with(made).clone()
}

/// A file is what its type says.
const NO_GUESSES: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// What a browser must not do with the page. It asks this of documents alone.
fn guards() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}
