//! What cannot be done without: where it is lost, there is no result.

use super::Refusal;
use crate::lower::layout::{Common, PatchLayout, TraceLayout};
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
    readouts_of_runs(&layout.common).chain([layout.base]).chain(ends).collect()
}

/// What a trace's cells are compared with.
pub(super) fn compared_in_trace(layout: &TraceLayout) -> Vec<usize> {
    let corrupted = layout.corrupted.iter().copied();
    readouts_of_runs(&layout.common).chain([layout.clean]).chain(corrupted).collect()
}

fn readouts_of_runs(common: &Common) -> impl Iterator<Item = usize> {
    common.runs.iter().map(|(_, (_, readout))| *readout)
}
