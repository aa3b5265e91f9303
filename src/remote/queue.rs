//! Whose job is next: parties take turns, and each has its own jobs in the order in which they came.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::job::Party;

/// Jobs that wait and jobs that run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    at_once: usize,
    queued_each: usize,
    state: Mutex<State>,
    /// Changes with every job that comes, begins or ends.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: HashMap<Party, VecDeque<u64>>,
    /// Parties with jobs that wait; the first is next.
    turns: VecDeque<Party>,
    /// Jobs whose turn has come and that have not noticed yet.
    called: HashSet<u64>,
    running: usize,
}

/// A party has as many jobs waiting as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{most} of your jobs wait already")]
pub struct Full {
    /// The most.
    pub most: usize,
}

impl Queue {
    /// So many jobs run at once, and so many wait of each party.
    pub fn new(at_once: usize, queued_each: usize) -> Self {
        let changes = watch::Sender::new(());
        Self(Arc::new(Inner { at_once, queued_each, state: Mutex::default(), changes }))
    }

    /// Jobs that run, and jobs that wait.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.0.state();
        (state.running, state.waiting.values().map(VecDeque::len).sum())
    }

    /// Whether a party may have one more waiting.
    pub fn has_room(&self, party: &Party) -> bool {
        self.0.state().waiting.get(party).is_none_or(|own| own.len() < self.0.queued_each)
    }

    /// Waits for a turn; it is over when what this gives is dropped. `place` is told how many jobs are before it, whenever
    /// that changes. Who stops waiting loses the place.
    pub async fn turn(&self, party: &Party, mut place: impl FnMut(usize)) -> Turn {
        let mut changes = self.0.changes.subscribe();
        let waits = self.join(party);
        let mut before = None;
        loop {
            changes.mark_unchanged();
            {
                let mut state = self.0.state();
                if state.called.remove(&waits.id) {
                    drop(state);
                    return Turn { queue: self.clone() };
                }
                let now = state.before(party, waits.id);
                drop(state);
                if before != Some(now) {
                    before = Some(now);
                    place(now);
                }
            }
            if changes.changed().await.is_err() {
                // The queue itself holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }

    fn join(&self, party: &Party) -> Waits {
        let mut state = self.0.state();
        let id = state.next;
        state.next += 1;
        let own = state.waiting.entry(party.clone()).or_default();
        own.push_back(id);
        if own.len() == 1 {
            state.turns.push_back(party.clone());
        }
        state.call(self.0.at_once);
        drop(state);
        self.0.changes.send_replace(());
        Waits { queue: self.clone(), party: party.clone(), id }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Calls who is next, as long as there is room.
    fn call(&mut self, at_once: usize) {
        while self.running < at_once
            && let Some(party) = self.turns.pop_front()
        {
            let own = self.waiting.entry(party.clone()).or_default();
            if let Some(id) = own.pop_front() {
                self.called.insert(id);
                self.running += 1;
            }
            if own.is_empty() {
                self.waiting.remove(&party);
            } else {
                self.turns.push_back(party);
            }
        }
    }

    /// How many jobs that wait come before one.
    fn before(&self, party: &Party, id: u64) -> usize {
        let place = self.waiting.get(party).and_then(|own| own.iter().position(|other| *other == id));
        let (Some(round), Some(turn)) = (place, self.turns.iter().position(|other| other == party)) else {
            return 0;
        };
        let others = self.turns.iter().enumerate().map(|(at, other)| {
            let waits = self.waiting.get(other).map_or(0, VecDeque::len);
            match at.cmp(&turn) {
                std::cmp::Ordering::Less => waits.min(round + 1),
                std::cmp::Ordering::Equal => round,
                std::cmp::Ordering::Greater => waits.min(round),
            }
        });
        others.sum()
    }
}

/// A job that waits.
struct Waits {
    queue: Queue,
    party: Party,
    id: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = self.queue.0.state();
        if let Some(own) = state.waiting.get_mut(&self.party)
            && let Some(at) = own.iter().position(|id| *id == self.id)
        {
            own.remove(at);
            if own.is_empty() {
                state.waiting.remove(&self.party);
                state.turns.retain(|party| *party != self.party);
            }
        }
        // It was called and is gone: its turn is another's.
        if state.called.remove(&self.id) {
            state.running -= 1;
            state.call(self.queue.0.at_once);
        }
        drop(state);
        self.queue.0.changes.send_replace(());
    }
}

/// A job that runs.
#[derive(Debug)]
pub struct Turn {
    queue: Queue,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.0.state();
        state.running -= 1;
        state.call(self.queue.0.at_once);
        drop(state);
        self.queue.0.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;

    fn party(name: &str) -> Party {
        Party::Owner(Owner::parse(name).unwrap())
    }

    /// Lets every task that can go on do so.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn parties_take_turns_and_each_has_its_own_jobs_in_order() {
        let queue = Queue::new(1, 10);
        let running = queue.turn(&party("first"), |_| ()).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let places = Arc::new(Mutex::new(HashMap::new()));
        let mut tasks = Vec::new();
        for (name, n) in [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("b", 1)] {
            let (queue, order, places) = (queue.clone(), Arc::clone(&order), Arc::clone(&places));
            tasks.push(tokio::spawn(async move {
                let told = |place| {
                    places.lock().unwrap().insert((name, n), place);
                };
                let _turn = queue.turn(&party(name), told).await;
                order.lock().unwrap().push((name, n));
            }));
            settle().await;
        }
        let expected = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)];
        for (place, job) in expected.iter().enumerate() {
            assert_eq!(places.lock().unwrap()[job], place, "{job:?}");
        }
        drop(running);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), expected);
        assert!(queue.0.state().waiting.is_empty() && queue.0.state().running == 0);
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_its_place_to_others() {
        let queue = Queue::new(2, 1);
        let first = queue.turn(&party("a"), |_| ()).await;
        let second = queue.turn(&party("a"), |_| ()).await;
        let third = tokio::spawn({
            let queue = queue.clone();
            async move { queue.turn(&party("a"), |_| ()).await }
        });
        settle().await;
        assert!(!queue.has_room(&party("a")) && queue.has_room(&party("b")));
        let fourth = tokio::spawn({
            let queue = queue.clone();
            async move { queue.turn(&party("b"), |_| ()).await }
        });
        settle().await;
        third.abort();
        settle().await;
        assert!(queue.has_room(&party("a")));
        drop(first);
        let fourth = fourth.await.unwrap();
        // Called, and gone before it noticed.
        let fifth = tokio::spawn({
            let queue = queue.clone();
            async move { queue.turn(&party("a"), |_| ()).await }
        });
        settle().await;
        drop(second);
        fifth.abort();
        settle().await;
        drop(fourth);
        assert_eq!(queue.0.state().running, 0);
        assert!(queue.0.state().called.is_empty());
    }
}
