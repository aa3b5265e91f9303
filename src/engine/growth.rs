//! A plan while it is computed: what has come of it so far, and whether anybody waits for it. Of what nobody waits for no further piece
//! is taken, and what was computed of it stays, until somebody waits again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::Prepared;
use crate::plan::Score;
use crate::plan::sequences::Fold;

/// A plan on its way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Growth(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stage: watch::Sender<Stage>,
    /// How many wait.
    waiting: watch::Sender<usize>,
    fold: OnceLock<Arc<Fold>>,
    /// The scores so far, of a plan that is followed.
    scores: Mutex<Option<HashMap<usize, Score>>>,
}

/// How far a plan is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stage {
    /// Whether it was let in.
    pub admitted: bool,
    /// When its first piece was sent.
    pub begun: Option<Instant>,
    /// Work done, and all of it, in row-layers as they are computed.
    pub done: u64,
    /// All of it.
    pub all: u64,
}

impl Growth {
    /// Says that somebody waits, until what this gives is dropped.
    pub fn wait_for(&self) -> Waiting {
        self.0.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(self.clone())
    }

    /// Whether nobody waits.
    pub(super) fn is_left(&self) -> bool {
        *self.0.waiting.borrow() == 0
    }

    /// Until somebody waits.
    pub(super) async fn wanted(&self) {
        let mut waiting = self.0.waiting.subscribe();
        // The sender is held by this.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }

    /// How far it is, and when that changes.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    /// Keeps scores from now on.
    fn follow(&self) {
        self.scores().get_or_insert_default();
    }

    fn scores(&self) -> MutexGuard<'_, Option<HashMap<usize, Score>>> {
        self.0.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admitted(&self, prepared: &Prepared) {
        let _ = self.0.fold.set(Arc::clone(&prepared.fold));
        self.0.stage.send_modify(|stage| {
            stage.admitted = true;
            stage.all = prepared.work;
        });
    }

    pub(super) fn begun(&self) {
        self.0.stage.send_modify(|stage| {
            stage.begun.get_or_insert_with(Instant::now);
        });
    }

    /// Adds what a piece gave.
    pub(super) fn add<'s>(&self, work: u64, scores: impl Iterator<Item = (usize, &'s Score)>) {
        if let Some(kept) = self.scores().as_mut() {
            kept.extend(scores.map(|(readout, score)| (readout, score.clone())));
        }
        self.0.stage.send_modify(|stage| stage.done = (stage.done + work).min(stage.all));
    }

    /// Which of some readouts have been scored; of the others nothing is known yet.
    pub fn scored(&self, readouts: impl IntoIterator<Item = usize>) -> HashMap<usize, Score> {
        let kept = self.scores();
        let (Some(kept), Some(fold)) = (kept.as_ref(), self.0.fold.get()) else { return HashMap::new() };
        let score = |readout| Some((readout, fold.score(readout, |at| kept.get(&at))?));
        readouts.into_iter().filter_map(score).collect()
    }

    /// How many readouts of each group have been scored.
    pub fn counts(&self, groups: impl IntoIterator<Item = impl IntoIterator<Item = usize>>) -> Vec<usize> {
        let kept = self.scores();
        let (Some(kept), Some(fold)) = (kept.as_ref(), self.0.fold.get()) else { return Vec::new() };
        let count = |group: &mut dyn Iterator<Item = usize>| {
            group.filter(|readout| fold.is_there(*readout, |at| kept.contains_key(&at))).count()
        };
        groups.into_iter().map(|group| count(&mut group.into_iter())).collect()
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub struct Waiting(Growth);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// Whoever waits for plans, one after another, and may be away for a while. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Follower(Arc<Following>);

#[derive(Debug)]
struct Following {
    here: watch::Sender<bool>,
    plan: watch::Sender<Option<Growth>>,
    /// Whether scores are wanted as they come.
    curious: bool,
}

impl Follower {
    /// Waits for the end alone.
    pub fn patient() -> Self {
        Self::new(false)
    }

    /// Wants scores as they come.
    pub fn curious() -> Self {
        Self::new(true)
    }

    fn new(curious: bool) -> Self {
        let following = Following { here: watch::Sender::new(true), plan: watch::Sender::default(), curious };
        Self(Arc::new(following))
    }

    /// Comes, or goes away.
    pub fn set_here(&self, here: bool) {
        self.0.here.send_replace(here);
    }

    /// The plan that is computed, and when it becomes another.
    pub fn plan(&self) -> watch::Receiver<Option<Growth>> {
        self.0.plan.subscribe()
    }

    /// Waits for what comes of a plan, as long as it is here.
    pub(super) async fn attend<T>(&self, growth: &Growth, work: impl Future<Output = T>) -> T {
        if self.0.curious {
            growth.follow();
        }
        self.0.plan.send_replace(Some(growth.clone()));
        let mut here = self.0.here.subscribe();
        let mut waiting = here.borrow_and_update().then(|| growth.wait_for());
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Ok(()) = here.changed() => {
                    let is_here = *here.borrow_and_update();
                    waiting = if is_here { waiting.or_else(|| Some(growth.wait_for())) } else { None };
                }
            }
        }
    }
}
