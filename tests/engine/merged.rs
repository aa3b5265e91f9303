//! Parts of different plans in one batch: each gets the bits that it gets alone. And with faults planted in a merged batch, it
//! does not.

use std::sync::Arc;

use mediant::engine::Model;
use mediant::kernels::cpu::Dtype;
use mediant::plan::Plan;
use mediant::plan::batch::{AttentionBatch, ForwardBatch, Step};
use mediant::plan::merge::{Shares, merge};
use mediant::plan::output::BatchOutput;
use mediant::plan::pack::{Mode, Packing};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::random::{LAYERS, RawRun, any_model, plan, raw_run};
use crate::tiny::{WORLDS, config, golden, ranks};

/// Longest sequence of every plan: parts that hold attention scores hold as many keys.
const LENGTH: usize = 8;

/// Plans that ask for different things; now and then many of them.
pub(crate) fn plans() -> impl Strategy<Value = Vec<(Vec<u32>, Vec<RawRun>)>> {
    let some = |runs, parts| {
        let first = prop::collection::vec(0u32..512, LENGTH);
        prop::collection::vec((first, prop::collection::vec(raw_run(), 0..runs)), parts)
    };
    prop_oneof![4 => some(6, 2..6), 1 => some(3, 6..33)]
}

/// The forward batches of plans, those that may be merged together.
pub(crate) fn parts(raw: &[(Vec<u32>, Vec<RawRun>)], golden: &Value) -> Vec<Vec<ForwardBatch>> {
    let config = config(golden);
    let mut sorts: Vec<Vec<ForwardBatch>> = Vec::new();
    for (i, (first, runs)) in raw.iter().enumerate() {
        let mut plan = plan(first, runs, &config);
        differ(&mut plan, i as u32);
        let packing = Packing::new(&plan, LAYERS, 100_000, Mode::Branching).unwrap();
        let batch = packing.chunk(0).batch;
        match sorts.iter_mut().find(|sort| sort[0].keys == batch.keys) {
            Some(sort) => sort.push(batch),
            None => sorts.push(vec![batch]),
        }
    }
    sorts
}

/// Asks for what no other plan asks for.
fn differ(plan: &mut Plan, i: u32) {
    plan.scoring.targets = (0..i % 4).map(|t| (7 + 100 * t + i) % 512).collect();
    plan.scoring.topk = 5 * i % 7;
    plan.scoring.entropy = i.is_multiple_of(2);
    plan.scoring.kl_refs.truncate(2 - i as usize % 3);
}

/// Everything that a batch gives, as bytes: NaN is as good as any number.
fn bits(mut output: BatchOutput) -> Vec<u8> {
    output.captures.sort_by_key(|(capture, _)| *capture);
    postcard::to_stdvec(&(output.scores, output.captures, output.written)).unwrap()
}

pub(crate) fn alone(model: &mut impl Model, parts: &[ForwardBatch]) -> Vec<Vec<u8>> {
    parts.iter().map(|part| bits(model.forward(&Arc::new(part.clone())).unwrap())).collect()
}

pub(crate) fn together(model: &mut impl Model, (batch, shares): (ForwardBatch, Shares)) -> Vec<Vec<u8>> {
    shares.deal(model.forward(&Arc::new(batch)).unwrap()).into_iter().map(bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_plans_merged_give_the_bits_of_each_alone_in_every_dtype_on_any_ranks(
        raw in plans(),
        model in any_model(),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16]),
        world in prop::sample::select(WORLDS.to_vec()),
    ) {
        let golden = golden(model);
        let (mut group, _) = ranks(&golden, world, dtype);
        for parts in parts(&raw, &golden) {
            let merged = merge(parts.clone());
            let sum = |of: fn(&ForwardBatch) -> usize| parts.iter().map(of).sum::<usize>();
            prop_assert!(merged.0.peak_rows <= sum(|part| part.peak_rows));
            prop_assert_eq!(merged.0.edited, sum(|part| part.edited));
            let alone = alone(&mut group, &parts);
            prop_assert!(alone == together(&mut group, merged), "{} parts", parts.len());
        }
    }
}

/// What a wrong merge would do.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A part's key lists begin a key early.
    KeyStart,
    /// A divergence is taken from the row beside the reference.
    KlReference,
    /// Two rows that join are told apart wrongly.
    JoinOrder,
    /// A part is booked what another one's edit wrote.
    Edited,
}

/// Plants a fault, where there is a place for it.
fn plant(fault: Fault, batch: &mut ForwardBatch, shares: &mut Shares) {
    match fault {
        Fault::KeyStart => {
            let layer = &mut batch.layers[1].attention;
            let mut attention = AttentionBatch::clone(layer);
            attention.key_start.iter_mut().for_each(|start| *start = start.saturating_sub(1));
            *layer = Arc::new(attention);
        }
        Fault::KlReference => {
            for asked in &mut batch.readout.asked {
                let beside = |row: &mut u32| *row = (*row + 1) % asked.count as u32;
                asked.kl_refs.iter_mut().for_each(beside);
            }
        }
        Fault::JoinOrder => {
            let taps = batch.layers.iter_mut().flat_map(|layer| &mut layer.taps);
            for step in taps.flat_map(|tap| &mut tap.steps) {
                if let Step::Join(parents) = step {
                    parents.reverse();
                }
            }
        }
        Fault::Edited => {
            let edited: Vec<_> = shares.0.iter_mut().filter(|share| !share.edited.is_empty()).collect();
            if let [a, b, ..] =
                edited.into_iter().map(|share| &mut share.edited[0]).collect::<Vec<_>>().as_mut_slice()
            {
                std::mem::swap(*a, *b);
            }
        }
    }
}

#[test]
fn each_planted_fault_is_seen() {
    let mut runner = TestRunner::deterministic();
    let golden = golden("tiny_llama");
    let (mut group, _) = ranks(&golden, 1, Dtype::F32);
    let mut seen = [0; 4];
    for _ in 0..12 {
        let raw = plans().new_tree(&mut runner).unwrap().current();
        for parts in parts(&raw, &golden).into_iter().filter(|parts| parts.len() > 1) {
            let alone = alone(&mut group, &parts);
            let faults = [Fault::KeyStart, Fault::KlReference, Fault::JoinOrder, Fault::Edited];
            for (fault, seen) in faults.into_iter().zip(&mut seen) {
                let (mut batch, mut shares) = merge(parts.clone());
                plant(fault, &mut batch, &mut shares);
                *seen += usize::from(alone != together(&mut group, (batch, shares)));
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen > 3), "{seen:?}");
}
