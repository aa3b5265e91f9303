//! A chunk's runs with everything derived from them: effective edits, and which rows are needed when.
//!
//! Built backwards from the readouts and captures, as a compiler finds live variables: a row exists from its birth
//! until the last moment something reads it, and rows that nothing reads are never computed.

use std::collections::BTreeMap;

use super::cone::{Cones, Stage};
use super::{Address, Edit, Plan, RunId};

/// Index of (run, position) among a chunk's runs.
pub(super) type Slot = usize;

/// An edit as it applies to one run: its own, or inherited from an ancestor.
pub(super) struct Applied<'a> {
    pub(super) run: RunId,
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
    /// Rows that come to be, in the same order.
    pub(super) births: Vec<(RunId, u32)>,
    /// Captures, as indices into the plan's.
    pub(super) captures: Vec<usize>,
    /// Lens readouts, as indices into the plan's.
    pub(super) lenses: Vec<usize>,
}

/// The runs of one chunk, ready to be laid out.
pub(super) struct Live<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cones: &'a Cones,
    pub(super) layers: u32,
    /// The chunk's runs, ascending.
    pub(super) runs: Vec<RunId>,
    pub(super) moments: BTreeMap<Stage, Moment<'a>>,
    /// Rows needed after the attention of each layer.
    pub(super) after_attention: Vec<Vec<bool>>,
    /// Rows that are ever computed.
    pub(super) created: Vec<bool>,
    /// First slot and depth of each of `runs`.
    places: BTreeMap<RunId, (Slot, u32)>,
    slots: usize,
}

impl<'a> Live<'a> {
    /// `runs`: ascending and closed under parents and sources. `readouts`, `captures`: indices into the plan's.
    /// `prune`: leave out rows that nothing reads.
    pub(super) fn new(
        plan: &'a Plan,
        cones: &'a Cones,
        layers: u32,
        runs: Vec<RunId>,
        readouts: &[usize],
        captures: &[usize],
        prune: bool,
    ) -> Live<'a> {
        let mut places: BTreeMap<RunId, (Slot, u32)> = BTreeMap::new();
        let mut slots = 0;
        for &run in &runs {
            let depth = reads(plan, run).into_iter().map(|r| places[&r].1 + 1).max().unwrap_or(0);
            places.insert(run, (slots, depth));
            slots += plan.run(run).tokens.len();
        }
        let mut live = Live {
            plan,
            cones,
            layers,
            runs,
            moments: BTreeMap::new(),
            after_attention: vec![Vec::new(); layers as usize],
            created: vec![!prune; slots],
            places,
            slots,
        };
        live.find_moments(readouts, captures);
        if prune {
            live.find_needed(readouts);
        } else {
            live.after_attention.fill(vec![true; slots]);
        }
        live
    }

    /// The run's place among the chunk's runs.
    pub(super) fn place(&self, run: RunId) -> u32 {
        self.runs.partition_point(|r| *r < run) as u32
    }

    /// Number of (run, position) pairs.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The slot of a run's own row.
    pub(super) fn slot(&self, run: RunId, position: u32) -> Slot {
        self.places[&run].0 + position as usize
    }

    /// The slot whose row stands for the run at this moment.
    pub(super) fn resolve(&self, run: RunId, position: u32, stage: Stage) -> Slot {
        self.slot(self.cones.resolve(run, position, stage), position)
    }

    /// Length of the longest chain of parents and sources above a run.
    pub(super) fn depth(&self, run: RunId) -> u32 {
        self.places[&run].1
    }

    fn find_moments(&mut self, readouts: &[usize], captures: &[usize]) {
        let mut by_depth = self.runs.clone();
        by_depth.sort_by_key(|r| self.depth(*r)); // stable: ascending ids within a depth
        for run in by_depth {
            let mut ordinals: BTreeMap<Address, usize> = BTreeMap::new();
            for (edit, own) in effective_edits(self.plan, run) {
                let stage = Stage::of(edit.at);
                let ordinal = ordinals.entry(edit.at).or_default();
                // A row born at this very moment was copied after its parent's edits: they must not apply twice.
                let applies = |p: u32| {
                    let birth = self.cones.birth(run, p);
                    birth < stage || own && birth == stage
                };
                let which: Vec<usize> =
                    (0..edit.positions.len()).filter(|&i| applies(edit.positions[i])).collect();
                if !which.is_empty() {
                    let moment = self.moments.entry(stage).or_default();
                    moment.edits.push(Applied { run, ordinal: *ordinal, edit, which });
                }
                *ordinal += 1;
            }
            if self.plan.run(run).parent.is_some() {
                for position in 0..self.plan.run(run).tokens.len() as u32 {
                    let birth = self.cones.birth(run, position);
                    if birth != Stage::NEVER {
                        self.moments.entry(birth).or_default().births.push((run, position));
                    }
                }
            }
        }
        for &capture in captures {
            let stage = Stage::of(self.plan.captures[capture].at);
            self.moments.entry(stage).or_default().captures.push(capture);
        }
        for &readout in readouts.iter().filter(|r| self.plan.readouts[**r].lens.is_some()) {
            let stage = Stage::of_readout(&self.plan.readouts[readout], self.layers);
            self.moments.entry(stage).or_default().lenses.push(readout);
        }
    }

    fn find_needed(&mut self, readouts: &[usize]) {
        let mut needed = vec![false; self.slots];
        for r in readouts.iter().map(|&readout| self.plan.readouts[readout]).filter(|r| r.lens.is_none()) {
            needed[self.resolve(r.run, r.position, Stage::end(self.layers))] = true;
        }
        let moments = std::mem::take(&mut self.moments);
        let mut later: Vec<(&Stage, &Moment<'_>)> = moments.iter().rev().collect();
        for layer in (0..self.layers).rev() {
            let attention = Stage::attention(layer);
            let split = later.iter().position(|(s, _)| **s <= attention).unwrap_or(later.len());
            for (stage, moment) in later.drain(..split) {
                self.undo(*stage, moment, &mut needed);
            }
            if let Some((stage, _)) = later.first()
                && **stage == attention
            {
                later.remove(0);
            }
            self.undo_attention(layer, &mut needed);
        }
        for (stage, moment) in later {
            self.undo(*stage, moment, &mut needed);
        }
        for &run in &self.runs {
            if self.plan.run(run).parent.is_none() {
                let base = self.slot(run, 0);
                let length = self.plan.run(run).tokens.len();
                self.created[base..base + length].copy_from_slice(&needed[base..base + length]);
            }
        }
        self.moments = moments;
    }

    /// Steps back over the joins, edits and captures of a site: from what is needed after it to what before it.
    fn undo(&mut self, stage: Stage, moment: &Moment<'_>, needed: &mut [bool]) {
        for &capture in &moment.captures {
            let capture = &self.plan.captures[capture];
            for &position in &capture.positions {
                needed[self.resolve(capture.run, position, stage)] = true;
            }
        }
        for r in moment.lenses.iter().map(|&readout| self.plan.readouts[readout]) {
            needed[self.resolve(r.run, r.position, stage)] = true;
        }
        let mut births = moment.births.iter().rev().peekable();
        let mut edits = moment.edits.iter().rev().peekable();
        // Readers before their parents and sources: both lists are in order of depth, and a run's edits follow its births.
        loop {
            let birth = births.peek().map(|(run, _)| (self.depth(*run), *run));
            let edit = edits.peek().map(|applied| (self.depth(applied.run), applied.run));
            if edit.is_none() && birth.is_none() {
                break;
            }
            if edit >= birth {
                let applied = edits.next().expect("BUG: peeked");
                let Some((run, positions)) = applied.edit.op.run_read() else { continue };
                for &i in &applied.which {
                    if needed[self.slot(applied.run, applied.edit.positions[i])] {
                        needed[self.resolve(run, positions[i], stage)] = true;
                    }
                }
            } else if let Some(&(run, position)) = births.next() {
                let slot = self.slot(run, position);
                if needed[slot] {
                    self.created[slot] = true;
                    needed[slot] = false;
                    needed[self.parent_slot(run, position, stage)] = true;
                }
            }
        }
    }

    fn undo_attention(&mut self, layer: u32, needed: &mut Vec<bool>) {
        let attention = Stage::attention(layer);
        let before = attention.previous();
        let mut incoming = vec![false; self.slots];
        for &run in &self.runs {
            let length = self.plan.run(run).tokens.len() as u32;
            let Some(last) = (0..length).rev().find(|&p| needed[self.slot(run, p)]) else { continue };
            for position in 0..=last {
                incoming[self.resolve(run, position, before)] = true; // as a key
                let slot = self.slot(run, position);
                if needed[slot] {
                    if self.cones.birth(run, position) == attention {
                        self.created[slot] = true;
                        incoming[self.parent_slot(run, position, before)] = true;
                    } else {
                        incoming[slot] = true;
                    }
                }
            }
        }
        self.after_attention[layer as usize] = std::mem::replace(needed, incoming);
    }

    /// The slot of the row that the run's row at `position` starts as a copy of.
    pub(super) fn parent_slot(&self, run: RunId, position: u32, stage: Stage) -> Slot {
        let parent = self.plan.run(run).parent.expect("BUG: only branches are born after the start");
        self.resolve(parent, position, stage)
    }
}

/// The runs that a run reads: its parent, and the sources of its edits, inherited ones included.
pub(super) fn reads(plan: &Plan, run: RunId) -> Vec<RunId> {
    let sources =
        effective_edits(plan, run).into_iter().filter_map(|(edit, _)| edit.op.run_read().map(|(run, _)| run));
    plan.run(run).parent.into_iter().chain(sources).collect()
}

/// A run's edits, the oldest ancestor's first, with whether each is its own.
fn effective_edits(plan: &Plan, run: RunId) -> Vec<(&Edit, bool)> {
    let mut edits = match plan.run(run).parent {
        Some(parent) => effective_edits(plan, parent).into_iter().map(|(e, _)| (e, false)).collect(),
        None => Vec::new(),
    };
    edits.extend(plan.run(run).edits.iter().map(|e| (e, true)));
    edits
}
