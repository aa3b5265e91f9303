//! What a rank gives back for a batch, and how the ranks' parts are put together.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::draw::draw;
use crate::kernels::{Partial, merge};
use crate::plan::batch::ForwardBatch;
use crate::plan::draw::{Draw, Drawn, StepDraws};
use crate::plan::output::{BatchOutput, RowWritten, larger};

/// A rank's part of a [`BatchOutput`].
#[derive(Debug, Clone, PartialEq)]
pub struct RankOutput {
    /// For each readout of the batch, lenses first: what the rank knows of each row.
    pub partials: Vec<Vec<Partial>>,
    /// Own columns of captures.
    pub captures: Vec<Part>,
    /// Of a step, own columns of the logits of its [`StepDraws::rows`].
    pub logits: Vec<f32>,
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
            logits: Vec::new(),
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
        drawn: Vec::new(),
    };
    if let Some(step) = &batch.step {
        let logits: Vec<&[f32]> = ranks.iter().map(|rank| &*rank.logits).collect();
        output.drawn = drawn(step, &logits);
    }
    let mut partials = Vec::new();
    let mut parts = Vec::new();
    for rank in ranks {
        partials.push(rank.partials.into_iter());
        parts.extend(rank.captures);
        for (total, written) in output.written.iter_mut().zip(rank.written) {
            total.elements += written.elements;
            total.squared += written.squared;
            total.before += written.before;
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

/// What is drawn from the logits of a step's rows, of which each rank has its own columns.
fn drawn(step: &StepDraws, ranks: &[&[f32]]) -> Vec<Option<Drawn>> {
    let rows = step.rows();
    let parts = |row: u32| {
        let place = rows.binary_search(&row).expect("BUG: all rows that are drawn from are read");
        let count = rows.len();
        ranks.iter().map(move |all| {
            let own = all.len() / count;
            &all[place * own..][..own]
        })
    };
    let logit = |row: u32, token: u32| parts(row).flatten().nth(token as usize).copied();
    let draw = |Draw { row, choice, u, also }: &Draw| {
        // A single logit that is NaN or infinite leaves no distribution.
        parts(*row).flatten().all(|logit| logit.is_finite()).then(|| {
            let own: Cow<'_, [f32]> = match ranks {
                [_] => parts(*row).next().unwrap_or_default().into(),
                _ => parts(*row).flatten().copied().collect::<Vec<f32>>().into(),
            };
            let (token, mass_kept) = draw(&own, choice, *u);
            let also = also.iter().filter_map(|row| logit(*row, token)).collect();
            Drawn { token, logit: own[token as usize], mass_kept, also }
        })
    };
    step.draws.par_iter().map(draw).collect()
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
