//! Puts the outputs of a plan's chunks together.

use super::{Done, Prepared};
use crate::plan::Score;
use crate::plan::output::{EditStats, PlanOutput, Usage};

/// The outputs so far.
pub(super) struct Assembly {
    scores: Vec<Option<Score>>,
    output: PlanOutput,
}

impl Assembly {
    pub(super) fn new(prepared: &Prepared) -> Assembly {
        Assembly {
            scores: vec![None; prepared.readouts],
            output: PlanOutput {
                scores: Vec::new(),
                captures: vec![Vec::new(); prepared.captures],
                receipts: [EditStats::default(); 3],
                written: Vec::new(),
                usage: Usage { peak_bytes: prepared.cost.peak_bytes, ..Usage::default() },
            },
        }
    }

    /// `readouts`: (index in the plan, index in the batch).
    pub(super) fn add(&mut self, readouts: &[(usize, usize)], done: Done, rows: usize, row_layers: u64) {
        for &(readout, row) in readouts {
            self.scores[readout] = Some(done.output.scores[row].clone());
        }
        for (capture, numbers) in done.output.captures {
            self.output.captures[capture] = numbers;
        }
        for (total, written) in self.output.receipts.iter_mut().zip(done.output.written) {
            *total = total.and(written);
        }
        let usage = &mut self.output.usage;
        usage.rows += rows as u64;
        usage.row_layers += row_layers;
        usage.chunks += 1;
        usage.seconds += done.took.as_secs_f64();
        usage.queue_seconds += done.waited.as_secs_f64();
    }

    pub(super) fn finish(self) -> PlanOutput {
        let scores = self.scores.into_iter().collect::<Option<Vec<_>>>();
        PlanOutput { scores: scores.expect("BUG: every readout is in one chunk"), ..self.output }
    }
}
