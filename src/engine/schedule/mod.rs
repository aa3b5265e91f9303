//! Who is computed next: plain data, without a clock and without channels, so that its fairness can be shown.
//!
//! What is waited for comes before what is not ([`Lane`]). Within a lane, owners have virtual clocks, which run by the work that
//! is done for them, divided by its weight: the one whose clock is lowest is next. An owner that was away comes back at the lane's lowest clock, so that
//! being away earns nothing. Within an owner, the request with the least left comes first, and every fourth time the oldest, so
//! that a long one ends. A request is computed in pieces, each as large as the batch has room for when it is taken.

mod line;
#[cfg(test)]
mod tests;

use line::Line;

use crate::owner::{Account, Owner, Weight};

/// Share of the work that sweeps get while others wait for answers: one part in so many.
const SWEEPS: u64 = 10;

/// Number of a request, in the order of arrival.
pub(super) type Id = u64;

/// Whether somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A client waits for the answer.
    Interactive,
    /// Nobody does: a part of a job.
    Sweep,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Whose work it is.
    pub owner: Owner,
    /// Whether somebody waits.
    pub lane: Lane,
    /// How much the work counts in the owner's turn.
    pub weight: Weight,
}

impl Asker {
    /// Who asks on an account.
    pub fn of(account: &Account, lane: Lane) -> Self {
        Self { owner: account.owner.clone(), lane, weight: account.weight }
    }
}

/// A piece that was cut from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Its work.
    pub(super) work: u64,
    /// What is left of the request; 0: nothing.
    pub(super) left: u64,
}

/// The requests that are not yet computed whole. Work is counted in row-layers.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    interactive: Line,
    sweeps: Line,
    /// What sweeps are owed.
    owed: u64,
}

impl Schedule {
    fn line(&mut self, lane: Lane) -> &mut Line {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Sweep => &mut self.sweeps,
        }
    }

    /// A request, and how much work it is. Numbers grow.
    pub(super) fn push(&mut self, id: Id, asker: &Asker, work: u64) {
        self.line(asker.lane).push(asker, id, work);
    }

    /// A request that nobody asks for any more.
    pub(super) fn remove(&mut self, id: Id, asker: &Asker) {
        self.line(asker.lane).remove(&asker.owner, id);
    }

    /// Work of all that waits.
    pub(super) fn left(&self) -> u64 {
        self.interactive.left() + self.sweeps.left()
    }

    /// Fills a batch with pieces of at most so much work together: a quantum, and what `cut` may take beyond it. `cut` takes the
    /// next piece of a request, if one fits into what room is left; the first piece of a batch always does, however large it is.
    pub(super) fn take(&mut self, quantum: u64, beyond: u64, mut cut: impl FnMut(Id, u64) -> Option<Cut>) {
        let contested = !self.interactive.is_empty() && !self.sweeps.is_empty();
        if !contested {
            self.owed = 0;
        }
        let mut room = quantum + beyond;
        let sweeps_first = contested && self.owed >= quantum;
        let mut swept = if sweeps_first { self.sweeps.take(&mut room, &mut cut) } else { 0 };
        let answered = self.interactive.take(&mut room, &mut cut);
        if !sweeps_first {
            swept = self.sweeps.take(&mut room, &mut cut);
        }
        if contested {
            let earned = (answered + swept) / SWEEPS;
            self.owed = (self.owed + earned).saturating_sub(swept).min(2 * quantum);
        }
    }
}
