//! What is counted, and that the rules and pictures for those who run a server ask for what there is.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use mediant::http::{Readiness, operations, router};
use mediant::keys::Scope;
use mediant::owner::Owner;
use serde_json::json;
use tower::ServiceExt;

use crate::support::{
    Client, data_dir, get, post, read_to_close, request, state, tiny, token, with_keys, working,
};

/// The value of a line, such as `mediant_jobs{state="queued"}`.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

async fn scraped(state: &mediant::http::AppState) -> String {
    let answer = get(state, "/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    let kind = answer.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

#[tokio::test]
async fn answers_are_counted_by_route_and_status_and_problems_by_type() {
    let state = mediant::http::AppState { metrics: std::sync::Arc::default(), ..tiny() };
    let secret = "the prompt of this test";
    post(&state, "/v1/run", &json!({"prompt": secret})).await;
    post(&state, "/v1/run", &json!({"promt": secret})).await;
    get(&state, "/v1/models/the-name-that-somebody-typed").await;
    get(&state, "/a-path-that-nobody-serves").await;
    let text = scraped(&state).await;
    let requests = |labels: &str| value(&text, &format!("mediant_requests_total{{{labels}}}"));
    assert_eq!(requests(r#"route="/v1/run",method="POST",status="200""#), 1.0);
    assert_eq!(requests(r#"route="/v1/run",method="POST",status="422""#), 1.0);
    assert_eq!(requests(r#"route="/v1/models/{id}",method="GET",status="404""#), 1.0);
    assert_eq!(requests(r#"route="none",method="other",status="404""#), 1.0);
    assert_eq!(value(&text, r#"mediant_refused_total{problem="invalid-request"}"#), 1.0);
    assert_eq!(value(&text, r#"mediant_refused_total{problem="not-found"}"#), 2.0);
    // Before the first of them, so that it is seen as an increase.
    assert_eq!(value(&text, r#"mediant_refused_total{problem="engine-crash"}"#), 0.0);
    assert_eq!(value(&text, r#"mediant_request_seconds_count{route="/v1/run"}"#), 2.0);
    for typed in [secret, "promt", "somebody-typed", "nobody-serves"] {
        assert!(!text.contains(typed), "{typed} is in\n{text}");
    }
}

#[tokio::test]
async fn work_memory_jobs_and_readiness_are_those_of_the_moment() {
    let state = working().await;
    let before = scraped(&state).await;
    // Nobody else asks that.
    let answer = post(&state, "/v1/run", &json!({"prompt": "The Tower of metrics"})).await.json();
    let after = scraped(&state).await;
    let more = |name: &str| value(&after, name) - value(&before, name);
    // Other tests share the engine.
    assert!(more("mediant_batches_total") >= 1.0);
    // Of the last layer only what is read is computed.
    assert!(more("mediant_row_layers_total") >= 0.5 * answer["usage"]["row_layers"].as_f64().unwrap());
    assert!(more("mediant_engine_busy_seconds_total") > 0.0);
    assert_eq!(value(&after, "mediant_engine_restarts_total"), 0.0);
    assert_eq!(value(&after, r#"mediant_status{state="ready"}"#), 1.0);
    assert_eq!(value(&after, r#"mediant_status{state="failed"}"#), 0.0);
    assert_eq!(value(&after, "mediant_request_memory_limit_bytes"), 268_435_456.0);
    let share = state.capacity.share(Owner::local());
    share.resize(1 << 20).await.unwrap();
    assert_eq!(value(&scraped(&state).await, "mediant_request_memory_bytes"), 1_048_576.0);
    let sweep = json!({"dataset": {"inline": [{"prompt": "The Tower", "subject": "Tower", "target": "P"}]},
                       "corrupt": {"samples": 2}, "async": true});
    let job = post(&state, "/v1/sweep", &sweep).await.json()["id"].as_str().unwrap().to_owned();
    for _ in 0..600 {
        let text = scraped(&state).await;
        let [queued, running, done] = ["queued", "running", "succeeded"]
            .map(|name| value(&text, &format!("mediant_jobs{{state=\"{name}\"}}")));
        assert_eq!(queued + running + done, 1.0);
        if done == 1.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{job} never ended");
}

#[tokio::test]
async fn a_server_without_a_model_or_a_store_can_be_looked_at_too() {
    let text = scraped(&state(Readiness::Loading)).await;
    assert_eq!(value(&text, r#"mediant_status{state="loading"}"#), 1.0);
    assert_eq!(value(&text, "mediant_batches_total"), 0.0);
}

/// Metrics that a file asks for.
fn asked_for(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/monitoring").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mediant_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let state = working().await;
    post(&state, "/v1/run", &json!({"prompt": "Hi"})).await;
    // As where there is TLS.
    state.metrics.certificate_ends(1);
    let text = scraped(&state).await;
    for file in ["alerts.yml", "grafana/mediant.json"] {
        let asked = asked_for(file);
        assert!(asked.len() > 5, "{file}: {asked:?}");
        for name in asked {
            let is_there = text
                .lines()
                .any(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with([' ', '{'])));
            assert!(is_there, "{file} asks for {name}, which is not in\n{text}");
        }
    }
}

#[tokio::test]
async fn where_keys_are_needed_metrics_are_for_admins_but_on_the_address_of_their_own() {
    let (state, keys) = with_keys(tiny()).await;
    assert_eq!(get(&state, "/metrics").await.status, StatusCode::UNAUTHORIZED);
    let ask = async |scope: Scope| {
        let token = token(&keys, "somebody", &[scope]).await;
        let request = Request::get("/metrics").header("authorization", format!("Bearer {token}"));
        router(state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(ask(Scope::Run).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Scope::Admin).await, StatusCode::OK);
    let own = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        operations(state.clone()).oneshot(request).await.unwrap().status()
    };
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(own(path).await, StatusCode::OK, "{path}");
    }
    for path in ["/v1/jobs", "/v1/version", "/v1/admin/keys"] {
        assert_eq!(own(path).await, StatusCode::NOT_FOUND, "{path}");
    }
}

#[test]
fn a_server_listens_for_prometheus_where_it_is_told_to() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_mediant"))
        .args(["serve", "--model", "dummy:tiny", "--listen", "127.0.0.1:0"])
        .env("MEDIANT__STORE__DATA_DIR", data_dir())
        .env("MEDIANT__TELEMETRY__METRICS_LISTEN", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until the end: what it logs must go somewhere.
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let address = log.by_ref().lines().map_while(Result::ok).find_map(|line| {
        Some(line.split_once("metrics on http://")?.1.split('/').next()?.parse::<SocketAddr>().unwrap())
    });
    let mut client = Client::connect(address.expect("it says where"), Duration::from_secs(20));
    client.write_all(&request("GET", "/metrics", "")).unwrap();
    let (answer, _) = read_to_close(&mut client);
    server.kill().unwrap();
    server.wait().unwrap();
    drop(log);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("mediant_batches_total 0"), "{answer}");
}

#[tokio::test]
async fn the_status_shows_all_to_who_runs_the_server_and_their_own_to_others() {
    let (state, keys) = with_keys(tiny()).await;
    let router = router(state.clone());
    let ask = async |router: &axum::Router, token: Option<&str>, query: &str, accept: Option<&str>| {
        let mut request = Request::get(format!("/v1/status{query}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let (head, body) =
            router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
        let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
        crate::support::Reply { status: head.status, headers: head.headers, bytes }
    };
    let bob = token(&keys, "bob", &[Scope::Run]).await;
    let root = token(&keys, "root", &[Scope::Admin]).await;
    let run = Request::post("/v1/run").header("authorization", format!("Bearer {bob}"));
    let run = run.body(Body::from(r#"{"prompt":"a secret of the status"}"#)).unwrap();
    assert_eq!(router.clone().oneshot(run).await.unwrap().status(), StatusCode::OK);
    keys.set_owner(
        &Owner::parse("bob").unwrap(),
        mediant::owner::Terms { weight: mediant::owner::Weight::of(2.0), ..Default::default() },
    )
    .await
    .unwrap();

    let own = ask(&router, Some(&bob), "", None).await.json();
    crate::schema::check_response("get", "/v1/status", "200", &own);
    assert_eq!((&own["status"], &own["operations"]), (&json!("ready"), &json!(null)));
    assert_eq!(
        own["yours"],
        json!({"owner": "bob", "requests": 0, "row_layers": 0, "job_parts": 0, "queue": null, "weight": 2.0})
    );

    let reply = ask(&router, Some(&root), "", None).await;
    assert_eq!(reply.headers["cache-control"], "no-store");
    let all = reply.json();
    crate::schema::check_response("get", "/v1/status", "200", &all);
    let all_of_it = &all["operations"];
    let owners = all_of_it["owners"].as_array().unwrap();
    let of_bob = owners.iter().find(|owner| owner["owner"] == "bob").unwrap();
    assert!(
        of_bob["row_layers_today"].as_u64().unwrap() > 0 && of_bob["share_today"].as_f64().unwrap() > 0.0,
        "{of_bob}"
    );
    assert_eq!(of_bob["weight"], 2.0);
    let lanes: Vec<&str> =
        all_of_it["lanes"].as_array().unwrap().iter().map(|lane| lane["lane"].as_str().unwrap()).collect();
    assert_eq!(lanes, ["interactive", "steps", "sweeps"]);
    let engine = &all_of_it["engine"];
    assert_eq!(
        (&engine["generation"], &engine["restarts"], &engine["known_answer_changes"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert!(engine["calibration"]["row_layers_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(all_of_it["store"]["database"], "sqlite");
    assert_eq!(all_of_it["cache"]["differ"], 0);

    // For people, when they ask for it.
    for (query, accept) in [("?format=text", None), ("", Some("text/plain"))] {
        let text = ask(&router, Some(&root), query, accept).await;
        assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
        let text = text.text();
        assert!(
            text.starts_with("status: ready\n") && text.contains("lane interactive, requests 0"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
    let browser = ask(&router, Some(&root), "", Some("text/html,*/*")).await;
    assert_eq!(browser.headers["content-type"], "application/json");
    let refused = ask(&router, Some(&root), "?format=xml", None).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["errors"][0]["pointer"]), (422, &json!("?format")));
    // The address of its own needs no key, and shows all.
    let open = ask(&operations(state), None, "", None).await.json();
    assert_eq!(open["yours"]["owner"], "local");
    assert!(open["operations"]["engine"].is_object());
}
