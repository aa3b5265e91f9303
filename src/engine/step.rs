//! Steps of generation on their way to whoever computes, and how they take turns with everything else.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Engine, EngineError};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::{BatchOutput, Lost};

/// For how long an engine is held for the next step of texts that are owed time.
const GRACE: Duration = Duration::from_millis(10);
/// The most that steps, or everything else, can be owed.
const MOST_OWED: f64 = 2.0;

/// A step that is to be computed.
#[derive(Debug)]
pub(super) struct StepWork {
    pub(super) batch: Box<ForwardBatch>,
    /// The process that has the keys.
    pub(super) process: u64,
    pub(super) reply: oneshot::Sender<Result<Stepped, StepFailure>>,
}

/// What a step gave.
#[derive(Debug)]
pub struct Stepped {
    /// Its numbers.
    pub output: BatchOutput,
    /// What it took.
    pub took: Duration,
}

/// Why a step was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepFailure {
    /// The process that had the keys is gone: they must be made anew.
    #[error("the keys are gone")]
    Forgotten,
    /// It failed. The keys that it was to keep may be there or not.
    #[error(transparent)]
    Lost(#[from] LostStep),
    /// The engine dies again and again.
    #[error("the engine dies again and again: {0}")]
    Unhealthy(String),
    /// There is no engine any more.
    #[error("the engine has stopped")]
    Stopped,
}

/// What a step came to grief of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LostStep(pub Lost);

impl StepWork {
    pub(super) fn answer(self, result: Result<Stepped, StepFailure>) {
        // If nobody waits any more, the result is nobody's loss.
        let _ = self.reply.send(result);
    }

    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Engine {
    /// Computes a step whose keys are with this process ([`PlanOutput::process`](crate::plan::output::PlanOutput::process)).
    ///
    /// # Errors
    /// [`StepFailure`]
    pub async fn step(&self, batch: ForwardBatch, process: u64) -> Result<Stepped, StepFailure> {
        let (reply, answer) = oneshot::channel();
        let work = StepWork { batch: Box::new(batch), process, reply };
        self.work.send(work.into()).map_err(|_| StepFailure::Stopped)?;
        answer.await.map_err(|_| StepFailure::Stopped)?
    }
}

impl From<StepFailure> for EngineError {
    fn from(failure: StepFailure) -> Self {
        match failure {
            StepFailure::Unhealthy(reason) => Self::Unhealthy { reason },
            StepFailure::Forgotten | StepFailure::Lost(_) | StepFailure::Stopped => Self::Stopped,
        }
    }
}

/// How steps and everything else share the engine: by measured time, not by number. Plain data.
#[derive(Debug)]
pub(super) struct Turns {
    /// Share of the time that steps get while both are asked for.
    share: f64,
    /// Seconds that steps are owed; below 0 it is everything else that is owed.
    owed: f64,
    /// When the last step was over, if it was the last that was computed of anything.
    stepped: Option<Instant>,
}

impl Turns {
    pub(super) fn new(share: f64) -> Turns {
        Turns { share, owed: 0.0, stepped: None }
    }

    /// A step was computed. `others`: something else waits.
    pub(super) fn step_done(&mut self, took: Duration, others: bool, now: Instant) {
        self.stepped = Some(now);
        self.owed = if others { (self.owed - took.as_secs_f64()).max(-MOST_OWED) } else { 0.0 };
    }

    /// Something else was computed. `steps`: texts are being written.
    pub(super) fn other_done(&mut self, took: Duration, steps: bool) {
        self.stepped = None;
        let earned = took.as_secs_f64() * self.share / (1.0 - self.share);
        self.owed = if steps { (self.owed + earned).min(MOST_OWED) } else { 0.0 };
    }

    /// Whether a step that waits comes before everything else that does.
    pub(super) fn step_first(&self) -> bool {
        self.owed >= 0.0
    }

    /// When everything else may be computed at the earliest, though no step waits: the next of texts that are owed time is about to
    /// come.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.stepped.filter(|_| self.owed > 0.0).map(|then| then + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn steps_get_their_share_of_the_time_beside_batches_of_any_length() {
        for (share, batch_ms, step_ms) in [(0.5, 1000, 10), (0.5, 3, 10), (0.25, 400, 30), (0.9, 100, 5)] {
            let (mut turns, mut steps, mut others) = (Turns::new(share), Duration::ZERO, Duration::ZERO);
            let (batch, step) = (Duration::from_millis(batch_ms), Duration::from_millis(step_ms));
            while steps + others < 60 * SECOND {
                if turns.step_first() {
                    turns.step_done(step, true, Instant::now());
                    steps += step;
                } else {
                    turns.other_done(batch, true);
                    others += batch;
                }
            }
            let got = steps.as_secs_f64() / (steps + others).as_secs_f64();
            assert!((got - share).abs() < 0.03, "{got} of {share}");
        }
    }

    #[test]
    fn time_without_company_is_neither_earned_nor_owed() {
        let mut turns = Turns::new(0.5);
        turns.other_done(10 * SECOND, false);
        assert!(turns.step_first() && turns.held_until().is_none());
        turns.step_done(SECOND, false, Instant::now());
        turns.step_done(SECOND, true, Instant::now());
        assert!(!turns.step_first(), "only the step beside others counts");
        turns.other_done(3 * SECOND, true);
        assert!(
            turns.step_first() && turns.held_until().is_none(),
            "nothing is held before a step was computed"
        );
        turns.step_done(SECOND, true, Instant::now());
        assert!(turns.held_until().is_some(), "a second is owed");
    }
}
