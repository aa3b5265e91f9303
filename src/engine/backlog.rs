//! What is let in and not yet computed, by owner: how long one more request would take beside it, by the rules of the schedule.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::schedule::{Asker, Lane};
use crate::owner::{Owner, Weight};

/// Sweeps take a tenth of the work as long as they wait.
const BESIDE_SWEEPS: f64 = 10.0 / 9.0;

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// Where one more request would stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ahead {
    /// Requests that would be answered before it.
    pub(super) requests: u64,
    /// Owners who would have something computed before that.
    pub(super) owners: u64,
    /// Work until it would be answered, its own counted.
    pub(super) work: f64,
}

/// What is left of each owner's requests, and what it counts for.
pub(super) type Left = BTreeMap<Owner, Vec<(u64, Weight)>>;

/// Where a request of so much work would stand. Of its owner's requests those with less left come first. Each of the others has as
/// much computed meanwhile as this owner has, weights counted, or all that he asked for.
pub(super) fn ahead(left: &Left, owner: &Owner, work: u64, weight: Weight) -> Ahead {
    let own: Vec<(u64, Weight)> =
        left.get(owner).into_iter().flatten().copied().filter(|(left, _)| *left <= work).collect();
    let turn = own.iter().map(|(left, weight)| weight.turn(*left)).sum::<u64>() + weight.turn(work);
    let mine = own.iter().map(|(left, _)| left).sum::<u64>() + work;
    let mut ahead =
        Ahead { requests: own.len() as u64, owners: u64::from(!own.is_empty()), work: mine as f64 };
    for waiting in
        left.iter().filter(|(other, waiting)| *other != owner && !waiting.is_empty()).map(|(_, w)| w)
    {
        let mut smallest_first = waiting.clone();
        smallest_first.sort_unstable();
        let mut clock = 0;
        for (left, weight) in smallest_first {
            let whole = clock + weight.turn(left) <= turn;
            ahead.requests += u64::from(whole);
            ahead.work += if whole { left } else { weight.work(turn - clock).min(left) } as f64;
            if !whole {
                break;
            }
            clock += weight.turn(left);
        }
        ahead.owners += 1;
    }
    ahead
}

/// The requests of a server.
#[derive(Debug, Default)]
pub(super) struct Backlog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Requests that clients wait for, by their numbers.
    waiting: Requests,
    /// Parts of jobs.
    sweeps: Requests,
    /// For how long the engine had been busy, and what was done by then: at the last time, and at two times before it that are
    /// half a minute apart.
    last: Mark,
    marks: [Mark; 2],
}

/// What is left of each request, and what it counts for, by owner and number.
type Requests = BTreeMap<Owner, BTreeMap<u64, (u64, Weight)>>;

/// What one owner has in one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whose it is.
    pub owner: Owner,
    /// Whether clients wait for it.
    pub lane: Lane,
    /// Requests, or parts of jobs, that are computed or wait.
    pub requests: u64,
    /// Row-layers that are left of them.
    pub row_layers: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    busy: Duration,
    done: u64,
}

/// A request among them, as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Backlog>,
    asker: Asker,
    id: u64,
}

impl Backlog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that is let in.
    pub(super) fn enter(self: &Arc<Self>, asker: &Asker, work: u64) -> Place {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.lane(asker.lane).entry(asker.owner.clone()).or_default().insert(id, (work, asker.weight));
        Place { of: Arc::clone(self), asker: asker.clone(), id }
    }

    /// What all owners have.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let state = self.state();
        let lanes = [(Lane::Interactive, &state.waiting), (Lane::Sweep, &state.sweeps)];
        let of = lanes.into_iter().flat_map(|(lane, owners)| owners.iter().map(move |of| (lane, of)));
        of.map(|(lane, (owner, requests))| Waiting {
            owner: owner.clone(),
            lane,
            requests: requests.len() as u64,
            row_layers: requests.values().map(|(left, _)| left).sum(),
        })
        .collect()
    }

    /// Where one more would stand.
    pub(super) fn ahead(&self, owner: &Owner, work: u64, weight: Weight) -> Ahead {
        let state = self.state();
        let left =
            state.waiting.iter().map(|(owner, left)| (owner.clone(), left.values().copied().collect()));
        state.beside_sweeps(ahead(&left.collect(), owner, work, weight))
    }

    /// Where the first of an owner's requests stands, if there is one.
    pub(super) fn first_of(&self, owner: &Owner) -> Option<Ahead> {
        let state = self.state();
        let (least, weight) = *state.waiting.get(owner)?.values().min()?;
        let others = state.waiting.iter().filter(|(other, _)| *other != owner);
        let left: Left =
            others.map(|(owner, left)| (owner.clone(), left.values().copied().collect())).collect();
        Some(state.beside_sweeps(ahead(&left, owner, least, weight)))
    }

    /// Work done in a second that the engine is busy, of late. `None`: too little was done to tell.
    pub(super) fn rate(&self) -> Option<f64> {
        let state = self.state();
        let (from, to) = (state.marks[0], state.last);
        let seconds = to.busy.saturating_sub(from.busy).as_secs_f64();
        (seconds > 1.0 && to.done > from.done).then(|| (to.done - from.done) as f64 / seconds)
    }
}

impl State {
    fn lane(&mut self, lane: Lane) -> &mut Requests {
        match lane {
            Lane::Interactive => &mut self.waiting,
            Lane::Sweep => &mut self.sweeps,
        }
    }

    fn beside_sweeps(&self, ahead: Ahead) -> Ahead {
        let slower = if self.sweeps.is_empty() { 1.0 } else { BESIDE_SWEEPS };
        Ahead { work: ahead.work * slower, ..ahead }
    }
}

impl Place {
    /// So much of it is done. `busy`: for how long the engine has been busy.
    pub(super) fn did(&self, work: u64, busy: Duration) {
        let mut state = self.of.state();
        let done = state.last.done + work;
        state.last = Mark { busy, done };
        if busy.saturating_sub(state.marks[1].busy) > HALF_A_MINUTE {
            state.marks = [state.marks[1], state.last];
        }
        let requests = state.lane(self.asker.lane);
        if let Some((left, _)) = requests.get_mut(&self.asker.owner).and_then(|of| of.get_mut(&self.id)) {
            *left = left.saturating_sub(work);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.state();
        let requests = state.lane(self.asker.lane);
        if let Some(of_owner) = requests.get_mut(&self.asker.owner) {
            of_owner.remove(&self.id);
            if of_owner.is_empty() {
                requests.remove(&self.asker.owner);
            }
        }
    }
}
