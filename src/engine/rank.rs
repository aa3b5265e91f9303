//! The thread that owns the model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::{Done, EngineError, Work};
use crate::kernels::{Kernels, OutOfMemory};
use crate::model::decoder::{BatchOutput, Decoder};
use crate::plan::batch::ForwardBatch;

/// Whatever computes forward batches.
pub trait Model: Send {
    /// Computes a batch whose indices were checked when it was made.
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError>;
}

/// Why a batch was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A device has no room for it; smaller ones may fit.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The model is gone, and so must its process: nothing can be computed any more.
    #[error("{0}")]
    Failed(String),
}

impl<K> Model for Decoder<K>
where
    K: Kernels + Send,
    K::Matrix: Send,
    K::Weight: Send,
    K::Stack: Send,
    K::Table: Send,
    K::Vector: Send,
    K::Rope: Send,
{
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        Ok(Decoder::forward(self, batch)?)
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
            let done = match output {
                Ok(Ok(output)) => Ok(Done { output, waited: started - queued, took }),
                Ok(Err(error)) => Err(EngineError::Model(error)),
                Err(_) => Err(EngineError::Panicked),
            };
            // If nobody waits any more, the result is nobody's loss.
            let _ = reply.send(done);
        }
    };
    std::thread::Builder::new().name("engine".into()).spawn(compute)?;
    Ok(())
}

/// Tells the handles when the thread ends, however it ends.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
