//! A batch whose answer must never change while a model is loaded: other bits mean broken memory or a broken device.

use std::sync::Arc;

use super::{Model, ModelError};
use crate::model::config::ModelConfig;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::Missing;
use crate::plan::pack::{Mode, Packing};
use crate::plan::{Address, Capture, Edit, EditGroup, Op, Plan, Source};
use crate::spec::dtype::Dtype;
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

/// Why a model that was loaded is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Its logits for a plain prompt are not finite.
    #[error(
        "the model's logits for {rows} of {all} plain prompts are NaN or infinite in {dtype}: either its weights hold such \
         numbers, or its activations are larger than {dtype} holds; write model.dtype = \"bf16\" or \"f32\", and if that does \
         not help look into the weights"
    )]
    NotFinite {
        /// Prompts whose logits are not.
        rows: usize,
        /// Prompts.
        all: usize,
        /// What it computes in.
        dtype: &'static str,
    },
    /// It could not be computed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Computes the batch and looks whether its answer is a number: a model that fails at this would answer every request with
/// nulls.
pub(super) fn check(model: &mut impl Model, shape: &ModelConfig, dtype: Dtype) -> Result<(), NoAnswer> {
    let output = model.forward(&Arc::new(batch(shape)))?;
    let rows = output.scores.iter().filter(|score| score.missing == Some(Missing::NotFinite)).count();
    match rows {
        0 => Ok(()),
        _ => Err(NoAnswer::NotFinite { rows, all: output.scores.len(), dtype: dtype.name() }),
    }
}
