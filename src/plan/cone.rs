//! Where a run differs from its parent: the causal cone of its edits, exactly.
//!
//! A run owns a row of its own at a position only from the moment its value can differ from its parent's: at the edit
//! itself, or at the first attention that can see an earlier position that already differs. Until then it reads its
//! parent's row. Exact nulls (an edit that no readout can see, an edit that writes what is there already) fall out of
//! this: such a run's readout is its parent's row.

use super::batch::SITES as BLOCK_SITES;
use super::sequences::Expansion;
use super::{Address, EditGroup, Op, Plan, Readout, Run, RunId, Source};
use crate::spec::site::{Scope, Site};

/// A moment of the forward pass; later moments are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stage(u32);

/// Moments of a block: its sites in the order of computation, and attention, where a position begins to see what changed
/// before it, between the keys and the queries.
const PER_LAYER: u32 = BLOCK_SITES as u32 + 1;
const ATTENTION: u32 = Site::Q as u32 - Site::ResidPre as u32;

impl Stage {
    /// Before which nothing exists: the embeddings.
    pub const EMBED: Stage = Stage(0);
    /// Later than every moment: never.
    pub const NEVER: Stage = Stage(u32::MAX);

    /// The moment at which a site is tapped.
    pub fn of(at: Address) -> Stage {
        let offset = match at.site.facts().scope {
            Scope::Start => return Stage::EMBED,
            Scope::Block => {
                let place = at.site as u32 - Site::ResidPre as u32;
                if place < ATTENTION { place } else { place + 1 }
            }
            Scope::End => at.site as u32 - Site::FinalNorm as u32,
        };
        Stage(1 + at.layer * PER_LAYER + offset)
    }

    /// The moment at which attention mixes positions in a layer.
    pub fn attention(layer: u32) -> Stage {
        Stage(1 + layer * PER_LAYER + ATTENTION)
    }

    /// The moment at which a readout is taken.
    pub fn of_readout(readout: &Readout, layers: u32) -> Stage {
        match readout.lens {
            Some(layer) => Stage::of(Address { layer, site: Site::ResidPost }),
            None => Stage::end(layers),
        }
    }

    /// Every moment of a pass, in order.
    pub(super) fn all(layers: u32) -> impl DoubleEndedIterator<Item = Stage> {
        (0..=Stage::end(layers).0).map(Stage)
    }

    /// Its place among [`Stage::all`].
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether attention mixes positions at this moment.
    pub(super) fn is_attention(self) -> bool {
        self.0 % PER_LAYER == Stage::attention(0).0
    }

    /// The first attention strictly after this moment, if the model has one.
    fn next_attention(self, layers: u32) -> Stage {
        let first = Stage::attention(0).0;
        let layer = if self.0 < first { 0 } else { (self.0 - first) / PER_LAYER + 1 };
        if self == Stage::NEVER || layer >= layers { Stage::NEVER } else { Stage::attention(layer) }
    }

    /// The moment just before.
    #[must_use]
    pub fn previous(self) -> Stage {
        Stage(self.0.saturating_sub(1))
    }

    /// Layers that are over at this moment.
    fn layers_done(self) -> u32 {
        // The last site of a layer is its end: nothing of the layer is left to compute.
        self.0 / PER_LAYER
    }

    /// After everything.
    pub fn end(layers: u32) -> Stage {
        Stage(1 + layers * PER_LAYER + 2)
    }
}

/// For every run and position, the moment from which the run has a row of its own.
#[derive(Debug)]
pub struct Cones {
    births: Vec<Box<[Stage]>>,
    parents: Vec<Option<RunId>>,
}

impl Cones {
    /// Works out the cones of every run. `O(runs * positions)` time and memory.
    pub fn new(plan: &Plan, layers: u32) -> Cones {
        let mut cones = Cones {
            births: Vec::with_capacity(plan.runs.len()),
            parents: plan.runs.iter().map(|r| r.parent).collect(),
        };
        for run in &plan.runs {
            let births = cones.births_of(run, layers);
            cones.births.push(births.into_boxed_slice());
        }
        cones
    }

    /// When `run` gets its own row at `position`.
    pub fn birth(&self, run: RunId, position: u32) -> Stage {
        self.births[run.0 as usize][position as usize]
    }

    /// When `run` gets its own row at each position.
    pub(super) fn births(&self, run: RunId) -> &[Stage] {
        &self.births[run.0 as usize]
    }

    /// The run whose row stands for `run` at `position` once `stage` is done.
    ///
    /// # Panics
    /// Never: every chain of parents ends in a root, which owns its rows from the start.
    pub fn resolve(&self, mut run: RunId, position: u32, stage: Stage) -> RunId {
        while self.birth(run, position) > stage {
            run = self.parents[run.0 as usize].expect("BUG: a root owns all its rows from the start");
        }
        run
    }

    /// Rows the run owns in the end.
    pub fn own_rows(&self, run: RunId) -> usize {
        self.births[run.0 as usize].iter().filter(|b| **b != Stage::NEVER).count()
    }

    /// Rows the run owns, each times the layers it passes through.
    pub fn row_layers(&self, run: RunId, layers: u32) -> u64 {
        let births = self.births[run.0 as usize].iter().filter(|b| **b != Stage::NEVER);
        births.map(|b| u64::from(layers - b.layers_done())).sum()
    }

    /// The first moment at which the run differs from its parent.
    pub fn first_birth(&self, run: RunId) -> Stage {
        self.births[run.0 as usize].iter().copied().min().unwrap_or(Stage::NEVER)
    }

    fn births_of(&self, run: &Run, layers: u32) -> Vec<Stage> {
        let length = run.tokens.len();
        let Some(parent) = run.parent else { return vec![Stage::EMBED; length] };
        let mut edited = vec![Stage::NEVER; length];
        let mut edits: Vec<_> = run.edits.iter().collect();
        edits.sort_by_key(|e| Stage::of(e.at)); // stable: edits of one address keep their order
        for edit in edits {
            let stage = Stage::of(edit.at);
            for (i, &position) in edit.positions.iter().enumerate() {
                let owned = owns(&edited, position, stage, layers);
                let null = !owned
                    && edit.group != EditGroup::Control
                    && self.writes_what_is_there(&edit.op, i, parent, position, stage);
                if !null {
                    let birth = &mut edited[position as usize];
                    *birth = stage.min(*birth);
                }
            }
        }
        let mut earliest = Stage::NEVER;
        edited
            .iter()
            .map(|&edit| {
                let birth = edit.min(earliest.next_attention(layers));
                earliest = earliest.min(edit);
                birth
            })
            .collect()
    }

    /// Whether replacing `parent`'s row at `position` copies that very row onto itself.
    fn writes_what_is_there(&self, op: &Op, i: usize, parent: RunId, position: u32, stage: Stage) -> bool {
        let Op::Replace(Source::Run { run, positions }) = op else { return false };
        positions[i] == position
            && self.resolve(*run, position, stage) == self.resolve(parent, position, stage)
    }
}

/// Whether a run whose edits so far begin at `edited` owns its row at `position` by `stage`.
fn owns(edited: &[Stage], position: u32, stage: Stage, layers: u32) -> bool {
    let position = position as usize;
    let before = edited[..position].iter().copied().min().unwrap_or(Stage::NEVER);
    edited[position].min(before.next_attention(layers)) <= stage
}

/// For each readout of the plan, the run whose row it really is. Where that is not the run asked for, the run's edits
/// cannot reach the readout, nor a scored continuation of it: its score *is* that run's score, and its effect is exactly
/// null.
pub fn resolved(plan: &Plan, layers: u32) -> Vec<RunId> {
    let (plan, fold) = Expansion::new(plan).parts();
    let cones = Cones::new(&plan, layers);
    let rows = plan.readouts.iter().map(|r| cones.resolve(r.run, r.position, Stage::of_readout(r, layers)));
    fold.resolved(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::Edit;

    fn edit(layer: u32, site: Site, positions: &[u32], op: Op) -> Edit {
        Edit::new(Address { layer, site }, positions.to_vec(), op, EditGroup::Patch)
    }

    fn from(run: RunId, positions: &[u32]) -> Op {
        Op::Replace(Source::Run { run, positions: positions.to_vec() })
    }

    #[test]
    fn a_branch_owns_its_edited_row_at_once_and_later_rows_from_the_next_attention() {
        let mut plan = Plan::default();
        let root = plan.root(Arc::from([1, 2, 3, 4]));
        let run = plan.branch(root, vec![edit(1, Site::ResidPost, &[1], Op::Zero)]);
        let cones = Cones::new(&plan, 4);
        let post = Stage::of(Address { layer: 1, site: Site::ResidPost });
        assert_eq!(cones.birth(run, 0), Stage::NEVER);
        assert_eq!(cones.birth(run, 1), post);
        assert_eq!(cones.birth(run, 2), Stage::attention(2));
        assert_eq!(cones.birth(run, 3), Stage::attention(2));
        assert_eq!(cones.resolve(run, 2, post), root);
        assert_eq!(cones.resolve(run, 2, Stage::end(4)), run);
    }

    #[test]
    fn an_edit_after_the_last_attention_never_reaches_another_position() {
        let mut plan = Plan::default();
        let root = plan.root(Arc::from([1, 2, 3]));
        let run = plan.branch(root, vec![edit(3, Site::ResidPost, &[1], Op::Zero)]);
        plan.read(run, 2);
        plan.read(run, 1);
        assert_eq!(resolved(&plan, 4), vec![root, run]);
    }

    #[test]
    fn restoring_a_position_that_the_corruption_did_not_reach_is_null() {
        let mut plan = Plan::default();
        let clean = plan.root(Arc::from([1, 2, 3]));
        let corrupted = plan.branch(clean, vec![edit(0, Site::Embed, &[1], Op::Zero)]);
        let before = plan.branch(corrupted, vec![edit(2, Site::ResidPost, &[0], from(clean, &[0]))]);
        let at = plan.branch(corrupted, vec![edit(2, Site::ResidPost, &[1], from(clean, &[1]))]);
        plan.read(before, 2);
        plan.read(at, 2);
        assert_eq!(resolved(&plan, 4), vec![corrupted, at]);
    }

    #[test]
    fn a_control_is_run_even_though_it_writes_what_is_there() {
        let mut plan = Plan::default();
        let root = plan.root(Arc::from([1, 2, 3]));
        let mut own = edit(1, Site::MlpOut, &[1], from(root, &[1]));
        own.group = EditGroup::Control;
        let control = plan.branch(root, vec![own]);
        plan.read(control, 2);
        assert_eq!(resolved(&plan, 4), vec![control]);
    }

    #[test]
    fn attention_stages_are_found_from_every_site() {
        let before = |site| Stage::of(Address { layer: 2, site }).next_attention(4);
        assert_eq!(before(Site::ResidPre), Stage::attention(2));
        assert_eq!(before(Site::Z), Stage::attention(3));
        assert_eq!(before(Site::ResidPost), Stage::attention(3));
        assert_eq!(Stage::EMBED.next_attention(4), Stage::attention(0));
        assert_eq!(Stage::attention(3).next_attention(4), Stage::NEVER);
        assert_eq!(Stage::NEVER.next_attention(4), Stage::NEVER);
    }
}
