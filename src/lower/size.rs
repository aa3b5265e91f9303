//! How much a plan may hold, known before it is built.

use super::facts::Limits;
use super::prepare::Prepared;
use crate::spec::problem::{Problems, code};

/// How much a plan holds, computed before it is built.
pub(super) struct Size {
    /// Edited runs.
    pub cells: u64,
    /// Edits of all of them.
    pub edits: u64,
    /// Positions written by all edits together.
    pub positions: u64,
    /// Where the size comes from.
    pub at: &'static str,
}

/// Checks the size of a plan against the limits. `runs`: readouts beside the cells.
pub(super) fn admit(
    size: &Size,
    runs: u64,
    prepared: &Prepared,
    topk: u32,
    limits: &Limits,
    out: &mut Problems,
) {
    const FIX: &str = "sweep fewer layers, positions, arms or samples";
    // The edits of derived runs are inherited by the cells, but held once.
    let (mut edits, mut positions) = (size.edits, size.positions);
    for derived in &prepared.derived {
        edits = edits.saturating_add(derived.edits);
        positions = positions.saturating_add(derived.positions);
    }
    // Every run is computed once for each continuation that targets need.
    let suffixes = crate::plan::sequences::continuations(&prepared.targets.sequences);
    let copies = suffixes.len().max(1) as u64;
    let [cells, edits, positions] = [size.cells, edits, positions].map(|n| n.saturating_mul(copies));
    if cells > limits.cells {
        let detail = format!("{cells} patched runs, the limit is {}", limits.cells);
        out.push(size.at, code::LIMIT, detail, FIX);
    } else if edits > limits.edits {
        let detail = format!("{edits} edits, the limit is {}", limits.edits);
        out.push(size.at, code::LIMIT, detail, FIX);
    } else if positions > limits.edit_positions {
        let detail = format!("{positions} edited positions, the limit is {}", limits.edit_positions);
        out.push(size.at, code::LIMIT, detail, FIX);
    }
    let tokens =
        prepared.targets.union.len() + prepared.targets.sequences.iter().map(|s| s.len()).sum::<usize>();
    let per_score = (tokens + prepared.refs.len()) as u64 + u64::from(topk).max(1);
    let readouts = 1 + suffixes.iter().map(|suffix| suffix.len()).sum::<usize>() as u64;
    let scores = size.cells.saturating_add(runs).saturating_mul(per_score).saturating_mul(readouts);
    if scores > limits.score_elements {
        let detail = format!("{scores} numbers in all readouts, the limit is {}", limits.score_elements);
        out.push("/read/topk", code::LIMIT, detail, "ask for a smaller `topk`, fewer targets or fewer cells");
    }
}
