//! The router with its layers, without sockets, plus routes that only these tests have.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;
use utoipa_axum::routes;

use super::*;
use crate::capacity::Capacity;
use crate::config;

/// Answers the body it got.
#[utoipa::path(post, path = "/v1/echo", request_body = Object,
    responses((status = 200, description = "The body", body = Object), Problem))]
async fn echo(_: NoQuery, JsonBody(body): JsonBody) -> axum::Json<Value> {
    axum::Json(body)
}

/// Fails.
#[utoipa::path(get, path = "/v1/panic", responses((status = 200, description = "Never")))]
async fn panics() {
    panic!("the secret of this test");
}

/// Those of the server, and of the routes that only these tests have.
fn rules_here() -> &'static [rules::Rule] {
    use rules::{Need, Rule};
    static HERE: std::sync::LazyLock<Vec<Rule>> = std::sync::LazyLock::new(|| {
        let own = [(Method::POST, "/v1/echo"), (Method::GET, "/v1/panic")];
        let own = own.map(|(method, path)| Rule { method, path, need: Need::Key });
        rules::RULES.iter().cloned().chain(own).collect()
    });
    &HERE
}

fn state(readiness: Readiness) -> AppState {
    let config = config::load(None, [], &[]).unwrap().config;
    let capacity = Capacity::new(config.limits.memory_bytes);
    let remote = crate::remote::Remote::new(&config.remote, std::env::temp_dir());
    AppState {
        capacity,
        results: Results::new(config.results),
        streams: Streams::default(),
        config: Arc::new(config),
        readiness: watch::channel(readiness).1,
        service: Arc::default(),
        jobs: Arc::default(),
        metrics: Arc::default(),
        remote,
        access: Access::Anyone,
    }
}

async fn send(readiness: Readiness, request: Request<Body>) -> (StatusCode, header::HeaderMap, Value) {
    send_to(state(readiness), request).await
}

async fn send_to(state: AppState, request: Request<Body>) -> (StatusCode, header::HeaderMap, Value) {
    let router = wrap(api().routes(routes!(echo)).routes(routes!(panics)), state, rules_here());
    let response = router.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    (head.status, head.headers, body)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, body: &str) -> Request<Body> {
    Request::post(path).body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn liveness_does_not_depend_on_readiness_and_readiness_names_its_reason() {
    for (readiness, status, word) in [
        (Readiness::Loading, 503, "loading"),
        (Readiness::Ready, 200, "ready"),
        (Readiness::Draining, 503, "draining"),
        (Readiness::Failed("no such tensor: lm_head".into()), 503, "failed"),
    ] {
        assert_eq!(send(readiness.clone(), get("/healthz?probe=1")).await.0, 200);
        let (got, _, body) = send(readiness.clone(), get("/readyz")).await;
        assert_eq!((got.as_u16(), body["status"].as_str().unwrap()), (status, word));
        if let Readiness::Failed(reason) = readiness {
            assert_eq!(body["reason"], reason);
        }
    }
}

#[tokio::test]
async fn work_is_refused_with_a_time_to_retry_until_the_server_is_ready() {
    for readiness in [Readiness::Loading, Readiness::Draining, Readiness::Failed("x".into())] {
        let (status, headers, body) = send(readiness, post("/v1/echo", "{}")).await;
        assert_eq!(
            (status, &body["type"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:mediant:problem:unavailable"))
        );
        assert_eq!(headers[header::RETRY_AFTER].to_str().unwrap(), body["retry_after_s"].to_string());
    }
    assert_eq!(
        send(Readiness::Loading, post("/v1/no", "{}")).await.0,
        404,
        "wrong paths are wrong in any state"
    );
    assert_eq!(send(Readiness::Loading, get("/v1/version")).await.0, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_and_the_methods_are_named() {
    let (status, headers, body) = send(Readiness::Ready, get("/nowhere")).await;
    assert_eq!((status, &body["type"]), (StatusCode::NOT_FOUND, &json!("urn:mediant:problem:not-found")));
    assert_eq!(headers[header::CONTENT_TYPE], MEDIA_TYPE);
    let (status, headers, body) = send(Readiness::Ready, get("/v1/echo")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(headers[header::ALLOW], "POST");
    assert!(body["detail"].as_str().unwrap().ends_with("use POST"), "{body}");
    let (status, _, _) =
        send(Readiness::Ready, Request::delete("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_request_id_is_in_the_header_and_in_the_problem_and_never_the_clients() {
    let request = Request::get("/nowhere").header("x-request-id", "mine").body(Body::empty()).unwrap();
    let (_, headers, body) = send(Readiness::Ready, request).await;
    let id = headers["x-request-id"].to_str().unwrap();
    assert_eq!(body["instance"], id);
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7);
    assert!(send(Readiness::Ready, get("/healthz")).await.1.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_panic_answers_500_without_saying_what_happened() {
    let (status, headers, body) = send(Readiness::Ready, get("/v1/panic")).await;
    assert_eq!(
        (status, &body["type"]),
        (StatusCode::INTERNAL_SERVER_ERROR, &json!("urn:mediant:problem:internal"))
    );
    assert_eq!(body["instance"], headers["x-request-id"].to_str().unwrap());
    assert!(!body.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_can_be_read_by_a_client_that_accepts_gzip() {
    let request = Request::get("/v1/panic").header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let router = wrap(api().routes(routes!(panics)), state(Readiness::Ready), rules_here());
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    assert_eq!(head.headers[header::CONTENT_ENCODING], "gzip");
    let text = crate::jobs::compress::restored(&bytes).expect("the body is what its head says");
    let told: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((head.status.as_u16(), &told["status"]), (500, &json!(500)));
    assert_eq!(told["instance"], head.headers["x-request-id"].to_str().unwrap());
    // Through a socket, with a client that takes off by itself what the head names.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/panic", listener.local_addr().unwrap());
    let limits = listen::Limits::from(&config::load(None, [], &[]).unwrap().config.http);
    let phase = watch::Sender::new(listen::Phase::Run);
    let serving = tokio::spawn(listen::serve(listener, None, router, limits, phase.subscribe()));
    let client = reqwest::Client::builder().gzip(true).build().unwrap();
    for _ in 0..2 {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 500);
        let told: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(told["type"], "urn:mediant:problem:internal");
    }
    serving.abort();
}

#[tokio::test]
async fn bodies_are_read_strictly() {
    let typed = |kind: &str, body: &str| {
        Request::post("/v1/echo").header("content-type", kind).body(Body::from(body.to_owned())).unwrap()
    };
    let echo = |request| send(Readiness::Ready, request);
    assert_eq!(echo(typed("application/json", r#"{"a":1}"#)).await.2, json!({"a": 1}));
    assert_eq!(echo(post("/v1/echo", "[1]")).await.2, json!([1]), "no content type is as good as JSON");
    assert_eq!(echo(typed("application/x-www-form-urlencoded", "{}")).await.0, 415);
    assert_eq!(echo(post("/v1/echo", r#"{"a":1,"a":2}"#)).await.2["errors"][0]["pointer"], "/a");
    let (status, _, body) = echo(post("/v1/echo", "")).await;
    assert_eq!(status, 400);
    assert!(body["errors"][0]["fix"].as_str().unwrap().contains("prompt"));
    let (status, _, body) = echo(post("/v1/echo?formt=svg", "{}")).await;
    assert_eq!((status, &body["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("?formt")));
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_declared_or_streamed() {
    let fits = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    assert_eq!(send(Readiness::Ready, post("/v1/echo", &fits)).await.0, 200);
    let over = format!("{fits} ");
    let declared =
        Request::post("/v1/echo").header("content-length", over.len()).body(Body::from("\"short\"")).unwrap();
    for request in [declared, post("/v1/echo", &over)] {
        let (status, headers, body) = send(Readiness::Ready, request).await;
        assert_eq!((status, &body["limit_bytes"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(1 << 20)));
        assert_eq!(headers[header::CONNECTION], "close");
    }
}

#[tokio::test]
async fn web_pages_are_allowed_only_from_configured_origins() {
    let preflight = || {
        Request::options("/v1/echo")
            .header("origin", "https://lab.example")
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap()
    };
    let (status, headers, _) = send(Readiness::Ready, preflight()).await;
    assert_eq!(status, 405);
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let mut config = config::load(None, [], &[]).unwrap().config;
    config.http.cors_origins = vec!["https://lab.example".into()];
    let state = AppState {
        capacity: Capacity::new(config.limits.memory_bytes),
        results: Results::new(config.results),
        streams: Streams::default(),
        config: Arc::new(config),
        readiness: watch::channel(Readiness::Ready).1,
        service: Arc::default(),
        jobs: Arc::default(),
        metrics: Arc::default(),
        remote: crate::remote::Remote::new(
            &config::load(None, [], &[]).unwrap().config.remote,
            std::env::temp_dir(),
        ),
        access: Access::Anyone,
    };
    let (status, headers, _) = send_to(state.clone(), preflight()).await;
    assert_eq!(
        (status, &headers[header::ACCESS_CONTROL_ALLOW_ORIGIN]),
        (StatusCode::OK, &HeaderValue::from_static("https://lab.example"))
    );
    let other =
        Request::get("/healthz").header("origin", "https://evil.example").body(Body::empty()).unwrap();
    assert!(!send_to(state, other).await.1.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn the_document_served_lists_exactly_the_routes_of_the_router() {
    let (_, _, document) = send(Readiness::Ready, get("/v1/openapi.json")).await;
    assert!(document["paths"]["/v1/echo"]["post"]["responses"]["422"]["content"][MEDIA_TYPE].is_object());
    for path in document["paths"].as_object().unwrap().keys() {
        let (status, _, answer) = send(Readiness::Ready, get(path)).await;
        let nowhere =
            status == 404 && answer["detail"].as_str().unwrap().starts_with("there is no such path");
        assert!(!nowhere, "{path}");
    }
}

#[tokio::test]
async fn a_route_without_a_rule_is_closed_to_everybody() {
    let router =
        || wrap(api().routes(routes!(echo)).routes(routes!(panics)), state(Readiness::Ready), rules::RULES);
    for request in [post("/v1/echo", "{}"), get("/v1/panic")] {
        let response = router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 403);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(told["errors"][0]["code"], "no_rule");
    }
    assert_eq!(router().oneshot(get("/healthz")).await.unwrap().status(), 200);
}

#[test]
fn every_rule_is_of_a_route_and_there_is_one_for_each() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let routes = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    // The page, the guides and the client are no part of the API, nor is what a model hub has.
    let others = [
        "GET /",
        "GET /docs",
        "GET /docs/search",
        "GET /docs/{page}",
        "GET /clients",
        "GET /clients/",
        "GET /clients/mediant",
        "GET /clients/mediant/",
        "GET /clients/{wheel}",
        "GET /assets/{build}/{*path}",
        "GET /api/models/{*path}",
        "GET /{name}/resolve/{*path}",
        "GET /{owner}/{name}/resolve/{*path}",
    ];
    let mut routes: Vec<String> = routes.chain(others.map(str::to_owned)).collect();
    for path in ["/status", "/subscribe", "/connected"] {
        let need = |path: &str| rules::need(rules::RULES, &Method::GET, path);
        assert!(need(path).is_some() && need(&format!("/legacy{path}")) == need(path));
    }
    let listed = rules::RULES.iter().map(|rule| format!("{} {}", rule.method, rule.path));
    let of_kinds = crate::spec::kind::Kind::ALL.iter().map(|(name, _)| format!("POST /v1/{name}"));
    let mut ruled: Vec<String> = listed.chain(of_kinds).collect();
    routes.sort();
    ruled.sort();
    assert_eq!(ruled, routes);
}
