//! Puts the outputs of a plan's parts together.

use super::Prepared;
use super::work::{ChunkKey, Done};
use crate::plan::Score;
use crate::plan::output::{EditStats, Lost, PlanOutput, Usage};

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
                written: vec![0.0; prepared.runs],
                lost: None,
                usage: Usage { peak_bytes: prepared.cost.peak_bytes, ..Usage::default() },
            },
        }
    }

    /// Adds what a part gave.
    pub(super) fn add(&mut self, done: Done) {
        let ChunkKey { readouts, runs, rows, row_layers } = done.key;
        // A run that stands in several chunks, because others read it, does the same in each.
        for (run, changes) in runs.iter().zip(&done.output.changes) {
            self.output.written[run.0 as usize] = *changes;
        }
        for (readout, row) in readouts {
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

    /// Notes that readouts and captures, if there are any, will not come.
    pub(super) fn lose(&mut self, (readouts, captures): (Vec<usize>, Vec<usize>), lost: Lost) {
        if !readouts.is_empty() || !captures.is_empty() {
            self.output.lost.get_or_insert(lost);
        }
        for readout in readouts {
            self.scores[readout] = Some(Score { lost: Some(lost), ..Score::default() });
        }
    }

    /// Notes that memory ran out and the batch was halved.
    pub(super) fn halved(&mut self) {
        self.output.usage.halved += 1;
    }

    pub(super) fn finish(self) -> PlanOutput {
        let scores = self.scores.into_iter().collect::<Option<Vec<_>>>();
        PlanOutput { scores: scores.expect("BUG: every readout is in one chunk"), ..self.output }
    }
}
