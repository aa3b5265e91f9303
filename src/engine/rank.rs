//! The thread that owns the model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::{Done, EngineError, Work};
use crate::kernels::Kernels;
use crate::model::decoder::{BatchOutput, Decoder};
use crate::plan::batch::ForwardBatch;

/// Whatever computes forward batches.
pub trait Model: Send {
    /// Computes a batch whose indices were checked when it was made.
    fn forward(&mut self, batch: &ForwardBatch) -> BatchOutput;
}

impl<K> Model for Decoder<K>
where
    K: Kernels + Send,
    K::Matrix: Send,
    K::Weight: Send,
    K::Table: Send,
    K::Vector: Send,
{
    fn forward(&mut self, batch: &ForwardBatch) -> BatchOutput {
        Decoder::forward(self, batch)
    }
}

/// Computes batches in the order of arrival until every sender is gone. A batch whose requester is gone is skipped.
pub(super) fn spawn(
    mut model: impl Model + 'static,
    inbox: Receiver<Work>,
    alive: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let compute = move || {
        let _ended = Ended(alive);
        for Work { batch, queued, reply } in inbox {
            if reply.is_closed() {
                continue;
            }
            let started = Instant::now();
            // A fault in one batch must not end the others: buffers are set anew by every batch, so none is left broken.
            let output = catch_unwind(AssertUnwindSafe(|| model.forward(&batch)));
            let took = started.elapsed();
            let done = output.map(|output| Done { output, waited: started - queued, took });
            // If nobody waits any more, the result is nobody's loss.
            let _ = reply.send(done.map_err(|_| EngineError::Panicked));
        }
    };
    std::thread::Builder::new().name("rank-0".into()).spawn(compute)?;
    Ok(())
}

/// Tells the handles when the thread ends, however it ends.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
