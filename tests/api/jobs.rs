//! The job queue over HTTP: taken on, followed, cancelled, answered.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use mediant::effect::sweep::Part;
use mediant::http::{AppState, router};
use mediant::jobs::runner::Runner;
use mediant::jobs::{LAYOUT, compress};
use mediant::owner::LOCAL;
use mediant::store::Limits;
use mediant::store::job::{Done, JobId, NewJob};
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tower::ServiceExt;

use crate::schema::check_response;
use crate::support::{Reply, get, ok, post, queue, send, tiny, tiny_with, working, working_with};

const TRACE: &str =
    r#"{"prompt": "Rome is in", "subject": "Rome", "target": "I", "corrupt": {"samples": 2}}"#;

fn small(samples: u64) -> Value {
    json!({"dataset": {"inline": [{"prompt": "Rome is in", "subject": "Rome", "target": "I"}]},
           "corrupt": {"samples": samples}, "arms": ["hidden"], "filters": {"expect_top1": false}})
}

/// Hundreds of units of some milliseconds each.
fn long() -> Value {
    let case = |i: usize| json!({"prompt": format!("{i:03} is a number of things"), "subject": [1, 4], "target": "I"});
    let cases: Vec<Value> = (0..40).map(case).collect();
    json!({"dataset": {"inline": cases}, "corrupt": {"samples": 3}, "arms": ["hidden", "mlp"],
           "filters": {"expect_top1": false}})
}

async fn later(state: &AppState, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header("prefer", "respond-async");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    send(state, request.body(Body::from(body.to_string())).unwrap()).await
}

async fn delete(state: &AppState, path: &str) -> Reply {
    send(state, Request::delete(path).body(Body::empty()).unwrap()).await
}

async fn until(state: &AppState, job: &str, wanted: &str) -> Value {
    let began = Instant::now();
    loop {
        let reply = get(state, job).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let view = reply.json();
        if view["state"] == wanted {
            return view;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "never {wanted}: {view}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn run_patch_trace_and_sweep_can_be_answered_later_with_the_same_result() {
    let state = working().await;
    let patch = json!({"base": "Rome is in", "source": "Oslo is in", "target": "I"});
    let run = json!({"prompt": "Rome is in", "target": "I"});
    let mut trace: Value = serde_json::from_str(TRACE).unwrap();
    trace["plot"] = json!(["svg"]);
    let cases = json!({"cases": [{"prompt": "Rome is in", "subject": "Rome", "target": "I"}], "arms": ["hidden"],
                       "filters": {"expect_top1": false}, "plot": ["svg", "png"]});
    for (path, body) in
        [("run", run), ("patch", patch), ("trace", trace), ("trace", cases), ("sweep", small(2))]
    {
        let reply = later(&state, &format!("/v1/{path}"), &body, &[]).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        let view = reply.json();
        check_response("post", &format!("/v1/{path}"), "202", &view);
        assert_eq!(view["kind"], path);
        let job = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
        assert_eq!(job, view["links"]["job"]);
        assert!(reply.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let view = until(&state, &job, "succeeded").await;
        check_response("get", "/v1/jobs/{id}", "200", &view);
        assert_eq!(view["progress"]["done"], view["progress"]["total"]);
        assert!(view["cost"]["row_layers"].as_u64().unwrap() > 0, "{view}");
        let found = get(&state, &format!("{job}/result")).await.json();
        let now = ok(&state, &format!("/v1/{path}"), &body).await;
        for part in [
            "values",
            "effects",
            "arms",
            "runs",
            "cells",
            "averages",
            "cases",
            "plots",
            "lints",
            "provenance",
        ] {
            assert_eq!(found.get(part), now.get(part), "{path} {part}");
        }
        assert_eq!(now["plots"]["svg"].is_string(), body.get("plot").is_some(), "{path}");
        let formats = ["csv", "jsonl", "parquet", "npz", "safetensors", "svg"];
        for format in formats.iter().filter(|format| path != "run" || **format != "svg") {
            let reply = get(&state, &format!("{job}/result?format={format}")).await;
            assert_eq!(reply.status, 200, "{path} {format}: {}", reply.text());
        }
        let metric = now["request"]["metrics"][0].as_str().unwrap();
        for (format, query) in [("csv", ""), ("csv", "&metric="), ("jsonl", "&metric=")] {
            let query = if query.is_empty() { String::new() } else { format!("{query}{metric}") };
            let direct = post(&state, &format!("/v1/{path}?format={format}{query}"), &body).await;
            let kept = get(&state, &format!("{job}/result?format={format}{query}")).await;
            assert!(
                direct.status == 200 && direct.bytes == kept.bytes,
                "{path} {format} {query}: {}",
                kept.text()
            );
        }
        let unknown = get(&state, &format!("{job}/result?format=npz&metric=prob:nobody")).await;
        assert_eq!(
            (unknown.status.as_u16(), &unknown.json()["errors"][0]["pointer"]),
            (422, &json!("?metric"))
        );
        if path != "run" {
            assert_eq!(get(&state, &format!("{job}/plot?format=png")).await.media_type(), "image/png");
            let mine = get(&state, &format!("{job}/plot?title=Mine%20alone&vmax=3")).await;
            assert!(mine.text().contains(">Mine alone<"), "{path}: {}", mine.text());
            let unknown = get(&state, &format!("{job}/plot?metric=prob:nobody")).await;
            assert_eq!(
                (unknown.status.as_u16(), &unknown.json()["errors"][0]["pointer"]),
                (422, &json!("?metric"))
            );
        }
    }
    let list = get(&state, "/v1/jobs?limit=2&kind=trace").await.json();
    check_response("get", "/v1/jobs", "200", &list);
    assert_eq!(list["jobs"].as_array().unwrap().len(), 2);
    let next = list["next"].as_str().unwrap();
    assert_eq!(get(&state, &format!("/v1/jobs?kind=trace&before={next}")).await.json()["jobs"], json!([]));
    assert_eq!(get(&state, "/v1/jobs?state=failed").await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn what_would_take_too_long_to_wait_for_becomes_a_job() {
    let state = working_with(tiny_with(&[("limits.sync_limit_s", "0.001")])).await;
    let trace: Value = serde_json::from_str(TRACE).unwrap();
    for (path, body) in [("/v1/trace", trace), ("/v1/sweep", small(5))] {
        let reply = post(&state, path, &body).await;
        assert_eq!(reply.status, 202, "{path}: {}", reply.text());
        until(&state, reply.headers[header::LOCATION].to_str().unwrap(), "succeeded").await;
    }
}

#[tokio::test]
async fn invalid_requests_never_become_jobs() {
    let state = working().await;
    for (path, body) in
        [("/v1/run", json!({"promt": "x"})), ("/v1/trace", json!({"prompt": "x"})), ("/v1/sweep", json!({}))]
    {
        assert_eq!(later(&state, path, &body, &[]).await.status, 422, "{path}");
    }
    assert_eq!(get(&state, "/v1/jobs").await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn a_repeated_key_is_the_same_job_and_another_request_with_it_is_refused() {
    let state = queue(tiny()).await;
    let key = [("idempotency-key", "once")];
    let first = later(&state, "/v1/sweep", &small(2), &key).await;
    let again = later(&state, "/v1/sweep", &small(2), &key).await;
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let other = later(&state, "/v1/sweep", &small(3), &key).await;
    assert_eq!(other.status, 422);
    assert_eq!(other.json()["type"], "urn:mediant:problem:idempotency-mismatch");
    assert_eq!(get(&state, "/v1/jobs").await.json()["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_queued_job_has_a_place_and_one_without_a_result_says_so() {
    let state = queue(tiny()).await;
    let first = later(&state, "/v1/sweep", &small(2), &[]).await.json();
    let second = later(&state, "/v1/sweep", &small(2), &[]).await.json();
    assert_eq!((first["position"].clone(), second["position"].clone()), (json!(0), json!(1)));
    let urgent = later(&state, "/v1/sweep", &with(small(2), "priority", "high"), &[]).await.json();
    assert_eq!(urgent["position"], 0);
    let path = second["links"]["job"].as_str().unwrap();
    assert_eq!(get(&state, path).await.json()["position"], 2);
    let reply = get(&state, &format!("{path}/result")).await;
    assert_eq!(reply.status, 409);
    assert_eq!(reply.json()["state"], "queued");
    assert!(reply.headers.contains_key(header::RETRY_AFTER));
    for missing in [
        "/v1/jobs/job_0",
        "/v1/jobs/job_00000000000000000000000000000000",
        "/v1/jobs/x/result",
        "/v1/jobs/x/events",
    ] {
        assert_eq!(get(&state, missing).await.status, 404, "{missing}");
    }
    for bad in ["/v1/jobs?limit=0", "/v1/jobs?state=done", "/v1/jobs?before=x", "/v1/jobs?kind=walk"] {
        assert_eq!(get(&state, bad).await.status, 422, "{bad}");
    }
}

fn with(mut body: Value, field: &str, value: &str) -> Value {
    body[field] = value.into();
    body
}

// On threads of their own: whoever asks must not keep the sweep from its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_sweep_stops_at_once_and_keeps_what_was_computed() {
    let state = working_with(tiny_with(&[("jobs.unit_s", "0.01")])).await;
    let reply = later(&state, "/v1/sweep", &long(), &[]).await;
    let job = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
    let began = Instant::now();
    loop {
        let view = get(&state, &job).await.json();
        if view["progress"]["done"].as_u64().unwrap() > view["progress"]["total"].as_u64().unwrap() / 3 {
            break;
        }
        assert!(began.elapsed() < Duration::from_mins(1) && view["state"] != "succeeded", "{view}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let early = get(&state, &format!("{job}/result?partial=true")).await;
    assert_eq!(early.status, 200, "{}", early.text());
    assert_eq!(early.json()["complete"], false);
    let asked = Instant::now();
    let view = delete(&state, &job).await.json();
    assert_eq!(view["state"], "cancelled");
    assert!(asked.elapsed() < Duration::from_secs(2));
    let done = view["progress"]["done"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let view = get(&state, &job).await.json();
    assert_eq!(view["progress"]["done"], done, "something was still counted");
    assert!(view["cost"]["rows"].as_u64().unwrap() > 0);
    let result = get(&state, &format!("{job}/result")).await.json();
    assert_eq!(result["complete"], false);
    let cells = result["cells_done"].as_u64().unwrap();
    assert!(cells > 0 && cells < result["cells_total"].as_u64().unwrap());
    assert_eq!(delete(&state, &job).await.json()["state"], "cancelled");
    assert_eq!(get(&state, &format!("{job}/plot")).await.status, 200);
    // The engine is free again.
    ok(&state, "/v1/run", &json!({"prompt": "Rome"})).await;
    assert_eq!(delete(&state, &format!("{job}?purge=true")).await.status, 200);
    assert_eq!(get(&state, &job).await.status, 404);
}

/// Events as they come until the stream ends: number, kind, data.
async fn events(state: &AppState, path: &str, last: Option<i64>) -> Vec<(i64, String, Value)> {
    let request = Request::get(path);
    let request = last.map_or(request, |last| Request::get(path).header("last-event-id", last));
    let response = router(state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let body =
        tokio::time::timeout(Duration::from_mins(5), response.into_body().collect()).await.unwrap().unwrap();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_default()
    };
    text.split("\n\n")
        .filter(|event| event.contains("data:"))
        .map(|event| {
            let data = serde_json::from_str(&field(event, "data")).unwrap();
            (field(event, "id").parse().unwrap(), field(event, "event"), data)
        })
        .collect()
}

#[tokio::test]
async fn events_tell_the_whole_story_and_can_be_taken_up_anywhere() {
    let state = queue(tiny_with(&[("jobs.unit_s", "0.001")])).await;
    let job = later(&state, "/v1/sweep", &long(), &[]).await.json();
    let path = job["links"]["events"].as_str().unwrap().to_owned();
    // Heard from before the first unit to the end.
    let listening = tokio::spawn({
        let (state, path) = (state.clone(), path.clone());
        async move { events(&state, &path, None).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let runner = Runner::start(state.jobs.get().unwrap());
    let heard = listening.await.unwrap();
    let numbers: Vec<i64> = heard.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=heard.len() as i64).collect::<Vec<_>>());
    let states: Vec<&Value> =
        heard.iter().filter(|(_, kind, _)| kind == "state").map(|(_, _, data)| &data["state"]).collect();
    assert_eq!(states, ["queued", "running", "succeeded"]);
    let progress: Vec<u64> = heard
        .iter()
        .filter(|(_, kind, _)| kind == "progress")
        .map(|(_, _, data)| data["units_done"].as_u64().unwrap())
        .collect();
    assert!(progress.len() > 5);
    assert_eq!(progress, (1..=progress.len() as u64).collect::<Vec<_>>());
    let middle = heard.len() / 2;
    let rest = events(&state, &path, Some(middle as i64)).await;
    assert_eq!(rest.iter().map(|(n, ..)| *n).collect::<Vec<_>>(), numbers[middle..].to_vec());
    assert_eq!(get(&state, &format!("{path}?after=x")).await.status, 422);
    runner.stop().await;
}

#[tokio::test]
async fn a_stopped_runner_leaves_its_job_to_the_next_with_the_same_bytes() {
    let body = long();
    let state = queue(tiny_with(&[("jobs.unit_s", "0.02")])).await;
    let job =
        later(&state, "/v1/sweep", &body, &[]).await.json()["links"]["job"].as_str().unwrap().to_owned();
    let jobs = state.jobs.get().unwrap();
    let mut pauses = 0;
    loop {
        let runner = Runner::start(jobs);
        tokio::time::sleep(Duration::from_millis(150)).await;
        runner.stop().await;
        let view = get(&state, &job).await.json();
        assert_eq!(view["retries"], 0, "{view}");
        if view["state"] == "succeeded" {
            break;
        }
        assert_eq!(view["state"], "running");
        pauses += 1;
    }
    assert!(pauses > 2, "{pauses}");
    let whole = working_with(tiny()).await;
    let once =
        later(&whole, "/v1/sweep", &body, &[]).await.json()["links"]["job"].as_str().unwrap().to_owned();
    until(&whole, &once, "succeeded").await;
    let bytes = |reply: Reply| reply.bytes;
    let interrupted = bytes(get(&state, &format!("{job}/result")).await);
    assert!(interrupted == bytes(get(&whole, &format!("{once}/result")).await));
}

#[tokio::test]
async fn what_another_version_stored_is_handed_out_as_it_is_or_gone_in_words_and_never_a_failure() {
    let state = queue(tiny()).await;
    let jobs = state.jobs.get().unwrap();
    let body = small(2);
    let job = later(&state, "/v1/sweep", &body, &[]).await.json()["id"].as_str().unwrap().to_owned();
    let template = jobs.job(LOCAL, JobId::parse(&job).unwrap()).await.unwrap().unwrap();
    assert_eq!(delete(&state, &format!("/v1/jobs/{job}?purge=true")).await.status, 200);
    let cut: Value = serde_json::from_str(&template.cut).unwrap();
    assert_eq!(cut["layout"], json!(LAYOUT));
    let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut cut = cut.clone();
        change(cut.as_object_mut().unwrap());
        cut.to_string()
    };
    let cuts = [
        // Before there were layouts, of a later one, of another shape, of none.
        with(&|cut| drop(cut.remove("layout"))),
        with(&|cut| drop(cut.insert("layout".to_owned(), json!(LAYOUT + 1)))),
        with(&|cut| drop(cut.remove("cells"))),
        with(&|cut| drop(cut.insert("cases_per_unit".to_owned(), json!(0)))),
        "{\"rows\": 8}".to_owned(),
        "[]".to_owned(),
    ];
    let submit = async |cut: &str| {
        let new = NewJob {
            id: JobId::new(),
            owner: LOCAL.to_owned(),
            key: None,
            weight: 100,
            kind: template.kind,
            model: template.model.clone(),
            model_sha: template.model_sha.clone(),
            request: template.request.clone(),
            cut: cut.to_owned(),
            priority: template.priority,
            units: [1, 1, 1],
            max_attempts: 3,
            keep_s: 3600,
            estimate_s: 0.1,
            idempotency: None,
        };
        let id = jobs
            .store
            .submit(new, Limits { queued_per_owner: 100, queued_per_key: None })
            .await
            .unwrap()
            .job
            .id;
        format!("/v1/jobs/{id}")
    };
    let result = r#"{"averages": "as they were told in those days"}"#;
    let compute = async |units: u32| {
        for seq in 0..units {
            let claim = jobs.store.claim(&template.model_sha, 1).await.unwrap().expect("a unit");
            let files = if seq == 2 { vec![compress::file("json", result.as_bytes())] } else { vec![] };
            let done = Done { output: b"[{\"kept\": 1}]".to_vec(), files, ..Done::default() };
            jobs.store.commit(&claim, done).await.unwrap();
        }
    };
    let gone = async |path: String| {
        let reply = get(&state, &path).await;
        assert_eq!(reply.status, 410, "{path}: {}", reply.text());
        let told = reply.json();
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains("another version") && detail.contains("request again"), "{path}: {detail}");
    };
    for cut in &cuts {
        // Finished: as it was stored, and in no other form.
        let done = submit(cut).await;
        compute(3).await;
        assert_eq!(get(&state, &done).await.json()["state"], "succeeded");
        assert_eq!(get(&state, &format!("{done}/result")).await.text(), result);
        for form in ["result?format=csv", "result?format=parquet", "result?format=npz", "plot"] {
            gone(format!("{done}/{form}")).await;
        }
        // Half-way, and cancelled.
        let half = submit(cut).await;
        compute(2).await;
        gone(format!("{half}/result?partial=true")).await;
        gone(format!("{half}/plot?partial=true")).await;
        assert_eq!(get(&state, &format!("{half}/result")).await.status, 409);
        assert_eq!(delete(&state, &half).await.status, 200);
        gone(format!("{half}/result")).await;
    }
    // Not begun: whoever claims it says why it can't be done.
    let mut waiting = Vec::new();
    for cut in &cuts {
        waiting.push(submit(cut).await);
    }
    let runner = Runner::start(jobs);
    for job in &waiting {
        let view = until(&state, job, "failed").await;
        let error = view["error"].as_str().unwrap();
        assert!(error.contains("send its request again") || error.contains("not be possible"), "{error}");
    }
    runner.stop().await;
    let listed = get(&state, "/v1/jobs").await;
    assert_eq!(
        (listed.status.as_u16(), listed.json()["jobs"].as_array().unwrap().len()),
        (200, 3 * cuts.len())
    );
}

/// The names and kinds of what a value is made of.
fn shape_of(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape_of(value))).collect(),
        Value::Array(items) => Value::Array(items.first().map(shape_of).into_iter().collect()),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("truth"),
        Value::Null => Value::Null,
    }
}

#[tokio::test]
async fn units_are_written_as_their_layout_says() {
    let state = working().await;
    let job = later(&state, "/v1/sweep", &small(2), &[]).await.json()["id"].as_str().unwrap().to_owned();
    until(&state, &format!("/v1/jobs/{job}"), "succeeded").await;
    let jobs = state.jobs.get().unwrap();
    let id = JobId::parse(&job).unwrap();
    let stored = jobs.job(LOCAL, id).await.unwrap().unwrap();
    let outputs = jobs.store.outputs(id).await.unwrap();
    let cut: Value = serde_json::from_str(&stored.cut).unwrap();
    let heads: Value = serde_json::from_slice(&outputs[0].1).unwrap();
    let part: Part = postcard::from_bytes(&outputs[1].1).unwrap();
    let shapes = json!({"layout": LAYOUT, "cut": shape_of(&cut), "heads": shape_of(&heads),
                        "part": shape_of(&serde_json::to_value(part).unwrap())});
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/job_layout.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, serde_json::to_string_pretty(&shapes).unwrap() + "\n").unwrap();
    }
    let known: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(
        shapes, known,
        "units are written otherwise than before: add one to LAYOUT in src/jobs/outcome.rs, then run this with UPDATE=1"
    );
}

#[tokio::test]
async fn data_sets_are_stored_once_and_named_by_sweeps() {
    let state = working().await;
    let csv = "prompt,subject,target\nRome is in,Rome, I\nOslo is in,Oslo, N\n";
    let upload = |media: &str, body: String| {
        Request::post("/v1/datasets?name=capitals")
            .header(header::CONTENT_TYPE, media.to_owned())
            .body(Body::from(body))
            .unwrap()
    };
    let reply = send(&state, upload("text/csv", csv.to_owned())).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let set = reply.json();
    check_response("post", "/v1/datasets", "201", &set);
    assert_eq!((set["cases"].clone(), set["name"].clone()), (json!(2), json!("capitals")));
    let list = json!([{"target": " I", "subject": "Rome", "prompt": "Rome is in"}, {"prompt": "Oslo is in", "subject": "Oslo", "target": " N"}]);
    let again = send(&state, upload("application/json", list.to_string())).await;
    assert_eq!((again.status.as_u16(), again.json()["id"].clone()), (200, set["id"].clone()));
    let path = reply.headers[header::LOCATION].to_str().unwrap();
    let lines = get(&state, path).await.text();
    assert_eq!(send(&state, upload("application/x-ndjson", lines)).await.json()["id"], set["id"]);
    assert_eq!(get(&state, "/v1/datasets").await.json()["datasets"].as_array().unwrap().len(), 1);

    let body = |dataset: Value| json!({"dataset": dataset, "arms": ["hidden"], "corrupt": {"samples": 2}, "filters": {"expect_top1": false}});
    let by_id = ok(&state, "/v1/sweep", &body(json!({"id": set["id"]}))).await;
    let inline = ok(&state, "/v1/sweep", &body(json!({"inline": list}))).await;
    assert_eq!(by_id["cells"], inline["cells"]);
    assert_eq!(delete(&state, path).await.status, 204);
    assert_eq!(delete(&state, path).await.status, 404);
    assert_eq!(get(&state, path).await.status, 404);

    let bad =
        send(&state, upload("application/x-ndjson", "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n".to_owned()))
            .await;
    assert_eq!(bad.status, 422);
    let error = &bad.json()["errors"][0];
    assert_eq!(error["pointer"], "/1/prompt");
    assert!(error["detail"].as_str().unwrap().starts_with("line 2:"), "{error}");
    assert_eq!(send(&state, upload("application/xml", "<a/>".to_owned())).await.status, 415);
    assert_eq!(send(&state, upload("text/csv", "prompt,colour\na,b\n".to_owned())).await.status, 422);
}

#[tokio::test]
async fn a_locked_store_refuses_jobs_and_nothing_else_and_all_is_well_afterwards() {
    let state = working().await;
    let file = state.config.store.data_dir().join("mediant.sqlite3");
    let options = SqliteConnectOptions::new().filename(file);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("begin exclusive").execute(&mut other).await.unwrap();
    let refused = later(&state, "/v1/sweep", &small(2), &[]).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    // Locked, or waiting behind others for the one connection that writes.
    assert!(refused.json()["detail"].as_str().unwrap().contains("the job store cannot be used"));
    ok(&state, "/v1/run", &json!({"prompt": "Rome"})).await;
    let began = Instant::now();
    while get(&state, "/readyz").await.json()["status"] != "store-failed" {
        assert!(began.elapsed() < Duration::from_secs(40), "readiness never said so");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    let job = later(&state, "/v1/sweep", &small(2), &[]).await;
    assert_eq!(job.status, 202, "{}", job.text());
    until(&state, job.headers[header::LOCATION].to_str().unwrap(), "succeeded").await;
    let began = Instant::now();
    while get(&state, "/readyz").await.json()["status"] != "ready" {
        assert!(began.elapsed() < Duration::from_secs(40), "readiness never came back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
