//! Causal traces with severed sublayers (Meng et al. 2022, figure 3) against PyTorch: as requests, and as ROME's code
//! runs them, with another draw of noise in the pass whose values are held.

use std::sync::Arc;

use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::lower;
use mediant::lower::noise::numpy_legacy;
use mediant::model::config::ModelConfig;
use mediant::model::decoder::Decoder;
use mediant::plan::pack::Mode;
use mediant::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Score, Source};
use mediant::spec::site::Site;
use serde_json::{Value, json};

use crate::facts::TinyFacts;
use crate::site_cases::{indices, list, site};
use crate::tiny::{config, decoder, golden, run};

const SAMPLES: usize = 2;

/// The golden of each family.
const GOLDENS: [&str; 2] = ["tiny_severed", "tiny_severed_gpt2"];

fn model(golden: &Value) -> (Decoder<Cpu>, ModelConfig) {
    let model = crate::tiny::golden(&format!("tiny_{}", golden["family"].as_str().unwrap()));
    assert_eq!(config(&model), config(golden));
    assert_eq!(golden["samples"], SAMPLES);
    decoder(&model, 2, Dtype::F32)
}

fn probability(score: &Score) -> f64 {
    (f64::from(score.logits[0]) - score.log_sum_exp).exp()
}

/// Within 1e-4, and 1e-3 of the expected probability.
#[derive(Default)]
struct Worst {
    absolute: f64,
    relative: f64,
    count: usize,
}

impl Worst {
    fn see(&mut self, got: f64, expected: &Value, at: &str) {
        let expected = expected.as_f64().unwrap();
        let absolute = (got - expected).abs();
        assert!(absolute < 1e-4 && absolute < 1e-3 * expected, "{at}: {got}, expected {expected}");
        self.absolute = self.absolute.max(absolute);
        self.relative = self.relative.max(absolute / expected);
        self.count += 1;
    }
}

/// The arm of a golden, `[sample][layer][position]`.
fn arm<'g>(golden: &'g Value, kind: &str, site: Option<&str>) -> &'g Value {
    let found = list(&golden["arms"]).iter().find(|arm| arm["arm"] == kind && arm["site"].as_str() == site);
    &found.unwrap()["prob"]
}

#[test]
fn hidden_and_severed_arms_of_a_trace_agree_with_pytorch_in_every_cell_and_sample() {
    for name in GOLDENS {
        check_trace(name);
    }
}

fn check_trace(name: &str) {
    let golden = golden(name);
    let (mut decoder, config) = model(&golden);
    let layers = config.num_layers as u32;
    let body = json!({
        "runs": {"clean": {"tokens": golden["tokens"]}}, "target": golden["target_id"],
        "corrupt": {"positions": golden["noised"], "sigma": {"abs": golden["noise_std"]},
                    "samples": golden["samples"], "seed": golden["seed"], "rng": "numpy_legacy"},
        "arms": {"hidden": {"site": "resid_post"},
                 "mlp_out": {"site": "resid_post", "freeze": ["mlp_out"]},
                 "attn_out": {"site": "resid_post", "freeze": ["attn_out"]}}});
    let lowered = lower::lower::<mediant::spec::trace::TraceSpec>(&body, &TinyFacts::new(&config)).unwrap();
    assert!(lowered.prelude.is_none());
    let (plan, layout) = (lowered.plan, lowered.layout);
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    let mut worst = Worst::default();
    worst.see(probability(&scores[layout.case.clean]), &golden["clean_prob"], "clean");
    for (sample, readout) in layout.case.corrupted.iter().enumerate() {
        worst.see(probability(&scores[*readout]), &golden["corrupted_prob"][sample], "corrupted");
    }
    let mut moved = 0.0_f64;
    for (name, grid) in layout.case.arms.iter() {
        let expected = match name {
            "hidden" => arm(&golden, "hidden", None),
            site => arm(&golden, "severed", Some(site)),
        };
        for cell in 0..grid.grid.cells() {
            let key = grid.grid.key(cell);
            let (layer, position) = (key.layer.unwrap() as usize, key.position.unwrap() as usize);
            for (sample, readout) in grid.grid.cell(cell).iter().enumerate() {
                let at = format!("{name} layer {layer} position {position} sample {sample}");
                let expected = &expected[sample][layer][position];
                worst.see(probability(&scores[*readout]), expected, &at);
                let hidden = &arm(&golden, "hidden", None)[sample][layer][position];
                moved = moved.max((expected.as_f64().unwrap() - hidden.as_f64().unwrap()).abs());
            }
        }
    }
    assert_eq!(worst.count, 3 + 3 * SAMPLES * 4 * 9);
    assert!(moved > 0.05, "severing must be seen: it moves cells by {moved} at most");
    eprintln!("{} cells, worst {:.1e}, relative {:.1e}", worst.count, worst.absolute, worst.relative);
}

#[test]
fn values_held_from_another_draw_at_all_layers_agree_with_pytorch_as_in_romes_own_code() {
    for name in GOLDENS {
        check_held(name);
    }
}

fn check_held(name: &str) {
    let golden = golden(name);
    let (mut decoder, config) = model(&golden);
    let layers = config.num_layers as u32;
    let tokens: Arc<[u32]> = indices(&golden["tokens"]).into();
    let last = tokens.len() as u32 - 1;
    let noised = indices(&golden["noised"]);
    let std = golden["noise_std"].as_f64().unwrap();
    let draw = noised.len() * config.hidden_size;
    let numbers = numpy_legacy(golden["seed"].as_u64().unwrap() as u32, 2 * SAMPLES * draw);

    let mut plan = Plan::default();
    plan.scoring.targets = vec![golden["target_id"].as_u64().unwrap() as u32];
    let clean = plan.root(tokens);
    // Draws of all samples follow one another: first those that are held, then those that are restored.
    let corrupted: Vec<RunId> = numbers
        .chunks(draw)
        .map(|rows| {
            let rows = rows.iter().map(|x| (x * std) as f32).collect();
            let at = Address { layer: 0, site: Site::Embed };
            let op = Op::add(Source::Constant(rows));
            plan.branch(clean, vec![Edit::new(at, noised.clone(), op, EditGroup::Corruption)])
        })
        .collect();
    let copy = |layer: u32, site: Site, position: u32, run: RunId| {
        let op = Op::Replace(Source::Run { run, positions: vec![position] });
        Edit::new(Address { layer, site }, vec![position], op, EditGroup::Patch)
    };
    let (held, restored) = corrupted.split_at(SAMPLES);
    let mut expected = Vec::new();
    for (run, values) in corrupted
        .iter()
        .zip(["corrupted_prob", "corrupted_prob_second_draw"].map(|name| list(&golden[name])).concat())
    {
        plan.read(*run, last);
        expected.push((values, "corrupted".to_owned()));
    }
    for name in ["mlp_out", "attn_out"] {
        for sample in 0..SAMPLES {
            for layer in 0..layers {
                for position in 0..=last {
                    let hold = (0..layers).map(|l| copy(l, site(name), position, held[sample]));
                    let restore = copy(layer, Site::ResidPost, position, clean);
                    let cell = plan.branch(restored[sample], hold.chain([restore]).collect());
                    plan.read(cell, last);
                    let golden = arm(&golden, "severed, two draws", Some(name));
                    let golden = &golden[sample][layer as usize][position as usize];
                    expected.push((golden.clone(), format!("{name} {sample} {layer} {position}")));
                }
            }
        }
    }
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    let mut worst = Worst::default();
    for (score, (expected, at)) in scores.iter().zip(&expected) {
        worst.see(probability(score), expected, at);
    }
    assert_eq!(worst.count, 2 * SAMPLES + 2 * SAMPLES * 4 * 9);
    eprintln!("{} cells, worst {:.1e}, relative {:.1e}", worst.count, worst.absolute, worst.relative);
}
