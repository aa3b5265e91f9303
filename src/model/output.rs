//! What a rank gives back for a batch, and how the ranks' parts are put together.

use std::ops::Range;

use crate::kernels::{Partial, merge};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::{BatchOutput, RowWritten, larger};

/// A rank's part of a [`BatchOutput`].
#[derive(Debug, Clone, PartialEq)]
pub struct RankOutput {
    /// For each readout of the batch, lenses first: what the rank knows of each row.
    pub partials: Vec<Vec<Partial>>,
    /// Own columns of captures.
    pub captures: Vec<Part>,
    /// What was written, one for each row edited: numbers on rank 0 alone, the largest change among own columns, and the sum of
    /// squares of those that the rank speaks for.
    pub written: Vec<RowWritten>,
}

/// A rank's columns of a capture.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Index of the capture.
    pub capture: usize,
    /// Which columns of the site they are.
    pub columns: Range<u32>,
    /// `[positions, columns]`
    pub numbers: Vec<f32>,
}

impl RankOutput {
    /// Of a batch that edits so many rows.
    pub(super) fn new(edited: usize) -> RankOutput {
        RankOutput {
            partials: Vec::new(),
            captures: Vec::new(),
            written: vec![RowWritten::default(); edited],
        }
    }
}

/// The output of a batch from what its ranks gave, in the order of the ranks.
pub fn join(batch: &ForwardBatch, ranks: Vec<RankOutput>) -> BatchOutput {
    let mut output = BatchOutput {
        scores: Vec::new(),
        captures: Vec::new(),
        written: vec![RowWritten::default(); batch.edited],
    };
    let mut partials = Vec::new();
    let mut parts = Vec::new();
    for rank in ranks {
        partials.push(rank.partials.into_iter());
        parts.extend(rank.captures);
        for (total, written) in output.written.iter_mut().zip(rank.written) {
            total.elements += written.elements;
            total.squared += written.squared;
            total.largest = larger(total.largest, written.largest);
            total.cancelled |= written.cancelled;
        }
    }
    let lenses = batch.layers.iter().map(|layer| &layer.lens).filter(|lens| !lens.rows.is_empty());
    for readout in lenses.chain([&batch.readout]) {
        let of_ranks: Vec<_> = partials.iter_mut().filter_map(Iterator::next).collect();
        output.scores.extend(merge(readout, &of_ranks));
    }
    parts.sort_by_key(|part| (part.capture, part.columns.start)); // stable
    for parts in parts.chunk_by_mut(|a, b| a.capture == b.capture) {
        output.captures.push((parts[0].capture, side_by_side(parts)));
    }
    output
}

/// The rows of a capture from its columns.
fn side_by_side(parts: &mut [Part]) -> Vec<f32> {
    if let [whole] = parts {
        return std::mem::take(&mut whole.numbers);
    }
    let rows = parts[0].numbers.len() / parts[0].columns.len();
    let row = |i: usize| parts.iter().flat_map(move |p| &p.numbers[i * p.columns.len()..][..p.columns.len()]);
    (0..rows).flat_map(row).copied().collect()
}
