//! Controls: every cell once more with something about it made meaningless.

use std::sync::Arc;

use super::facts::Facts;
use super::noise::{NoiseKey, philox_row, philox4x32, stream};
use super::prompts::TokenRun;
use crate::model::config::ModelConfig;
use crate::plan::{Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::named::Named;
use crate::spec::patch::Control;

/// A run of this name is the one that control `unrelated_prompt` reads.
const UNRELATED: &str = "unrelated";
/// What it reads otherwise.
const UNRELATED_TEXT: &str = "The committee will meet again on Thursday to discuss the budget for next year.";
/// Seed of all random controls.
const SEED: u64 = 1;

/// What controls are made from.
pub(super) struct Controls {
    kinds: Vec<Control>,
    unrelated: Option<RunId>,
    bos: Option<u32>,
}

impl Controls {
    /// Prepares the controls asked for; the unrelated prompt becomes a run of the plan.
    pub(super) fn new(
        kinds: &[Control],
        runs: &Named<(TokenRun, usize)>,
        roots: &[RunId],
        plan: &mut Plan,
        facts: &dyn Facts,
    ) -> Self {
        let words = facts.words();
        let mut unrelated = None;
        if kinds.contains(&Control::UnrelatedPrompt) {
            unrelated = Some(if let Some(run) = runs.place(UNRELATED) {
                roots[run]
            } else {
                let ids = words.encode(UNRELATED_TEXT, None).map(|encoded| encoded.ids);
                let ids = ids.ok().filter(|ids| !ids.is_empty()).unwrap_or_else(|| Arc::from([0]));
                // Not longer than the others: the columns of attention patterns are counted by the longest run.
                let longest = plan.keys() as usize;
                plan.root(if ids.len() > longest { Arc::from(&ids[..longest]) } else { ids })
            });
        }
        Self { kinds: kinds.to_vec(), unrelated, bos: words.bos() }
    }

    /// No readouts yet for each control.
    pub(super) fn empty(&self) -> Vec<(Control, Vec<usize>)> {
        self.kinds.iter().map(|kind| (*kind, Vec::new())).collect()
    }

    /// Adds the controls of a cell whose edits are `edits`, and their readouts. `cell` numbers the cell, so that each
    /// draws its own positions and directions, the same in every sample.
    #[expect(clippy::too_many_arguments, reason = "the parts of a cell")]
    pub(super) fn add(
        &self,
        plan: &mut Plan,
        config: &ModelConfig,
        base: RunId,
        edits: &[Edit],
        cell: u32,
        read: u32,
        readouts: &mut [(Control, Vec<usize>)],
    ) {
        for (kind, readouts) in readouts {
            let changed = edits.iter().zip(0..).map(|(edit, n)| {
                let edit = match kind {
                    Control::SelfPatch => itself(edit, base),
                    Control::RandomPosition => self.elsewhere(edit, plan, cell),
                    Control::RandomVector => turned(edit, plan, config, cell, n),
                    Control::UnrelatedPrompt => self.unrelated(edit, plan),
                };
                Edit { group: EditGroup::Control, ..edit }
            });
            let run = plan.branch(base, changed.collect::<Vec<_>>());
            readouts.push(plan.read(run, read));
        }
    }

    /// The same edit reading other positions of its run, BOS only if there is no other.
    fn elsewhere(&self, edit: &Edit, plan: &Plan, cell: u32) -> Edit {
        let mut edit = edit.clone();
        if edit.at.site.is_over_keys() {
            return edit;
        }
        if let Some((run, positions)) = edit.op.run_read_mut() {
            let tokens = &plan.run(run).tokens;
            let first = u32::from(tokens.len() > 2 && self.bos == tokens.first().copied());
            for (position, i) in positions.iter_mut().zip(0..) {
                let others: Vec<u32> = (first..tokens.len() as u32).filter(|p| p != position).collect();
                let word = u64::from(philox4x32([i, cell, 0, stream::CONTROL], [SEED as u32, 0])[0]);
                let index = (word * others.len() as u64) >> 32;
                *position = others.get(index as usize).copied().unwrap_or(*position);
            }
        }
        edit
    }

    /// The same edit reading the unrelated run, as far from its end.
    fn unrelated(&self, edit: &Edit, plan: &Plan) -> Edit {
        let mut edit = edit.clone();
        let same_keys = edit.at.site.is_over_keys();
        let Some(unrelated) = self.unrelated else { return edit };
        let length = plan.run(unrelated).tokens.len() as u32;
        if let Some((run, positions)) = edit.op.run_read_mut() {
            let source = plan.run(run).tokens.len() as u32;
            for position in positions.iter_mut() {
                let from_end =
                    if same_keys { *position } else { (length + *position).saturating_sub(source) };
                *position = from_end.min(length - 1);
            }
            edit.op.read_run(unrelated);
        }
        edit
    }
}

/// The base's own values written onto themselves.
fn itself(edit: &Edit, base: RunId) -> Edit {
    let op = Op::Replace(Source::Run { run: base, positions: edit.positions.clone() });
    // What was written from another layer is the base's own layer's now.
    Edit { op, through: None, ..edit.clone() }
}

/// The same edit moving each row as far, in a random direction. An edge that is cut has none, and stays cut.
fn turned(edit: &Edit, plan: &Plan, config: &ModelConfig, cell: u32, n: u32) -> Edit {
    if matches!(edit.op, Op::Cut) {
        return edit.clone();
    }
    let whole = config.site_width(edit.at.site.written_as(), plan.keys() as usize);
    let width = edit.columns.as_ref().map_or(whole, ExactSizeIterator::len);
    let rows = edit.positions.iter().flat_map(|&position| {
        let key = NoiseKey { seed: SEED, stream: stream::CONTROL, sample: cell, position };
        let row = philox_row(NoiseKey { seed: key.seed + (u64::from(n) << 32), ..key }, width);
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.into_iter().map(move |x| (x / norm) as f32)
    });
    Edit { instead: Some(rows.collect()), ..edit.clone() }
}
