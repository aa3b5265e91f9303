//! Stage 2: an experiment as runs, edits and readouts. Pure data and pure functions; no tensors, no async.
//!
//! A [`Plan`] says *what* is computed, without saying how: every run is a token sequence plus edits. [`cone`] works out
//! which rows of which run are live where, [`pack`] turns plans into [`batch::ForwardBatch`]es under a row budget.

pub mod batch;
pub mod cone;
pub mod cost;
mod live;
pub mod output;
pub mod pack;
pub mod sequences;
mod tables;

use std::ops::Range;
use std::sync::Arc;

use crate::spec::site::Site;

/// Index of a run in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u32);

/// A site of a layer. `layer` is 0 at [`Site::Embed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Block index. First in the order, so addresses compare by time of computation (`embed` apart: see [`cone::Stage::of`]).
    pub layer: u32,
    /// Place inside the block.
    pub site: Site,
}

/// One token sequence with its edits. A run inherits the edits of its parent, then applies its own.
#[derive(Debug, Clone)]
pub struct Run {
    /// Token ids, `[t]`, unpadded, BOS included. Equal to the parent's.
    pub tokens: Arc<[u32]>,
    /// The run this one is equal to until its first own edit. `None`: a root, computed from its embeddings.
    pub parent: Option<RunId>,
    /// Own edits. At one address they apply in this order, after the parent's.
    pub edits: Vec<Edit>,
}

/// An intervention lowered to indices.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Where it is written.
    pub at: Address,
    /// Positions written, each once.
    pub positions: Vec<u32>,
    /// Columns written (a head's slice of `z`); `None`: the whole width.
    pub columns: Option<Range<u32>>,
    /// What is written.
    pub op: Op,
    /// Whose receipt it counts in.
    pub group: EditGroup,
}

/// What an edit does to the destination rows.
#[derive(Debug, Clone)]
pub enum Op {
    /// `dst = src`
    Replace(Source),
    /// `dst = dst + coef * src`
    Add {
        /// What is added.
        source: Source,
        /// Its coefficient.
        coef: f32,
    },
    /// `dst = factor * dst`
    Scale(f32),
    /// `dst = 0`
    Zero,
}

/// Where an edit's values come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The same address of another run of the plan, after that run's own edits there.
    /// `positions[i]` of the source goes to `Edit::positions[i]`.
    Run {
        /// The run read.
        run: RunId,
        /// Positions read, as many as are written.
        positions: Vec<u32>,
    },
    /// Given rows, `[positions, columns]` in row-major order.
    Constant(Arc<[f32]>),
}

/// Which receipt an edit counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EditGroup {
    /// Part of making a corrupted run.
    Corruption,
    /// Part of a patched run.
    Patch,
    /// Part of a control.
    Control,
}

/// The distribution over the next token read at one position of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Readout {
    /// The run read.
    pub run: RunId,
    /// The position read.
    pub position: u32,
}

/// Activations to return.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The run read.
    pub run: RunId,
    /// Where.
    pub at: Address,
    /// Positions read, in this order.
    pub positions: Vec<u32>,
}

/// What is computed from every readout's logits.
#[derive(Debug, Clone, Default)]
pub struct Scoring {
    /// Token ids whose logit and rank are returned, in this order.
    pub targets: Vec<u32>,
    /// How many of the most probable tokens are returned; at least the first always is.
    pub topk: u32,
    /// Readouts (indices into [`Plan::readouts`]) to whose distribution every readout's KL divergence is returned.
    pub kl_refs: Vec<u32>,
    /// Token sequences, of one token or more, whose log-probability after the prompt is returned of every readout at its
    /// run's last position; see [`sequences`].
    pub sequences: Vec<Arc<[u32]>>,
}

/// Everything one request computes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Runs; a run's parent and sources come before it.
    pub runs: Vec<Run>,
    /// Readouts, in the order in which their scores are returned.
    pub readouts: Vec<Readout>,
    /// Captures, in the order in which they are returned.
    pub captures: Vec<Capture>,
    /// What is computed from each readout.
    pub scoring: Scoring,
}

/// What a readout's logits say. Logits in f32, everything summed over the vocabulary in f64.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    /// Natural log of the sum of exponentials of all logits.
    pub log_sum_exp: f64,
    /// Logit of each target token.
    pub logits: Vec<f32>,
    /// Rank of each target token, 1 = most probable; ties go to the lower token id.
    pub ranks: Vec<u32>,
    /// Most probable tokens with their logits, best first; at least one.
    pub top: Vec<(u32, f32)>,
    /// `KL(reference || this)` in nats for each of [`Scoring::kl_refs`].
    pub kl: Vec<f64>,
    /// Natural log of the probability of each of [`Scoring::sequences`]; empty where none is scored.
    pub sequences: Vec<f64>,
    /// [`output::PlanOutput::written`] of the readout's run.
    pub written: f64,
}

impl Plan {
    /// Adds a root: a run computed from its embeddings.
    pub fn root(&mut self, tokens: Arc<[u32]>) -> RunId {
        self.push(Run { tokens, parent: None, edits: Vec::new() })
    }

    /// Adds a run that equals `parent` but for `edits`.
    pub fn branch(&mut self, parent: RunId, edits: Vec<Edit>) -> RunId {
        let tokens = Arc::clone(&self.runs[parent.0 as usize].tokens);
        self.push(Run { tokens, parent: Some(parent), edits })
    }

    /// Adds a readout and returns its index.
    pub fn read(&mut self, run: RunId, position: u32) -> usize {
        self.readouts.push(Readout { run, position });
        self.readouts.len() - 1
    }

    /// The run behind an id.
    pub fn run(&self, id: RunId) -> &Run {
        &self.runs[id.0 as usize]
    }

    fn push(&mut self, run: Run) -> RunId {
        let id = u32::try_from(self.runs.len()).expect("BUG: admission bounds the number of runs");
        self.runs.push(run);
        RunId(id)
    }
}
