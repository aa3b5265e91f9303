//! What a traced block asks of the model in one forward pass: runs, writes and reads.
//!
//! Plain data. Whoever receives a program may not trust it: tokens, positions, columns and counts are checked where it is
//! lowered to a plan.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One forward pass over several prompts, as far as the block has asked for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Rows of tokens. A parent stands before its children.
    pub runs: Vec<Run>,
    /// Changes of activations, in the order in which the block made them.
    pub writes: Vec<Write>,
    /// Activations that the block needs; the answer has one array for each, in this order.
    pub reads: Vec<Read>,
}

/// A prompt, computed from the embedding on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Token ids without padding.
    pub tokens: Vec<u32>,
    /// An earlier run with the same tokens and no writes, from which this one branches where it is first written to.
    pub parent: Option<u32>,
}

/// Where in the forward pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The site's public name, as in requests: `resid_post`, `z`, `logits`.
    pub site: String,
    /// The layer, of sites that stand in a block.
    pub layer: Option<u32>,
}

/// A change of one run at one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// Index into [`Program::runs`].
    pub run: u32,
    /// Where.
    pub place: Place,
    /// Positions in the run's tokens, each once.
    pub positions: Vec<u32>,
    /// Columns of the site's width; none: all.
    pub columns: Option<Range<u32>>,
    /// What happens there.
    pub op: Op,
}

/// What happens to the numbers at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// They become these: `[positions, columns]`, row by row.
    Replace(#[serde(with = "crate::bulk::numbers")] Vec<f32>),
    /// These are added: `[positions, columns]`, row by row.
    Add(#[serde(with = "crate::bulk::numbers")] Vec<f32>),
    /// They are multiplied.
    Scale(f32),
    /// They become zero.
    Zero,
    /// They become what another run has there, after that run's own writes.
    ReplaceByRun {
        /// The other run.
        run: u32,
        /// Its positions, as many as are written.
        positions: Vec<u32>,
    },
}

/// Activations of one run at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Index into [`Program::runs`].
    pub run: u32,
    /// Where, after all writes there.
    pub place: Place,
    /// Positions in the run's tokens.
    pub positions: Vec<u32>,
}
