//! The lab page's files: what browsers may keep, and what they must not do.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use mediant::http::{Readiness, router};
use tower::ServiceExt;

use crate::support::state;

async fn get(path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = headers.iter().fold(Request::get(path), |r, (name, value)| r.header(*name, *value));
    // The page is there before the model is.
    let answer =
        router(state(Readiness::Loading)).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap().to_vec())
}

/// Every link of the document to a file of the page.
fn links(document: &str) -> Vec<&str> {
    let attributes = document.split(['"', '\'']);
    attributes.filter(|text| text.starts_with("/assets/")).collect()
}

#[tokio::test]
async fn the_document_is_asked_for_again_and_its_files_are_kept_for_ever() {
    let (status, headers, body) = get("/", &[]).await;
    assert_eq!((status, headers["cache-control"].to_str().unwrap()), (StatusCode::OK, "no-cache"));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (status, headers, again) = get("/", &[("if-none-match", &format!("\"x\", {tag}"))]).await;
    assert_eq!(
        (status, again.len(), headers["etag"].to_str().unwrap()),
        (StatusCode::NOT_MODIFIED, 0, &*tag)
    );
    let document = String::from_utf8(body).unwrap();
    let links = links(&document);
    assert!(links.len() > 10, "{document}");
    let mut size = document.len();
    for link in links {
        let (status, headers, body) = get(link, &[("accept-encoding", "gzip")]).await;
        assert_eq!(status, StatusCode::OK, "{link}");
        assert!(headers["cache-control"].to_str().unwrap().contains("immutable"), "{link}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        size += body.len();
    }
    assert!(size <= 120 << 10, "{size} bytes");
}

#[tokio::test]
async fn no_script_but_the_page_s_own_may_run() {
    let (_, headers, body) = get("/", &[]).await;
    let policy = headers["content-security-policy"].to_str().unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'self';",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let document = String::from_utf8(body).unwrap();
    assert!(!document.contains("<style") && !document.contains(" style=") && !document.contains("http://"));
}

#[tokio::test]
async fn what_is_no_file_of_this_build_is_not_found() {
    let (_, _, body) = get("/", &[]).await;
    let document = String::from_utf8(body).unwrap();
    let own = links(&document)[0].rsplit_once('/').unwrap().0.to_owned();
    for path in [
        "/assets/0123/app.js",
        &format!("{own}/nothing.js"),
        &format!("{own}/../Cargo.toml"),
        &format!("{own}/%2e%2e/%2e%2e/Cargo.toml"),
        &format!("{own}/index.html"),
    ] {
        let (status, headers, _) = get(path, &[]).await;
        assert_eq!(
            (status, headers["content-type"].to_str().unwrap()),
            (StatusCode::NOT_FOUND, mediant::http::MEDIA_TYPE),
            "{path}"
        );
    }
}
