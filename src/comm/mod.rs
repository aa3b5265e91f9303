//! What the ranks of a group say to each other: sums of partial products, and a few rows from host to host.
//!
//! Nothing here returns an error. A group that lost a rank, or whose ranks are no longer in step, computes nothing that
//! could be trusted, so the call unwinds with [`Broken`] as its payload, past the batch in hand, up to where the rank was
//! started. Nobody waits for a rank that will not come.

mod single;
mod threads;

use std::sync::Arc;

pub use single::Single;
pub use threads::Threads;

/// A rank's place in its group. `B`: what is summed, numbers in host memory or a device's buffer.
pub trait Collective<B: ?Sized> {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Replaces the buffer by the sum of all ranks' buffers, added up in the order of the ranks: the same bits on every
    /// rank and in every run.
    fn all_reduce(&self, buffer: &mut B);

    /// Every rank's numbers, in the order of the ranks; as many from each.
    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]>;
}

/// Why a group computes no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A rank ended: it panicked, or it was dropped.
    #[error("rank {rank} left the group")]
    Left {
        /// The rank.
        rank: usize,
    },
    /// Two ranks are not at the same point of the same batch.
    #[error("rank {rank} is at {got}, rank 0 at {expected}")]
    OutOfStep {
        /// The rank.
        rank: usize,
        /// What it asked for.
        got: Call,
        /// What rank 0 asked for.
        expected: Call,
    },
}

/// What a rank asks the others for. Ranks that do the same make the same calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Calls before this one.
    pub sequence: u64,
    /// What is done.
    pub kind: Kind,
    /// Numbers given.
    pub length: usize,
}

/// What a [`Call`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Collective::all_reduce`]
    AllReduce,
    /// [`Collective::exchange`]
    Exchange,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Call { sequence, kind, length } = self;
        write!(f, "call {sequence}, {kind:?} of {length} numbers")
    }
}
