//! What happens when in a chunk: at every moment of the pass the edits, the rows that come to be and what is read.

use super::cone::Stage;
use super::members::{Members, Place, Slot};
use super::{Edit, Plan, RunId};

/// An edit as it applies to one run: its own, or inherited from an ancestor.
pub(super) struct Applied<'a> {
    pub(super) run: Place,
    /// Place in the run's order of edits at this address.
    pub(super) ordinal: usize,
    pub(super) edit: &'a Edit,
    /// Indices into `edit.positions` that are written in this run.
    pub(super) which: Vec<usize>,
}

/// What happens at one moment.
#[derive(Default)]
pub(super) struct Moment<'a> {
    /// Edits, parents and sources before their readers.
    pub(super) edits: Vec<Applied<'a>>,
    /// Slots that get a row of their own, parents and sources before their readers; of one depth, those of one position side by
    /// side.
    pub(super) births: Vec<Slot>,
    /// Captures, as indices into the plan's.
    pub(super) captures: Vec<usize>,
    /// Lens readouts, as indices into the plan's.
    pub(super) lenses: Vec<usize>,
}

impl Moment<'_> {
    /// Whether nothing happens.
    pub(super) fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.births.is_empty() && self.captures.is_empty() && self.lenses.is_empty()
    }
}

/// The moments of a pass over the layers.
pub(super) struct Moments<'a>(Vec<Moment<'a>>);

impl<'a> Moments<'a> {
    /// `readouts`, `captures`: indices into the plan's.
    pub(super) fn new(
        plan: &'a Plan,
        members: &Members,
        layers: u32,
        readouts: &[usize],
        captures: &[usize],
    ) -> Self {
        let mut moments = Moments(Stage::all(layers).map(|_| Moment::default()).collect());
        let mut by_depth: Vec<Place> = (0..members.runs.len()).collect();
        by_depth.sort_by_key(|place| members.depth(*place)); // stable: ascending ids within a depth
        // For each moment the run whose edits are counted, and their number so far.
        let mut counts = vec![(Place::MAX, 0); moments.0.len()];
        for run in by_depth {
            for (edit, own) in effective_edits(plan, members.runs[run]) {
                let stage = Stage::of(edit.at);
                let (counted, count) = &mut counts[stage.index()];
                if *counted != run {
                    (*counted, *count) = (run, 0);
                }
                let ordinal = *count;
                *count += 1;
                // A row born at this very moment was copied after its parent's edits: they must not apply twice.
                let applies = |position| {
                    let birth = members.birth(members.slot(run, position));
                    birth < stage || own && birth == stage
                };
                let which: Vec<usize> =
                    (0..edit.positions.len()).filter(|&i| applies(edit.positions[i])).collect();
                if !which.is_empty() {
                    moments.0[stage.index()].edits.push(Applied { run, ordinal, edit, which });
                }
            }
            if plan.run(members.runs[run]).parent.is_some() {
                let slots = members.slots_of(run).map(|slot| (slot, members.birth(slot)));
                for (slot, birth) in slots.filter(|(_, birth)| *birth != Stage::NEVER) {
                    moments.0[birth.index()].births.push(slot);
                }
            }
        }
        for moment in &mut moments.0 {
            // Rows of one position are nearly alike in all branches of a run, and where neighbours are alike a GPU's products
            // need less power, of which they have too little (`crate::kernels::cuda`).
            moment.births.sort_by_cached_key(|slot| {
                let run = members.owner(*slot);
                (members.depth(run), members.position(*slot), run)
            });
        }
        for &capture in captures {
            moments.0[Stage::of(plan.captures[capture].at).index()].captures.push(capture);
        }
        for &readout in readouts.iter().filter(|r| plan.readouts[**r].lens.is_some()) {
            let stage = Stage::of_readout(&plan.readouts[readout], layers);
            moments.0[stage.index()].lenses.push(readout);
        }
        moments
    }

    /// What happens at a moment.
    pub(super) fn at(&self, stage: Stage) -> &Moment<'a> {
        &self.0[stage.index()]
    }
}

/// A run's edits, the oldest ancestor's first, with whether each is its own.
fn effective_edits(plan: &Plan, run: RunId) -> impl Iterator<Item = (&Edit, bool)> {
    let line: Vec<RunId> = std::iter::successors(Some(run), |run| plan.run(*run).parent).collect();
    let edits_of = move |ancestor| plan.run(ancestor).edits.iter().map(move |edit| (edit, ancestor == run));
    line.into_iter().rev().flat_map(edits_of)
}
