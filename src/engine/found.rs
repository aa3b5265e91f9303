//! Answers found again, by the keys of their plans: an equal plan that is being computed is joined, and what came of one is kept
//! for a while. Whatever the numbers depend on is in the key, so what is found has the bits that would be computed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::growth::{Follower, Growth};
use super::work::Lift;
use super::{Asker, Engine, EngineError, Errand, Lane, Prepared, Turn, wire};
use crate::config;
use crate::config::Sharing;
use crate::owner::Owner;
use crate::plan::Plan;
use crate::plan::hash::Key;
use crate::plan::output::{PlanOutput, Usage};

/// The largest entry, as a part of all.
const LARGEST: u64 = 16;
/// Answers that wait to be computed again. They hold their plans, so they are few.
const MOST_VERIFIED: usize = 16;
/// How often it is looked whether the engine is idle.
const LOOK: Duration = Duration::from_millis(20);

/// What was computed before, and what is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Found(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: config::Cache,
    table: Mutex<Table>,
    verifying: Arc<Semaphore>,
    kept: AtomicU64,
    joined: AtomicU64,
    verified: AtomicU64,
    differ: AtomicU64,
}

#[derive(Debug)]
struct Table {
    /// Being computed, as long as somebody waits.
    flights: HashMap<Key, Weak<Flight>>,
    kept: Cache<Key, Arc<Kept>, ByBytes>,
    /// Of a verification, so much is due.
    due: f64,
}

/// What came of a plan.
#[derive(Debug)]
struct Kept {
    output: PlanOutput,
    at: Instant,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Arc<Kept>> for ByBytes {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        kept.bytes
    }
}

type Result = std::result::Result<PlanOutput, EngineError>;

/// A plan that is being computed, on a task of its own: who asked first may leave before the others.
#[derive(Debug)]
struct Flight {
    key: Key,
    of: Found,
    result: watch::Receiver<Option<Result>>,
    lift: Lift,
    growth: Growth,
    task: AbortHandle,
}

/// Nobody waits any more.
impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
        let mut table = self.of.table();
        // Another one may have taken off meanwhile.
        if table.flights.get(&self.key).is_some_and(|flight| flight.strong_count() == 0) {
            table.flights.remove(&self.key);
        }
    }
}

/// What was found so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Plans that had been computed.
    pub kept: u64,
    /// Plans that were being computed.
    pub joined: u64,
    /// Plans found that were computed again.
    pub verified: u64,
    /// Of these, those with other bits.
    pub differ: u64,
    /// Bytes kept now.
    pub bytes: u64,
}

impl Found {
    /// Nothing yet.
    pub fn new(settings: &config::Cache) -> Self {
        let table = Table {
            flights: HashMap::new(),
            kept: Cache::with_weighter(1024, settings.bytes, ByBytes),
            due: 0.0,
        };
        Self(Arc::new(Shared {
            settings: *settings,
            table: Mutex::new(table),
            verifying: Arc::new(Semaphore::new(MOST_VERIFIED)),
            kept: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            differ: AtomicU64::new(0),
        }))
    }

    /// What was found so far.
    pub fn counts(&self) -> Counts {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Shared { kept, joined, verified, differ, .. } = &*self.0;
        let bytes = self.table().kept.weight();
        Counts {
            kept: count(kept),
            joined: count(joined),
            verified: count(verified),
            differ: count(differ),
            bytes,
        }
    }

    /// By which a plan's numbers are found. `identity`: what computes them. `None`: they are not looked up.
    pub fn key(&self, engine: &Engine, plan: &Plan, identity: &str, owner: &Owner) -> Option<Key> {
        let owner = match self.0.settings.share {
            Sharing::Off => return None,
            Sharing::Owner => Some(&**owner),
            Sharing::All => None,
        };
        let invariance = engine.ready().numerics.batch_invariance;
        if !engine.ready().numerics.merges() {
            // Their bits depend on the company that they had.
            return None;
        }
        let (protocol, group) = (wire::PROTOCOL.to_string(), engine.group().to_string());
        let of = [env!("CARGO_PKG_VERSION"), &protocol, identity, invariance.name(), &group];
        plan.key(&of.into_iter().chain(owner).collect::<Vec<_>>())
    }

    /// Finds what came of an equal plan, waits for it if it is being computed, or computes it.
    pub async fn get(
        &self,
        engine: &Engine,
        key: Option<Key>,
        prepared: Prepared,
        errand: Errand,
        follower: &Follower,
    ) -> Result {
        let Some(key) = key else {
            let growth = errand.growth.clone();
            return follower.attend(&growth, engine.compute(prepared, errand)).await;
        };
        let mut asked = Some((prepared, errand));
        loop {
            match self.look(engine, key, &mut asked) {
                Look::Kept(kept) => {
                    if let Some((prepared, errand)) = asked {
                        self.verify(engine, &kept, prepared, errand.asker);
                    }
                    return Ok(kept.output.clone());
                }
                Look::Taken(flight) => return flight.landed(follower).await,
                Look::Joined(flight) => match flight.landed(follower).await {
                    // It was not its turn; it may be this one's.
                    Err(EngineError::Overloaded { .. }) => {}
                    landed => {
                        self.0.joined.fetch_add(1, Ordering::Relaxed);
                        return landed.map(|output| PlanOutput { usage: found(&output.usage), ..output });
                    }
                },
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under one lock: what lands is kept before it is no more in flight. What was `asked` is taken if it takes off.
    fn look(&self, engine: &Engine, key: Key, asked: &mut Option<(Prepared, Errand)>) -> Look {
        let mut table = self.table();
        let urgent = asked.as_ref().is_some_and(|(_, errand)| errand.asker.lane == Lane::Interactive);
        if let Some(flight) = table.flights.get(&key).and_then(Weak::upgrade) {
            if urgent {
                flight.lift.up();
            }
            return Look::Joined(flight);
        }
        let age = Duration::from_secs_f64(self.0.settings.age_s);
        match table.kept.get(&key).map(Arc::clone) {
            Some(kept) if kept.at.elapsed() < age => {
                self.0.kept.fetch_add(1, Ordering::Relaxed);
                return Look::Kept(kept);
            }
            Some(_) => drop(table.kept.remove(&key)),
            None => {}
        }
        let (prepared, errand) = asked.take().expect("BUG: it is taken once");
        let (lands, result) = watch::channel(None);
        let (found, engine) = (self.clone(), engine.clone());
        let (lift, growth) = (errand.lift.clone(), errand.growth.clone());
        let task = tokio::spawn(async move {
            let landed = engine.compute(prepared, errand).await;
            found.land(&key, &landed);
            lands.send_replace(Some(landed));
        });
        let flight = Flight { key, of: self.clone(), result, lift, growth, task: task.abort_handle() };
        let flight = Arc::new(flight);
        table.flights.insert(key, Arc::downgrade(&flight));
        Look::Taken(flight)
    }

    fn land(&self, key: &Key, landed: &Result) {
        let kept = landed.as_ref().ok().and_then(|output| self.keepable(output));
        let mut table = self.table();
        if let Some(kept) = kept {
            table.kept.insert(*key, Arc::new(kept));
        }
        table.flights.remove(key);
    }

    fn keepable(&self, output: &PlanOutput) -> Option<Kept> {
        let bytes = bytes(output);
        let is_small = bytes <= self.0.settings.bytes / LARGEST;
        (output.lost.is_none() && is_small).then(|| Kept {
            output: PlanOutput { usage: found(&output.usage), ..output.clone() },
            at: Instant::now(),
            bytes,
        })
    }

    /// Computes some of what is found again when the engine is idle.
    fn verify(&self, engine: &Engine, kept: &Arc<Kept>, prepared: Prepared, asker: Asker) {
        let is_due = {
            let mut table = self.table();
            table.due += self.0.settings.verify;
            let is_due = table.due >= 1.0;
            table.due -= f64::from(is_due);
            is_due
        };
        let Some(place) = is_due.then(|| Arc::clone(&self.0.verifying).try_acquire_owned().ok()).flatten()
        else {
            return;
        };
        let (found, engine, kept) = (self.clone(), engine.clone(), Arc::clone(kept));
        tokio::spawn(async move {
            let _place = place;
            while engine.activity().requests > 0 {
                tokio::time::sleep(LOOK).await;
            }
            let errand = Errand::new(Asker { lane: Lane::Sweep, ..asker }, Turn::Next, Box::new(|_| {}));
            let _waiting = errand.growth.wait_for();
            // It needs no leave, and takes nobody's.
            match engine.run(prepared, errand, None).await {
                Ok(output) if output.lost.is_none() => found.compare(&kept, &output),
                _ => {}
            }
        });
    }

    fn compare(&self, kept: &Kept, output: &PlanOutput) {
        self.0.verified.fetch_add(1, Ordering::Relaxed);
        if bits(&kept.output) != bits(output) {
            self.0.differ.fetch_add(1, Ordering::Relaxed);
            self.table().kept.clear();
            tracing::error!(
                "an answer that was kept has other bits than when it is computed again: memory or device are broken; nothing that \
                 was kept is used any more"
            );
        }
    }
}

enum Look {
    Kept(Arc<Kept>),
    Joined(Arc<Flight>),
    Taken(Arc<Flight>),
}

impl Flight {
    async fn landed(&self, follower: &Follower) -> Result {
        let mut result = self.result.clone();
        match follower.attend(&self.growth, result.wait_for(Option::is_some)).await {
            Ok(landed) => landed.clone().unwrap_or(Err(EngineError::LayOut)),
            // Its task panicked, or the runtime ends.
            Err(_) => Err(EngineError::LayOut),
        }
    }
}

/// What is told of a cost that was paid before.
fn found(usage: &Usage) -> Usage {
    let Usage { rows, row_layers, peak_bytes, .. } = *usage;
    Usage { rows, row_layers, peak_bytes, cached: true, ..Usage::default() }
}

/// About so much memory the numbers take.
fn bytes(output: &PlanOutput) -> u64 {
    let score = |score: &crate::plan::Score| {
        size_of_val(score)
            + size_of_val(&score.logits[..])
            + size_of_val(&score.ranks[..])
            + size_of_val(&score.top[..])
            + size_of_val(&score.kl[..])
            + size_of_val(&score.top_under[..])
            + size_of_val(&score.sequences[..])
    };
    let scores: usize = output.scores.iter().map(score).sum();
    let captures: usize = output.captures.iter().map(|rows| size_of_val(&rows[..])).sum();
    (size_of::<Kept>()
        + scores
        + captures
        + size_of_val(&output.written[..])
        + size_of_val(&output.cells[..])) as u64
}

/// Everything but the cost, as bytes: NaN is as good as any number.
fn bits(output: &PlanOutput) -> Vec<u8> {
    // Which process computed it matters to generation, of which nothing is kept.
    let PlanOutput { scores, captures, receipts, written, cells, lost, process: _, usage: _ } = output;
    let contexts: Vec<u32> = scores.iter().map(|score| score.context).collect();
    postcard::to_stdvec(&(scores, contexts, captures, receipts, written, cells, lost))
        .expect("BUG: numbers are plain data")
}

#[cfg(test)]
impl Found {
    /// Changes a bit of all that is kept.
    pub(super) fn spoil(&self) {
        let mut table = self.table();
        let kept: Vec<(Key, Arc<Kept>)> =
            table.kept.iter().map(|(key, kept)| (*key, Arc::clone(kept))).collect();
        for (key, kept) in kept {
            let mut output = kept.output.clone();
            let sum = &mut output.scores[0].log_sum_exp;
            *sum = f64::from_bits(sum.to_bits() ^ 1);
            table.kept.insert(key, Arc::new(Kept { output, at: kept.at, bytes: kept.bytes }));
        }
    }
}
