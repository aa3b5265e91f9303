//! Ranks that are threads of one process and meet in its memory.

use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Broken, Call, Collective, Kind};

/// A rank of a group of threads. Dropping it breaks the group, so a rank that unwinds takes the others along.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    size: usize,
    table: Arc<Table>,
}

/// Where the ranks meet: each lays down its numbers, and once all have, each takes everybody's.
#[derive(Debug)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Calls that each rank has made.
    calls: Vec<u64>,
    /// What each rank laid down.
    given: Vec<Option<(Call, Vec<f32>)>>,
    /// Everybody's numbers, until each rank has taken them.
    all: Option<Arc<[Vec<f32>]>>,
    /// Ranks that have not taken them yet.
    waiting: usize,
    broken: Option<Broken>,
}

impl Threads {
    /// All ranks of a group of this size, in order.
    pub fn group(size: usize) -> Vec<Threads> {
        let state = State {
            calls: vec![0; size],
            given: (0..size).map(|_| None).collect(),
            all: None,
            waiting: 0,
            broken: None,
        };
        let table = Arc::new(Table { state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Threads { rank, size, table: Arc::clone(&table) }).collect()
    }

    fn meet(&self, kind: Kind, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        match self.try_meet(kind, own) {
            Ok(all) => all,
            // Not a panic: the rank that broke the group has told why, and the others would only repeat it.
            Err(broken) => resume_unwind(Box::new(broken)),
        }
    }

    fn try_meet(&self, kind: Kind, own: Vec<f32>) -> Result<Arc<[Vec<f32>]>, Broken> {
        // A rank ahead of the others waits until they have taken what was laid down before.
        let mut state = self.table.until(|state| state.all.is_none())?;
        let call = Call { sequence: state.calls[self.rank], kind, length: own.len() };
        state.calls[self.rank] += 1;
        state.given[self.rank] = Some((call, own));
        if state.given.iter().all(Option::is_some) {
            let result = state.gather();
            self.table.changed.notify_all();
            result?;
        } else {
            drop(state);
            state = self.table.until(|state| state.all.is_some())?;
        }
        let all =
            state.all.clone().expect("BUG: it was waited for, and nobody takes it away before this rank");
        state.waiting -= 1;
        if state.waiting == 0 {
            state.all = None;
            self.table.changed.notify_all();
        }
        Ok(all)
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock and leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state once `ready`, or why it never will be. What all ranks laid down is there for all, even if one has left since.
    fn until(&self, ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, Broken> {
        let waits = |state: &mut State| state.broken.is_none() && !ready(state);
        let state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        match &state.broken {
            Some(broken) if !ready(&state) => Err(broken.clone()),
            _ => Ok(state),
        }
    }
}

impl State {
    /// Puts together what all ranks laid down, if they all made the same call.
    fn gather(&mut self) -> Result<(), Broken> {
        let (calls, numbers): (Vec<Call>, Vec<Vec<f32>>) =
            self.given.iter_mut().filter_map(Option::take).unzip();
        if let Some(rank) = calls.iter().position(|call| *call != calls[0]) {
            let broken = Broken::OutOfStep { rank, got: calls[rank], expected: calls[0] };
            self.broken = Some(broken.clone());
            return Err(broken);
        }
        self.waiting = numbers.len();
        self.all = Some(numbers.into());
        Ok(())
    }
}

impl Collective<[f32]> for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, buffer: &mut [f32]) {
        if self.size == 1 {
            return;
        }
        let all = self.meet(Kind::AllReduce, buffer.to_vec());
        buffer.copy_from_slice(&all[0]);
        for other in &all[1..] {
            buffer.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
        }
    }

    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        self.meet(Kind::Exchange, own)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.table.lock().broken.get_or_insert(Broken::Left { rank: self.rank });
        self.table.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Runs `f` on every rank of a group, each a thread; what each gave, or why its group broke.
    fn ranks<T: Send>(size: usize, f: impl Fn(&Threads) -> T + Sync) -> Vec<Result<T, Broken>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(size)
                .into_iter()
                .map(|rank| {
                    let f = &f;
                    scope.spawn(move || {
                        // The rank is dropped, and the group broken, only after the payload is known.
                        catch_unwind(AssertUnwindSafe(|| f(&rank)))
                            .map_err(|payload| *payload.downcast::<Broken>().unwrap())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_made_in_the_order_of_the_ranks_however_often_and_whoever_is_first() {
        for size in [1, 2, 3, 8] {
            let sums = ranks(size, |rank| {
                let mut last = Vec::new();
                for round in 0..200u32 {
                    if (round as usize + rank.rank()).is_multiple_of(3) {
                        std::thread::yield_now();
                    }
                    // A sum of these depends on its order.
                    last = vec![1e8 / (1.0 + rank.rank() as f32), round as f32, -0.1];
                    rank.all_reduce(&mut last);
                }
                last
            });
            let order = |x: fn(usize) -> f32| (1..size).fold(x(0), |sum, rank| sum + x(rank));
            let expected = [order(|r| 1e8 / (1.0 + r as f32)), order(|_| 199.0), order(|_| -0.1)];
            for sum in sums {
                assert_eq!(sum.unwrap(), expected);
            }
        }
    }

    #[test]
    fn every_rank_gets_everybodys_numbers_in_the_order_of_the_ranks() {
        for all in ranks(3, |rank| rank.exchange(vec![rank.rank() as f32; 2])) {
            assert_eq!(*all.unwrap(), [vec![0.0; 2], vec![1.0; 2], vec![2.0; 2]]);
        }
    }

    #[test]
    fn a_rank_that_leaves_breaks_the_group_for_those_who_wait_and_those_who_come_later() {
        let found = ranks(3, |rank| {
            rank.exchange(Vec::new());
            if rank.rank() == 1 {
                resume_unwind(Box::new(Broken::Left { rank: 1 }));
            }
            rank.exchange(vec![1.0]);
        });
        for found in found {
            assert!(matches!(found, Err(Broken::Left { .. })), "{found:?}");
        }
    }

    #[test]
    fn ranks_out_of_step_break_the_group_instead_of_adding_up_other_things() {
        let lengths = ranks(2, |rank| rank.all_reduce(&mut vec![0.0; 3 + rank.rank()]));
        let kinds = ranks(2, |rank| match rank.rank() {
            0 => drop(rank.exchange(vec![0.0])),
            _ => rank.all_reduce(&mut [0.0]),
        });
        let sequences = ranks(2, |rank| {
            rank.exchange(Vec::new());
            rank.table.lock().calls[1] = 2;
            rank.all_reduce(&mut [0.0]);
        });
        for found in [lengths, kinds, sequences] {
            assert!(found.iter().any(|f| matches!(f, Err(Broken::OutOfStep { rank: 1, .. }))), "{found:?}");
            assert!(found.iter().all(Result::is_err), "{found:?}");
        }
    }
}
