//! Quantities derived from the cells of a patch or trace.

use serde::Serialize;
use utoipa::ToSchema;

use super::declare::choices;
use super::problem::{Problems, code};
use super::read::Node;

choices! {
/// A quantity derived from the cells, answered under `derived`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Derive {
    /// The first layer at which the most probable token is another than the unpatched run's, and the first from which
    /// it stays another, with the token at each. Any other token counts, a nonsensical one too.
    LeavesBase = "leaves_base",
    /// The first layer at which the most probable token is the source run's, and the first from which it stays that, with
    /// the token at each.
    ReachesSource = "reaches_source",
    /// The first layer at which the normalised effect (`recovery` of a trace) reaches one half, by metric.
    HalfRecoveryLayer = "half_recovery_layer",
    /// The cell with the largest effect, how often it is that over samples, and how far ahead of the next, by metric.
    Argmax = "argmax",
    /// How far the effect is concentrated in few cells, by metric.
    Concentration = "concentration",
}
}

impl Derive {
    /// Whether it follows layers.
    pub const fn needs_layers(self) -> bool {
        matches!(self, Self::LeavesBase | Self::ReachesSource | Self::HalfRecoveryLayer)
    }

    /// Whether one of them is of what the model says.
    pub fn of_answers(wanted: &[Self]) -> bool {
        wanted.contains(&Self::LeavesBase) || wanted.contains(&Self::ReachesSource)
    }
}

/// Reads a list of quantities; an empty one means none.
pub(super) fn read_derive(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Derive>> {
    node.distinct(out, |n, out| {
        if n.value.as_str() == Some("first_flip_layer") {
            let detail = "`first_flip_layer` is now `leaves_base`: any other answer counted, also one that is neither run's";
            let fix = "write \"leaves_base\", or \"reaches_source\" for the layer at which the answer is the source's";
            out.push(&n.at, code::UNKNOWN_VALUE, detail, fix);
            return None;
        }
        n.choice(&Derive::ALL, &[], out)
    })
}
