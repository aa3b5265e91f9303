//! A batch whose answer must never change while a model is loaded: other bits mean broken memory or a broken device.

use std::sync::Arc;

use crate::model::config::ModelConfig;
use crate::plan::batch::ForwardBatch;
use crate::plan::pack::{Mode, Packing};
use crate::plan::{Address, Capture, Edit, EditGroup, Op, Plan, Source};
use crate::spec::site::Site;

/// A short run, and a branch that takes over a part of another: every weight is read.
pub(super) fn batch(shape: &ModelConfig) -> ForwardBatch {
    let length = shape.max_positions.clamp(2, 8);
    let tokens = |step: usize| -> Arc<[u32]> {
        (0..length).map(|i| ((i * 7919 + step) % shape.vocab_size) as u32).collect()
    };
    let layers = shape.num_layers as u32;
    let last = length as u32 - 1;
    let mut plan = Plan::default();
    let (base, source) = (plan.root(tokens(1)), plan.root(tokens(2)));
    let at = Address { layer: layers / 2, site: Site::ResidPost };
    let replace = Op::Replace(Source::Run { run: source, positions: vec![last] });
    let branch = plan.branch(base, vec![Edit::new(at, vec![last], replace, EditGroup::Patch)]);
    for run in [base, source, branch] {
        plan.read(run, last);
    }
    let end = Address { layer: layers - 1, site: Site::ResidPost };
    plan.captures.push(Capture { run: base, at: end, positions: vec![last] });
    plan.scoring.topk = 8;
    let packing = Packing::new(&plan, layers, usize::MAX, Mode::Branching);
    packing.expect("BUG: no plan is over the largest budget").chunk(0).batch
}
