//! Logit lens, attention pattern and direct logit attribution against PyTorch on the default model
//! (`tests/golden/smollm2_sites.json`, made by `tests/python/make_site_golden.py`).

use mediant::spec::run::RunSpec;
use serde_json::{Value, json};

use crate::support::{Worst, answered, golden, ids, number, numbers, service};

async fn read(read: Value) -> (Value, Value) {
    let golden = golden("smollm2_sites");
    let body = json!({
        "tokens": golden["runs"]["base"], "targets": {"target": [golden["target_id"]]},
        "metrics": ["logit:target", "prob:target"], "read": read
    });
    let answer = answered(service().answer::<RunSpec>(body).await);
    (golden, answer["runs"]["run"].clone())
}

#[tokio::test]
async fn the_logit_lens_is_that_of_pytorch_at_every_layer_and_position() {
    let layers: Vec<Value> =
        golden("smollm2_sites")["lens"].as_array().unwrap().iter().map(|l| l["layer"].clone()).collect();
    let (golden, run) = read(json!({"logit_lens": {"layers": layers, "topk": 1}})).await;
    let lens = &run["logit_lens"];
    let (mut logits, mut entropies) = (Worst::logits(), Worst::logits());
    for (i, expected) in golden["lens"].as_array().unwrap().iter().enumerate() {
        for (position, top) in ids(&expected["top1"]).into_iter().enumerate() {
            let at = format!("layer {} position {position}", expected["layer"]);
            assert_eq!(lens["topk"][i][position][0]["id"], top, "{at}");
            let logit = number(&lens["metrics"]["logit:target"][i][position]);
            logits.see(logit, number(&expected["target_logit"][position]), &at);
            let entropy = number(&lens["entropy"][i][position]);
            entropies.see(entropy, number(&expected["entropy"][position]), &at);
        }
    }
    logits.tell("lens, logits", 50);
    entropies.tell("lens, entropies", 50);
}

#[tokio::test]
async fn attributions_are_those_of_pytorch_and_add_up_to_the_logit() {
    let (golden, run) = read(json!({"attribution": {"target": "target"}})).await;
    let (expected, found) = (&golden["attribution"], &run["attribution"]);
    let mut worst = Worst::logits();
    for (name, other) in [
        ("mean_logit", "logit"),
        ("embed", "embed"),
        ("attn_out", "attn_out"),
        ("mlp_out", "mlp_out"),
        ("heads", "head_out"),
    ] {
        let (found, expected) = (numbers(&found[name]), numbers(&expected[other]));
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            worst.see(found, expected, &format!("{name} {i}"));
        }
    }
    worst.tell("attribution", 300);
    assert!(number(&found["remainder"]).abs() < 1e-4);
    assert!((number(&found["mean_logit"]) - number(&run["metrics"]["logit:target"])).abs() < 1e-4);
}

#[tokio::test]
async fn an_attention_pattern_is_that_of_pytorch_and_sums_to_one() {
    let pattern = golden("smollm2_sites")["pattern"].clone();
    let wanted =
        json!([{"layers": pattern["layer"], "heads": pattern["head"], "positions": pattern["position"]}]);
    let (_, run) = read(json!({"attention": wanted})).await;
    let row = numbers(&run["attention"][0]["values"]);
    let expected = numbers(&pattern["row"]);
    assert_eq!(row.len(), expected.len());
    let mut worst = Worst::probabilities();
    for (key, (found, expected)) in row.iter().zip(&expected).enumerate() {
        worst.see(*found, *expected, &format!("key {key}"));
    }
    worst.tell("pattern", 9);
    assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6);
}
