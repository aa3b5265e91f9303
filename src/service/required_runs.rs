//! Runs without which a response is meaningless: if an engine crash lost one, the request fails.

use super::Refusal;
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
