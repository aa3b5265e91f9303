//! Generated text over HTTP: against whole forwards, in company, as events, and refused.

use serde_json::{Value, json};

use crate::support::{ok, post, post_accepting, tiny};

fn prompts() -> Value {
    json!({"p": {"prompt": "The river is deep"}, "q": {"prompt": "A horse ran"}})
}

/// Branches that write what they can: by vector, by schedule, in the prompt, what another branch has, and nothing.
fn branches() -> Value {
    let at = |layers: Value, positions: Value, op: &str, source: Value| json!({"site": "resid_post", "layers": layers, "positions": positions, "op": op, "source": source});
    let q = json!({"run": "q", "positions": "last"});
    let mut scheduled = at(json!([1, 2]), json!({"steps": "all"}), "add", q.clone());
    scheduled["coef"] = json!({"from": 4, "to": 0, "over": [0, 6]});
    let mut nothing = at(json!(1), json!({"steps": "all"}), "add", q.clone());
    nothing["coef"] = json!(0);
    json!({
        "plain": [],
        "scheduled": [scheduled],
        "patched": [at(json!(1), json!("last"), "replace", q.clone())],
        "reads": [at(json!(2), json!({"steps": {"from": 1}}), "replace", json!({"branch": "scheduled"}))],
        "both": [at(json!(0), json!(["all", {"steps": {"from": 2, "to": 4}}]), "replace", q)],
        "null": [nothing],
    })
}

fn body() -> Value {
    json!({"runs": prompts(), "base": "p", "branches": branches(), "max_tokens": 9, "compare_with": "plain",
           "read": {"logprobs": 2}, "targets": {"x": ["a"]}})
}

fn sample<'a>(answer: &'a Value, branch: &str) -> &'a Value {
    &answer["branches"][branch]["samples"][0]
}

fn ids(sample: &Value) -> Vec<u64> {
    sample["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn every_token_is_that_of_a_whole_forward_and_nulls_change_nothing() {
    let state = tiny();
    let answer = ok(&state, "/v1/generate", &body()).await;
    let plain = sample(&answer, "plain");
    let prompt: Vec<u64> =
        answer["prompt"]["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    let written = ids(plain);
    assert_eq!((written.len(), plain["finish"].as_str()), (9, Some("length")));
    for (step, token) in plain["tokens"].as_array().unwrap().iter().enumerate() {
        let tokens = [&prompt[..], &written[..step]].concat();
        let run =
            ok(&state, "/v1/run", &json!({"tokens": tokens, "targets": {"x": ["a"]}, "read": {"topk": 2}}))
                .await;
        let run = &run["runs"]["run"];
        for place in 0..2 {
            assert_eq!(run["topk"][place]["id"], token["top"][place]["id"]);
            assert_eq!(run["topk"][place]["logprob"], token["top"][place]["logprob"], "step {step}");
        }
        assert_eq!(run["metrics"]["logprob:x"], plain["metrics"]["logprob:x"][step]);
    }
    let null = sample(&answer, "null");
    assert_eq!(null["tokens"], plain["tokens"]);
    assert!(null["compare"]["kl"].as_array().unwrap().iter().all(|kl| *kl == 0.0));
    assert_eq!(
        null["receipt"],
        json!({"steps_written": [1, 8], "expected": 8, "cells": 8, "max_abs_delta": 0.0})
    );
    assert_eq!(plain["compare"], Value::Null);
    for branch in ["scheduled", "patched", "reads", "both"] {
        let text = sample(&answer, branch);
        assert_ne!(ids(text), written, "{branch}");
        assert_eq!(text["first_divergence"]["from"], "plain", "{branch}");
        assert_eq!(text["receipt"]["cells"], text["receipt"]["expected"], "{branch}");
    }
    assert_eq!(sample(&answer, "scheduled")["receipt"]["steps_written"], json!([1, 5]));
    assert_eq!(sample(&answer, "both")["receipt"]["steps_written"], json!([2, 3]));
    assert_eq!(answer["branches"]["reads"]["shared_positions"], prompt.len());
    assert_eq!(answer["branches"]["both"]["shared_positions"], 0);
}

#[tokio::test]
async fn texts_are_the_same_in_any_company_and_places_come_back() {
    let state = tiny();
    let slots = state.service().unwrap().engine.slots().clone();
    let free = slots.free();
    let alone = ok(&state, "/v1/generate", &body()).await;
    let sampled = json!({"prompt": "A lake", "samples": 5, "sampling": {"temperature": 1.0, "seed": 7}, "max_tokens": 12});
    let first = ok(&state, "/v1/generate", &sampled).await;
    let all = (0..6).map(|i| {
        let (state, body) = (state.clone(), if i % 2 == 0 { body() } else { sampled.clone() });
        tokio::spawn(async move { ok(&state, "/v1/generate", &body).await })
    });
    for (i, answer) in all.collect::<Vec<_>>().into_iter().enumerate() {
        let expected = if i % 2 == 0 { &alone } else { &first };
        assert_eq!(answer.await.unwrap()["branches"], expected["branches"], "{i}");
    }
    // Somebody leaves.
    let long = json!({"prompt": "x", "max_tokens": 400});
    let asked = post(&state, "/v1/generate", &long);
    drop(tokio::time::timeout(std::time::Duration::from_millis(5), asked).await);
    for _ in 0..200 {
        if slots.free() == free {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{} of {free} places are free", slots.free());
}

#[tokio::test]
async fn events_tell_what_the_answer_says() {
    let state = tiny();
    let body = json!({"prompt": "A lake", "samples": 2, "sampling": {"temperature": 1.0}, "max_tokens": 6});
    let whole = ok(&state, "/v1/generate", &body).await;
    let streamed = post_accepting(&state, "/v1/generate", &body, "text/event-stream").await;
    assert_eq!(streamed.media_type(), "text/event-stream");
    let text = streamed.text();
    let events: Vec<(&str, Value)> = text
        .split("\n\n")
        .filter_map(|event| event.split_once('\n'))
        .map(|(name, data)| {
            let data = data.strip_prefix("data: ").unwrap();
            (name.strip_prefix("event: ").unwrap(), serde_json::from_str(data).unwrap())
        })
        .collect();
    assert_eq!((events[0].0, events[events.len() - 1].0), ("start", "result"));
    for (sample, expected) in whole["branches"]["plain"]["samples"].as_array().unwrap().iter().enumerate() {
        let own = events.iter().filter(|(_, data)| data["sample"] == sample);
        let pieces: String = own.clone().filter_map(|(_, data)| data["text"].as_str()).collect();
        assert_eq!(pieces, expected["text"]);
        let told: Vec<&Value> =
            own.filter(|(name, _)| *name == "token").map(|(_, data)| &data["id"]).collect();
        assert_eq!(told.len(), expected["tokens"].as_array().unwrap().len());
    }
    assert_eq!(events[events.len() - 1].1["branches"], whole["branches"]);
}

#[tokio::test]
async fn what_has_no_meaning_or_no_room_is_refused_with_the_field() {
    let state = tiny();
    let steps = json!({"steps": "all"});
    let one = |site: &str, op: Value| {
        let mut one = json!({"site": site, "layers": 1, "positions": steps});
        one.as_object_mut().unwrap().extend(op.as_object().unwrap().clone());
        json!({"prompt": "A lake", "interventions": [one]})
    };
    let many: Vec<f32> = vec![0.0; 3];
    let cases = [
        (one("pattern", json!({"op": "zero"})), "/interventions/0/site"),
        (one("resid_post", json!({"op": "noise", "sigma": {"abs": 1}})), "/interventions/0/op"),
        (one("resid_post", json!({"op": "freeze"})), "/interventions/0/op"),
        (
            one("resid_post", json!({"op": "add", "source": {"run": "prompt"}})),
            "/interventions/0/source/positions",
        ),
        (
            one("resid_post", json!({"op": "add", "source": {"vector": many}})),
            "/interventions/0/source/vector",
        ),
        (json!({"prompt": "A lake", "samples": 100_000, "sampling": {"temperature": 1}}), "/samples"),
        (json!({"prompt": "A lake", "stream": 3}), "/stream"),
        (json!({"prompt": "A lake", "async": true}), "/async"),
    ];
    for (body, pointer) in cases {
        let refused = post(&state, "/v1/generate", &body).await;
        assert_eq!(refused.status, 422, "{body}: {}", refused.text());
        let errors = refused.json()["errors"].clone();
        let pointers: Vec<&str> =
            errors.as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        assert!(pointers.contains(&pointer), "{body}: {errors}");
    }
    let circle = json!({"prompt": "A lake", "branches": {
        "a": [{"site": "resid_post", "layers": 1, "positions": steps, "source": {"branch": "b"}}],
        "b": [{"site": "resid_post", "layers": 1, "positions": steps, "source": {"branch": "a"}}]}});
    let refused = post(&state, "/v1/generate", &circle).await;
    assert_eq!(refused.json()["errors"][0]["code"], "self_reference", "{}", refused.text());
}

#[tokio::test]
async fn a_dry_run_tells_the_price() {
    let state = tiny();
    let plan = ok(&state, "/v1/plan", &json!({"generate": body()})).await;
    assert_eq!((plan["kind"].as_str(), plan["allowed"].as_bool()), (Some("generate"), Some(true)));
    let answer = ok(&state, "/v1/generate", &body()).await;
    let spent = answer["usage"]["prefill"]["row_layers"].as_u64().unwrap()
        + 4 * answer["usage"]["step_rows"].as_u64().unwrap();
    // All texts have the tokens asked for; what the prompts of others cost is not in the prefill.
    let priced = plan["cost"]["row_layers"].as_u64().unwrap();
    assert!((spent..2 * spent).contains(&priced), "{priced} {spent}");
    let refused = post(&state, "/v1/plan", &json!({"generate": {"prompt": "x", "max_tokens": "many"}})).await;
    assert_eq!(refused.json()["errors"][0]["pointer"], "/generate/max_tokens");
}
