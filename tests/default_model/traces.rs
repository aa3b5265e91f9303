//! Causal traces with NumPy's noise: every cell of every arm and sample.

use mediant::spec::kind::Traces;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Worst, answered, golden, ids, number, numbers, service};

/// The body that a user would send for a golden trace.
fn body(case: &Value) -> Value {
    let arms: serde_json::Map<String, Value> = case["arms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arm| {
            (arm["arm"].as_str().unwrap().to_owned(), json!({"site": arm["site"], "window": arm["window"]}))
        })
        .collect();
    let sigma = if case["k"].is_null() {
        json!({"abs": case["std"]})
    } else {
        json!({"k": case["k"], "of": "subjects"})
    };
    let mut body = json!({
        "prompt": case["prompt"], "target": case["target"], "metrics": ["prob:target"], "arms": arms,
        "corrupt": {"sigma": sigma, "samples": case["samples"], "seed": case["seed"], "rng": "numpy_legacy"},
        "keep": {"per_sample": true}});
    if case["subject"].is_string() {
        body["subject"] = case["subject"].clone();
    } else {
        body["corrupt"]["positions"] = case["noised_positions"].clone();
    }
    body
}

async fn compare(case: &Value) {
    let started = Instant::now();
    let answer = answered(service().answer::<Traces>(body(case)).await);
    let took = started.elapsed();
    let prompt = case["prompt"].as_str().unwrap();
    let plan = answered(service().plan(json!({"trace": body(case)})).await);
    for count in ["rows", "row_layers"] {
        assert_eq!(plan["cost"][count], answer["usage"][count], "{count}");
    }
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens.iter().map(|t| t["id"].as_u64().unwrap()).collect::<Vec<_>>(), ids(&case["tokens"]));
    let noised: Vec<u64> =
        (0..).zip(tokens).filter(|(_, token)| token["corrupted"] == true).map(|(p, _)| p).collect();
    assert_eq!(noised, ids(&case["noised_positions"]));
    let std = number(&case["noise_std"]);
    assert!((number(&answer["sigma"]["abs"]) / std - 1.0).abs() < 1e-6, "{} {std}", answer["sigma"]);

    // Cells of the pun are all below 1e-2: what binds there is the relative bound.
    let mut worst = Worst::probabilities();
    worst.see(number(&answer["baselines"]["clean"]["prob:target"]), number(&case["clean_prob"]), "clean");
    let corrupted = numbers(&answer["baselines"]["corrupted"]["prob:target"]["samples"]);
    for (got, expected) in corrupted.iter().zip(numbers(&case["corrupted_prob"])) {
        worst.see(*got, expected, "corrupted");
    }
    let samples = case["samples"].as_u64().unwrap() as usize;
    assert_eq!(corrupted.len(), samples);
    let (layers, positions) = (30, tokens.len());
    let mut cells = 0;
    for arm in case["arms"].as_array().unwrap() {
        let name = arm["arm"].as_str().unwrap();
        let got = numbers(&answer["arms"][name]["values"]["prob:target"]["samples"]);
        // Samples are the first axis there and the last here.
        let expected = numbers(&arm["prob"]);
        assert_eq!((got.len(), expected.len()), (samples * layers * positions, samples * layers * positions));
        for sample in 0..samples {
            for cell in 0..layers * positions {
                let (layer, position) = (cell / positions, cell % positions);
                let at = format!("{name} layer {layer} position {position} sample {sample}");
                worst.see(got[cell * samples + sample], expected[sample * layers * positions + cell], &at);
                cells += 1;
            }
        }
    }
    let rate = f64::from(cells) / took.as_secs_f64();
    println!("{cells} cells in {:.1} s, {rate:.0} cells/s in this profile", took.as_secs_f64());
    worst.tell(prompt, cells as usize);
}

#[tokio::test]
async fn every_cell_of_the_eiffel_trace_agrees_with_pytorch_in_all_three_arms() {
    let golden = golden("smollm2_trace");
    let case = &golden["traces"][0];
    assert_eq!(case["arms"].as_array().unwrap().len(), 3);
    compare(case).await;
}

#[tokio::test]
async fn every_cell_of_the_pun_trace_agrees_with_pytorch_relative_to_its_size() {
    let golden = golden("smollm2_trace");
    let case = &golden["traces"][1];
    assert!(number(&case["clean_prob"]) < 1e-3, "the hard case is a small probability");
    compare(case).await;
}
