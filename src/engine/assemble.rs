//! Puts the outputs of a plan's parts together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::growth::Growth;
use super::work::{ChunkKey, Done};
use super::{Charge, Prepared};
use crate::plan::cost::Cost;
use crate::plan::edits::{EditedRow, Write};
use crate::plan::output::{EditStats, Lost, Missing, PlanOutput, RowWritten, Usage};
use crate::plan::pack::Part;
use crate::plan::{EditGroup, Score};

/// The outputs so far.
pub(super) struct Assembly {
    scores: Vec<Option<Score>>,
    output: PlanOutput,
    accounts: Accounts,
    /// For how long the engine had been busy when the last part was done.
    ended: Duration,
    /// What all of it costs.
    cost: Cost,
    /// Runs asked for that came to something, or to nothing, and all of them.
    runs: (u64, u64),
    charge: Option<Charge>,
    /// Processes that computed parts of it.
    processes: BTreeSet<u64>,
    growth: Growth,
}

/// Nobody waits any more, or the engine is gone: what came of it until then is charged, and never more than all of it.
impl Drop for Assembly {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            charge(&self.usage());
        }
    }
}

/// What edits wrote, each row once. A run that others read stands in every part that has such others, and is edited there each
/// time, at least where they can see it: how often must not show.
struct Accounts {
    /// Whether each run may stand in several parts.
    shared: Vec<bool>,
    /// Rows of these runs, by run and in the order in which they are written, whichever part they were met in first.
    met: BTreeMap<(u32, Write), (EditGroup, RowWritten)>,
}

impl Assembly {
    pub(super) fn new(prepared: &Prepared, charge: Charge, growth: Growth) -> Assembly {
        Assembly {
            scores: vec![None; prepared.readouts],
            output: PlanOutput {
                scores: Vec::new(),
                captures: vec![Vec::new(); prepared.captures],
                receipts: [EditStats::default(); 3],
                written: vec![0.0; prepared.runs],
                cells: vec![0; prepared.runs],
                lost: None,
                process: None,
                usage: Usage::default(),
            },
            cost: prepared.cost,
            runs: (0, prepared.packing.whole().len() as u64),
            charge: Some(charge),
            processes: BTreeSet::new(),
            growth,
            accounts: Accounts { shared: prepared.packing.read_by_any(), met: BTreeMap::new() },
            ended: Duration::ZERO,
        }
    }

    /// Adds what a part gave.
    pub(super) fn add(&mut self, part: &Part, work: u64, done: Done) {
        let ChunkKey { readouts, edited, .. } = done.key;
        self.growth.add(work, readouts.iter().map(|(readout, row)| (*readout, &done.output.scores[*row])));
        for (row, written) in edited.into_iter().zip(done.output.written) {
            let EditedRow { run, group, write } = row;
            if self.accounts.shared[run.0 as usize] {
                self.accounts.met.insert((run.0, write), (group, written));
            } else {
                book(&mut self.output, run.0, group, written);
            }
        }
        for (readout, row) in readouts {
            self.scores[readout] = Some(done.output.scores[row].clone());
        }
        for (capture, numbers) in done.output.captures {
            self.output.captures[capture] = numbers;
        }
        self.runs.0 += part.len() as u64;
        self.processes.insert(done.process);
        let usage = &mut self.output.usage;
        usage.shared_with = usage.shared_with.max(done.beside);
        usage.seconds += done.share * done.took.as_secs_f64();
        // Since this piece was sent, or since the one before it was done, whatever the engine was busy with was somebody else's.
        usage.queue_seconds += done.begun.saturating_sub(done.queued.max(self.ended)).as_secs_f64();
        self.ended = done.begun + done.took;
    }

    /// Notes that readouts and captures, if there are any, will not come.
    pub(super) fn lose(&mut self, (readouts, captures): (Vec<usize>, Vec<usize>), lost: Lost) {
        if !readouts.is_empty() || !captures.is_empty() {
            self.output.lost.get_or_insert(lost);
        }
        for readout in readouts {
            self.scores[readout] = Some(Score { missing: Some(Missing::Lost(lost)), ..Score::default() });
        }
    }

    /// Notes that memory ran out and the batch was halved.
    pub(super) fn halved(&mut self) {
        self.output.usage.halved += 1;
    }

    pub(super) fn finish(mut self) -> PlanOutput {
        // What was lost cost as much.
        self.runs.0 = self.runs.1;
        self.output.usage = self.usage();
        let mut output = std::mem::take(&mut self.output);
        output.process = self.processes.first().copied().filter(|_| self.processes.len() == 1);
        for ((run, _), (group, written)) in std::mem::take(&mut self.accounts.met) {
            book(&mut output, run, group, written);
        }
        let scores = std::mem::take(&mut self.scores).into_iter().collect::<Option<Vec<_>>>();
        PlanOutput { scores: scores.expect("BUG: every readout is in one chunk"), ..output }
    }

    /// What it cost so far: of what the plan costs, the part that runs make up, however they were cut.
    fn usage(&self) -> Usage {
        let Cost { rows, row_layers, peak_bytes, .. } = self.cost;
        let (done, all) = self.runs;
        let so_far = |of: u64| (u128::from(of) * u128::from(done) / u128::from(all.max(1))) as u64;
        Usage { rows: so_far(rows), row_layers: so_far(row_layers), peak_bytes, ..self.output.usage }
    }
}

/// Books a row to its run and to its receipt.
fn book(output: &mut PlanOutput, run: u32, group: EditGroup, written: RowWritten) {
    if group != EditGroup::Corruption {
        output.written[run as usize] += written.squared;
    }
    output.cells[run as usize] += 1;
    let receipt = &mut output.receipts[group.index()];
    *receipt = receipt.and(written.into());
}
