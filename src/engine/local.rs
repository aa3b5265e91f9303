//! The engine inside this process: one thread lays out and computes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::busy::Busy;
use super::model::{Model, ModelError};
use super::queue::Queue;
use super::step::{Hand, LostStep, StepFailure, StepWork, Stepped, Turns};
use super::work::{Failure, Incoming, lay_out};
use super::{Health, State};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::{BatchOutput, Lost};

/// How often the next step is looked for while the engine is held for it.
const MOMENT: Duration = Duration::from_micros(100);
/// The number of the only process.
const PROCESS: u64 = 1;

/// Computes until every sender is gone. Work that nobody waits for any more is skipped.
pub(super) fn spawn(
    model: impl Model + 'static,
    inbox: mpsc::UnboundedReceiver<Incoming>,
    state: watch::Sender<State>,
    busy: Arc<Busy>,
    texts: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let run = move || {
        let ended = Ended(state);
        compute(model, inbox, &ended.0, &busy, &texts);
    };
    std::thread::Builder::new().name("engine".into()).spawn(run)?;
    Ok(())
}

fn compute(
    mut model: impl Model,
    mut inbox: mpsc::UnboundedReceiver<Incoming>,
    state: &watch::Sender<State>,
    busy: &Busy,
    texts: &AtomicUsize,
) {
    let (budget, merges) = {
        let ready = &state.borrow().ready;
        (ready.budget, ready.numerics.merges())
    };
    let mut queue = Queue::default();
    let (mut steps, mut turns) = (VecDeque::<StepWork>::new(), Turns::new(budget.step_share));
    loop {
        let idle = queue.is_empty() && steps.is_empty();
        match if idle { inbox.blocking_recv() } else { inbox.try_recv().ok() } {
            Some(Incoming::Part(work)) => {
                queue.push(work, false, Instant::now());
                continue;
            }
            Some(Incoming::Step(work)) => {
                steps.push_back(work);
                continue;
            }
            None if idle => return,
            None => {}
        }
        if (turns.step_first() || queue.is_empty())
            && let Some(mut work) = steps.pop_front()
        {
            let batch = Arc::from(std::mem::take(&mut work.batch));
            busy.begin();
            let (took, output) = forward(&mut model, &batch);
            busy.end(took, batch.row_layers);
            turns.step_done(took, !queue.is_empty(), Instant::now());
            match output {
                Ok(output) => work.answer(Ok(Stepped { output, took })),
                Err(Failure::Lost(lost)) => work.answer(Err(LostStep(lost).into())),
                Err(_) => return work.answer(Err(StepFailure::Stopped)),
            }
            continue;
        }
        let (now, writing) = (Instant::now(), texts.load(Ordering::Relaxed) > 0);
        if writing && turns.others_from(Hand::Nothing, now).is_some_and(|from| from > now) {
            std::thread::sleep(MOMENT);
            continue;
        }
        let Some((company, batch)) = lay_out(queue.form(&budget, merges, Instant::now()), &budget) else {
            continue;
        };
        let batch = Arc::new(batch);
        let begun = busy.begin();
        let (took, output) = forward(&mut model, &batch);
        busy.end(took, batch.row_layers);
        turns.other_done(took, texts.load(Ordering::Relaxed) > 0);
        match output {
            Ok(output) => company.land(output, begun, took, PROCESS),
            Err(failure @ Failure::Lost(_)) if !company.is_several() => company.fail(&failure),
            Err(Failure::Lost(_)) => queue.part(company.apart()),
            Err(failure) => return company.fail(&failure),
        }
    }
}

/// Computes a batch; what it took, and what came of it.
fn forward(model: &mut impl Model, batch: &Arc<ForwardBatch>) -> (Duration, Result<BatchOutput, Failure>) {
    let started = Instant::now();
    // A fault in one batch must not end the others: buffers are set anew by every batch, so none is left broken.
    let output = catch_unwind(AssertUnwindSafe(|| model.forward(batch)));
    let took = started.elapsed();
    let output = match output {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error @ ModelError::OutOfMemory(_))) => {
            tracing::warn!("{error}");
            Err(Failure::Lost(Lost::OutOfMemory))
        }
        Ok(Err(ModelError::Failed(why))) => {
            tracing::error!("the engine failed: {why}");
            Err(Failure::Stopped)
        }
        Err(_) => Err(Failure::Lost(Lost::EngineCrash)),
    };
    (took, output)
}

/// Tells the handles when the thread ends, however it ends.
struct Ended(watch::Sender<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.health = Health::Stopped);
    }
}
