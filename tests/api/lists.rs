//! Lints with what they mean and their cures, examples.

use serde_json::{Value, json};

use crate::support::{get, ok, post, tiny};

/// Applies a change: what JSON Patch says of `add` and `replace`.
fn applied(mut body: Value, changes: &Value) -> Value {
    for change in changes.as_array().unwrap() {
        let path = change["path"].as_str().unwrap();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let place = body.pointer_mut(parent).unwrap_or_else(|| panic!("{path} has no parent"));
        match (change["op"].as_str().unwrap(), place) {
            ("replace", Value::Object(map)) => *map.get_mut(name).unwrap() = change["value"].clone(),
            ("replace", Value::Array(list)) => list[name.parse::<usize>().unwrap()] = change["value"].clone(),
            ("add", Value::Object(map)) => drop(map.insert(name.to_owned(), change["value"].clone())),
            ("add", Value::Array(list)) if name == "-" => list.push(change["value"].clone()),
            other => panic!("{other:?}"),
        }
    }
    body
}

#[tokio::test]
async fn a_cure_that_is_applied_cures() {
    let state = tiny();
    let trace = json!({"prompt": "The Tower is in", "subject": "Tower", "target": " P"});
    let with = |name: &str, value: Value| {
        let mut body = trace.clone();
        body[name] = value;
        json!({"trace": body})
    };
    let sampled = json!({"prompt": "A lake", "sampling": {"temperature": 1},
        "branches": {"a": [], "b": [{"site": "resid_post", "layers": 1, "positions": {"steps": "all"}, "op": "zero"}]}});
    for (code, body) in [
        ("SMALL_N", with("corrupt", json!({"samples": 3}))),
        ("SINGLE_NOISE_SAMPLE", with("corrupt", json!({"samples": 1, "seed": 2}))),
        ("MULTI_TOKEN_TARGET", with("target", json!(" Paris"))),
        ("MULTI_TOKEN_TARGET", with("target", json!([" Paris", " Rome"]))),
        ("NO_LEADING_SPACE", with("target", json!("Paris"))),
        ("NO_LEADING_SPACE", with("target", json!([" A", "B"]))),
        ("PROB_ONLY", with("metrics", json!(["prob:target"]))),
        ("DISCRETE_METRIC_ONLY", with("metrics", json!(["rank:target"]))),
        ("SMALL_N", json!({"sweep": {"dataset": {"inline": [trace]}, "corrupt": {"samples": 3}}})),
        ("SINGLE_SAMPLE", json!({"generate": sampled})),
    ] {
        let plan = ok(&state, "/v1/plan", &body).await;
        let lints = plan["lints"].as_array().unwrap();
        let found = lints.iter().find(|lint| lint["code"] == code && lint["apply"].is_array());
        let changes = &found.unwrap_or_else(|| panic!("{code}: {lints:?}"))["apply"];
        let (kind, inner) = body.as_object().unwrap().iter().next().unwrap();
        let cured = ok(&state, "/v1/plan", &json!({kind: applied(inner.clone(), changes)})).await;
        let at = &found.unwrap()["where"];
        let left = cured["lints"].as_array().unwrap().iter();
        assert!(left.clone().all(|lint| lint["code"] != code || lint["where"] != *at), "{code}: {cured}");
    }
}

#[tokio::test]
async fn lints_are_listed_and_examples_can_be_asked() {
    let state = tiny();
    let lints = get(&state, "/v1/lints").await.json();
    crate::schema::check_response("get", "/v1/lints", "200", &lints);
    let small = lints["lints"].as_array().unwrap().iter().find(|lint| lint["code"] == "SMALL_N").unwrap();
    assert_eq!(small["cure"], true);
    assert!(small["means"].as_str().unwrap().contains("standard errors"));
    let examples = get(&state, "/v1/examples").await.json();
    crate::schema::check_response("get", "/v1/examples", "200", &examples);
    for example in examples["examples"].as_array().unwrap() {
        let (kind, body) = (example["kind"].as_str().unwrap(), &example["body"]);
        crate::schema::check_request(&format!("/v1/{kind}"), body);
        // Its layers are those of the default model, of which the tiny one has fewer.
        if kind != "generate" {
            let plan = post(&state, "/v1/plan", &json!({kind: body})).await;
            assert_eq!(plan.status, 200, "{example}: {}", plan.text());
        }
    }
}
