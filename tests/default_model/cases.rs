//! The ROME aggregate as one request.

use mediant::spec::kind::Traces;
use serde_json::{Value, json};

use crate::support::{answered, number, service};

fn example() -> Value {
    let path = format!("{}/openapi/examples/trace-rome-cases.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_last_subject_token_restores_the_answer_in_early_layers_and_the_last_token_in_late_ones() {
    let mut body = example();
    body["layers"] = json!([2, 26]);
    body["arms"] = json!(["hidden"]);
    body["corrupt"]["samples"] = json!(3);
    let plan = answered(service().plan(json!({"trace": body})).await);
    println!("about {} s", plan["cost"]["seconds"]);
    let answer = answered(service().answer::<Traces>(body).await);
    for case in answer["cases"].as_array().unwrap() {
        println!(
            "{}: kept {}, top1 {}, clean {}, corrupted {}, {}",
            case["id"],
            case["kept"],
            case["top1"],
            case["clean"]["prob:target"],
            case["corrupted"]["prob:target"]["mean"],
            case["dropped"]
        );
    }
    assert!(answer["kept"].as_u64().unwrap() >= 4, "{}", answer["cases"]);
    let effects = &answer["arms"]["hidden"]["effects"]["prob:target"];
    let mean = |class: usize, layer: usize| number(&effects["mean"][class][layer]);
    let (last_subject, last) = (2, 5);
    assert!(mean(last_subject, 0) > 5.0 * mean(last, 0).abs(), "{effects}");
    assert!(mean(last, 1) > 5.0 * mean(last_subject, 1).abs(), "{effects}");
    let total = number(&answer["total_effect"]["prob:target"]["mean"]);
    let [low, high] = [0, 1].map(|end| number(&answer["total_effect"]["prob:target"]["ci"][end]));
    assert!(0.0 < low && low < total && total < high, "{low} {total} {high}");
}
