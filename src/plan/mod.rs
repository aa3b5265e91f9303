//! An experiment as runs, edits and readouts. Pure data and pure functions; no tensors, no async.
//!
//! A [`Plan`] says *what* is computed, without saying how: every run is a token sequence plus edits. [`cone`] works out
//! which rows of which run are live where, [`pack`] turns plans into [`batch::ForwardBatch`]es under a row budget.

pub mod batch;
pub mod cone;
pub mod cost;
pub mod draw;
pub mod edits;
pub mod hash;
mod live;
mod members;
pub mod merge;
pub mod output;
pub mod pack;
mod schedule;
pub mod sequences;
pub mod step;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::spec::site::Site;
use output::Missing;

/// Index of a run in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u32);

/// A site of a layer. `layer` is 0 at [`Site::Embed`], and the number of layers at [`Site::FinalNorm`] and
/// [`Site::Logits`].
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
    /// How many of them are the prompt; what follows continues it ([`sequences`]). Equal to the parent's.
    pub prompt: u32,
    /// The run this one is equal to until its first own edit. `None`: a root, computed from its embeddings.
    pub parent: Option<RunId>,
    /// Own edits. At one address they apply in this order, after the parent's.
    pub edits: Vec<Edit>,
    /// What its readouts take for the tokens of a target, which has other tokens after other prompts: an index that the plan
    /// only passes on, to [`Score::context`].
    pub context: u32,
}

/// An intervention lowered to indices.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Where it is written.
    pub at: Address,
    /// Positions written, each once.
    pub positions: Vec<u32>,
    /// Columns written (a head's slice of `z`, a neuron); `None`: the whole width. At `scores` and `pattern` a head has
    /// [`Plan::keys`] columns, at `head_out` those of its `z` ([`Site::written_as`]).
    pub columns: Option<Range<u32>>,
    /// What is written.
    pub op: Op,
    /// Rows of length 1, `[positions, columns]`: each destination row moves this way instead, as far as the operation
    /// would have moved it (a control of equal norm).
    pub instead: Option<Arc<[f32]>>,
    /// At `head_out`: the layer whose output projection the values, which are its `z`, go through; `None`: the layer written.
    pub through: Option<u32>,
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
        /// Rescales each written row to the norm it had.
        norm_match: bool,
    },
    /// `dst = factor * dst`
    Scale(f32),
    /// `dst = dst + u * (change(u . dst) - u . dst)`: the part along a direction is another, the rest stays.
    Along {
        /// `u`: a row of length 1, `[columns]`.
        direction: Arc<[f32]>,
        /// What becomes of it.
        change: Along,
    },
    /// `dst = 0`
    Zero,
    /// `dst = -inf`: scores of keys that get no attention.
    Cut,
    /// `dst = dst + P (src - dst)` with `P` the projector on the span of `basis`; without a source, `src` is zero and
    /// the span is projected out.
    Project {
        /// Orthonormal rows, `[n, columns]`.
        basis: Arc<[f32]>,
        /// Whose part in the span is put there.
        source: Option<Source>,
    },
}

/// What becomes of the part of a row along a direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Along {
    /// It is multiplied.
    Scale(f32),
    /// It is held between two numbers, of which the first is not the larger.
    Clamp(f32, f32),
}

impl Along {
    /// How far it moves from where it is. Exactly 0 where nothing is to change, whatever it is.
    pub fn moves(self, present: f64) -> f64 {
        match self {
            Along::Scale(1.0) => 0.0,
            Along::Scale(factor) => (f64::from(factor) - 1.0) * present,
            Along::Clamp(min, max) => {
                let held = present.clamp(f64::from(min), f64::from(max));
                // What is infinite and may be, stays.
                if held.total_cmp(&present).is_eq() { 0.0 } else { held - present }
            }
        }
    }

    /// Equal for equal changes alone.
    pub fn bits(self) -> [u32; 3] {
        match self {
            Along::Scale(factor) => [0, factor.to_bits(), 0],
            Along::Clamp(min, max) => [1, min.to_bits(), max.to_bits()],
        }
    }
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
    /// The mean over rows that an earlier plan captured; [`Plan::fill`] makes it a constant.
    Captured(Vec<CapturedRows>),
}

/// Rows of a capture of an earlier plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedRows {
    /// Index of the capture.
    pub capture: usize,
    /// Rows read, as many as positions are written.
    pub rows: Vec<u32>,
    /// Columns read, as many as are written.
    pub columns: Range<u32>,
    /// Numbers in a row of the capture.
    pub width: usize,
}

impl Run {
    /// The runs it reads at first hand: its parent, and the sources of its own edits. What it inherits, its parent reads.
    pub fn reads(&self) -> impl Iterator<Item = RunId> {
        self.parent.into_iter().chain(self.edits.iter().filter_map(|edit| Some(edit.op.run_read()?.0)))
    }
}

impl Edit {
    /// An edit of the whole width.
    pub fn new(at: Address, positions: Vec<u32>, op: Op, group: EditGroup) -> Self {
        Self { at, positions, columns: None, op, instead: None, through: None, group }
    }
}

impl Op {
    /// `dst = dst + src`
    pub fn add(source: Source) -> Self {
        Op::Add { source, coef: 1.0, norm_match: false }
    }

    /// Where the operation's values come from, if from anywhere.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Op::Replace(source) | Op::Add { source, .. } => Some(source),
            Op::Project { source, .. } => source.as_ref(),
            Op::Scale(_) | Op::Along { .. } | Op::Zero | Op::Cut => None,
        }
    }

    fn source_mut(&mut self) -> Option<&mut Source> {
        match self {
            Op::Replace(source) | Op::Add { source, .. } => Some(source),
            Op::Project { source, .. } => source.as_mut(),
            Op::Scale(_) | Op::Along { .. } | Op::Zero | Op::Cut => None,
        }
    }

    /// The run read and the positions, to be changed.
    pub fn run_read_mut(&mut self) -> Option<(RunId, &mut [u32])> {
        match self.source_mut()? {
            Source::Run { run, positions } => Some((*run, positions)),
            Source::Constant(_) | Source::Captured(_) => None,
        }
    }

    /// Reads another run, where a run is read.
    pub fn read_run(&mut self, other: RunId) {
        if let Some(Source::Run { run, .. }) = self.source_mut() {
            *run = other;
        }
    }

    /// The run and positions read, if a run of the same plan is.
    pub fn run_read(&self) -> Option<(RunId, &[u32])> {
        match self.source()? {
            Source::Run { run, positions } => Some((*run, positions)),
            Source::Constant(_) | Source::Captured(_) => None,
        }
    }
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
    /// `Some(l)`: the logit lens, i.e. the residual stream leaving layer `l` through the final norm and the
    /// unembedding. `None`: the model's own output.
    pub lens: Option<u32>,
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

/// Keys and values that stay on the device, in every layer, for steps of generation to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The run.
    pub run: RunId,
    /// The first position kept.
    pub first: u32,
    /// Places in the store, one for each position from there on.
    pub slots: Vec<u32>,
}

impl Kept {
    /// Positions kept, with their places.
    pub fn places(&self) -> impl Iterator<Item = (u32, u32)> {
        (self.first..).zip(self.slots.iter().copied())
    }
}

/// What is computed from every readout's logits.
#[derive(Debug, Clone, Default)]
pub struct Scoring {
    /// Token ids whose logit and rank are returned, in this order.
    pub targets: Vec<u32>,
    /// How many of the most probable tokens are returned; at least the first always is.
    pub topk: u32,
    /// Readouts (indices into [`Plan::readouts`]) to whose distribution every readout's KL divergence is returned;
    /// lens readouts have none.
    pub kl_refs: Vec<u32>,
    /// Whether the entropy of every readout is returned.
    pub entropy: bool,
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
    /// Keys and values that are kept.
    pub kept: Vec<Kept>,
    /// What is computed from each readout.
    pub scoring: Scoring,
}

/// What a readout's logits say. Logits in f32, everything summed over the vocabulary in f64.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Logit of the most probable token under each of these references.
    pub top_under: Vec<f32>,
    /// Entropy of the distribution in nats, if [`Scoring::entropy`].
    pub entropy: Option<f64>,
    /// Natural log of the probability of each of [`Scoring::sequences`]; empty where none is scored.
    pub sequences: Vec<f64>,
    /// [`output::PlanOutput::written`] of the readout's run.
    pub written: f64,
    /// [`Run::context`] of the readout's run.
    #[serde(skip)]
    pub context: u32,
    /// Why there are no numbers here, if so: then all else but the context is empty.
    pub missing: Option<Missing>,
}

impl Score {
    /// The most probable token, where there is one.
    pub fn top1(&self) -> Option<u32> {
        self.top.first().map(|(id, _)| *id)
    }
}

impl Plan {
    /// Adds a root: a run computed from its embeddings.
    pub fn root(&mut self, tokens: Arc<[u32]>) -> RunId {
        let prompt = tokens.len() as u32;
        self.push(Run { tokens, prompt, parent: None, edits: Vec::new(), context: 0 })
    }

    /// Sets the context of a run, and of the branches that are added to it from now on.
    pub fn set_context(&mut self, run: RunId, context: u32) {
        self.runs[run.0 as usize].context = context;
    }

    /// Adds a run that equals `parent` but for `edits`.
    pub fn branch(&mut self, parent: RunId, edits: Vec<Edit>) -> RunId {
        let Run { tokens, prompt, context, .. } = self.run(parent);
        let (tokens, prompt, context) = (Arc::clone(tokens), *prompt, *context);
        self.push(Run { tokens, prompt, parent: Some(parent), edits, context })
    }

    /// Adds a readout and returns its index.
    pub fn read(&mut self, run: RunId, position: u32) -> usize {
        self.readouts.push(Readout { run, position, lens: None });
        self.readouts.len() - 1
    }

    /// Adds a logit-lens readout and returns its index.
    pub fn read_lens(&mut self, run: RunId, position: u32, layer: u32) -> usize {
        self.readouts.push(Readout { run, position, lens: Some(layer) });
        self.readouts.len() - 1
    }

    /// Columns of a head at `scores` and `pattern`: the length of the longest run.
    pub fn keys(&self) -> u32 {
        self.runs.iter().map(|run| run.tokens.len() as u32).max().unwrap_or(0)
    }

    /// Whether attention scores are written or read anywhere, so that they must be held.
    pub fn holds_scores(&self) -> bool {
        let edited = self.runs.iter().flat_map(|run| &run.edits).any(|edit| edit.at.site.is_over_keys());
        edited || self.captures.iter().any(|capture| capture.at.site.is_over_keys())
    }

    /// Whether it reads nothing that an earlier plan is to capture.
    pub fn is_filled(&self) -> bool {
        let mut sources = self.runs.iter().flat_map(|run| &run.edits).filter_map(|edit| edit.op.source());
        sources.all(|source| !matches!(source, Source::Captured(_)))
    }

    /// Puts the numbers that an earlier plan captured, `captures`, where this one reads them.
    pub fn fill(&mut self, captures: &[Vec<f32>]) {
        fill(self.runs.iter_mut().flat_map(|run| &mut run.edits), captures);
    }

    /// The same plan with these of its readouts, in this order, and only the runs that they need. References of divergences
    /// are read after them; captures and what is kept are left out.
    #[must_use]
    pub fn only(&self, readouts: &[usize]) -> Plan {
        let mut asked = readouts.to_vec();
        let mut kl_refs = Vec::with_capacity(self.scoring.kl_refs.len());
        for &reference in &self.scoring.kl_refs {
            let reference = reference as usize;
            let place = asked.iter().position(|readout| *readout == reference).unwrap_or_else(|| {
                asked.push(reference);
                asked.len() - 1
            });
            kl_refs.push(place as u32);
        }
        let mut needed = vec![false; self.runs.len()];
        for &readout in &asked {
            needed[self.readouts[readout].run.0 as usize] = true;
        }
        // What a run reads comes before it.
        for index in (0..self.runs.len()).rev().filter(|index| needed[*index]).collect::<Vec<_>>() {
            self.need(index, &mut needed);
        }
        let mut renamed = vec![RunId(0); self.runs.len()];
        let mut plan = Plan { scoring: Scoring { kl_refs, ..self.scoring.clone() }, ..Plan::default() };
        for (index, run) in self.runs.iter().enumerate().filter(|(index, _)| needed[*index]) {
            let mut run = run.clone();
            run.parent = run.parent.map(|parent| renamed[parent.0 as usize]);
            for edit in &mut run.edits {
                if let Some((read, _)) = edit.op.run_read() {
                    edit.op.read_run(renamed[read.0 as usize]);
                }
            }
            renamed[index] = plan.push(run);
        }
        let of = |readout: &usize| {
            let readout = self.readouts[*readout];
            Readout { run: renamed[readout.run.0 as usize], ..readout }
        };
        plan.readouts = asked.iter().map(of).collect();
        plan
    }

    /// Marks what a run reads, and what that reads.
    fn need(&self, index: usize, needed: &mut [bool]) {
        let mut next = vec![index];
        while let Some(index) = next.pop() {
            for read in self.runs[index].reads() {
                let read = read.0 as usize;
                if !std::mem::replace(&mut needed[read], true) {
                    next.push(read);
                }
            }
        }
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

/// Puts the numbers that an earlier plan captured where edits read them.
pub fn fill<'e>(edits: impl Iterator<Item = &'e mut Edit>, captures: &[Vec<f32>]) {
    for edit in edits {
        let Some(source) = edit.op.source_mut() else { continue };
        let Source::Captured(parts) = source else { continue };
        *source = Source::Constant(mean_rows(parts, captures));
    }
}

/// The mean of each row over `parts`; of a single part, its own bits.
fn mean_rows(parts: &[CapturedRows], captures: &[Vec<f32>]) -> Arc<[f32]> {
    let part = |p: &CapturedRows| -> Vec<f32> {
        let row = |row: &u32| &captures[p.capture][*row as usize * p.width..][..p.width];
        let columns = p.columns.start as usize..p.columns.end as usize;
        p.rows.iter().flat_map(|r| &row(r)[columns.clone()]).copied().collect()
    };
    match parts {
        [only] => part(only).into(),
        parts => {
            let rows: Vec<Vec<f32>> = parts.iter().map(part).collect();
            let n = rows.len() as f64;
            let sum = |i: usize| rows.iter().map(|row| f64::from(row[i])).sum::<f64>();
            (0..rows.first().map_or(0, Vec::len)).map(|i| (sum(i) / n) as f32).collect()
        }
    }
}
