//! The runs of a chunk, with a **slot** for every position of each: whether the run has a row of its own there, and else
//! whose row stands for it.
//!
//! Slots form a forest: above a branch's slot is its parent's at the same position. The slot that stands for a run is
//! found by going up until one has its own row.

use std::ops::Range;

use super::cone::{Cones, Stage};
use super::{Plan, Run, RunId};

/// Index of (run, position) among a chunk's runs.
pub(super) type Slot = usize;

/// Index of a run among a chunk's runs.
pub(super) type Place = usize;

/// The runs of a chunk and their slots.
pub(super) struct Members {
    /// Ascending.
    pub(super) runs: Vec<RunId>,
    /// What is known of each of them.
    each: Vec<Member>,
    /// Of each run of the plan; of no use for those of other chunks.
    places: Vec<Place>,
    /// When each slot gets a row of its own.
    births: Vec<Stage>,
    /// The parent's slot; a root's own, which is never asked for.
    above: Vec<Slot>,
    /// The run of each slot.
    owners: Vec<Place>,
}

struct Member {
    parent: Option<Place>,
    /// Length of the longest chain of parents and sources above the run.
    depth: u32,
    slots: Range<Slot>,
    /// The first slot that ever gets a row of its own.
    own: Slot,
    /// When `own` and every slot after it have theirs.
    settled: Stage,
}

impl Members {
    /// `runs`: ascending and closed under parents and sources.
    pub(super) fn new(plan: &Plan, cones: &Cones, runs: &[RunId]) -> Members {
        let slots = runs.iter().map(|run| plan.run(*run).tokens.len()).sum();
        let mut all = Members {
            runs: Vec::with_capacity(runs.len()),
            each: Vec::with_capacity(runs.len()),
            places: vec![Place::MAX; plan.runs.len()],
            births: Vec::with_capacity(slots),
            above: Vec::with_capacity(slots),
            owners: Vec::with_capacity(slots),
        };
        for &run in runs {
            all.push(run, plan.run(run), cones.births(run));
        }
        all
    }

    fn push(&mut self, id: RunId, run: &Run, births: &[Stage]) {
        let parent = run.parent.map(|parent| self.place(parent));
        let depth = run.reads().map(|read| self.depth(self.place(read)) + 1).max().unwrap_or(0);
        let slots = self.births.len()..self.births.len() + births.len();
        let inherited = births.iter().take_while(|birth| **birth == Stage::NEVER).count();
        let settled = births[inherited..].iter().copied().max().unwrap_or(Stage::EMBED);
        let above = parent.map_or(slots.start, |parent| self.slot(parent, 0));
        let place = self.runs.len();
        self.births.extend_from_slice(births);
        self.above.extend(above..above + slots.len());
        self.owners.resize(slots.end, place);
        self.each.push(Member { parent, depth, own: slots.start + inherited, slots, settled });
        self.places[id.0 as usize] = place;
        self.runs.push(id);
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.births.len()
    }

    /// Where the run is among the chunk's.
    pub(super) fn place(&self, run: RunId) -> Place {
        self.places[run.0 as usize]
    }

    /// The slot of a run's own row.
    pub(super) fn slot(&self, place: Place, position: u32) -> Slot {
        self.each[place].slots.start + position as usize
    }

    /// A run's slots.
    pub(super) fn slots_of(&self, place: Place) -> Range<Slot> {
        self.each[place].slots.clone()
    }

    /// The run that a slot is of.
    pub(super) fn owner(&self, slot: Slot) -> Place {
        self.owners[slot]
    }

    /// The position that a slot is of.
    pub(super) fn position(&self, slot: Slot) -> usize {
        slot - self.each[self.owners[slot]].slots.start
    }

    /// Length of the longest chain of parents and sources above a run.
    pub(super) fn depth(&self, place: Place) -> u32 {
        self.each[place].depth
    }

    /// When the slot gets a row of its own.
    pub(super) fn birth(&self, slot: Slot) -> Stage {
        self.births[slot]
    }

    /// The slot whose row stands for this one once `stage` is done.
    pub(super) fn resolve(&self, mut slot: Slot, stage: Stage) -> Slot {
        while self.births[slot] > stage {
            slot = self.above[slot];
        }
        slot
    }

    /// The slot whose row stands for the run.
    pub(super) fn standing(&self, run: RunId, position: u32, stage: Stage) -> Slot {
        self.resolve(self.slot(self.place(run), position), stage)
    }

    /// The slot of the row that this one's row starts as a copy of.
    pub(super) fn copied(&self, slot: Slot, stage: Stage) -> Slot {
        self.resolve(self.above[slot], stage)
    }

    /// Appends the rows that stand for the run's first `length` positions. `of_slot`: the row of each slot that has one.
    ///
    /// What a run inherits, and what it has of its own, are mostly stretches that can be copied whole.
    pub(super) fn rows_seen(
        &self,
        place: Place,
        length: usize,
        stage: Stage,
        of_slot: &[u32],
        rows: &mut Vec<u32>,
    ) {
        let member = &self.each[place];
        let inherited = length.min(member.own - member.slots.start);
        if let Some(parent) = member.parent
            && inherited > 0
        {
            self.rows_seen(parent, inherited, stage, of_slot, rows);
        }
        let own = member.slots.start + inherited..member.slots.start + length;
        if member.settled <= stage {
            rows.extend_from_slice(&of_slot[own]);
        } else {
            rows.extend(own.map(|slot| of_slot[self.resolve(slot, stage)]));
        }
    }
}
