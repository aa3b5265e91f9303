//! Random plans: branching, full recompute, any chunking and any number of threads give the same bits.

use std::sync::Arc;

use mediant::kernels::cpu::Dtype;
use mediant::model::config::ModelConfig;
use mediant::plan::pack::Mode;
use mediant::plan::{Address, Along, Capture, Edit, EditGroup, Op, Plan, RunId, Source};
use mediant::spec::site::Site;
use proptest::prelude::*;

use crate::tiny::{Outcome, WORLDS, config, decoder, golden, ranks, run, sites_of};

pub(crate) const LAYERS: u32 = 4;
const HEAD: u32 = 16;
const HEADS: u32 = 4;

fn layer_of(site: Site, layer: u32) -> u32 {
    match site {
        Site::Embed => 0,
        Site::FinalNorm | Site::Logits => LAYERS,
        _ => layer,
    }
}

/// The second direction of a space.
fn unit(width: u32) -> Arc<[f32]> {
    (0..width).map(|i| f32::from(u8::from(i == 1.min(width - 1)))).collect()
}

/// Raw material of an edit; indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) struct RawEdit {
    site: usize,
    layer: u32,
    positions: Vec<prop::sample::Index>,
    head: Option<u32>,
    op: u8,
    source: prop::sample::Index,
    source_positions: Vec<prop::sample::Index>,
    number: f32,
    control: bool,
}

fn raw_edit() -> impl Strategy<Value = RawEdit> {
    let index = any::<prop::sample::Index>;
    (
        (0..Site::ALL.len(), 0..LAYERS, prop::collection::vec(index(), 1..4), prop::option::of(0..HEADS)),
        (0u8..8, index(), prop::collection::vec(index(), 3), -2.0f32..2.0, any::<bool>()),
    )
        .prop_map(|((site, layer, positions, head), (op, source, source_positions, number, control))| {
            RawEdit { site, layer, positions, head, op, source, source_positions, number, control }
        })
}

/// (parent or new tokens, edits)
pub(crate) type RawRun = (Option<prop::sample::Index>, Vec<u32>, Vec<RawEdit>);

pub(crate) fn raw_run() -> impl Strategy<Value = RawRun> {
    (
        prop::option::weighted(0.8, any::<prop::sample::Index>()),
        prop::collection::vec(0u32..512, 1..9),
        prop::collection::vec(raw_edit(), 1..4),
    )
}

/// One with rotary positions, RMS norms and a gate, one with learned positions, LayerNorms and biases.
pub(crate) fn any_model() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["tiny_llama", "tiny_gpt2"])
}

fn edit(raw: &RawEdit, length: usize, keys: u32, before: &Plan, config: &ModelConfig) -> Edit {
    let sites: Vec<Site> = sites_of(config).into_iter().filter(|site| site.is_editable()).collect();
    let site = sites[raw.site % sites.len()];
    let mut positions: Vec<u32> = raw.positions.iter().map(|p| p.index(length) as u32).collect();
    positions.sort_unstable();
    positions.dedup();
    let head = raw.head.zip(config.site_heads(site));
    let part = if site.is_over_keys() { keys } else { HEAD };
    let columns = head.map(|(h, n)| h % n as u32 * part..(h % n as u32 + 1) * part);
    let whole = config.site_width(site.written_as(), keys as usize) as u32;
    let width = columns.as_ref().map_or(whole, |c| c.end - c.start);
    let from_run = || {
        let run = raw.source.index(before.runs.len());
        let there = before.runs[run].tokens.len();
        let positions = raw.source_positions.iter().cycle().zip(&positions);
        Source::Run {
            run: RunId(run as u32),
            positions: positions.map(|(p, _)| p.index(there) as u32).collect(),
        }
    };
    let given = || {
        let numbers = 0..positions.len() as u32 * width;
        Source::Constant(numbers.map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * raw.number).collect())
    };
    let op = match raw.op {
        // A head's output is copied, scaled or zeroed; what is given may be another layer's.
        2..4 if site == Site::HeadOut => Op::Replace(given()),
        5 if site == Site::HeadOut => Op::Zero,
        0 | 1 => Op::Replace(from_run()),
        2 => Op::Add { source: from_run(), coef: raw.number, norm_match: raw.number > 0.0 },
        3 => Op::add(given()),
        4 => Op::Scale(raw.number),
        7 if site != Site::HeadOut => {
            let change =
                if raw.control { Along::Scale(raw.number) } else { Along::Clamp(-0.5, raw.number.abs()) };
            Op::Along { direction: unit(width), change }
        }
        5 => Op::Project { basis: unit(width), source: (raw.number > 0.0).then(from_run) },
        _ => Op::Zero,
    };
    let layer = layer_of(site, raw.layer);
    let instead = (raw.op == 0 && raw.control).then(|| unit(width).repeat(positions.len()).into());
    let group = if raw.control { EditGroup::Control } else { EditGroup::Patch };
    let foreign = site == Site::HeadOut && matches!(op, Op::Replace(Source::Constant(_))) && raw.op == 2;
    let through = foreign.then_some((layer + 1 + u32::from(raw.control)) % LAYERS);
    Edit { at: Address { layer, site }, positions, columns, op, instead, through, group }
}

pub(crate) fn plan(first: &[u32], raw_runs: &[RawRun], config: &ModelConfig) -> Plan {
    let roots = raw_runs.iter().filter(|(parent, ..)| parent.is_none());
    let keys = roots.map(|(_, tokens, _)| tokens.len()).chain([first.len()]).max().unwrap() as u32;
    let mut plan = Plan::default();
    plan.root(Arc::from(first));
    for (parent, tokens, edits) in raw_runs {
        match parent {
            None => {
                plan.root(Arc::from(tokens.as_slice()));
            }
            Some(parent) => {
                let parent = RunId(parent.index(plan.runs.len()) as u32);
                let length = plan.run(parent).tokens.len();
                let edits = edits.iter().map(|e| edit(e, length, keys, &plan, config)).collect();
                plan.branch(parent, edits);
            }
        }
    }
    let sites = sites_of(config);
    for id in 0..plan.runs.len() as u32 {
        let length = plan.run(RunId(id)).tokens.len() as u32;
        plan.read(RunId(id), length - 1);
        plan.read(RunId(id), length / 2);
        let site = sites[id as usize % sites.len()];
        let layer = layer_of(site, id % LAYERS);
        plan.read_lens(RunId(id), length / 2, id % LAYERS);
        let positions = (0..length).rev().step_by(2).collect();
        plan.captures.push(Capture { run: RunId(id), at: Address { layer, site }, positions });
    }
    plan.scoring.targets = vec![7, 300, 511];
    plan.scoring.topk = 3;
    plan.scoring.kl_refs = vec![0, plan.readouts.len() as u32 - 2];
    plan.scoring.entropy = true;
    plan
}

/// Whether two outcomes of a plan are the same bits.
fn same_bits(a: &Outcome, b: &Outcome) -> bool {
    a.scores == b.scores && a.captures == b.captures
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn branching_full_recompute_and_every_chunking_give_the_same_bits(
        first in prop::collection::vec(0u32..512, 1..9),
        raw_runs in prop::collection::vec(raw_run(), 1..8),
        model in any_model(),
    ) {
        let golden = golden(model);
        let plan = plan(&first, &raw_runs, &config(&golden));
        let (mut one, _) = decoder(&golden, 1, Dtype::F32);
        let (mut three, _) = decoder(&golden, 3, Dtype::F32);
        let whole = run(&mut one, LAYERS, &plan, 100_000, Mode::Branching);
        let full = run(&mut three, LAYERS, &plan, 100_000, Mode::FullRecompute);
        let chunked = run(&mut three, LAYERS, &plan, 75, Mode::Branching);
        prop_assert!(same_bits(&whole, &full));
        prop_assert!(same_bits(&whole, &chunked));
        prop_assert_eq!((&whole.written, &whole.changes), (&chunked.written, &chunked.changes));
        prop_assert!(whole.row_layers <= full.row_layers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn they_do_on_any_number_of_ranks_which_agree_with_one_another(
        first in prop::collection::vec(0u32..512, 1..9),
        raw_runs in prop::collection::vec(raw_run(), 1..8),
        model in any_model(),
    ) {
        let golden = golden(model);
        let plan = plan(&first, &raw_runs, &config(&golden));
        let mut found = Vec::new();
        for world in WORLDS {
            let (mut model, _) = ranks(&golden, world, Dtype::F32);
            let whole = run(&mut model, LAYERS, &plan, 100_000, Mode::Branching);
            let full = run(&mut model, LAYERS, &plan, 100_000, Mode::FullRecompute);
            let chunked = run(&mut model, LAYERS, &plan, 75, Mode::Branching);
            prop_assert!(same_bits(&whole, &full), "{world} ranks");
            prop_assert!(same_bits(&whole, &chunked), "{world} ranks");
            prop_assert_eq!((&whole.written, &whole.changes), (&chunked.written, &chunked.changes));
            found.push(whole);
        }
        for other in &found[1..] {
            prop_assert!(close(&found[0], other));
        }
    }
}

/// Whether two outcomes agree but for rounding, and exactly in what was counted.
fn close(a: &Outcome, b: &Outcome) -> bool {
    // Edits scale rows by up to 2 at every site, so numbers grow and their differences with them.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * (1.0 + a.abs().max(b.abs()));
    let all_near = |a: &[f32], b: &[f32]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(f64::from(*a), f64::from(*b)))
    };
    let scores = a.scores.iter().zip(&b.scores).all(|(a, b)| {
        let kl = a.kl.len() == b.kl.len() && a.kl.iter().zip(&b.kl).all(|(a, b)| near(*a, *b));
        let entropy = near(a.entropy.unwrap(), b.entropy.unwrap());
        near(a.log_sum_exp, b.log_sum_exp) && all_near(&a.logits, &b.logits) && kl && entropy
    });
    let captures = a.captures.iter().zip(&b.captures).all(|(a, b)| all_near(a, b));
    let counted = a.written.iter().zip(&b.written).all(|(a, b)| {
        let largest = near(f64::from(a.max_abs_delta), f64::from(b.max_abs_delta));
        (a.cells, a.elements) == (b.cells, b.elements) && largest
    });
    let changes = a.changes.iter().zip(&b.changes).all(|(a, b)| near(*a, *b));
    scores && captures && counted && changes
}
