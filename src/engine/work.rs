//! Parts of plans on their way to whoever computes, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::growth::Growth;
use super::row_budget::RowBudget;
use super::schedule::Asker;
use super::step::StepWork;
use crate::plan::batch::ForwardBatch;
use crate::plan::edits::EditedRow;
use crate::plan::merge::{Shares, merge};
use crate::plan::output::{BatchOutput, Lost};
use crate::plan::pack::{Chunk, Packing, Part};

/// A part of a plan that is to be computed, in as many pieces as turn out to be good. Tables are laid out when they are due, so
/// that those of all that waits need not be held.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) packing: Arc<Packing>,
    /// What was not taken yet.
    pub(super) part: Part,
    /// At most so much work it is, in row-layers.
    pub(super) left: u64,
    pub(super) asker: Asker,
    pub(super) ticket: Ticket,
}

/// What comes in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A part of a plan.
    Part(Work),
    /// A step of generation.
    Step(StepWork),
}

impl From<Work> for Incoming {
    fn from(work: Work) -> Incoming {
        Incoming::Part(work)
    }
}

impl From<StepWork> for Incoming {
    fn from(work: StepWork) -> Incoming {
        Incoming::Step(work)
    }
}

/// What goes with each piece of a work.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    /// Whether it belongs to a batch that has killed the engine: it is computed alone, and gets one attempt only.
    pub(super) suspect: bool,
    /// For how long the engine had been busy when it was sent.
    pub(super) queued: Duration,
    pub(super) lift: Lift,
    /// Whether anybody waits for it.
    pub(super) growth: Growth,
    pub(super) reply: mpsc::UnboundedSender<Answer>,
}

/// Whether a client waits for what nobody waited for when it was sent. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Lift(Arc<AtomicBool>);

impl Lift {
    /// A client waits from now on.
    pub(super) fn up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What became of a piece.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) part: Part,
    pub(super) result: Result<Done, Failure>,
}

/// A piece that was computed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: ChunkKey,
    pub(super) output: BatchOutput,
    /// For how long the engine had been busy when it was sent, and when it was begun.
    pub(super) queued: Duration,
    pub(super) begun: Duration,
    /// What the batch took.
    pub(super) took: Duration,
    /// The piece's own part of that; 1: it was alone.
    pub(super) share: f64,
    /// Other pieces in the batch.
    pub(super) beside: u64,
    /// Number of the process that computed it.
    pub(super) process: u64,
}

/// Why a piece was not computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It cannot be computed as it is; a smaller part may.
    Lost(Lost),
    /// Nobody waits for it at present.
    Left,
    /// It could not be laid out.
    LayOut,
    /// The engine dies again and again, whatever it computes.
    Unhealthy(String),
    /// There is no engine any more.
    Stopped,
}

/// What the outputs of a piece are in the plan.
#[derive(Debug)]
pub(super) struct ChunkKey {
    /// (index in the plan, index in the piece)
    pub(super) readouts: Vec<(usize, usize)>,
    /// The rows edited, in the piece's count.
    pub(super) edited: Vec<EditedRow>,
    /// Operations.
    flops: f64,
}

impl Ticket {
    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Tells the requester. If nobody waits any more, the result is nobody's loss.
    fn answer(&self, part: Part, result: Result<Done, Failure>) {
        let _ = self.reply.send(Answer { part, result });
    }
}

impl Work {
    /// Refuses what was not taken yet.
    pub(super) fn fail(self, failure: &Failure) {
        self.ticket.answer(self.part, Err(failure.clone()));
    }
}

/// What is computed of a plan in one batch.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) packing: Arc<Packing>,
    pub(super) part: Part,
    /// How large its tables are: row-layers, and keys that are listed.
    pub(super) tables: u64,
    pub(super) ticket: Ticket,
}

impl Piece {
    /// Refuses it.
    pub(super) fn fail(self, failure: &Failure) {
        self.ticket.answer(self.part, Err(failure.clone()));
    }

    /// Lays out its tables. `None` if that failed; then the requester was told.
    fn lay_out(self, budget: &RowBudget) -> Option<(Piece, ChunkKey, ForwardBatch)> {
        // A fault in one plan must not end the others.
        let laid_out = catch_unwind(AssertUnwindSafe(|| self.packing.lay_out(&self.part)));
        let Ok(Chunk { batch, readouts, edited, .. }) = laid_out else {
            self.fail(&Failure::LayOut);
            return None;
        };
        let (row_layers, rows) = size(&batch);
        let key = ChunkKey { readouts, edited, flops: budget.flops(row_layers, rows) };
        Some((self, key, batch))
    }
}

/// Work of a batch: its row-layers and the rows that are unembedded.
pub(super) fn size(batch: &ForwardBatch) -> (u64, u64) {
    let lens = batch.layers.iter().map(|layer| layer.lens.rows.len());
    (batch.row_layers, (batch.readout.rows.len() + lens.sum::<usize>()) as u64)
}

/// The pieces of a batch.
#[derive(Debug)]
pub(super) struct Company {
    members: Vec<(Piece, ChunkKey)>,
    shares: Shares,
}

/// Lays out pieces that are computed together. `None`: nobody waits for any of them, or all have failed.
pub(super) fn lay_out(pieces: Vec<Piece>, budget: &RowBudget) -> Option<(Company, ForwardBatch)> {
    let (mut members, mut batches) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(pieces.len()));
    for piece in pieces.into_iter().filter(|piece| !piece.ticket.is_abandoned()) {
        if piece.ticket.growth.is_left() {
            piece.fail(&Failure::Left);
            continue;
        }
        let Some((piece, key, batch)) = piece.lay_out(budget) else { continue };
        members.push((piece, key));
        batches.push(batch);
    }
    if members.is_empty() {
        return None;
    }
    let (batch, shares) = merge(batches);
    Some((Company { members, shares }, batch))
}

impl Company {
    /// Whether nobody waits for any of it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.members.iter().all(|(piece, _)| piece.ticket.is_abandoned())
    }

    /// Whether it is one piece, which may have killed an engine before.
    pub(super) fn is_suspect(&self) -> bool {
        self.members.iter().any(|(piece, _)| piece.ticket.suspect)
    }

    /// Whether it is more than one piece.
    pub(super) fn is_several(&self) -> bool {
        self.members.len() > 1
    }

    /// Gives each requester what is its own.
    pub(super) fn land(self, output: BatchOutput, begun: Duration, took: Duration, process: u64) {
        let all: f64 = self.members.iter().map(|(_, key)| key.flops).sum();
        let beside = self.members.len() as u64 - 1;
        for ((piece, key), output) in self.members.into_iter().zip(self.shares.deal(output)) {
            let share = if beside == 0 { 1.0 } else { key.flops / all };
            let Piece { part, ticket, .. } = piece;
            let done = Done { key, output, queued: ticket.queued, begun, took, share, beside, process };
            ticket.answer(part, Ok(done));
        }
    }

    /// Tells all requesters that it failed.
    pub(super) fn fail(self, failure: &Failure) {
        self.apart().into_iter().for_each(|piece| piece.fail(failure));
    }

    /// Its pieces, to be computed each alone.
    pub(super) fn apart(self) -> Vec<Piece> {
        self.members.into_iter().map(|(piece, _)| piece).collect()
    }
}
