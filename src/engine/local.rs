//! The engine inside this process: one thread lays out and computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::busy::Busy;
use super::model::{Model, ModelError};
use super::queue::Queue;
use super::work::{Failure, Work, lay_out};
use super::{Health, State};
use crate::plan::output::Lost;

/// Computes until every sender is gone. Work that nobody waits for any more is skipped.
pub(super) fn spawn(
    model: impl Model + 'static,
    inbox: mpsc::UnboundedReceiver<Work>,
    state: watch::Sender<State>,
    busy: Arc<Busy>,
) -> std::io::Result<()> {
    let run = move || {
        let ended = Ended(state);
        compute(model, inbox, &ended.0, &busy);
    };
    std::thread::Builder::new().name("engine".into()).spawn(run)?;
    Ok(())
}

fn compute(
    mut model: impl Model,
    mut inbox: mpsc::UnboundedReceiver<Work>,
    state: &watch::Sender<State>,
    busy: &Busy,
) {
    let (budget, merges) = {
        let ready = &state.borrow().ready;
        (ready.budget, ready.numerics.merges())
    };
    let mut queue = Queue::default();
    loop {
        let next = if queue.is_empty() { inbox.blocking_recv() } else { inbox.try_recv().ok() };
        match next {
            Some(work) => {
                queue.push(work, false, Instant::now());
                continue;
            }
            None if queue.is_empty() => return,
            None => {}
        }
        let Some((company, batch)) = lay_out(queue.form(&budget, merges, Instant::now()), &budget) else {
            continue;
        };
        let batch = Arc::new(batch);
        let begun = busy.begin();
        let started = Instant::now();
        // A fault in one batch must not end the others: buffers are set anew by every batch, so none is left broken.
        let output = catch_unwind(AssertUnwindSafe(|| model.forward(&batch)));
        let took = started.elapsed();
        busy.end(took, batch.row_layers);
        let lost = match output {
            Ok(Ok(output)) => {
                company.land(output, begun, took);
                continue;
            }
            Ok(Err(error @ ModelError::OutOfMemory(_))) => {
                tracing::warn!("{error}");
                Lost::OutOfMemory
            }
            Ok(Err(ModelError::Failed(why))) => {
                tracing::error!("the engine failed: {why}");
                return company.fail(&Failure::Stopped);
            }
            Err(_) => Lost::EngineCrash,
        };
        if company.is_several() {
            queue.part(company.apart());
        } else {
            company.fail(&Failure::Lost(lost));
        }
    }
}

/// Tells the handles when the thread ends, however it ends.
struct Ended(watch::Sender<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.health = Health::Stopped);
    }
}
