//! Generated text against transformers' `generate` and against PyTorch without a cache (`tests/python/make_text_golden.py`): the same
//! tokens wherever the two best logits are not nearly equal, and the same log-probabilities.

use serde_json::{Value, json};

use crate::support::{golden, ids, number, service};
use crate::uniform::uniform;

/// Logits nearer than this may be either's: arithmetic differs in its last bits.
const TIE: f64 = 1e-3;

async fn written(body: Value) -> Value {
    let mut generating = service().generate(body).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    while generating.next().await.unwrap_or_else(|refusal| panic!("{refusal:?}")).is_some() {}
    serde_json::to_value(generating.response()).unwrap()
}

/// Compares a text with its golden up to the first tie that went another way; how many steps that were.
fn compare(text: &Value, expected: &Value, at: &str, worst: &mut f64) -> usize {
    let (tokens, steps) = (text["tokens"].as_array().unwrap(), expected["steps"].as_array().unwrap());
    for (step, (token, expected)) in tokens.iter().zip(steps).enumerate() {
        if token["id"] != expected[0] {
            assert!(number(&expected[2]) < TIE, "{at}: step {step} has {token}, not {expected}");
            return step;
        }
        let error = (number(&token["logprob"]) - number(&expected[1])).abs();
        assert!(error < 1e-4, "{at}: step {step} is off by {error}");
        *worst = worst.max(error);
    }
    assert!(tokens.len() == steps.len() || text["finish"] == "stop", "{at}: {}", text["finish"]);
    tokens.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_texts_are_those_of_transformers() {
    let golden = golden("texts");
    let cases = golden["plain"].as_array().unwrap();
    let bodies = cases.iter().map(|case| json!({"prompt": case["prompt"], "max_tokens": 64}));
    let texts: Vec<_> = bodies.map(|body| tokio::spawn(written(body))).collect();
    let (mut worst, mut steps) = (0.0, 0);
    for (case, text) in cases.iter().zip(texts) {
        let text = text.await.unwrap();
        let prompt: Vec<u64> =
            text["prompt"]["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
        assert_eq!(prompt, ids(&case["tokens"]));
        let own = &text["branches"]["plain"]["samples"][0];
        steps += compare(own, case, case["prompt"].as_str().unwrap(), &mut worst);
    }
    println!("{steps} steps, log-probabilities within {worst:.1e}");
    assert!(steps > 1000, "{steps}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_texts_are_those_of_hooks_without_a_cache() {
    let golden = golden("texts");
    let vector = uniform("steer", 576);
    let (layer, mut worst, mut steps) = (&golden["layer"], 0.0, 0);
    for edited in golden["edited"].as_array().unwrap() {
        let case = &edited["case"];
        let coefs = case["coefs"].as_array().unwrap();
        let at = |positions: Value| json!({"site": "resid_post", "layers": layer, "positions": positions});
        let with = |positions: Value, coef: Value| {
            let mut one = at(positions);
            match case["op"].as_str().unwrap() {
                "add" => {
                    one["op"] = json!("add");
                    one["coef"] = coef;
                    one["source"] = json!({"vector": vector});
                }
                "replace" => {
                    one["op"] = json!("replace");
                    let scaled: Vec<f32> = vector.iter().map(|x| x * 20.0).collect();
                    one["source"] = json!({"vector": scaled});
                }
                _ => {
                    one["op"] = json!("project_out");
                    one["basis"] = json!([vector]);
                }
            }
            one
        };
        let mut interventions = Vec::new();
        if case["prompt"] == "all" {
            interventions.push(with(json!(["all", {"steps": "all"}]), json!(1)));
        } else {
            if !case["prompt"].as_array().unwrap().is_empty() {
                interventions.push(with(case["prompt"].clone(), json!(6)));
            }
            let written: Vec<usize> = (0..coefs.len()).filter(|i| !coefs[*i].is_null()).collect();
            if let (Some(first), Some(last)) = (written.first(), written.last()) {
                let steps = json!({"steps": {"from": first, "to": last + 1}});
                // A coefficient for every step up to the last, whether it is written or not.
                let by_step: Vec<Value> =
                    coefs[..=*last].iter().map(|c| if c.is_null() { json!(0) } else { c.clone() }).collect();
                interventions.push(with(steps, json!(by_step)));
            }
        }
        let body =
            json!({"prompt": edited["prompt"], "interventions": interventions, "max_tokens": coefs.len()});
        let text = written(body).await;
        let at = format!("{}, {}", edited["prompt"], case["name"]);
        steps += compare(&text["branches"]["edited"]["samples"][0], edited, &at, &mut worst);
    }
    println!("{steps} steps, log-probabilities within {worst:.1e}");
    assert!(steps > 150, "{steps}");
}
