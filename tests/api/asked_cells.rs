//! What the model says with cells of a trace that its request names.

use axum::http::header;
use serde_json::{Value, json};

use crate::support::{get, ok, post, post_accepting, tiny, working};

/// Where an answer has a number of a token, and how to find it.
type Place<'p> = (&'p str, &'p dyn Fn(u64, &Value) -> f64);

fn trace(more: &Value) -> Value {
    let mut body = json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P", "arms": ["hidden", "mlp"],
        "corrupt": {"samples": 4}, "layers": [0, 1]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn cells() -> Value {
    json!([{"arm": "hidden", "layer": 0, "position": 6}, {"arm": "mlp", "layer": 1, "position": -1}])
}

/// What the same trace says of tokens by their ids as targets: of each arm, cell and run.
async fn as_targets(state: &mediant::http::AppState, ids: &[u64]) -> Value {
    let targets: serde_json::Map<String, Value> =
        ids.iter().map(|id| (format!("t{id}"), json!([id]))).collect();
    let metrics: Vec<String> = ids.iter().map(|id| format!("prob:t{id}")).collect();
    let mut body = trace(&json!({"targets": targets, "metrics": metrics}));
    body.as_object_mut().unwrap().remove("target");
    ok(state, "/v1/trace", &body).await
}

#[tokio::test]
async fn tokens_have_the_numbers_that_they_have_as_targets_and_are_the_most_probable_of_all() {
    let state = tiny();
    let answer = ok(&state, "/v1/trace", &trace(&json!({"cells": cells(), "read": {"topk": 4}}))).await;
    let said = answer["cells"].as_array().unwrap();
    assert_eq!((said.len(), &said[1]["position"], &said[0]["arm"]), (2, &json!(17), &json!("hidden")));
    // The maximum of metrics is 64: all tokens of the vocabulary, a part at a time.
    let vocabulary = ok(&state, "/v1/run", &json!({"prompt": "x", "read": {"topk": 1}})).await;
    assert!(vocabulary["runs"].is_object());
    let mut all: Vec<(u64, Value)> = Vec::new();
    let ids: Vec<u64> = (0..256).collect();
    for ids in ids.chunks(64) {
        let told = as_targets(&state, ids).await;
        all.extend(ids.iter().map(|id| (*id, told.clone())));
    }
    for (cell, (arm, row, column)) in said.iter().zip([("hidden", 0, 6), ("mlp", 1, 17)]) {
        let tokens = cell["tokens"].as_array().unwrap();
        let of = |id: u64| all.iter().find(|(known, _)| *known == id).map(|(_, told)| told);
        let number = |told: &Value, pointer: String| told.pointer(&pointer).cloned().unwrap();
        for token in tokens {
            let id = token["id"].as_u64().unwrap();
            let Some(told) = of(id) else { continue };
            for (part, array) in [("prob", "values"), ("effect", "effects")] {
                for stat in ["mean", "se"] {
                    let at = format!("/arms/{arm}/{array}/prob:t{id}/{stat}/{row}/{column}");
                    assert_eq!(token[part][stat], number(told, at), "{part} {stat} of {id}");
                }
            }
            assert_eq!(token["clean"], told["baselines"]["clean"][format!("prob:t{id}")], "{id}");
            let corrupted = &told["baselines"]["corrupted"][format!("prob:t{id}")];
            assert_eq!(
                (&token["corrupted"]["mean"], &token["corrupted"]["se"]),
                (&corrupted["mean"], &corrupted["se"])
            );
        }
        // By the whole vocabulary: which four are the most probable with the cell, in the clean and in the corrupted run?
        let places: [Place<'_>; 3] = [
            ("cell", &|id, told| {
                told.pointer(&format!("/arms/{arm}/values/prob:t{id}/mean/{row}/{column}"))
                    .unwrap()
                    .as_f64()
                    .unwrap()
            }),
            ("clean", &|id, told| told["baselines"]["clean"][format!("prob:t{id}")].as_f64().unwrap()),
            ("corrupted", &|id, told| {
                told["baselines"]["corrupted"][format!("prob:t{id}")]["mean"].as_f64().unwrap()
            }),
        ];
        for (place, prob) in places {
            let mut ranked: Vec<(u64, f64)> = all.iter().map(|(id, told)| (*id, prob(*id, told))).collect();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
            let named =
                tokens.iter().filter(|token| token["top_of"].as_array().unwrap().contains(&json!(place)));
            let mut named: Vec<u64> = named.map(|token| token["id"].as_u64().unwrap()).collect();
            // Tokens of the tokenizer's own stand beyond the bytes and are not among those asked for here.
            let beyond = named.iter().filter(|id| **id >= 256).count();
            named.retain(|id| *id < 256);
            let mut best: Vec<u64> = ranked.iter().take(4 - beyond).map(|(id, _)| *id).collect();
            named.sort_unstable();
            best.sort_unstable();
            assert_eq!(named, best, "{arm}: {place}");
        }
        let probs: Vec<f64> = tokens.iter().map(|token| token["prob"]["mean"].as_f64().unwrap()).collect();
        assert!(probs.is_sorted_by(|a, b| a >= b), "{probs:?}");
        assert!(tokens.iter().any(|token| token["text"] == "P"), "the target is told");
    }
}

#[tokio::test]
async fn the_map_beside_them_is_that_of_a_trace_that_names_none() {
    let state = tiny();
    for base in ["corrupted", "clean"] {
        let plain = ok(&state, "/v1/trace", &trace(&json!({"base": base}))).await;
        let with = ok(&state, "/v1/trace", &trace(&json!({"base": base, "cells": cells()}))).await;
        assert_eq!(plain["arms"], with["arms"], "{base}");
        assert_eq!(plain["baselines"], with["baselines"]);
        assert!(plain.get("cells").is_none());
        // Five if it is not said how many, and what is patched is the base.
        let tokens = with["cells"][0]["tokens"].as_array().unwrap();
        assert_eq!(
            tokens
                .iter()
                .filter(|token| token["top_of"].as_array().unwrap().contains(&json!("cell")))
                .count(),
            5
        );
        let target = tokens.iter().find(|token| token["text"] == "P").unwrap();
        let effect = with["arms"]["hidden"]["effects"]["prob:target"]["mean"][0][6].clone();
        assert_eq!(target["effect"]["mean"], effect, "{base}");
        assert_eq!(with["request"]["read"]["topk"], 5);
    }
}

#[tokio::test]
async fn they_are_priced_kept_and_in_every_form() {
    let state = tiny();
    let body = trace(&json!({"cells": cells()}));
    let price = async |body: &Value| ok(&state, "/v1/plan", &json!({"trace": body})).await;
    let (plain, with) = (price(&trace(&json!({}))).await, price(&body).await);
    assert!(with["cost"]["rows"].as_u64() > plain["cost"]["rows"].as_u64(), "{with}");
    let answer = ok(&state, "/v1/trace", &body).await;
    assert_eq!(answer["usage"]["rows"], with["cost"]["rows"]);
    let table = post_accepting(&state, "/v1/trace", &body, "text/csv").await.text();
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    assert!(header.ends_with(&["clean", "corrupted", "id", "says", "top_of"]), "{header:?}");
    let rows: Vec<&str> = table.lines().filter(|line| line.contains(",prob,")).collect();
    let told: usize =
        answer["cells"].as_array().unwrap().iter().map(|cell| cell["tokens"].as_array().unwrap().len()).sum();
    assert_eq!(rows.len(), told);
    let first = &answer["cells"][0]["tokens"][0];
    assert!(rows[0].contains(&format!(",{},", first["prob"]["mean"])), "{} of {first}", rows[0]);
    let plain = post_accepting(&state, "/v1/trace", &trace(&json!({})), "text/csv").await.text();
    assert!(plain.lines().next().unwrap().ends_with("clean,corrupted"));
    let events = post_accepting(&state, "/v1/trace", &body, "text/event-stream").await.text();
    let (_, result) = events.split_once("event: result\n").unwrap();
    let data = result.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let streamed: Value = serde_json::from_str(data).unwrap();
    assert_eq!(streamed["cells"], answer["cells"]);
}

#[tokio::test]
async fn a_job_has_them_too() {
    let state = working().await;
    let mut body = trace(&json!({"cells": cells()}));
    let direct = ok(&state, "/v1/trace", &body).await;
    body["async"] = json!(true);
    let reply = post(&state, "/v1/trace", &body).await;
    let job = reply.json()["id"].as_str().unwrap().to_owned();
    assert!(reply.headers.contains_key(header::LOCATION));
    for _ in 0..200 {
        let result = get(&state, &format!("/v1/jobs/{job}/result")).await;
        if result.status == 200 {
            assert_eq!(result.json()["cells"], direct["cells"]);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{job} does not end");
}
