//! What cannot be done without: where it is lost, there is no result.

use super::Refusal;
use crate::lower::layout::PatchLayout;
use crate::plan::output::{Missing, PlanOutput};

/// An error if anything was lost.
pub(super) fn none(output: &PlanOutput) -> Result<(), Refusal> {
    output.lost.map_or(Ok(()), |lost| Err(Refusal::Lost(lost)))
}

/// An error if one of these readouts was lost.
pub(super) fn none_of(output: &PlanOutput, readouts: impl IntoIterator<Item = usize>) -> Result<(), Refusal> {
    let lost = readouts.into_iter().find_map(|readout| match output.scores[readout].missing {
        Some(Missing::Lost(lost)) => Some(lost),
        // It was computed, and is told.
        Some(Missing::NotFinite) | None => None,
    });
    lost.map_or(Ok(()), |lost| Err(Refusal::Lost(lost)))
}

/// What a patch's cells are compared with.
pub(super) fn compared_in_patch(layout: &PatchLayout) -> Vec<usize> {
    let ends = layout.normalise.into_iter().flat_map(|(zero, one)| [zero, one]);
    let runs = layout.common.runs.iter().map(|(_, (_, readout))| *readout);
    runs.chain(layout.arm.base.clone()).chain(ends).collect()
}
