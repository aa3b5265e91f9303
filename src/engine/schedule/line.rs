//! The owners of one lane.

use std::collections::BTreeMap;

use super::{Cut, Id};
use crate::owner::Owner;

/// Every so many batches the oldest request of an owner comes first.
const OLDEST: u64 = 4;

/// Requests by owner.
#[derive(Debug, Default)]
pub(super) struct Line {
    owners: BTreeMap<Owner, Turn>,
    /// The lowest clock of those who wait. Never falls.
    lowest: u64,
}

/// An owner.
#[derive(Debug, Default)]
struct Turn {
    /// Work done for it.
    clock: u64,
    /// Batches that it had a part in.
    batches: u64,
    /// Work left of each of its requests.
    waiting: BTreeMap<Id, u64>,
}

impl Turn {
    /// Its requests in the order in which they are served.
    fn order(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.waiting.keys().copied().collect();
        let oldest = self.batches % OLDEST == OLDEST - 1;
        let shortest = usize::from(oldest).min(ids.len());
        ids[shortest..].sort_by_key(|id| self.waiting[id]); // stable: ids ascend
        ids
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.values().all(|turn| turn.waiting.is_empty())
    }

    pub(super) fn left(&self) -> u64 {
        self.owners.values().flat_map(|turn| turn.waiting.values()).sum()
    }

    #[cfg(test)]
    pub(super) fn lowest(&self) -> u64 {
        self.lowest
    }

    pub(super) fn push(&mut self, owner: &Owner, id: Id, work: u64) {
        let turn = self.owners.entry(owner.clone()).or_default();
        if turn.waiting.is_empty() {
            turn.clock = turn.clock.max(self.lowest);
        }
        turn.waiting.insert(id, work);
    }

    pub(super) fn remove(&mut self, owner: &Owner, id: Id) {
        if let Some(turn) = self.owners.get_mut(owner) {
            turn.waiting.remove(&id);
        }
    }

    /// Takes pieces, at most one of each request, until nothing fits any more. The work taken.
    pub(super) fn take(&mut self, room: &mut u64, cut: &mut impl FnMut(Id, u64) -> Option<Cut>) -> u64 {
        let mut taken = 0;
        let mut served: BTreeMap<Owner, Vec<(Id, u64)>> = BTreeMap::new();
        // Owners nothing more of which fits.
        let mut done: Vec<Owner> = Vec::new();
        while *room > 0 {
            let waiting = self
                .owners
                .iter_mut()
                .filter(|(owner, turn)| !turn.waiting.is_empty() && !done.contains(owner));
            let Some((owner, turn)) = waiting.min_by_key(|(_, turn)| turn.clock) else { break };
            let piece = turn.order().into_iter().find_map(|id| Some((id, cut(id, *room)?)));
            let Some((id, Cut { work, left })) = piece else {
                done.push(owner.clone());
                continue;
            };
            turn.waiting.remove(&id);
            turn.clock += work;
            taken += work;
            *room = room.saturating_sub(work);
            served.entry(owner.clone()).or_default().push((id, left));
        }
        for (owner, pieces) in served {
            let turn = self.owners.entry(owner).or_default();
            turn.batches += 1;
            turn.waiting.extend(pieces.into_iter().filter(|(_, left)| *left > 0));
        }
        let waiting = self.owners.values().filter(|turn| !turn.waiting.is_empty());
        self.lowest = self.lowest.max(waiting.map(|turn| turn.clock).min().unwrap_or(0));
        // Whoever is away and has no debt is as good as new.
        let lowest = self.lowest;
        self.owners.retain(|_, turn| !turn.waiting.is_empty() || turn.clock > lowest);
        taken
    }
}
