//! A chunk's runs with everything derived from them: what happens when, and until when which rows are read.
//!
//! Built backwards from the readouts and captures, as a compiler finds live variables: a row exists from its birth
//! until the last moment something reads it, and rows that nothing reads are never computed.

use super::cone::{Cones, Stage};
use super::members::{Members, Slot};
use super::schedule::{Moment, Moments};
use super::{Plan, RunId};

/// What is read of a chunk: indices into the plan's lists.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) readouts: Vec<usize>,
    pub(super) captures: Vec<usize>,
    pub(super) kept: Vec<usize>,
}

/// The runs of one chunk, ready to be laid out.
pub(super) struct Live<'a> {
    pub(super) plan: &'a Plan,
    pub(super) layers: u32,
    pub(super) members: Members,
    pub(super) moments: Moments<'a>,
    /// Indices into the plan's: what is kept.
    pub(super) kept: Vec<usize>,
    /// The last moment at which each slot's row is read. `None`: it is never computed.
    pub(super) until: Vec<Option<Stage>>,
}

impl<'a> Live<'a> {
    /// `runs`: ascending and closed under parents and sources. `asked`: of these. `prune`: leave out rows that nothing reads.
    pub(super) fn new(
        plan: &'a Plan,
        cones: &Cones,
        layers: u32,
        runs: &[RunId],
        asked: Reading,
        prune: bool,
    ) -> Live<'a> {
        let Reading { readouts, captures, kept } = asked;
        let members = Members::new(plan, cones, runs);
        let moments = Moments::new(plan, &members, layers, &readouts, &captures);
        let until = if prune {
            Walk::new(plan, &members).back(&moments, layers, &readouts, &kept)
        } else {
            vec![Some(Stage::NEVER); members.slots()]
        };
        Live { plan, layers, members, moments, kept, until }
    }
}

/// A walk back over the moments. A row that is read stays so at every moment before, down to its birth; so each is
/// handled once, when it is first met, and a layer costs what changes in it.
struct Walk<'w> {
    plan: &'w Plan,
    members: &'w Members,
    until: Vec<Option<Stage>>,
    /// Slots met since the last attention.
    fresh: Vec<Slot>,
    /// Of how many first positions each run sees the keys. Whichever rows stand for them at earlier moments are read:
    /// a row's birth reads what it is a copy of.
    seen: Vec<usize>,
}

impl<'w> Walk<'w> {
    fn new(plan: &'w Plan, members: &'w Members) -> Self {
        let until = vec![None; members.slots()];
        Self { plan, members, until, fresh: Vec::new(), seen: vec![0; members.runs.len()] }
    }

    /// The last moment at which each row is read.
    fn back(
        mut self,
        moments: &Moments<'_>,
        layers: u32,
        readouts: &[usize],
        kept: &[usize],
    ) -> Vec<Option<Stage>> {
        let end = Stage::end(layers);
        for r in readouts.iter().map(|&readout| self.plan.readouts[readout]).filter(|r| r.lens.is_none()) {
            self.read(self.members.standing(r.run, r.position, end), end);
        }
        for stage in Stage::all(layers).rev() {
            if stage.is_attention() {
                self.undo_attention(stage, moments.at(stage));
                self.keep(kept, stage.previous());
            } else {
                self.undo(stage, moments.at(stage));
            }
        }
        self.until
    }

    fn read(&mut self, slot: Slot, stage: Stage) {
        if self.until[slot].is_none() {
            self.until[slot] = Some(stage);
            self.fresh.push(slot);
        }
    }

    /// Steps back over the joins, edits and captures of a site: from what is needed after it to what before it.
    fn undo(&mut self, stage: Stage, moment: &Moment<'_>) {
        let members = self.members;
        for capture in moment.captures.iter().map(|&capture| &self.plan.captures[capture]) {
            for &position in &capture.positions {
                self.read(members.standing(capture.run, position, stage), stage);
            }
        }
        for r in moment.lenses.iter().map(|&readout| self.plan.readouts[readout]) {
            self.read(members.standing(r.run, r.position, stage), stage);
        }
        let mut births = moment.births.iter().rev().peekable();
        let mut edits = moment.edits.iter().rev().peekable();
        // Readers before their parents and sources: both lists are in order of depth, and a run's edits follow its births.
        loop {
            let birth = births.peek().map(|slot| members.depth(members.owner(**slot)));
            let edit = edits.peek().map(|applied| members.depth(applied.run));
            if edit.is_none() && birth.is_none() {
                break;
            }
            if edit >= birth {
                let applied = edits.next().expect("BUG: peeked");
                let Some((run, positions)) = applied.edit.op.run_read() else { continue };
                for &i in &applied.which {
                    if self.until[members.slot(applied.run, applied.edit.positions[i])].is_some() {
                        self.read(members.standing(run, positions[i], stage), stage);
                    }
                }
            } else if let Some(&slot) = births.next()
                && self.until[slot].is_some()
            {
                self.read(members.copied(slot, stage), stage);
            }
        }
    }

    /// Keys and values are kept as attention sees them.
    fn keep(&mut self, kept: &[usize], before: Stage) {
        for kept in kept.iter().map(|&kept| &self.plan.kept[kept]) {
            for (position, _) in kept.places() {
                self.read(self.members.standing(kept.run, position, before), before);
            }
        }
    }

    fn undo_attention(&mut self, attention: Stage, moment: &Moment<'_>) {
        let members = self.members;
        let before = attention.previous();
        // Of those met since, the ones that are not born only later see the keys up to their own.
        for slot in std::mem::take(&mut self.fresh) {
            let (run, position) = (members.owner(slot), members.position(slot));
            if members.birth(slot) <= attention && self.seen[run] <= position {
                for key in members.slot(run, self.seen[run] as u32)..=slot {
                    self.read(members.resolve(key, before), before);
                }
                self.seen[run] = position + 1;
            }
        }
        for &slot in &moment.births {
            if self.until[slot].is_some() {
                self.read(members.copied(slot, before), before);
            }
        }
    }
}
