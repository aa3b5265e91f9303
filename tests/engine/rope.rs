//! Scaled rotary embeddings against transformers, and prompts of many lengths in one batch against each alone.

use std::sync::Arc;

use mediant::kernels::cpu::Dtype;
use mediant::model::architecture::PositionShape;
use mediant::model::config::ModelConfig;
use mediant::model::rope::{DynamicScaling, LinearScaling, RopeScaling, YarnScaling};
use mediant::plan::pack::Mode;
use mediant::plan::sequences::Expansion;
use mediant::plan::{Address, Capture, Edit, EditGroup, Op, Plan, RunId, Score, Source};
use mediant::spec::site::Site;
use serde_json::Value;

use crate::tiny::{WORLDS, config, golden, ranks_of, run};

fn scaling(table: &Value, positions: usize) -> RopeScaling {
    let number = |key: &str| table[key].as_f64();
    let factor = number("factor").unwrap();
    let original_max_positions = number("original_max_position_embeddings").map_or(positions, |n| n as usize);
    match table["rope_type"].as_str().unwrap() {
        "linear" => RopeScaling::Linear(LinearScaling { factor }),
        "dynamic" => RopeScaling::Dynamic(DynamicScaling { factor, original_max_positions }),
        "yarn" => RopeScaling::Yarn(YarnScaling {
            factor,
            original_max_positions,
            attention_factor: YarnScaling::default_attention_factor(
                factor,
                number("mscale").zip(number("mscale_all_dim")),
            ),
            beta_fast: number("beta_fast").unwrap_or(32.0),
            beta_slow: number("beta_slow").unwrap_or(1.0),
            truncate: table["truncate"].as_bool().unwrap_or(true),
        }),
        other => panic!("{other}"),
    }
}

fn scaled(golden: &Value, table: &Value) -> ModelConfig {
    let mut config = config(golden);
    let positions = golden["max_position_embeddings"].as_u64().unwrap() as usize;
    let PositionShape::Rope(rope) = &mut config.block.positions else { panic!("it has a rotary embedding") };
    rope.scaling = Some(scaling(table, positions));
    config.max_positions = rope.longest(positions).max(71);
    config
}

fn tokens(run: &Value) -> Arc<[u32]> {
    run["tokens"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// Prompts, each read at its end.
fn plan(prompts: &[Arc<[u32]>], config: &ModelConfig) -> Plan {
    let mut plan = Plan::default();
    plan.scoring.targets = (0..config.vocab_size as u32).collect();
    for tokens in prompts {
        let run = plan.root(Arc::clone(tokens));
        plan.read(run, tokens.len() as u32 - 1);
    }
    plan
}

#[test]
fn scaled_models_agree_with_transformers_whatever_lengths_are_in_a_batch() {
    let golden = golden("tiny_rope");
    let mut worst = 0.0_f64;
    for case in golden["cases"].as_array().unwrap() {
        let config = scaled(&golden, &case["rope"]);
        let runs = case["runs"].as_array().unwrap();
        let prompts: Vec<Arc<[u32]>> = runs.iter().map(tokens).collect();
        for world in WORLDS {
            let mut model = ranks_of(&config, world, Dtype::F32);
            let layers = config.num_layers as u32;
            let scores = run(&mut model, layers, &plan(&prompts, &config), 4096, Mode::Branching).scores;
            for ((score, expected), prompt) in scores.iter().zip(runs).zip(&prompts) {
                for (id, logit) in expected["logits"].as_object().unwrap() {
                    let ours = f64::from(score.logits[id.parse::<usize>().unwrap()]);
                    let difference = (ours - logit.as_f64().unwrap()).abs();
                    worst = worst.max(difference);
                    assert!(difference < 1e-4, "{}, {} tokens: {difference}", case["rope"], prompt.len());
                }
                assert!((score.log_sum_exp - expected["lse"].as_f64().unwrap()).abs() < 1e-4);
            }
            for (together, prompt) in scores.iter().zip(&prompts) {
                let alone = plan(std::slice::from_ref(prompt), &config);
                let alone = run(&mut model, layers, &alone, 4096, Mode::Branching).scores;
                assert_eq!(&alone[0], together, "{} tokens alone and among others", prompt.len());
            }
        }
    }
    eprintln!("scaled rotary embeddings: worst difference {worst:.1e}");
}

/// Base and source of different lengths, short and long; states, keys and queries patched between them, and a text of several
/// tokens scored.
fn patched(base: &Arc<[u32]>, source: &Arc<[u32]>) -> Plan {
    let mut plan = Plan::default();
    let (base, source) = (plan.root(Arc::clone(base)), plan.root(Arc::clone(source)));
    let last = |plan: &Plan, run: RunId| plan.run(run).tokens.len() as u32 - 1;
    let ends = (last(&plan, base), last(&plan, source));
    for (layer, site) in
        [(0, Site::ResidPost), (1, Site::KRope), (2, Site::Q), (3, Site::QRope), (1, Site::K)]
    {
        let op = Op::Replace(Source::Run { run: source, positions: vec![ends.1, 1] });
        let edit = Edit::new(Address { layer, site }, vec![ends.0, 2], op, EditGroup::Patch);
        plan.branch(base, vec![edit]);
    }
    for run in 0..plan.runs.len() as u32 {
        let end = last(&plan, RunId(run));
        plan.read(RunId(run), end);
        plan.read(RunId(run), end - 1);
        let at = Address { layer: 2, site: Site::KRope };
        plan.captures.push(Capture { run: RunId(run), at, positions: vec![0, end] });
    }
    plan.scoring.targets = vec![3, 250];
    plan.scoring.sequences = [&[7, 30, 41][..], &[250, 3]].map(Arc::from).to_vec();
    plan
}

#[test]
fn branches_of_prompts_with_frequencies_of_their_own_have_the_bits_of_full_recompute() {
    let golden = golden("tiny_rope");
    let case = golden["cases"].as_array().unwrap().iter().find(|case| case["rope"]["rope_type"] == "dynamic");
    let case = case.unwrap();
    let config = scaled(&golden, &case["rope"]);
    let mut model = ranks_of(&config, 1, Dtype::F32);
    let prompts: Vec<Arc<[u32]>> = case["runs"].as_array().unwrap().iter().map(tokens).collect();
    for (base, source) in [(3, 0), (0, 3), (3, 4), (1, 2)] {
        let (expanded, _) = Expansion::new(&patched(&prompts[base], &prompts[source])).parts();
        let mut found: Vec<(Vec<Score>, Vec<Vec<f32>>)> = Vec::new();
        for (mode, budget) in [(Mode::Branching, 4096), (Mode::Branching, 200), (Mode::FullRecompute, 4096)] {
            let outcome = run(&mut model, config.num_layers as u32, &expanded, budget, mode);
            found.push((outcome.scores, outcome.captures));
        }
        assert_eq!(found[0], found[1], "{base} from {source} in chunks");
        assert_eq!(found[0], found[2], "{base} from {source} in full");
        // A text scored after it changes nothing of the prompt's own numbers.
        let mut prompt = patched(&prompts[base], &prompts[source]);
        prompt.scoring.sequences.clear();
        let outcome = run(&mut model, config.num_layers as u32, &prompt, 4096, Mode::Branching);
        assert_eq!(outcome.captures, found[0].1);
        for (alone, scored) in outcome.scores.iter().zip(&found[0].0) {
            assert_eq!(alone.log_sum_exp.to_bits(), scored.log_sum_exp.to_bits());
        }
    }
}
