//! The engine inside this process: one thread lays out, one computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::busy::Busy;
use super::model::{Model, ModelError};
use super::work::{ChunkKey, Done, Failure, Work};
use super::{Health, State};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::Lost;

type LaidOut = (Work, ChunkKey, Arc<ForwardBatch>);

/// Computes in the order of arrival until every sender is gone. Work that nobody waits for any more is skipped.
pub(super) fn spawn(
    model: impl Model + 'static,
    mut inbox: mpsc::UnboundedReceiver<Work>,
    state: watch::Sender<State>,
    busy: Arc<Busy>,
) -> std::io::Result<()> {
    // No room between the two: one batch is laid out while another is computed, and no more.
    let (ready, due) = sync_channel(0);
    let lay_out = move || {
        while let Some(work) = inbox.blocking_recv() {
            let laid_out = if work.is_abandoned() { None } else { work.lay_out() };
            let Some((work, key, batch)) = laid_out else { continue };
            if ready.send((work, key, Arc::new(batch))).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("lay-out".into()).spawn(lay_out)?;
    let compute = move || {
        let _ended = Ended(state);
        compute(model, &due, &busy);
    };
    std::thread::Builder::new().name("engine".into()).spawn(compute)?;
    Ok(())
}

fn compute(mut model: impl Model, due: &Receiver<LaidOut>, busy: &Busy) {
    for (work, key, batch) in due {
        if work.is_abandoned() {
            continue;
        }
        let begun = busy.begin();
        let started = Instant::now();
        // A fault in one batch must not end the others: buffers are set anew by every batch, so none is left broken.
        let output = catch_unwind(AssertUnwindSafe(|| model.forward(&batch)));
        let took = started.elapsed();
        busy.end(took, key.row_layers);
        let queued = work.queued;
        match output {
            Ok(Ok(output)) => work.answer(Ok(Done { key, output, queued, begun, took })),
            Ok(Err(error @ ModelError::OutOfMemory(_))) => {
                tracing::warn!("{error}");
                work.answer(Err(Failure::Lost(Lost::OutOfMemory)));
            }
            Ok(Err(ModelError::Failed(why))) => {
                tracing::error!("the engine failed: {why}");
                return work.answer(Err(Failure::Stopped));
            }
            Err(_) => work.answer(Err(Failure::Lost(Lost::EngineCrash))),
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
