//! Generated text over HTTP: against whole forwards, in company, as events, and refused.

use serde_json::{Value, json};

use crate::support::{get, ok, post, post_accepting, tiny, working};

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
        json!({"steps_written": [1, 8], "expected": 8, "cells": 8, "max_abs_delta": 0.0, "max_relative_delta": 0.0})
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
async fn a_text_is_compared_with_what_the_other_branch_says_of_its_tokens() {
    let state = tiny();
    let mut drawn = body();
    drawn["sampling"] = json!({"temperature": 1.0, "seed": 5});
    let mut biased = body();
    biased["sampling"] = json!({"logit_bias": {"70": 100}});
    for body in [body(), drawn, biased] {
        let answer = ok(&state, "/v1/generate", &body).await;
        let prompt: Vec<u64> = answer["prompt"]["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["id"].as_u64().unwrap())
            .collect();
        for branch in ["scheduled", "reads"] {
            let text = sample(&answer, branch);
            let written = ids(text);
            assert_eq!(text["compare"]["kl"].as_array().unwrap().len(), written.len());
            for (step, token) in written.iter().enumerate() {
                let tokens = [&prompt[..], &written[..step]].concat();
                // The branch that it is compared with writes nothing.
                let run = json!({"tokens": tokens, "targets": {"t": [token]}, "metrics": ["logprob:t"]});
                let run = ok(&state, "/v1/run", &run).await;
                assert_eq!(
                    run["runs"]["run"]["metrics"]["logprob:t"], text["compare"]["logprob"][step],
                    "{branch}, step {step} of {}",
                    body["sampling"]
                );
            }
        }
    }
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
    let state = working().await;
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
        (json!({"prompt": "A lake", "async": true, "stream": true}), "/stream"),
        (json!({"prompt": "A lake", "dataset": {"inline": [{"prompt": "b"}]}}), "/prompt"),
        (
            json!({"dataset": {"inline": [{"prompt": "b"}, {"tokens": [99_999]}]}}),
            "/dataset/inline/1/tokens/0",
        ),
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

/// A request that reads states, and the lens, of two branches.
fn reading(form: &str) -> Value {
    let add = json!([{"site": "resid_post", "layers": 1, "positions": {"steps": "all"}, "op": "add",
                      "source": {"vector": vec![0.25; 64]}}]);
    let capture = json!([
        {"site": "resid_post", "layers": [1, 3], "steps": {"from": 1}, "as": form},
        {"site": "z", "layers": 2, "as": form},
        {"site": "final_norm", "steps": [0, 2, 99], "as": form},
    ]);
    json!({"prompt": "A lake", "branches": {"plain": [], "added": add}, "max_tokens": 5, "targets": {"x": ["a"]},
           "read": {"capture": capture, "logit_lens": {"layers": [0, 2], "steps": {"from": 0, "to": 4}, "topk": 2}}})
}

/// The steps of a text as positions of prompt and text together.
fn positions(prompt: usize, steps: &Value) -> Vec<u64> {
    steps.as_array().unwrap().iter().map(|step| step.as_u64().unwrap() + prompt as u64 - 1).collect()
}

#[tokio::test]
async fn what_is_read_of_steps_is_what_one_whole_forward_has() {
    let state = tiny();
    let asked = reading("inline");
    let answer = ok(&state, "/v1/generate", &asked).await;
    let prompt: Vec<u64> =
        answer["prompt"]["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    for branch in ["plain", "added"] {
        let text = sample(&answer, branch);
        let written = ids(text);
        let tokens = [&prompt[..], &written[..written.len() - 1]].concat();
        let captures = text["captures"].as_array().unwrap();
        let lens = &text["logit_lens"];
        let all: Vec<usize> = (prompt.len() - 1..tokens.len()).collect();
        let mut add = asked["branches"]["added"].clone();
        add[0]["positions"] = json!(all);
        let read: Vec<Value> = captures
            .iter()
            .map(|capture| {
                let mut one =
                    json!({"site": capture["site"], "positions": positions(prompt.len(), &capture["steps"])});
                if !capture["layers"].is_null() {
                    one["layers"] = capture["layers"].clone();
                }
                one
            })
            .collect();
        let mut runs = json!({"plain": {"tokens": tokens}});
        if branch == "added" {
            runs["added"] = json!({"from": "plain", "interventions": add});
        }
        let lens_read = json!({"layers": lens["layers"], "positions": positions(prompt.len(), &lens["steps"]), "topk": 2});
        let body = json!({"runs": runs, "targets": {"x": ["a"]}, "metrics": ["logprob:x"], "read": {"capture": read, "logit_lens": lens_read}});
        let whole = ok(&state, "/v1/run", &body).await;
        let whole = &whole["runs"][branch];
        for (capture, whole) in captures.iter().zip(whole["captures"].as_array().unwrap()) {
            assert_eq!(capture["values"], whole["values"], "{branch} {}", capture["site"]);
            assert_eq!(capture["shape"], whole["shape"]);
        }
        for part in ["topk", "entropy", "metrics"] {
            assert_eq!(lens[part], whole["logit_lens"][part], "{branch} {part}");
        }
        assert_eq!(captures[0]["steps"], json!([1, 2, 3, 4]));
        assert_eq!(
            (&captures[0]["shape"], &captures[0]["axes"]),
            (&json!([2, 4, 64]), &json!(["layer", "step", "dim"]))
        );
        assert_eq!((&captures[2]["steps"], &captures[2]["shape"]), (&json!([0, 2]), &json!([2, 64])));
        assert_eq!(lens["steps"], json!([0, 1, 2, 3]));
    }
}

#[tokio::test]
async fn what_is_read_of_steps_can_be_kept_and_is_bounded() {
    let state = tiny();
    let inline = ok(&state, "/v1/generate", &reading("inline")).await;
    let kept = ok(&state, "/v1/generate", &reading("handle")).await;
    for branch in ["plain", "added"] {
        let captures = |answer| sample(answer, branch)["captures"].as_array().unwrap().clone();
        for (inline, kept) in captures(&inline).into_iter().zip(captures(&kept)) {
            let id = kept["activation"].as_str().unwrap();
            let reply = get(&state, &format!("/v1/activations/{id}?format=json")).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let values = &reply.json()["values"];
            let flat = |value: &Value| value.to_string().replace(['[', ']'], "");
            assert_eq!(flat(values), flat(&inline["values"]), "{branch} {}", kept["site"]);
        }
    }
    let mut refused = reading("inline");
    refused["read"]["capture"][1] = json!({"site": "pattern", "layers": 2});
    refused["read"]["capture"][2] = json!({"site": "resid_post", "layers": 9});
    refused["read"]["logit_lens"] = json!({"layers": [7]});
    let refused = post(&state, "/v1/generate", &refused).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let found = refused.json()["errors"].clone();
    let found: Vec<&str> = found.as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    let wanted = ["/read/capture/1/site", "/read/capture/2/layers", "/read/logit_lens/layers"];
    assert!(
        found.len() == 3 && found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted)),
        "{found:?}"
    );
    let mut large = reading("inline");
    (large["max_tokens"], large["samples"]) = (json!(1900), json!(16));
    large["sampling"] = json!({"temperature": 1});
    large["read"]["capture"] = json!([{"site": "logits"}]);
    let large = post(&state, "/v1/generate", &large).await;
    assert_eq!(large.json()["errors"][0]["pointer"], "/read/capture/0", "{}", large.text());
}

#[tokio::test]
async fn a_part_along_a_direction_is_multiplied_or_held_at_steps_and_large_writes_are_remarked() {
    let state = tiny();
    let along: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    let at = |op: Value| {
        let mut one = json!({"site": "resid_post", "layers": 1, "positions": ["all", {"steps": "all"}]});
        one.as_object_mut().unwrap().extend(op.as_object().unwrap().clone());
        json!([one])
    };
    let body = json!({"prompt": "A lake", "max_tokens": 5, "compare_with": "plain", "branches": {
        "plain": [],
        "once": at(json!({"op": "scale", "factor": 1, "along": along})),
        "wide": at(json!({"op": "clamp", "min": -1e9, "max": 1e9, "along": along})),
        "doubled": at(json!({"op": "scale", "factor": 2, "along": along})),
        "held": at(json!({"op": "clamp", "min": 3, "max": 3, "along": along})),
        "much": at(json!({"op": "clamp", "min": 1000, "along": along})),
    }});
    let answer = ok(&state, "/v1/generate", &body).await;
    let plain = sample(&answer, "plain");
    for null in ["once", "wide"] {
        assert_eq!(sample(&answer, null)["tokens"], plain["tokens"], "{null}");
        assert_eq!(sample(&answer, null)["receipt"]["max_abs_delta"], 0.0, "{null}");
    }
    for changed in ["doubled", "held", "much"] {
        let text = sample(&answer, changed);
        assert!(
            text["compare"]["kl"].as_array().unwrap().iter().all(|kl| kl.as_f64() > Some(0.0)),
            "{changed}"
        );
        assert_eq!(text["receipt"]["cells"], 4, "{changed}");
    }
    let much = sample(&answer, "much")["receipt"]["max_relative_delta"].as_f64().unwrap();
    assert!(much > 1.0, "{much}");
    let large = |lint: &&Value| lint["code"] == "LARGE_WRITE";
    let large: Vec<&Value> = answer["lints"].as_array().unwrap().iter().filter(large).collect();
    assert!(large.iter().any(|lint| lint["where"] == "/branches/much"), "{large:?}");
    assert!(large.iter().all(|lint| lint["where"] != "/branches/once"), "{large:?}");
}

#[tokio::test]
async fn texts_of_a_data_set_are_those_of_its_prompts_one_by_one() {
    let state = working().await;
    let shared = json!({"branches": branches(), "sampling": {"temperature": 1.0, "seed": 5}, "samples": 3, "max_tokens": 5,
                        "outcomes": {"any": ["e", "a"]}, "runs": {"q": {"prompt": "A horse ran"}}});
    let mut all = shared.clone();
    all["dataset"] = json!({"inline": [{"prompt": "The river is deep"}, {"id": "lake", "group": "g", "prompt": "A lake"}]});
    let answer = ok(&state, "/v1/generate", &all).await;
    assert_eq!(
        (&answer["complete"], &answer["cases"][1]["id"], &answer["cases"][1]["group"]),
        (&json!(true), &json!("lake"), &json!("g"))
    );
    let mut counted = 0;
    for (case, text) in answer["cases"].as_array().unwrap().iter().zip(["The river is deep", "A lake"]) {
        let mut one = shared.clone();
        (one["runs"]["prompt"], one["base"]) = (json!({"prompt": text}), json!("prompt"));
        let alone = ok(&state, "/v1/generate", &one).await;
        assert_eq!(case["branches"], alone["branches"], "{text}");
        assert_eq!(case["prompt"], alone["prompt"]);
        counted += alone["branches"]["plain"]["outcomes"]["any"]["texts"].as_u64().unwrap();
        // The last samples by themselves are the same texts.
        (one["samples"], one["first_sample"]) = (json!(1), json!(2));
        let last = ok(&state, "/v1/generate", &one).await;
        assert_eq!(last["branches"]["plain"]["samples"][0], alone["branches"]["plain"]["samples"][2]);
    }
    let any = &answer["outcomes"]["plain"]["any"];
    assert_eq!((&any["n"], any["texts"].as_u64()), (&json!(6), Some(counted)));
    let plan = ok(&state, "/v1/plan", &json!({"generate": all})).await;
    assert_eq!((plan["kind"].as_str(), plan["runs"].as_u64()), (Some("generate"), Some(36)));
    // One prompt can be a job, too.
    let accepted =
        post(&state, "/v1/generate", &json!({"prompt": "A lake", "max_tokens": 4, "async": true})).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let job = accepted.json()["links"]["job"].as_str().unwrap().to_owned();
    for _ in 0..500 {
        if get(&state, &job).await.json()["state"] == "succeeded" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let result = get(&state, &format!("{job}/result")).await;
    let alone = ok(&state, "/v1/generate", &json!({"prompt": "A lake", "max_tokens": 4})).await;
    assert_eq!(result.json()["cases"][0]["branches"], alone["branches"], "{}", result.text());
    let csv = get(&state, &format!("{job}/result?format=csv")).await;
    assert_eq!(csv.status, 422, "{}", csv.text());
    assert_eq!(csv.json()["errors"][0]["pointer"], "?format");
}
