//! The default model's real weights against PyTorch: clean runs, patch runs and every cell of full traces, asked for as a
//! user asks. The goldens are made by `tests/python/make_golden.py`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests"
)]

use std::sync::LazyLock;

use mediant::config;
use mediant::service::Service;
use mediant::service::start::start;
use serde_json::{Value, json};

/// Absolute and relative tolerance on probabilities. A probability must meet both.
const ABSOLUTE: f64 = 1e-4;
const RELATIVE: f64 = 1e-3;

/// Loaded once, fetched by pip if it is not in the cache.
static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let config = config::load(None, [], &[]).unwrap().config;
    start(&config).unwrap()
});

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A response as its reader sees it.
fn json_of(response: &impl serde::Serialize) -> Value {
    serde_json::to_value(response).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Largest differences so far, which must stay within the tolerances.
#[derive(Default)]
struct Worst {
    absolute: f64,
    relative: f64,
    compared: usize,
}

impl Worst {
    fn compare(&mut self, got: &Value, expected: &Value, what: &dyn Fn() -> String) {
        let (got, expected) = (number(got), number(expected));
        let absolute = (got - expected).abs();
        let relative = absolute / expected.abs().max(1e-12);
        assert!(absolute < ABSOLUTE && relative < RELATIVE, "{}: {got}, not {expected}", what());
        self.absolute = self.absolute.max(absolute);
        self.relative = self.relative.max(relative);
        self.compared += 1;
    }

    fn report(&self, name: &str) {
        let Self { absolute, relative, compared } = self;
        eprintln!(
            "{name}: {compared} values, worst difference {absolute:.1e} absolute, {relative:.1e} relative"
        );
        assert!(*compared > 0);
    }
}

#[tokio::test]
async fn clean_runs_agree_with_pytorch_in_tokens_probabilities_ranks_and_top_tokens() {
    let mut worst = Worst::default();
    for expected in golden("smollm2_runs")["runs"].as_array().unwrap() {
        let body = json!({"prompt": expected["prompt"], "targets": {"t": [expected["target_id"]]},
                          "metrics": ["prob:t", "rank:t", "logit:t"], "read": {"topk": 10}});
        let response = json_of(&SERVICE.run(body).await.unwrap());
        let run = &response["runs"]["run"];
        let prompt = expected["prompt"].to_string();
        let ids: Vec<&Value> = run["tokens"].as_array().unwrap().iter().map(|t| &t["id"]).collect();
        assert_eq!(ids, expected["tokens"].as_array().unwrap().iter().collect::<Vec<_>>(), "{prompt}");
        worst.compare(&run["metrics"]["prob:t"], &expected["prob"], &|| prompt.clone());
        worst.compare(&run["metrics"]["logit:t"], &expected["logit"], &|| prompt.clone());
        assert_eq!(number(&run["metrics"]["rank:t"]), number(&expected["rank"]), "{prompt}");
        for (got, expected) in run["topk"].as_array().unwrap().iter().zip(expected["top"].as_array().unwrap())
        {
            assert_eq!(got["id"], expected[0], "{prompt}");
            worst.compare(&got["prob"], &expected[2], &|| format!("{prompt} {}", got["text"]));
        }
    }
    worst.report("clean runs");
}

#[tokio::test]
async fn patching_another_prompts_state_into_every_layer_agrees_with_pytorch() {
    let (mut worst, mut worst_kl) = (Worst::default(), 0.0_f64);
    for expected in golden("smollm2_patch")["sweeps"].as_array().unwrap() {
        let body = json!({"base": expected["base"], "source": expected["source"],
                          "targets": {"t": [expected["target_id"]]},
                          "metrics": ["prob:t", "rank:t", "kl:source", "kl:base"]});
        let response = json_of(&SERVICE.patch(body).await.unwrap());
        for cell in expected["layers"].as_array().unwrap() {
            let layer = cell["layer"].as_u64().unwrap() as usize;
            let value = |metric: &str| &response["values"][metric][layer];
            worst.compare(value("prob:t"), &cell["prob"], &|| format!("layer {layer}"));
            assert_eq!(number(value("rank:t")), number(&cell["rank"]));
            for (metric, name) in [("kl:source", "kl_source"), ("kl:base", "kl_base")] {
                worst_kl = worst_kl.max((number(value(metric)) - number(&cell[name])).abs());
            }
        }
    }
    worst.report("patched runs");
    assert!(worst_kl < 1e-3, "divergences differ by {worst_kl} nats");
}

#[tokio::test]
async fn every_cell_of_full_traces_agrees_with_pytorch_under_numpys_noise() {
    for expected in golden("smollm2_trace")["traces"].as_array().unwrap() {
        let arms: serde_json::Map<String, Value> = expected["arms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arm| {
                let spec = json!({"site": arm["site"], "window": arm["window"]});
                (arm["arm"].as_str().unwrap().to_owned(), spec)
            })
            .collect();
        let mut body = json!({"prompt": expected["prompt"], "target": expected["target"],
            "metrics": ["prob:target"], "keep": {"per_sample": true}, "arms": arms,
            "corrupt": {"samples": expected["samples"], "seed": expected["seed"], "rng": "numpy_legacy"}});
        if expected["subject"].is_string() {
            body["subject"] = expected["subject"].clone();
            body["corrupt"]["sigma"] = json!({"k": expected["k"]});
        } else {
            body["corrupt"]["sigma"] = json!({"abs": expected["std"]});
            body["corrupt"]["positions"] = json!("all");
        }
        let response = json_of(&SERVICE.trace(body).await.unwrap());
        assert!((number(&response["sigma"]["abs"]) - number(&expected["noise_std"])).abs() < 1e-9);
        for arm in expected["arms"].as_array().unwrap() {
            let name = arm["arm"].as_str().unwrap();
            let samples = &response["arms"][name]["values"]["prob:target"]["samples"];
            let mut worst = Worst::default();
            for (sample, layers) in arm["prob"].as_array().unwrap().iter().enumerate() {
                for (layer, positions) in layers.as_array().unwrap().iter().enumerate() {
                    for (position, p) in positions.as_array().unwrap().iter().enumerate() {
                        let cell = || format!("{name} layer {layer} position {position} sample {sample}");
                        worst.compare(&samples[layer][position][sample], p, &cell);
                    }
                }
            }
            worst.report(&format!("trace of {}, {name}", expected["target"]));
        }
    }
}

#[tokio::test]
async fn patching_a_run_with_itself_changes_nothing_on_real_weights() {
    let body = json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris",
        "corrupt": {"samples": 1}, "layers": {"from": 0, "to": 30, "step": 7}, "controls": ["self_patch"],
        "arms": {"hidden": {"site": "resid_post"}, "mlp": {"site": "mlp_out", "window": 10}, "z": {"site": "z"}},
        "metrics": ["prob:target", "logprob:target", "logit:target", "kl:clean"]});
    let response = json_of(&SERVICE.trace(body).await.unwrap());
    assert_eq!(number(&response["controls"]["self_patch"]["max_abs_effect"]), 0.0);
    assert!(number(&response["receipt"]["controls"]["cells"]) > 50.0);
}
