//! Every method of noise against PyTorch with numbers drawn by an independent generator.

use mediant::spec::kind::Traces;
use serde_json::json;

use crate::support::{Worst, answered, golden, number, numbers, service};

#[tokio::test]
async fn every_sample_of_every_noise_agrees_with_pytorch() {
    let golden = golden("smollm2_corruption");
    let cases = golden["cases"].as_array().unwrap();
    let mut worst = Worst::probabilities();
    for case in cases {
        let body = json!({"prompt": case["prompt"], "subject": case["subject"], "target": " Paris",
                          "corrupt": case["corrupt"], "metrics": ["prob:target"], "layers": 29, "positions": "last"});
        let answer = answered(service().answer::<Traces>(body).await);
        let corrupt = &case["corrupt"];
        if corrupt["method"] == "multivariate" {
            assert!(answer["sigma"].is_null());
        } else {
            let ratio = number(&answer["sigma"]["abs"]) / number(&case["sigma"]);
            assert!((ratio - 1.0).abs() < 1e-6, "{corrupt}: {ratio}");
        }
        let found = numbers(&answer["baselines"]["corrupted"]["prob:target"]["samples"]);
        let expected = numbers(&case["prob"]);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            worst.see(*found, expected, &corrupt.to_string());
        }
    }
    worst.tell("corruptions", 3 * cases.len());
}
