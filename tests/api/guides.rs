//! The guides and the wheel: there before the model is, open to all, and without any script.

use axum::body::to_bytes;
use axum::http::{HeaderMap, StatusCode, header};
use mediant::http::{Kind, Readiness, router};
use mediant::lower::lint::LINTS;
use mediant::spec::problem::code;
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::support::state;

async fn get(path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let response = router(state(Readiness::Loading)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, 16 << 20).await.unwrap().to_vec())
}

async fn text(path: &str) -> String {
    let (status, _, body) = get(path).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    String::from_utf8(body).unwrap()
}

/// What follows `attribute="` in a page.
fn linked<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let parts = page.split(&format!("{attribute}=\"") as &str).skip(1).collect::<Vec<_>>();
    parts.into_iter().filter_map(|rest| Some(rest.split_once('"')?.0)).collect()
}

#[tokio::test]
async fn every_guide_is_a_page_without_scripts_that_needs_nothing_from_elsewhere() {
    let (status, headers, _) = get("/docs").await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::PERMANENT_REDIRECT, &"/docs/start".parse().unwrap())
    );
    let start = text("/docs/start").await;
    let guides: Vec<&str> = linked(&start, "href")
        .into_iter()
        .filter(|link| link.starts_with("/docs/") && !link.contains('#') && !link.contains('.'))
        .collect();
    assert!(guides.len() >= 18, "{guides:?}");
    for guide in guides {
        let (status, headers, body) = get(guide).await;
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (StatusCode::OK, &"text/html; charset=utf-8".parse().unwrap())
        );
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'")
                && !policy.contains("script-src")
                && !policy.contains("unsafe")
        );
        let page = String::from_utf8(body).unwrap();
        for part in ["<script", "<style", " style=", " onclick", "javascript:"] {
            assert!(!page.contains(part), "{guide} has {part}");
        }
        for picture in linked(&page, "src") {
            assert!(picture.starts_with("/docs/"), "{guide}: {picture}");
            assert_eq!(get(picture).await.0, StatusCode::OK, "{guide}: {picture}");
        }
        assert!(page.contains("aria-current=\"page\""), "{guide}");
    }
    let style = text("/docs/guide.css").await;
    assert!(!style.contains("url(") && !style.contains("@import"));
    for path in ["/docs/nothing", "/docs/nothing.css", "/docs/%2e%2e%2fCargo.toml", "/docs/START.md"] {
        assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn search_finds_every_lint_and_every_error_by_its_code() {
    let lints = LINTS.iter().map(|lint| (lint.code, "/docs/reading-results#lints"));
    let codes = code::ALL.iter().map(|(code, _)| (*code, "/docs/errors#codes-of-fields"));
    let kinds = Kind::ALL.iter().map(|kind| (kind.slug(), "/docs/errors#kinds"));
    // A page with all of them at once is rendered in a debug build for each search: some of each are enough.
    for (word, section) in lints.step_by(9).chain(codes.step_by(6)).chain(kinds.step_by(6)) {
        let found = text(&format!("/docs/search?q={}", word.to_lowercase())).await;
        assert!(found.contains(section), "{word} is not found in {section}");
    }
    let (status, _, _) = get("/docs/search?word=x").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let none = text("/docs/search?q=%22%3E%3Cscript%3E").await;
    assert!(none.contains("No section") && !none.contains("<script"));
}

#[tokio::test]
async fn pip_finds_the_wheel_of_the_server_s_version() {
    let index = text("/clients/").await;
    assert!(index.contains("<a href=\"/clients/mediant/\">mediant</a>"), "{index}");
    let files = text("/clients/mediant/").await;
    let link = linked(&files, "href")[0];
    let (path, hash) = link.split_once("#sha256=").unwrap();
    assert_eq!(path, format!("/clients/mediant-{}-py3-none-any.whl", env!("CARGO_PKG_VERSION")));
    let (status, _, wheel) = get(path).await;
    assert!(status == StatusCode::OK && wheel.starts_with(b"PK"));
    let found: Vec<String> = Sha256::digest(&wheel).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found.concat(), hash);
    assert!(files.contains("data-requires-python=\"&gt;=3.10\""), "{files}");
    assert_eq!(get("/clients/mediant-9.9.9-py3-none-any.whl").await.0, StatusCode::NOT_FOUND);
}
