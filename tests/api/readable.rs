//! Every answer can be read by clients as they come: they accept gzip, and take the body for what the head says it is.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use axum::routing::get;
use mediant::http::{MEDIA_TYPE, Readiness, router};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::schema::documented;
use crate::support::{
    Server, all_is_free, all_scopes, limits, queue, read_to_close, state, tiny, tiny_with, token, with_keys,
};

/// A client that accepts gzip and takes it off, as most do by themselves.
fn client() -> Client {
    Client::builder().gzip(true).timeout(Duration::from_mins(1)).build().unwrap()
}

/// Sends a request; the status, and the body after the client has decoded it.
async fn ask(
    server: &Server,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
) -> (StatusCode, String, Vec<u8>) {
    let mut request = client().request(method.clone(), format!("http://{}{path}", server.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(token) = &server.token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.body(body);
    }
    let response = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
    let status = response.status();
    let media = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let bytes = response.bytes().await.unwrap_or_else(|error| panic!("{method} {path} {status}: {error:?}"));
    (status, media, bytes.to_vec())
}

/// A problem document, as the client decoded it.
async fn problem(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
    status: u16,
) -> Value {
    let (got, media, bytes) = ask(server, &method, path, headers, body).await;
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!((got.as_u16(), media.as_str()), (status, MEDIA_TYPE), "{method} {path}: {shown}");
    if method == Method::HEAD {
        assert!(bytes.is_empty());
        return Value::Null;
    }
    let problem: Value =
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{method} {path}: {e}: {shown}"));
    assert_eq!(problem["status"], status, "{method} {path}: {problem}");
    assert!(problem["instance"].is_string() && problem["detail"].is_string(), "{problem}");
    problem
}

/// Every path of the contract with something in the place of its parameters.
fn paths() -> Vec<(String, String, String)> {
    let document: Value = serde_json::from_str(&mediant::http::openapi()).unwrap();
    let mut found = Vec::new();
    for (template, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // Routes of other tools answer in those tools' forms: see `openai.rs` and the program `remote`.
            if operation["tags"][0] == "remote" || template.ends_with("/completions") {
                continue;
            }
            found.push((
                method.to_uppercase(),
                template.clone(),
                template.replace("{id}", "nothing-of-that-name"),
            ));
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_fault_in_words_that_a_client_with_gzip_can_read() {
    let (state, keys) = with_keys(tiny()).await;
    let mut server = Server::start(router(state), limits()).await;
    server.token = Some(token(&keys, "alice", &all_scopes()).await);
    for (method, template, path) in paths() {
        let method: Method = method.parse().unwrap();
        let documented = |status: u16| documented(method.as_str(), &template, status);
        // A method that is not served, an unknown parameter, a name that stands for nothing.
        problem(&server, Method::PATCH, &path, &[], None, 405).await;
        if !matches!(template.as_str(), "/healthz" | "/readyz") {
            let asked = format!("{path}?colour=red");
            let body = (method == Method::POST).then(|| b"[]".to_vec());
            let (status, ..) = ask(&server, &method, &asked, &[JSON], body.clone()).await;
            problem(&server, method.clone(), &asked, &[JSON], body, status.as_u16()).await;
            assert!(
                matches!(status.as_u16(), 404 | 422) && documented(status.as_u16()),
                "{method} {path} {status}"
            );
        }
        if template.contains("{id}") {
            let body = (method == Method::POST).then(|| b"{}".to_vec());
            problem(&server, method.clone(), &path, &[], body, 404).await;
            assert!(documented(404), "{method} {template}");
            if method == Method::GET {
                problem(&server, Method::HEAD, &path, &[], None, 404).await;
            }
        }
        if method != Method::POST {
            continue;
        }
        for (headers, body, status) in [
            (vec![JSON], b"{\"a\":".to_vec(), 400),
            (vec![JSON], b"{\"colour\":1}".to_vec(), 422),
            (vec![("content-type", "application/x-www-form-urlencoded")], b"a=1".to_vec(), 415),
            (vec![JSON, ("content-encoding", "br")], b"[]".to_vec(), 415),
        ] {
            problem(&server, method.clone(), &path, &headers, Some(body), status).await;
            assert!(documented(status), "{method} {template} {status}");
        }
        if template != "/v1/datasets" {
            // Read, although the server closes before it has taken the body.
            problem(&server, method.clone(), &path, &[JSON], Some(vec![b' '; 6 << 20]), 413).await;
            assert!(documented(413), "{method} {template}");
        }
    }
    for path in ["/v1/nothing", "/nothing"] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::HEAD] {
            problem(&server, method, path, &[], None, 404).await;
        }
    }
    problem(&server, Method::GET, "/v1/jobs?format=x", &[("accept", "text/html")], None, 422).await;
    let run = b"{\"prompt\":\"Hi\"}".to_vec();
    problem(&server, Method::POST, "/v1/run", &[JSON, ("accept", "text/html")], Some(run.clone()), 406).await;
    let (status, media, bytes) = ask(&server, &Method::POST, "/v1/run", &[JSON], Some(run)).await;
    assert_eq!((status.as_u16(), media.as_str()), (200, "application/json"));
    assert!(serde_json::from_slice::<Value>(&bytes).unwrap()["runs"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_for_want_of_a_model_or_of_memory_can_be_read_too() {
    let loading = Server::start(router(state(Readiness::Loading)), limits()).await;
    for (method, template, path) in paths().into_iter().filter(|(_, path, _)| path.starts_with("/v1/")) {
        // Keys are made whether or not there is a model; here none is needed, so none can be made.
        if matches!(
            template.as_str(),
            "/v1/version"
                | "/v1/openapi.json"
                | "/v1/status"
                | "/v1/lints"
                | "/v1/examples"
                | "/v1/results/{id}"
        ) || template.starts_with("/v1/admin/")
        {
            continue;
        }
        let body = (method == "POST").then(|| b"{}".to_vec());
        let method: Method = method.parse().unwrap();
        let told = problem(&loading, method.clone(), &path, &[JSON], body, 503).await;
        assert!(told["retry_after_s"].as_u64().unwrap() > 0);
        assert!(documented(method.as_str(), &template, 503), "{method} {template}");
    }
    // As much memory as a few small requests take, and somebody who holds it.
    let full = tiny_with(&[("limits.memory_bytes", "1048576")]);
    let held = full.capacity.share(mediant::owner::Owner::local());
    held.resize(700_000).await.unwrap();
    let small = full.capacity.share(mediant::owner::Owner::local());
    small.resize(16_000).await.unwrap();
    let server = Server::start(router(full.clone()), limits()).await;
    let large = format!("{}{{\"prompt\":\"Hi\"}}", " ".repeat(60_000)).into_bytes();
    let told = problem(&server, Method::POST, "/v1/run", &[JSON], Some(large.clone()), 429).await;
    assert!(told["detail"].as_str().unwrap().contains("memory"), "{told}");
    assert!(documented("POST", "/v1/run", 429));
    drop((held, small));
    let (status, ..) = ask(&server, &Method::POST, "/v1/tokenize", &[JSON], Some(large)).await;
    assert_eq!(status, 200);
    all_is_free(&full, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_takes_too_much_memory_is_refused_before_it_is_built() {
    let server = Server::start(router(tiny()), limits()).await;
    let nested = format!("{{\"prompt\":\"a\",\"x\":[{}[]]}}", "[[]],".repeat(190_000)).into_bytes();
    let told = problem(&server, Method::POST, "/v1/run", &[JSON], Some(nested), 413).await;
    assert!(told["limit_values"].is_u64() && told["errors"][0]["fix"].is_string(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn codings_that_nobody_takes_off_are_refused_and_the_connection_is_closed() {
    let server = Server::start(router(state(Readiness::Ready)), limits()).await;
    let hidden = "0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    for (line, status) in [
        ("transfer-encoding: gzip, chunked", 400),
        ("transfer-encoding: x, chunked", 400),
        ("transfer-encoding: identity, chunked", 400),
        ("transfer-encoding: chunked, chunked", 400),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", 400),
        ("transfer-encoding: gzip", 400),
        ("transfer-encoding: chunked, gzip", 400),
        ("te: gzip, chunked\r\ntransfer-encoding: chunked", 400),
        ("te: trailers, deflate;q=0.5\r\ntransfer-encoding: Chunked\r\nconnection: close", 405),
    ] {
        let answer = server
            .exchange(format!("POST /healthz HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n{hidden}").as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} -> {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{line} -> {answer}");
    }
    let answer = server.exchange(b"GET /healthz HTTP/1.1\r\nhost:\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

/// Routes that take their time, and tell when they are given up.
async fn slow_server() -> (Server, tokio::sync::mpsc::UnboundedReceiver<&'static str>) {
    struct Dropped(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let (sender, told) = tokio::sync::mpsc::unbounded_channel();
    let slow = async move |seconds: f64| {
        let dropped = Dropped(sender.clone());
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        drop(dropped);
        "done"
    };
    let (short, long, never) = (slow.clone(), slow.clone(), slow);
    let routes = axum::Router::new()
        .route("/short", get(async move || short(0.3).await))
        .route("/long", get(async move || long(2.5).await))
        .route("/never", get(async move || never(600.0).await));
    (Server::start(routes, limits()).await, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_side_after_its_request_gets_its_answer() {
    let server = Server::start(router(queue(tiny()).await), limits()).await;
    let half_closed = |server: &Server, request: &str| {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_close(&mut stream).0
    };
    let body = "{\"prompt\":\"Hi\"}";
    let run = format!("POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = half_closed(&server, &run);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"runs\""), "{answer}");
    let (slow, _told) = slow_server().await;
    let answer = half_closed(&slow, "GET /short HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    // What takes longer is preceded by an interim answer, which clients pass over; HTTP/1.0 has none.
    let answer = half_closed(&slow, "GET /long HTTP/1.1\r\nhost: x\r\n\r\n");
    let rest = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("done"), "{answer}");
    let answer = half_closed(&slow, "GET /long HTTP/1.0\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("done"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_client_that_has_left_is_given_up() {
    let (server, mut told) = slow_server().await;
    let mut stream = server.connect();
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "nothing is said to a client that stays");
    let left = Instant::now();
    drop(stream);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), told.recv()).await.unwrap(), Some("dropped"));
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
}

#[tokio::test]
async fn hints_go_with_the_request_that_is_planned() {
    let plan = json!({"trace": {"prompt": "The Tower", "subject": "Tower", "target": "P", "samples": 3}});
    let reply = crate::support::post(&tiny(), "/v1/plan", &plan).await;
    let error = reply.json()["errors"][0].clone();
    assert_eq!(error["pointer"], "/trace/samples");
    assert!(error["detail"].as_str().unwrap().contains("did you mean `/trace/corrupt/samples`?"), "{error}");
}
