//! What lets an effect be trusted: patching a run with itself changes nothing, restoring everything gives the clean run,
//! and a result does not depend on its company. Each with a control that shows the test can fail.

use std::sync::Arc;

use mediant::engine::Model;
use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::plan::cone::resolved;
use mediant::plan::pack::Mode;
use mediant::plan::{Address, Along, Capture, Edit, EditGroup, Op, Plan, RunId, Score, Source};
use mediant::spec::site::Site;

use crate::faulty::{Fault, Faulty};
use crate::tiny::{WORLDS, config, decoder, golden, llama, on, ranks, run, sites_of, uniform};

const TOKENS: [u32; 13] = [17, 301, 5, 44, 209, 498, 3, 77, 150, 88, 12, 400, 61];
const LAYERS: u32 = 4;
const LAST: u32 = 12;

fn edit(layer: u32, site: Site, positions: Vec<u32>, op: Op, group: EditGroup) -> Edit {
    Edit::new(Address { layer, site }, positions, op, group)
}

/// Sites that a plan may write.
fn written_sites(model: &str) -> impl Iterator<Item = Site> {
    sites_of(&config(&golden(model))).into_iter().filter(|site| site.is_editable() && *site != Site::HeadOut)
}

/// Layers at which a site stands, as addresses count them.
fn layers_of(site: Site) -> std::ops::Range<u32> {
    match site {
        Site::Embed => 0..1,
        Site::FinalNorm | Site::Logits => LAYERS..LAYERS + 1,
        _ => 0..LAYERS,
    }
}

/// One with rotary positions, RMS norms and a gate, one with norms of heads beside, one with learned positions, LayerNorms and
/// biases.
const MODELS: [&str; 3] = ["tiny_llama", "tiny_qwen3", "tiny_gpt2"];

/// Columns of a site of a tiny model with runs of [`TOKENS`].
fn width(model: &str, site: Site) -> usize {
    config(&golden(model)).site_width(site, TOKENS.len())
}

/// A model on one rank in f32.
fn whole(model: &str) -> Decoder<Cpu> {
    decoder(&golden(model), 2, Dtype::F32).0
}

fn copy_of(run: RunId, positions: &[u32]) -> Op {
    Op::Replace(Source::Run { run, positions: positions.to_vec() })
}

fn noise(plan: &mut Plan, clean: RunId, name: &str, scale: f32) -> RunId {
    let rows: Arc<[f32]> = uniform(name, 3 * 64).into_iter().map(|u| u * scale).collect();
    let op = Op::add(Source::Constant(rows));
    plan.branch(clean, vec![edit(0, Site::Embed, vec![2, 3, 4], op, EditGroup::Corruption)])
}

/// A clean and a corrupted run, both read at the last position.
fn pair(plan: &mut Plan) -> (RunId, RunId) {
    let clean = plan.root(Arc::from(TOKENS));
    let corrupted = noise(plan, clean, "noise", 0.5);
    plan.scoring.targets = (0..512).collect();
    plan.read(clean, LAST);
    plan.read(corrupted, LAST);
    (clean, corrupted)
}

/// Self-patches of every site, layer and position (and head), in the clean and in the corrupted run.
fn self_patches(model: &str) -> (Plan, Vec<usize>) {
    let mut plan = Plan::default();
    let (clean, corrupted) = pair(&mut plan);
    let mut baselines = Vec::new();
    for (baseline, base) in [clean, corrupted].into_iter().enumerate() {
        for site in written_sites(model) {
            for layer in layers_of(site) {
                for position in 0..=LAST {
                    let mut own =
                        edit(layer, site, vec![position], copy_of(base, &[position]), EditGroup::Control);
                    if site.has_heads() {
                        let head = position % 2;
                        let e = if site.is_over_keys() { TOKENS.len() as u32 } else { 16 };
                        own.columns = Some(head * e..(head + 1) * e);
                    }
                    let patched = plan.branch(base, vec![own]);
                    plan.read(patched, LAST);
                    baselines.push(baseline);
                }
            }
        }
    }
    (plan, baselines)
}

fn largest_self_patch_effect(model: &str, decoder: &mut impl Model, budget: usize) -> f64 {
    let (plan, baselines) = self_patches(model);
    let scores = run(decoder, LAYERS, &plan, budget, Mode::Branching).scores;
    let probability = |s: &Score, t: usize| (f64::from(s.logits[t]) - s.log_sum_exp).exp();
    let effect = |patched: &Score, base: &Score| {
        (0..512).map(|t| (probability(patched, t) - probability(base, t)).abs()).fold(0.0, f64::max)
    };
    let cells = scores[2..].iter().zip(baselines);
    cells.map(|(patched, baseline)| effect(patched, &scores[baseline])).fold(0.0, f64::max)
}

#[test]
fn patching_a_run_with_itself_has_an_effect_of_exactly_zero_everywhere_in_every_dtype_on_any_ranks() {
    for (dtype, world) in
        [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().flat_map(|d| WORLDS.map(|w| (d, w)))
    {
        for name in MODELS {
            let (mut model, _) = ranks(&golden(name), world, dtype);
            let at = format!("{name}, {dtype:?} on {world}");
            assert_eq!(largest_self_patch_effect(name, &mut model, 100_000), 0.0, "{at}");
            assert_eq!(largest_self_patch_effect(name, &mut model, 200), 0.0, "{at}, chunked");
        }
    }
}

#[test]
fn self_patch_controls_are_really_run_and_really_write() {
    let (mut decoder, layers) = llama();
    let (plan, baselines) = self_patches("tiny_llama");
    let written = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).written;
    let reached = resolved(&plan, layers)[2..].iter().filter(|r| **r > RunId(1)).count();
    assert!(reached > baselines.len() * 3 / 4, "only the last layer has cells that no readout can see");
    assert_eq!(written[EditGroup::Control.index()].cells, reached as u64);
    assert_eq!(written[EditGroup::Control.index()].max_abs_delta, 0.0);
    assert!(written[EditGroup::Corruption.index()].max_abs_delta > 0.1);
}

#[test]
fn noise_drawn_afresh_for_a_cell_would_be_seen_as_an_effect() {
    let (mut decoder, layers) = llama();
    let mut plan = Plan::default();
    let (clean, corrupted) = pair(&mut plan);
    let afresh = noise(&mut plan, clean, "other noise", 0.5);
    for base in [corrupted, afresh] {
        let null = edit(1, Site::ResidPost, vec![7], copy_of(base, &[7]), EditGroup::Control);
        let cell = plan.branch(base, vec![null]);
        plan.read(cell, LAST);
    }
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    assert_eq!(scores[2], scores[1]);
    assert_ne!(scores[3], scores[1]);
}

#[test]
fn restoring_all_positions_of_the_residual_stream_gives_the_clean_runs_bits_at_every_layer() {
    for model in MODELS {
        restoring_all_positions(model);
    }
}

fn restoring_all_positions(model: &str) {
    let (mut decoder, layers) = (whole(model), LAYERS);
    let all: Vec<u32> = (0..=LAST).collect();
    let mut plan = Plan::default();
    let (clean, corrupted) = pair(&mut plan);
    for layer in 0..layers {
        for site in [Site::ResidPre, Site::ResidMid, Site::ResidPost] {
            let restore = edit(layer, site, all.clone(), copy_of(clean, &all), EditGroup::Patch);
            let restored = plan.branch(corrupted, vec![restore]);
            plan.read(restored, LAST);
        }
    }
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    assert_ne!(scores[0], scores[1]);
    for restored in &scores[2..] {
        assert_eq!(restored, &scores[0]);
    }
}

#[test]
fn states_of_the_layer_before_would_not_restore_the_clean_run() {
    let (mut decoder, layers) = llama();
    let all: Vec<u32> = (0..=LAST).collect();
    let at = |layer| Address { layer, site: Site::ResidPost };
    let mut capture = Plan::default();
    let (clean, _) = pair(&mut capture);
    capture.captures =
        (0..layers).map(|l| Capture { run: clean, at: at(l), positions: all.clone() }).collect();
    let states = run(&mut decoder, layers, &capture, 100_000, Mode::Branching).captures;

    let mut plan = Plan::default();
    let (_, corrupted) = pair(&mut plan);
    for layer in 1..layers as usize {
        for from in [layer, layer - 1] {
            let op = Op::Replace(Source::Constant(states[from].as_slice().into()));
            let restore = edit(layer as u32, Site::ResidPost, all.clone(), op, EditGroup::Patch);
            let restored = plan.branch(corrupted, vec![restore]);
            plan.read(restored, LAST);
        }
    }
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    for pair in scores[2..].chunks_exact(2) {
        assert_eq!(pair[0], scores[0], "captured states restore the clean run");
        assert_ne!(pair[1], scores[0], "states one layer off do not");
    }
}

#[test]
fn interventions_that_do_nothing_give_the_clean_runs_bits() {
    for model in MODELS {
        doing_nothing(model);
    }
}

fn doing_nothing(model: &str) {
    let (mut decoder, layers) = (whole(model), LAYERS);
    let width = |site| width(model, site);
    let mut plan = Plan::default();
    let (clean, _) = pair(&mut plan);
    let zeros = |site| Source::Constant(vec![0.0; width(site)].into());
    let unit = |site| (0..width(site)).map(|i| f32::from(u8::from(i == 1))).collect();
    for site in written_sites(model) {
        for op in [
            Op::Scale(1.0),
            Op::Along { direction: unit(site), change: Along::Scale(1.0) },
            Op::Along { direction: unit(site), change: Along::Clamp(-1e6, 1e6) },
            Op::add(zeros(site)),
            Op::Add {
                source: Source::Run { run: clean, positions: vec![0] },
                coef: 0.0,
                norm_match: site != Site::Embed,
            },
            Op::Project { basis: unit(site), source: Some(Source::Run { run: clean, positions: vec![3] }) },
        ] {
            let layer = layers_of(site).end - 1;
            let run = plan.branch(clean, vec![edit(layer, site, vec![3], op, EditGroup::Control)]);
            plan.read(run, LAST);
        }
    }
    let empty = plan.branch(clean, Vec::new());
    plan.read(empty, LAST);
    let scores = run(&mut decoder, layers, &plan, 100_000, Mode::Branching).scores;
    for score in &scores[2..] {
        assert_eq!(score, &scores[0]);
    }
}

/// One run alone, then in larger and larger company; whether its score ever changed.
fn depends_on_company(decoder: &mut impl Model) -> bool {
    let alone = |plan: &mut Plan| {
        let (clean, corrupted) = pair(plan);
        let restore = edit(1, Site::MlpOut, vec![3], copy_of(clean, &[3]), EditGroup::Patch);
        let patched = plan.branch(corrupted, vec![restore]);
        plan.read(patched, LAST);
    };
    let mut plan = Plan::default();
    alone(&mut plan);
    let expected = run(decoder, LAYERS, &plan, 100_000, Mode::Branching).scores;
    (1..40u32).any(|company| {
        let mut plan = Plan::default();
        for i in 0..company {
            // Neighbours of every length, some of whose numbers overflow to infinity and NaN.
            let tokens: Vec<u32> = (0..=i % 34).map(|t| (t * 31 + i * 7) % 512).collect();
            let root = plan.root(tokens.into());
            let wild = Op::Scale(if i % 3 == 0 { 1e38 } else { 3.0 });
            plan.branch(root, vec![edit(0, Site::Embed, vec![0], wild, EditGroup::Patch)]);
        }
        for other in 0..plan.runs.len() as u32 {
            let last = plan.run(RunId(other)).tokens.len() as u32 - 1;
            plan.read(RunId(other), last);
        }
        let before = plan.readouts.len();
        alone(&mut plan);
        run(decoder, LAYERS, &plan, 100_000, Mode::Branching).scores[before..] != expected
    })
}

#[test]
fn a_result_does_not_depend_on_what_else_is_in_the_batch() {
    for (name, world) in MODELS.into_iter().flat_map(|name| WORLDS.map(|world| (name, world))) {
        let (mut model, _) = ranks(&golden(name), world, Dtype::F32);
        assert!(!depends_on_company(&mut model), "{name} on {world} ranks");
    }
}

#[test]
fn each_deliberate_fault_is_seen_by_these_tests() {
    for fault in [Fault::LibraryGemm, Fault::SplitByRows, Fault::PaddedAttention] {
        let mut decoder = faulty(fault);
        assert!(depends_on_company(&mut decoder), "{fault:?} goes unseen in company");
        if fault != Fault::PaddedAttention {
            // Sequences of one length hide padding from chunking; nothing hides the row count.
            assert!(depends_on_chunks(&mut decoder), "{fault:?} goes unseen across chunks");
        }
    }
}

/// Whether cutting the same plan into chunks changes any score.
fn depends_on_chunks(decoder: &mut Decoder<Faulty>) -> bool {
    let (plan, _) = self_patches("tiny_llama");
    let whole = run(decoder, LAYERS, &plan, 100_000, Mode::Branching).scores;
    let chunked = run(decoder, LAYERS, &plan, 60, Mode::Branching).scores;
    whole != chunked
}

fn faulty(fault: Fault) -> Decoder<Faulty> {
    let inner = Cpu::new(2, Dtype::F32).unwrap();
    on(Faulty { inner, fault }, Shard::whole(&config(&golden("tiny_llama"))))
}
