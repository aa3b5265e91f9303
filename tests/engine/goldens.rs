//! Every site and operation against transformers: logits of tiny models of each family.

use std::sync::Arc;

use mediant::kernels::cpu::Dtype;
use mediant::plan::pack::Mode;
use mediant::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use mediant::spec::site::Site;
use serde_json::Value;

use crate::tiny::{WORLDS, golden, ranks, run, uniform};

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

fn site(name: &str) -> Site {
    Site::ALL.into_iter().find(|s| s.name() == name).unwrap()
}

fn edit(case: &Value, source: Option<RunId>, hidden: usize, head_dim: u32, heads: u32) -> Edit {
    let site = site(case["site"].as_str().unwrap());
    let positions = numbers(&case["positions"]);
    let head = case["head"].as_u64().map(|h| h as u32);
    let width = match (site, head) {
        (Site::Z, Some(_)) => head_dim as usize,
        (Site::Z, None) => (heads * head_dim) as usize,
        _ => hidden,
    };
    let coef = case["coef"].as_f64().unwrap() as f32;
    let from = || match case["vector"].as_str() {
        Some(vector) => Source::Constant(uniform(vector, positions.len() * width).into()),
        None => Source::Run { run: source.unwrap(), positions: numbers(&case["source_positions"]) },
    };
    let op = match case["op"].as_str().unwrap() {
        "replace" => Op::Replace(from()),
        "add" | "noise" => Op::Add { source: from(), coef, norm_match: false },
        "scale" => Op::Scale(coef),
        "zero" => Op::Zero,
        other => panic!("{other}"),
    };
    Edit {
        at: Address { layer: case["layer"].as_u64().unwrap_or(0) as u32, site },
        columns: head.map(|h| h * head_dim..(h + 1) * head_dim),
        op,
        instead: None,
        through: None,
        group: EditGroup::Patch,
        positions,
    }
}

fn check(family: &str) {
    for world in WORLDS {
        check_on(family, world);
    }
}

fn check_on(family: &str, world: usize) {
    let golden = golden(family);
    let (mut model, config) = ranks(&golden, world, Dtype::F32);
    let layers = config.num_layers as u32;
    let mut plan = Plan::default();
    plan.scoring.targets = (0..config.vocab_size as u32).collect();
    let mut expected = Vec::new();
    for case in golden["runs"].as_array().unwrap() {
        let tokens: Arc<[u32]> = numbers(&case["tokens"]).into();
        let run = plan.root(tokens.clone());
        plan.read(run, tokens.len() as u32 - 1);
        let logits = case["logits"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap());
        expected.push(("run".to_owned(), logits.enumerate().collect::<Vec<_>>(), None));
    }
    for case in golden["cases"].as_array().unwrap() {
        let base_tokens: Arc<[u32]> = numbers(&case["base"]).into();
        let base = plan.root(base_tokens.clone());
        let source = case["source"].is_array().then(|| plan.root(numbers(&case["source"]).into()));
        let edits = case["edits"].as_array().unwrap().iter();
        let edits = edits
            .map(|e| edit(e, source, config.hidden_size, config.head_dim as u32, config.num_heads as u32))
            .collect();
        let run = plan.branch(base, edits);
        plan.read(run, base_tokens.len() as u32 - 1);
        let logits = case["logits"].as_object().unwrap().iter();
        let logits = logits.map(|(id, l)| (id.parse().unwrap(), l.as_f64().unwrap())).collect();
        expected.push((case["name"].to_string(), logits, case["lse"].as_f64()));
    }
    assert!(expected.len() > 3);
    let scores = run(&mut model, layers, &plan, 100_000, Mode::Branching).scores;
    let mut worst = 0.0_f64;
    for (score, (name, logits, log_sum_exp)) in scores.iter().zip(expected) {
        for (id, logit) in logits {
            let difference = (f64::from(score.logits[id]) - logit).abs();
            worst = worst.max(difference);
            assert!(difference < 1e-4, "{family} {name}: logit {id} is {}, not {logit}", score.logits[id]);
        }
        if let Some(expected) = log_sum_exp {
            assert!((score.log_sum_exp - expected).abs() < 1e-4, "{family} {name}");
        }
    }
    eprintln!("{family} on {world} ranks: {} cases, worst difference {worst:.1e}", scores.len());
}

#[test]
fn llama_agrees_with_transformers_at_every_site_and_operation() {
    check("tiny_llama");
}

#[test]
fn llama_3_with_scaled_rope_and_tied_embeddings_agrees_with_transformers() {
    check("tiny_llama3");
}

#[test]
fn mistral_agrees_with_transformers() {
    check("tiny_mistral");
}

#[test]
fn qwen2_with_its_biases_agrees_with_transformers() {
    check("tiny_qwen2");
}

#[test]
fn qwen3_with_its_head_norms_agrees_with_transformers() {
    check("tiny_qwen3");
}

#[test]
fn gpt2_with_its_positions_norms_biases_and_gelu_agrees_with_transformers() {
    check("tiny_gpt2");
}
