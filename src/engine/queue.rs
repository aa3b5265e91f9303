//! What waits for the engine, and the batches that are formed of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::row_budget::RowBudget;
use super::schedule::{Asker, Cut, Id, Lane, Schedule};
use super::work::{Failure, Piece, Work};
use crate::plan::pack::{Fit, Space};

/// Pieces of one batch.
const MOST_PIECES: usize = 256;
/// A batch takes so many times the work of its quantum if requests end with it by that: they would only wait for another one.
const WHOLE: f64 = 3.0;
/// For how long a batch is held back after clients were answered, who may ask again at once and be computed with those who wait: a
/// part of what the last batch took, and the most.
const GATHERING: f64 = 0.25;
const MOST_GATHERING: Duration = Duration::from_millis(20);
/// For how long pieces stay short after several requests were on their way.
const CROWDED: Duration = Duration::from_secs(10);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    schedule: Schedule,
    works: BTreeMap<Id, Work>,
    next: Id,
    /// Pieces of a batch that failed, each of which is computed alone, before all others.
    alone: VecDeque<Piece>,
    /// Who is in the batch formed last.
    aboard: Vec<(Id, Asker)>,
    /// When several requests were last on their way.
    crowded: Option<Instant>,
    returns: Returns,
}

/// How many of those who are answered ask again at once.
#[derive(Debug)]
struct Returns {
    /// Who was answered last, and who came since, until then.
    answered: usize,
    came: usize,
    until: Option<Instant>,
    /// The batch they might have come for was formed.
    over: bool,
    /// Of those answered lately, who came again in time; 0 to 1.
    share: f64,
}

impl Default for Returns {
    fn default() -> Returns {
        Returns { answered: 0, came: 0, until: None, over: true, share: 1.0 }
    }
}

impl Returns {
    fn answered(&mut self, answered: usize, until: Instant) {
        if self.answered > 0 {
            let came = self.came.min(self.answered) as f64 / self.answered as f64;
            self.share += (came - self.share) / 4.0;
        }
        *self = Returns { answered, came: 0, until: Some(until), over: false, ..*self };
    }

    fn comes(&mut self, now: Instant) {
        self.came += usize::from(self.until.is_some_and(|until| now <= until));
    }

    /// Until when those who are still missing are worth waiting for.
    fn awaited(&self) -> Option<Instant> {
        self.until.filter(|_| !self.over && self.came < self.answered && self.share >= 0.5)
    }
}

impl Queue {
    /// A work. `busy`: whether the batch formed last is still being computed.
    pub(super) fn push(&mut self, work: Work, busy: bool, now: Instant) {
        let aboard = self.aboard.iter().filter(|_| busy).map(|(_, asker)| asker);
        let mut others = self.works.values().map(|other| &other.asker).chain(aboard);
        // Parts of one owner's jobs need not wait for one another.
        if others.any(|other| *other != work.asker || work.asker.lane == Lane::Interactive) {
            self.crowded = Some(now);
        }
        self.schedule.push(self.next, &work.asker, work.left.max(1));
        self.works.insert(self.next, work);
        self.next += 1;
        self.returns.comes(now);
    }

    /// Pieces that are computed each alone, before all others.
    pub(super) fn part(&mut self, pieces: Vec<Piece>) {
        pieces.into_iter().rev().for_each(|piece| self.alone.push_front(piece));
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.works.is_empty()
    }

    /// The batch formed last was answered and took so long, and no other one is on its way. Clients without pause ask again at
    /// once: if there are several of them, or one of them and others, they are worth waiting for.
    pub(super) fn answered(&mut self, took: Duration, now: Instant) {
        let answered = self.aboard.iter().filter(|(id, _)| !self.works.contains_key(id)).count();
        let answered = if answered > 1 || !self.works.is_empty() { answered } else { 0 };
        self.returns.answered(answered, now + took.mul_f64(GATHERING).min(MOST_GATHERING));
    }

    /// Until when the next batch waits for some who were answered and have not asked again, if they would find room in it.
    pub(super) fn held_until(&self, budget: &RowBudget, now: Instant) -> Option<Instant> {
        let room = self.alone.is_empty() && self.schedule.left() < self.most(budget, now);
        self.returns.awaited().filter(|_| room)
    }

    /// Whether there is no use in waiting for more: what waits fills a batch, or the batch formed last answers nobody who might
    /// ask again.
    pub(super) fn is_ripe(&self, budget: &RowBudget, now: Instant) -> bool {
        !self.alone.is_empty()
            || self.schedule.left() >= self.most(budget, now)
            || self.aboard.iter().all(|(id, _)| self.works.contains_key(id))
    }

    /// Most work of the next batch.
    fn most(&self, budget: &RowBudget, now: Instant) -> u64 {
        let work = self.space(budget, now).work;
        if self.is_crowded(now) { (work as f64 * WHOLE) as u64 } else { work }
    }

    fn is_crowded(&self, now: Instant) -> bool {
        self.crowded.is_some_and(|then| now.duration_since(then) < CROWDED)
    }

    /// What the next batch has room for, of plans that hold no scores.
    fn space(&self, budget: &RowBudget, now: Instant) -> Space {
        budget.space(0, !self.is_crowded(now))
    }

    /// The pieces of the next batch. `merges`: whether there may be several.
    pub(super) fn form(&mut self, budget: &RowBudget, merges: bool, now: Instant) -> Vec<Piece> {
        while let Some(piece) = self.alone.pop_front() {
            if !piece.ticket.is_abandoned() {
                self.aboard.clear();
                return vec![piece];
            }
        }
        let abandoned = self.works.extract_if(.., |_, work| work.ticket.is_abandoned());
        abandoned.for_each(|(id, work)| self.schedule.remove(id, &work.asker));
        let left = self.works.extract_if(.., |_, work| work.ticket.growth.is_left());
        left.for_each(|(id, work)| {
            self.schedule.remove(id, &work.asker);
            work.fail(&Failure::Left);
        });

        for (id, work) in &mut self.works {
            if work.asker.lane != Lane::Interactive && work.ticket.lift.is_up() {
                self.schedule.remove(*id, &work.asker);
                work.asker.lane = Lane::Interactive;
                self.schedule.push(*id, &work.asker, work.left.max(1));
            }
        }

        // What is free in the batch, which is made for plans that hold scores with so many keys.
        let (mut free, mut held_keys) = (self.space(budget, now), 0);
        let for_whole = self.most(budget, now) - free.work;
        self.returns.over = true;
        let mut pieces: Vec<Piece> = Vec::new();
        let Queue { schedule, works, aboard, .. } = self;
        aboard.clear();
        schedule.take(free.work, for_whole, |id, room| {
            let work = works.get_mut(&id)?;
            let keys = work.packing.held_keys();
            let first = pieces.is_empty();
            let apart = !merges || work.ticket.suspect || pieces.iter().any(|piece| piece.ticket.suspect);
            if !first && (apart || keys != held_keys || pieces.len() == MOST_PIECES) {
                return None;
            }
            if first {
                free.rows = budget.with_scores(keys).rows;
                held_keys = keys;
            }
            // Only the first piece may be larger than there is room for; of others, no slivers are cut, and what is more than a
            // quantum is for those that end with it.
            let fits = |room| {
                let space = Space { work: room, spread: if first { free.spread } else { 0 }, ..free };
                let fit = work.packing.fitting(&work.part, &space);
                let whole = fit.runs == work.part.len();
                let sliver = !whole && space.work_of(&fit.need) < free.spread * space.work_of(&fit.carried);
                (first || !sliver && space.holds(&fit.need)).then_some((fit, whole))
            };
            let piece = fits(room.saturating_sub(for_whole));
            let ends = |whole| whole && work.asker.lane == Lane::Interactive;
            let piece = piece.or_else(|| fits(room).filter(|(_, whole)| ends(*whole)));
            let (Fit { runs, need, .. }, whole) = piece?;
            let taken = free.work_of(&need);
            free = free.beside(&need);
            let part = work.part.take(runs);
            let packing = Arc::clone(&work.packing);
            let tables = need.row_layers + need.keys as u64;
            pieces.push(Piece { packing, part, tables, ticket: work.ticket.clone() });
            aboard.push((id, work.asker.clone()));
            // Shared runs are counted with each piece, so what is left is less than was promised, but not nothing.
            work.left = if whole { 0 } else { work.left.saturating_sub(taken).max(1) };
            Some(Cut { work: taken.max(1), left: work.left })
        });
        works.retain(|_, work| !work.part.is_empty());
        pieces
    }

    /// Refuses all that waits.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.alone.drain(..).for_each(|piece| piece.fail(failure));
        for work in std::mem::take(&mut self.works).into_values() {
            work.fail(failure);
        }
        self.schedule = Schedule::default();
    }
}
