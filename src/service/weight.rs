//! What a plan and its results take in memory, foretold.

use std::collections::HashSet;
use std::mem::size_of;
use std::sync::Arc;

use crate::model::config::ModelConfig;
use crate::plan::output::PlanOutput;
use crate::plan::{Capture, Edit, Op, Plan, Readout, Run, Score, Source};

/// The plan as it was made and once more as it is packed, which adds as much again of tables.
const COPIES: u64 = 3;
/// Bytes of a number of a capture: as computed, in the response, and as text.
const CAPTURED: u64 = 4 + 4 + 16;
/// Bytes of a number of a score: as computed, averaged, and as text.
const SCORED: u64 = 8 + 16 + 24;

/// Bytes of a plan, of what the engine gives for it and of the answer that is made of that, about.
pub(super) fn bytes(plan: &Plan, model: &ModelConfig) -> u64 {
    let mut shared = HashSet::new();
    let of_runs: u64 = plan.runs.iter().map(|run| run_bytes(run, &mut shared)).sum();
    let structure = of_runs + (plan.readouts.len() * size_of::<Readout>()) as u64;
    let keys = plan.keys() as usize;
    let captured = |capture: &Capture| {
        let layer = (capture.at.layer as usize).min(model.num_layers.saturating_sub(1));
        let width = if capture.at.site.is_over_keys() {
            model.site_heads(capture.at.site).unwrap_or(1) * keys
        } else {
            model.site_width(capture.at.site, layer)
        };
        (capture.positions.len() * width) as u64 * CAPTURED
    };
    let scoring = &plan.scoring;
    let scored = 4
        + 2 * scoring.targets.len()
        + 2 * scoring.topk as usize
        + scoring.kl_refs.len()
        + scoring.sequences.len();
    let score = size_of::<Score>() as u64 + scored as u64 * SCORED;
    size_of::<PlanOutput>() as u64
        + COPIES * structure
        + plan.captures.iter().map(captured).sum::<u64>()
        + plan.readouts.len() as u64 * score
}

/// Whether making a plan ready, and an answer of what comes of it, takes less time than handing either to another thread: tenths of
/// a millisecond.
pub(super) fn is_little(plan: &Plan) -> bool {
    let tokens: usize = plan.runs.iter().map(|run| run.tokens.len()).sum();
    let captured: usize = plan.captures.iter().map(|capture| capture.positions.len()).sum();
    let numbers = plan.scoring.targets.len() + plan.scoring.topk as usize;
    let edited = plan.runs.iter().any(|run| !run.edits.is_empty());
    !edited
        && plan.runs.len() <= 4
        && tokens <= 512
        && plan.readouts.len() <= 16
        && captured <= 4
        && numbers <= 64
}

/// Numbers that several edits share count once.
fn run_bytes(run: &Run, shared: &mut HashSet<usize>) -> u64 {
    let mut once = |place: usize, bytes: usize| if shared.insert(place) { bytes as u64 } else { 0 };
    let tokens = once(Arc::as_ptr(&run.tokens).cast::<u32>() as usize, 4 * run.tokens.len());
    let edits = run.edits.iter().map(|edit| {
        let mut numbers =
            |numbers: &Arc<[f32]>| once(Arc::as_ptr(numbers).cast::<f32>() as usize, 4 * numbers.len());
        let basis = match &edit.op {
            Op::Project { basis: vectors, .. } | Op::Along { direction: vectors, .. } => numbers(vectors),
            _ => 0,
        };
        let instead = edit.instead.as_ref().map_or(0, &mut numbers);
        let source = match edit.op.source() {
            Some(Source::Run { positions, .. }) => 4 * positions.len() as u64,
            Some(Source::Constant(constant)) => numbers(constant),
            Some(Source::Captured(rows)) => rows.iter().map(|rows| 64 + 4 * rows.rows.len() as u64).sum(),
            None => 0,
        };
        (size_of::<Edit>() + 4 * edit.positions.len()) as u64 + basis + instead + source
    });
    size_of::<Run>() as u64 + tokens + edits.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Address, EditGroup};
    use crate::spec::site::Site;

    #[test]
    fn what_is_shared_counts_once_and_what_is_captured_by_the_number() {
        let model = crate::load::dummy::config(crate::load::Preset::Tiny);
        let mut plan = Plan::default();
        let base = plan.root(vec![1; 100].into());
        let small = bytes(&plan, &model);
        let noise: Arc<[f32]> = vec![0.0; 1_000_000].into();
        for _ in 0..3 {
            let at = Address { layer: 0, site: Site::ResidPre };
            let op = Op::add(Source::Constant(noise.clone()));
            plan.branch(base, vec![Edit::new(at, vec![1], op, EditGroup::Patch)]);
        }
        let edited = bytes(&plan, &model) - small;
        assert!((12_000_000..13_000_000).contains(&edited), "{edited}");
        let at = Address { layer: 1, site: Site::ResidPost };
        let before = bytes(&plan, &model);
        plan.captures.push(Capture { run: base, at, positions: (0..100).collect() });
        assert_eq!(bytes(&plan, &model) - before, 100 * model.hidden_size as u64 * CAPTURED);
    }

    #[test]
    fn a_clean_run_is_little_and_what_grows_with_layers_or_positions_is_not() {
        let clean = |tokens: usize, reads: u32| {
            let mut plan = Plan::default();
            let run = plan.root(vec![1; tokens].into());
            for position in 0..reads {
                plan.read(run, position);
            }
            (plan, run)
        };
        assert!(is_little(&clean(60, 1).0));
        assert!(!is_little(&clean(600, 1).0), "a long prompt");
        assert!(!is_little(&clean(60, 60).0), "every position");
        let (mut plan, run) = clean(60, 1);
        let at = Address { layer: 0, site: Site::ResidPre };
        plan.captures.push(Capture { run, at, positions: (0..60).collect() });
        assert!(!is_little(&plan), "captures");
        let (mut plan, base) = clean(5, 1);
        plan.branch(base, vec![Edit::new(at, vec![1], Op::Zero, EditGroup::Patch)]);
        assert!(!is_little(&plan), "patches, of which there may be many");
    }
}
