//! A part of a plan on its way to whoever computes, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::decoder::BatchOutput;
use crate::plan::batch::ForwardBatch;
use crate::plan::edits::EditedRow;
use crate::plan::output::Lost;
use crate::plan::pack::{Chunk, Packing, Part};

/// A part of a plan that is to be computed as one batch. Its tables are laid out when it is due, so that those of all
/// that waits need not be held.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) packing: Arc<Packing>,
    pub(super) part: Part,
    /// Whether it belongs to a batch that has killed the engine: it gets one attempt only.
    pub(super) suspect: bool,
    /// For how long the engine had been busy when it was sent.
    pub(super) queued: Duration,
    pub(super) reply: oneshot::Sender<Result<Done, Failure>>,
}

/// A part that was computed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: ChunkKey,
    pub(super) output: BatchOutput,
    /// For how long the engine had been busy when it was sent, and when it was begun.
    pub(super) queued: Duration,
    pub(super) begun: Duration,
    pub(super) took: Duration,
}

/// Why a part was not computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It cannot be computed as it is; a smaller part may.
    Lost(Lost),
    /// It could not be laid out.
    LayOut,
    /// The engine dies again and again, whatever it computes.
    Unhealthy(String),
    /// There is no engine any more.
    Stopped,
}

/// What the outputs of a batch are in the plan.
#[derive(Debug)]
pub(super) struct ChunkKey {
    /// (index in the plan, index in the batch)
    pub(super) readouts: Vec<(usize, usize)>,
    /// The rows edited, in the batch's count.
    pub(super) edited: Vec<EditedRow>,
    /// Most rows at once.
    pub(super) rows: usize,
    /// Rows times layers.
    pub(super) row_layers: u64,
}

impl Work {
    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Lays out the batch. `None` if that failed; then the requester was told.
    pub(super) fn lay_out(self) -> Option<(Work, ChunkKey, ForwardBatch)> {
        // A fault in one plan must not end the others.
        let laid_out = catch_unwind(AssertUnwindSafe(|| self.packing.lay_out(&self.part)));
        let Ok(Chunk { batch, readouts, edited, .. }) = laid_out else {
            self.answer(Err(Failure::LayOut));
            return None;
        };
        let key = ChunkKey { readouts, edited, rows: batch.peak_rows, row_layers: batch.row_layers };
        Some((self, key, batch))
    }

    /// Tells the requester. If nobody waits any more, the result is nobody's loss.
    pub(super) fn answer(self, result: Result<Done, Failure>) {
        let _ = self.reply.send(result);
    }
}
