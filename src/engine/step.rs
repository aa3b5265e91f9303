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
    /// What the last step took, seconds.
    step: f64,
    /// When the last step was over, if it was the last that was computed of anything.
    stepped: Option<Instant>,
}

/// What the engine is computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    Nothing,
    Step,
    Others,
}

impl Turns {
    pub(super) fn new(share: f64) -> Turns {
        Turns { share, owed: 0.0, step: 0.0, stepped: None }
    }

    /// A step was computed. `others`: something else waits. Steps that are alone for a moment, as between two batches of a job, take
    /// what they are owed, and owe nothing for it.
    pub(super) fn step_done(&mut self, took: Duration, others: bool, now: Instant) {
        self.stepped = Some(now);
        self.step = took.as_secs_f64();
        let least = if others { -MOST_OWED } else { 0.0 };
        self.owed = (self.owed - self.step).max(least);
    }

    /// Something else was computed. `steps`: texts are being written.
    pub(super) fn other_done(&mut self, took: Duration, steps: bool) {
        self.stepped = None;
        let earned = took.as_secs_f64() * self.share / (1.0 - self.share);
        // A batch that is longer than all that can be owed is paid for nevertheless.
        let most = if steps { MOST_OWED.max(earned) } else { 0.0 };
        self.owed = (self.owed + earned).min(most);
    }

    /// Whether a step that waits comes before everything else that does.
    pub(super) fn step_first(&self) -> bool {
        self.owed >= 0.0
    }

    /// When the next batch of everything else may be formed at the earliest, while texts are being written; none: not before what is
    /// in hand is over. Whoever sends steps sends the next when it has the one before, so behind a step in hand none waits yet: what
    /// is formed then would be computed before it, whatever steps are owed.
    pub(super) fn others_from(&self, hand: Hand, now: Instant) -> Option<Instant> {
        match hand {
            // The next of texts that are owed time is about to come.
            Hand::Nothing => {
                let held = self.stepped.filter(|_| self.owed > 0.0).map(|then| then + GRACE);
                Some(held.map_or(now, |until| until.max(now)))
            }
            // It is the last of its turn.
            Hand::Step => (self.owed <= self.step).then_some(now),
            // The next step comes between two batches.
            Hand::Others => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

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

    /// A supervisor and an engine that has one batch in hand and one behind it, over a minute. Batches wait all the time; the next step
    /// is sent a moment after the one before was answered. The share of the engine's time that steps got, and of that that nobody did.
    fn simulated(share: f64, [batch, step, host]: [f64; 3]) -> (f64, f64) {
        let (origin, seconds) = (Instant::now(), Duration::from_secs_f64);
        let (mut turns, mut now) = (Turns::new(share), 0.0_f64);
        let (mut flights, mut step_comes) = (VecDeque::new(), 0.0_f64);
        let (mut waits, mut computed, mut idle) = (false, [0.0; 2], 0.0);
        while now < 60.0 {
            if !waits && step_comes <= now {
                (waits, step_comes) = (true, f64::INFINITY);
            }
            if flights.len() < 2 && waits && turns.step_first() {
                flights.push_back(true);
                waits = false;
            }
            let hand =
                flights.front().map_or(Hand::Nothing, |step| if *step { Hand::Step } else { Hand::Others });
            let from = turns.others_from(hand, origin + seconds(now));
            let from = from.filter(|_| flights.len() < 2).map(|from| (from - origin).as_secs_f64());
            if from.is_some_and(|from| from <= now) {
                flights.push_back(false);
                continue;
            }
            match flights.front().copied() {
                None => {
                    let then = from.unwrap_or(f64::INFINITY).min(step_comes);
                    idle += then - now;
                    now = then;
                }
                Some(is_step) => {
                    let took = if is_step { step } else { batch };
                    now += took;
                    flights.pop_front();
                    computed[usize::from(is_step)] += took;
                    if is_step {
                        step_comes = now + host;
                        turns.step_done(seconds(took), true, origin + seconds(now));
                    } else {
                        turns.other_done(seconds(took), true);
                    }
                }
            }
        }
        (computed[1] / (computed[0] + computed[1]), idle / now)
    }

    #[test]
    fn steps_get_their_share_though_the_next_comes_only_when_the_last_was_answered() {
        for (share, times) in [
            (0.5, [0.5, 0.0063, 0.0005]),
            (0.5, [0.1, 0.0063, 0.0009]),
            (0.5, [0.02, 0.03, 0.001]),
            (0.5, [5.0, 0.05, 0.001]),
            (0.25, [0.4, 0.03, 0.001]),
            (0.9, [0.1, 0.005, 0.0005]),
        ] {
            let (got, idle) = simulated(share, times);
            assert!((got - share).abs() < 0.05, "{got} of {share} with {times:?}");
            assert!(idle < 0.16, "the engine was idle for {idle} of the time with {times:?}");
        }
    }

    #[test]
    fn between_two_batches_of_a_job_steps_take_what_they_are_owed() {
        let mut turns = Turns::new(0.5);
        turns.other_done(SECOND, true);
        // The job has no unit ready for a moment.
        turns.step_done(SECOND / 10, false, Instant::now());
        assert!(turns.step_first());
        let now = Instant::now();
        assert!(turns.others_from(Hand::Nothing, now).unwrap() > now, "nine tenths are still owed");
        turns.step_done(SECOND, false, now);
        turns.step_done(SECOND / 10, true, now);
        assert!(!turns.step_first(), "and no more than that: what they had alone is not held against them");
        turns.other_done(SECOND / 5, true);
        assert!(turns.step_first());
    }

    #[test]
    fn time_without_company_is_neither_earned_nor_owed() {
        let mut turns = Turns::new(0.5);
        let now = Instant::now();
        let is_held = |turns: &Turns| turns.others_from(Hand::Nothing, now).unwrap() > now;
        turns.other_done(10 * SECOND, false);
        assert!(turns.step_first() && !is_held(&turns));
        turns.step_done(SECOND, false, Instant::now());
        turns.step_done(SECOND, true, Instant::now());
        assert!(!turns.step_first(), "only the step beside others counts");
        turns.other_done(3 * SECOND, true);
        assert!(turns.step_first() && !is_held(&turns), "nothing is held before a step was computed");
        turns.step_done(SECOND, true, Instant::now());
        assert!(is_held(&turns), "a second is owed");
    }
}
