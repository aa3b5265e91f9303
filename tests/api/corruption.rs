//! Every way to corrupt, computed on the tiny model.

use serde_json::{Value, json};

use crate::support::{ok, tiny};

const PROMPT: &str = "The Tower is tall";

/// A trace of one cell that reports every sample of the corrupted run.
fn body(prompt: &str, subject: &str, corrupt: &Value) -> Value {
    json!({"prompt": prompt, "subject": subject, "target": "P", "layers": 0, "positions": [0], "corrupt": corrupt,
           "metrics": ["logit:target", "kl:clean"]})
}

fn samples(answer: &Value, metric: &str) -> Vec<f64> {
    let samples = answer["baselines"]["corrupted"][metric]["samples"].as_array().unwrap();
    samples.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn noise_in_place_of_embeddings_leaves_nothing_of_the_tokens() {
    let state = tiny();
    for method in ["gaussian", "uniform", "student_t", "multivariate"] {
        let corrupted = async |prompt: &str, subject: &str, mode: &str| {
            let mut corrupt = json!({"method": method, "samples": 3, "mode": mode});
            if method != "multivariate" {
                corrupt["sigma"] = json!({"abs": 0.5});
            }
            let answer = ok(&state, "/v1/trace", &body(prompt, subject, &corrupt)).await;
            assert_eq!(answer["receipt"]["corruption"]["cells"], 15, "{method}: 3 samples of 5 tokens");
            samples(&answer, "logit:target")
        };
        // Two prompts that differ in the subject's tokens only.
        let (tower, river) = ("The Tower is tall", "The River is tall");
        let replaced = corrupted(tower, "Tower", "replace").await;
        assert_eq!(replaced, corrupted(river, "River", "replace").await, "{method}");
        let added = corrupted(tower, "Tower", "add").await;
        assert_ne!(added, corrupted(river, "River", "add").await, "{method}");
        assert_ne!(added, replaced, "{method}");
        assert!(added[0] != added[1] && added[1] != added[2], "{method}: samples differ");
    }
}

#[tokio::test]
async fn noise_of_every_method_grows_with_its_size_and_the_first_samples_of_many_are_those_of_few() {
    let state = tiny();
    for method in ["uniform", "student_t", "multivariate"] {
        let corrupted = async |size: f64, n: u32| {
            let mut corrupt = json!({"method": method, "samples": n, "seed": 5});
            if method == "multivariate" {
                corrupt["k"] = json!(size);
            } else {
                corrupt["sigma"] = json!({"k": size});
            }
            let answer = ok(&state, "/v1/trace", &body(PROMPT, "Tower", &corrupt)).await;
            assert_eq!(answer["sigma"].is_null(), method == "multivariate");
            assert_eq!(answer["provenance"]["rng"], json!({"algo": "philox", "seed": 5}));
            samples(&answer, "kl:clean")
        };
        let (few, many) = (corrupted(2.0, 2).await, corrupted(2.0, 5).await);
        assert_eq!(few, many[..2], "{method}");
        let faint = corrupted(0.02, 5).await;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        assert!(mean(&faint) < 0.1 * mean(&many), "{method}: {faint:?} {many:?}");
    }
}

#[tokio::test]
async fn replaced_tokens_are_the_run_with_these_tokens() {
    let state = tiny();
    let corrupt = json!({"method": "replace_tokens", "with": ["River", [66, 114, 111, 111, 107]]});
    let replaced = ok(&state, "/v1/trace", &body(PROMPT, "Tower", &corrupt)).await;
    let (river, brook) = ("The River is tall", "The Brook is tall");
    let runs = |names: Value| {
        let mut body = body(PROMPT, "Tower", &json!({"method": "run", "run": names}));
        for short in ["prompt", "subject"] {
            body.as_object_mut().unwrap().remove(short);
        }
        body["runs"] = json!({"clean": {"prompt": PROMPT, "spans": {"subject": "Tower"}}, "river": river, "brook": brook});
        body
    };
    let both = ok(&state, "/v1/trace", &runs(json!(["river", "brook"]))).await;
    for same in ["arms", "total_effect", "samples", "tokens", "subject"] {
        assert_eq!(replaced[same], both[same], "{same}");
    }
    assert_eq!(replaced["baselines"], both["baselines"]);
    let ids = |answer: &Value, sample: usize| {
        let tokens = answer["replaced"][sample]["tokens"].as_array().unwrap().clone();
        tokens.iter().map(|t| t["id"].clone()).collect::<Vec<_>>()
    };
    for sample in 0..2 {
        assert_eq!(ids(&replaced, sample), ids(&both, sample));
    }
    assert_eq!(
        (&both["replaced"][1]["run"], &replaced["replaced"][1]["run"]),
        (&json!("brook"), &Value::Null)
    );
    // "Tower" and "River" share their last two bytes.
    assert_eq!(replaced["replaced"][0]["differing_positions"], json!([5, 6, 7]));
    // Each run by itself is one of the samples.
    for (i, name) in ["river", "brook"].into_iter().enumerate() {
        let one = ok(&state, "/v1/trace", &runs(json!(name))).await;
        assert_eq!(samples(&one, "logit:target"), samples(&both, "logit:target")[i..=i]);
    }
}

#[tokio::test]
async fn the_preset_of_rome_is_numpys_stream_with_its_defaults() {
    let state = tiny();
    let preset = ok(&state, "/v1/trace", &body(PROMPT, "Tower", &json!({"preset": "rome"}))).await;
    let spelt = json!({"method": "gaussian", "sigma": {"k": 3, "of": "subjects"}, "samples": 10, "seed": 1,
                       "rng": "numpy_legacy"});
    let spelt = ok(&state, "/v1/trace", &body(PROMPT, "Tower", &spelt)).await;
    for same in ["request", "baselines", "arms", "sigma"] {
        assert_eq!(preset[same], spelt[same], "{same}");
    }
    assert_eq!(preset["provenance"]["rng"], json!({"algo": "numpy_legacy", "seed": 1}));
}
