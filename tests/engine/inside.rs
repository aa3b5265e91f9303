//! Direct logit attribution and the logit lens of a model with LayerNorms, biases and learned positions, against transformers.

use mediant::effect::attribution::attribute;
use mediant::kernels::cpu::Dtype;
use mediant::lower;
use mediant::plan::Plan;
use mediant::plan::pack::Mode;
use serde_json::{Value, json};

use crate::facts::TinyFacts;
use crate::site_cases::{indices, list};
use crate::tiny::{WORLDS, config, golden, ranks, run};

#[test]
fn attributions_of_gpt2_are_those_of_pytorch_and_add_up_to_the_logit_and_heads_to_attention() {
    let golden = golden("tiny_sites_gpt2");
    let (config, expected) = (config(&golden), &golden["attribution"]);
    let body = json!({
        "runs": {"base": {"tokens": golden["runs"]["base"]}}, "targets": {"t": [expected["target_id"]]},
        "metrics": ["logit:t"], "read": {"attribution": {"target": "t", "heads": true}}});
    let lowered = lower::lower::<mediant::spec::run::RunSpec>(&body, &TinyFacts::new(&config)).unwrap();
    for world in WORLDS {
        let (mut model, config) = ranks(&golden, world, Dtype::F32);
        let layers = config.num_layers;
        let outcome = run(&mut model, layers as u32, &lowered.plan, 100_000, Mode::Branching);
        let found = attribute(&lowered.layout.attribution[0], &outcome.captures, layers);
        let all = |shares: &[Option<f64>]| -> Vec<f64> { shares.iter().map(|x| x.unwrap()).collect() };
        let [attn, mlp, heads] = &found.components[..] else { panic!("three components") };
        let biases = all(found.attention_biases.as_deref().unwrap());
        for (name, shares) in [
            ("logit", all(&[found.logit])),
            ("embed", all(&[found.embed])),
            ("positions", all(&[found.positions])),
            ("bias", all(&[found.bias])),
            ("attn_out", all(attn)),
            ("mlp_out", all(mlp)),
            ("head_out", all(heads)),
            ("attn_bias", biases.clone()),
        ] {
            let expected = numbers(&expected[name]);
            assert_eq!(shares.len(), expected.len(), "{name}");
            for (share, expected) in shares.iter().zip(expected) {
                assert!((share - expected).abs() < 1e-4, "{name} on {world}: {share}, expected {expected}");
            }
        }
        assert!(found.remainder.unwrap().abs() < 1e-4);
        let logit = f64::from(outcome.scores[0].logits[0]);
        assert!((found.logit.unwrap() - logit).abs() < 1e-4, "the run's own logit");
        for (layer, whole) in all(attn).into_iter().enumerate() {
            let sum: f64 = all(&heads[layer * 4..(layer + 1) * 4]).iter().sum();
            assert!((sum + biases[layer] - whole).abs() < 1e-4, "layer {layer}");
        }
    }
}

/// A number, or all of a nested list.
fn numbers(value: &Value) -> Vec<f64> {
    value.as_f64().map_or_else(|| list(value).iter().flat_map(numbers).collect(), |number| vec![number])
}

#[test]
fn the_logit_lens_of_gpt2_is_that_of_pytorch_at_every_layer() {
    let golden = golden("tiny_sites_gpt2");
    let tokens = indices(&golden["runs"]["base"]);
    let last = tokens.len() as u32 - 1;
    let mut plan = Plan::default();
    plan.scoring.targets = indices(&golden["ids"]);
    let root = plan.root(tokens.into());
    let expected = list(&golden["lens"]);
    for layer in 0..expected.len() as u32 {
        plan.read_lens(root, last, layer);
    }
    for world in WORLDS {
        let (mut model, config) = ranks(&golden, world, Dtype::F32);
        assert_eq!(expected.len(), config.num_layers);
        let scores = run(&mut model, config.num_layers as u32, &plan, 100_000, Mode::Branching).scores;
        for (score, row) in scores.iter().zip(expected) {
            for (logit, expected) in score.logits.iter().zip(numbers(&row["logits"])) {
                assert!((f64::from(*logit) - expected).abs() < 1e-4, "{row}: {logit}");
            }
        }
    }
}
