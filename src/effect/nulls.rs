//! Why numbers are null. Whether a row has numbers was decided where its score was made; here it is only told.

use super::measure::value;
use crate::lower::layout::Grid;
use crate::lower::measure::{Measure, Member, Reads};
use crate::plan::Score;
use crate::plan::output::Missing;

/// Why a number is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Null {
    /// The row has no numbers.
    Row(Missing),
    /// What it is compared with has none.
    Compared(Missing),
    /// Whole texts are scored at the end of a run alone.
    Unscored,
    /// The number itself is not finite, although the logits are.
    Number,
}

impl std::fmt::Display for Null {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(missing) => missing.fmt(f),
            Self::Compared(missing) => write!(f, "{missing} in the run that this is compared with"),
            Self::Unscored => f.write_str("unscored: texts of several tokens are scored at the end of a run"),
            Self::Number => f.write_str("not_finite: the number itself, although the logits are"),
        }
    }
}

/// Whether a row was computed and has no numbers because logits are NaN or infinite.
pub fn is_not_finite(score: &Score) -> bool {
    score.missing == Some(Missing::NotFinite)
}

/// Whether a row could not be computed.
pub fn is_lost(score: &Score) -> bool {
    matches!(score.missing, Some(Missing::Lost(_)))
}

/// Why a metric has no value at a score, if it has none.
pub fn of_value(measure: &Measure, score: &Score, reference_top1: Option<u32>) -> Option<Null> {
    if value(measure, score, reference_top1).is_some() {
        return None;
    }
    Some(match (score.missing, measure.reads(score)) {
        (Some(missing), _) => Null::Row(missing),
        (None, Reads::Divergence(_) | Reads::Top1) => Null::Compared(Missing::NotFinite),
        (None, reads) if score.sequences.is_empty() && reads_texts(reads) => Null::Unscored,
        (None, _) => Null::Number,
    })
}

/// Whether whole texts are read.
fn reads_texts(reads: &Reads) -> bool {
    let is_text = |member: &Member| matches!(member, Member::Sequence { .. });
    match reads {
        Reads::Set(set) => set.iter().any(is_text),
        Reads::Difference(a, b) => a.iter().chain(b).any(is_text),
        Reads::Divergence(_) | Reads::Top1 | Reads::Written => false,
    }
}

/// Why a metric has no mean over the samples of each cell, `[cells]`. `readouts`: `[cells, samples]`.
pub fn of_cells(
    measure: &Measure,
    scores: &[Score],
    readouts: &[usize],
    samples: usize,
    reference_top1: Option<u32>,
) -> Vec<Option<Null>> {
    let of = |readout: &usize| of_value(measure, &scores[*readout], reference_top1);
    readouts.chunks(samples.max(1)).map(|cell| cell.iter().find_map(of)).collect()
}

/// Why a cell has no effect: because of itself, or of what it is compared with.
pub fn of_effect(own: Option<Null>, compared: Option<Null>) -> Option<Null> {
    own.or(match compared {
        Some(Null::Row(missing)) => Some(Null::Compared(missing)),
        other => other,
    })
}

/// Cells of a grid of which a row is not finite, or the row that it is compared with: what is known of them beforehand holds
/// of no number. `baselines`: the unpatched readout of each sample.
pub fn undefined_cells(grid: &Grid, scores: &[Score], baselines: &[usize]) -> Vec<bool> {
    let of = |readout: &usize| is_not_finite(&scores[*readout]);
    let compared = baselines.iter().any(of);
    (0..grid.cells()).map(|cell| compared || grid.cell(cell).iter().any(of)).collect()
}

/// Cells of a grid of which a row could not be computed.
pub fn lost_cells(grid: &Grid, scores: &[Score]) -> Vec<bool> {
    (0..grid.cells()).map(|cell| grid.cell(cell).iter().any(|readout| is_lost(&scores[*readout]))).collect()
}
