//! Answers found again: the numbers of the first, for whoever may have them, and charged once.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use mediant::http::AppState;
use mediant::owner::{Owner, Whose};
use serde_json::{Value, json};

use crate::support::{get, ok, queue, send, tiny_with, token, with_keys, working_with};

/// Requests of every kind: with a first plan that others read, with noise, with constants.
fn requests() -> Vec<(&'static str, Value)> {
    let target = json!({"t": ["P"], "u": ["Pa"]});
    vec![
        (
            "/v1/run",
            json!({"prompt": "The Tower", "targets": target, "metrics": ["prob:t"], "read": {"topk": 3, "logit_lens": {"layers": "all"}}}),
        ),
        (
            "/v1/run",
            json!({"prompt": "The Tower", "targets": target, "target_scoring": "joint", "metrics": ["logprob:u"]}),
        ),
        (
            "/v1/run",
            json!({"prompt": "The Tower", "read": {"capture": [{"site": "z", "layers": [1], "positions": "last"}]}}),
        ),
        ("/v1/patch", json!({"base": "The Tower", "source": "The river", "target": "P"})),
        (
            "/v1/patch",
            json!({"runs": {"a": "The Tower", "b": "The river"}, "base": "a", "target": "P", "sweep": ["layers"],
            "interventions": [{"site": "mlp_out", "layers": "all", "positions": "last", "op": "replace", "source": {"mean_of": ["a", "b"], "positions": "last"}}]}),
        ),
        (
            "/v1/trace",
            json!({"prompt": "The Tower", "subject": "Tower", "target": "P", "layers": [1, 2], "controls": ["random_position"]}),
        ),
        (
            "/v1/trace",
            json!({"cases": [{"prompt": "The Tower", "subject": "Tower", "target": "P"}, {"prompt": "A Tower", "subject": "Tower", "target": "Q"}],
            "layers": [1]}),
        ),
    ]
}

/// Its usage, and the answer without it and without what is made anew.
fn parts(mut answer: Value) -> (Value, Value) {
    answer["id"] = Value::Null;
    let usage = answer["usage"].take();
    (usage, answer)
}

async fn post(
    state: &AppState,
    key: &str,
    more: (header::HeaderName, &str),
    path: &str,
    body: &Value,
) -> Value {
    let request =
        Request::post(path).header(header::AUTHORIZATION, format!("Bearer {key}")).header(more.0, more.1);
    let reply = send(state, request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_request_has_the_same_answer_at_no_cost_and_is_computed_again_when_the_engine_is_idle() {
    let state = tiny_with(&[("cache.verify", "1.0")]);
    let found = state.service.get().unwrap().found.clone();
    for (path, body) in requests() {
        let (first, answer) = parts(ok(&state, path, &body).await);
        let kept = found.counts().kept;
        let (second, again) = parts(ok(&state, path, &body).await);
        assert_eq!(again, answer, "{body}");
        assert_eq!((&first["cached"], &second["cached"]), (&json!(false), &json!(true)), "{body}");
        assert_eq!((&second["seconds"], &second["queue_seconds"]), (&json!(0.0), &json!(0.0)));
        for count in ["rows", "row_layers", "peak_bytes"] {
            assert_eq!(first[count], second[count], "{count}; {body}");
        }
        assert!(found.counts().kept > kept);
        let (fresh, anew) =
            parts(post(&state, "-", (header::CACHE_CONTROL, "max-age=0, No-Store"), path, &body).await);
        assert_eq!((&fresh["cached"], anew), (&json!(false), answer));
    }
    while found.counts().verified < found.counts().kept {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(found.counts().differ, 0);
    let metrics = get(&state, "/metrics").await.text();
    for (name, count) in
        [(r#"found_total{how="kept"}"#, found.counts().kept), ("verified_total", found.counts().verified)]
    {
        assert!(metrics.contains(&format!("mediant_{name} {count}\n")), "{metrics}");
    }
    for name in [r#"found_total{how="joined"} 0"#, "verify_differs_total 0"] {
        assert!(metrics.contains(&format!("mediant_{name}\n")), "{metrics}");
    }
    assert!(metrics.contains("mediant_found_bytes "));
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_find_their_own_answers_unless_the_configuration_says_otherwise() {
    for (share, found) in [("owner", [true, false]), ("all", [true, true]), ("off", [false, false])] {
        let (state, keys) = with_keys(tiny_with(&[("cache.share", share)])).await;
        let scopes = crate::support::all_scopes();
        let (ann, also_ann, bob) = (
            token(&keys, "ann", &scopes).await,
            token(&keys, "ann", &scopes).await,
            token(&keys, "bob", &scopes).await,
        );
        let body = json!({"prompt": "The Tower"});
        let ask = async |key: &str| {
            post(&state, key, (header::ACCEPT, "*/*"), "/v1/run", &body).await["usage"]["cached"] == true
        };
        assert!(!ask(&ann).await);
        assert_eq!([ask(&also_ann).await, ask(&bob).await], found, "{share}");
        let ledger = &state.service.get().unwrap().ledger;
        let used = ["ann", "bob"].map(|name| ledger.used(&Whose::Owner(Owner::stored(name))).row_layers > 0);
        assert_eq!(used, [true, !found[1]], "{share}");
        let request = Request::get("/v1/capabilities").header(header::AUTHORIZATION, format!("Bearer {bob}"));
        let capabilities = send(&state, request.body(Body::empty()).unwrap()).await.json();
        assert_eq!(capabilities["cache"], share);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_equal_sweep_is_found_unit_by_unit_and_charged_nothing() {
    let state = working_with(queue(tiny_with(&[])).await).await;
    let sweep = json!({"dataset": {"inline": [{"prompt": "The Tower", "subject": "Tower", "target": "P"}, {"prompt": "A Tower", "subject": "Tower", "target": "Q"}]},
        "corrupt": {"samples": 2}, "arms": ["hidden"], "filters": {"expect_top1": false}});
    let service = state.service.get().unwrap();
    let used = || service.ledger.used(&Whose::Owner(Owner::local()));
    let mut first = ok(&state, "/v1/sweep", &sweep).await;
    let (once, batches) = (used().row_layers, service.engine.activity().batches);
    assert!(once > 0);
    let mut second = ok(&state, "/v1/sweep", &sweep).await;
    assert_eq!((used().row_layers, service.engine.activity().batches), (once, batches));
    for answer in [&mut first, &mut second] {
        for field in ["id", "job", "cost"] {
            answer[field] = Value::Null;
        }
    }
    assert_eq!(first, second);
    // What it would have cost is what the first did, and the store has it.
    service.ledger.settle(&state.jobs.get().unwrap().store).await.unwrap();
    assert_eq!(used().row_layers, once);
}
