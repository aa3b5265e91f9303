//! The owners of one lane.

use std::collections::BTreeMap;

use super::{Asker, Cut, Id};
use crate::owner::{Owner, Weight};

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
    /// Work done for it, divided by its weight.
    clock: u64,
    /// Batches that it had a part in.
    batches: u64,
    waiting: BTreeMap<Id, Request>,
}

/// One of its requests.
#[derive(Debug, Clone, Copy)]
struct Request {
    /// Work left.
    left: u64,
    weight: Weight,
}

impl Turn {
    /// Its requests in the order in which they are served.
    fn order(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.waiting.keys().copied().collect();
        let oldest = self.batches % OLDEST == OLDEST - 1;
        let shortest = usize::from(oldest).min(ids.len());
        ids[shortest..].sort_by_key(|id| self.waiting[id].left); // stable: ids ascend
        ids
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.values().all(|turn| turn.waiting.is_empty())
    }

    pub(super) fn left(&self) -> u64 {
        self.owners.values().flat_map(|turn| turn.waiting.values()).map(|request| request.left).sum()
    }

    #[cfg(test)]
    pub(super) fn lowest(&self) -> u64 {
        self.lowest
    }

    pub(super) fn push(&mut self, asker: &Asker, id: Id, work: u64) {
        let turn = self.owners.entry(asker.owner.clone()).or_default();
        if turn.waiting.is_empty() {
            turn.clock = turn.clock.max(self.lowest);
        }
        turn.waiting.insert(id, Request { left: work, weight: asker.weight });
    }

    pub(super) fn remove(&mut self, owner: &Owner, id: Id) {
        if let Some(turn) = self.owners.get_mut(owner) {
            turn.waiting.remove(&id);
        }
    }

    /// Takes pieces, at most one of each request, until nothing fits any more. The work taken.
    pub(super) fn take(&mut self, room: &mut u64, cut: &mut impl FnMut(Id, u64) -> Option<Cut>) -> u64 {
        let mut taken = 0;
        let mut served: BTreeMap<Owner, Vec<(Id, Request)>> = BTreeMap::new();
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
            let Some(request) = turn.waiting.remove(&id) else { break };
            turn.clock = turn.clock.saturating_add(request.weight.turn(work));
            taken += work;
            *room = room.saturating_sub(work);
            served.entry(owner.clone()).or_default().push((id, Request { left, ..request }));
        }
        for (owner, pieces) in served {
            let turn = self.owners.entry(owner).or_default();
            turn.batches += 1;
            turn.waiting.extend(pieces.into_iter().filter(|(_, request)| request.left > 0));
        }
        let waiting = self.owners.values().filter(|turn| !turn.waiting.is_empty());
        self.lowest = self.lowest.max(waiting.map(|turn| turn.clock).min().unwrap_or(0));
        // Whoever is away and has no debt is as good as new.
        let lowest = self.lowest;
        self.owners.retain(|_, turn| !turn.waiting.is_empty() || turn.clock > lowest);
        taken
    }
}
