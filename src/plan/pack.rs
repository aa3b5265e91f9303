//! Splits a plan into forward batches under a row budget. Every chunk carries the runs that its own read from, so a
//! patched row and its baseline pass through the same kernels side by side.

use std::collections::BTreeSet;

use super::batch::ForwardBatch;
use super::cone::Cones;
use super::live::{Live, reads};
use super::tables::lay_out;
use super::{Edit, Plan, Run, RunId};

/// How variants of a run are computed. Both give the same bits; the tests hold them to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Each variant starts where it first differs from its parent.
    #[default]
    Branching,
    /// Each variant is computed as a whole sequence from its embeddings: the reference.
    FullRecompute,
}

/// A forward batch and what its outputs are in the plan.
#[derive(Debug)]
pub struct Chunk {
    /// What the engine computes.
    pub batch: ForwardBatch,
    /// (index into the plan's readouts, index into the batch's scores)
    pub readouts: Vec<(usize, usize)>,
    /// The plan's run of each run of the batch.
    pub runs: Vec<RunId>,
}

/// A plan split into chunks. Only who is in which chunk is kept; the tables of a chunk are laid out when it is due, since
/// those of a long sweep would not fit in memory together.
#[derive(Debug)]
pub struct Packing {
    plan: Plan,
    cones: Cones,
    layers: u32,
    mode: Mode,
    chunks: Vec<Members>,
}

/// Who is in a chunk.
#[derive(Debug, Default)]
struct Members {
    /// Closed under parents and sources.
    runs: BTreeSet<RunId>,
    readouts: Vec<usize>,
    captures: Vec<usize>,
}

/// Why a plan cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// One run with everything it reads is larger than the row budget.
    #[error("one run with the runs it reads from needs {rows} rows at once, over the row budget of {budget}")]
    OverBudget {
        /// Rows needed at once.
        rows: usize,
        /// Rows allowed at once.
        budget: usize,
    },
}

impl Packing {
    /// Splits a plan into chunks of at most `budget` rows.
    ///
    /// Runs are taken in the order of their parent and of the layer at which they part from it, so that a chunk spans
    /// few start layers.
    pub fn new(plan: &Plan, layers: u32, budget: usize, mode: Mode) -> Result<Packing, PackError> {
        let plan = match mode {
            Mode::Branching => plan.clone(),
            Mode::FullRecompute => flattened(plan),
        };
        let cones = Cones::new(&plan, layers);
        let chunks = split(&plan, &cones, budget)?;
        Ok(Packing { plan, cones, layers, mode, chunks })
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the plan reads nothing.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Lays out a chunk.
    pub fn chunk(&self, index: usize) -> Chunk {
        let Members { runs, readouts, captures } = &self.chunks[index];
        let needed: Vec<usize> =
            readouts.iter().copied().chain(self.plan.scoring.kl_refs.iter().map(|&r| r as usize)).collect();
        let prune = self.mode == Mode::Branching;
        let runs: Vec<RunId> = runs.iter().copied().collect();
        let live = Live::new(&self.plan, &self.cones, self.layers, runs.clone(), &needed, captures, prune);
        let (batch, places) = lay_out(&live, readouts);
        Chunk { batch, readouts: readouts.iter().copied().zip(places).collect(), runs }
    }

    /// Rows in all chunks together, the most rows of one chunk, and row-layers: what the plan costs at most (rows that
    /// turn out not to be needed are counted).
    pub fn size(&self) -> Size {
        let mut size = Size { chunks: self.chunks.len() as u64, ..Size::default() };
        for members in &self.chunks {
            let rows: u64 = members.runs.iter().map(|&r| self.cones.own_rows(r) as u64).sum();
            size.rows += rows;
            size.peak_rows = size.peak_rows.max(rows);
            size.row_layers +=
                members.runs.iter().map(|&r| self.cones.row_layers(r, self.layers)).sum::<u64>();
            size.readouts += members.readouts.len() as u64;
        }
        size
    }
}

/// How large a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Forward batches.
    pub chunks: u64,
    /// Rows over all chunks.
    pub rows: u64,
    /// Most rows alive at once.
    pub peak_rows: u64,
    /// Rows times the layers each passes through.
    pub row_layers: u64,
    /// Rows unembedded.
    pub readouts: u64,
}

fn split(plan: &Plan, cones: &Cones, budget: usize) -> Result<Vec<Members>, PackError> {
    let mut asked: Vec<Vec<usize>> = vec![Vec::new(); plan.runs.len()];
    for (i, readout) in plan.readouts.iter().enumerate() {
        asked[readout.run.0 as usize].push(i);
    }
    let mut captured: Vec<Vec<usize>> = vec![Vec::new(); plan.runs.len()];
    for (i, capture) in plan.captures.iter().enumerate() {
        captured[capture.run.0 as usize].push(i);
    }
    let mut pending: Vec<RunId> = (0..plan.runs.len())
        .filter(|&i| !asked[i].is_empty() || !captured[i].is_empty())
        .map(|i| RunId(i as u32))
        .collect();
    pending.sort_by_key(|&r| (plan.run(r).parent, cones.first_birth(r), r));

    // Reference distributions are needed wherever divergences are computed.
    let mut always = BTreeSet::new();
    for &readout in &plan.scoring.kl_refs {
        add_with_reads(plan, plan.readouts[readout as usize].run, &mut always);
    }
    let rows_of = |runs: &BTreeSet<RunId>| runs.iter().map(|&r| cones.own_rows(r)).sum::<usize>();

    let mut chunks: Vec<Members> = Vec::new();
    let mut rows = 0;
    for run in pending {
        let mut added = BTreeSet::new();
        add_with_reads(plan, run, &mut added);
        if let Some(chunk) = chunks.last_mut() {
            added.retain(|r| !chunk.runs.contains(r));
            rows += rows_of(&added);
            if rows <= budget {
                chunk.add(added, run, &asked, &captured);
                continue;
            }
        }
        let mut chunk = Members { runs: always.clone(), ..Members::default() };
        let mut added = BTreeSet::new();
        add_with_reads(plan, run, &mut added);
        chunk.add(added, run, &asked, &captured);
        rows = rows_of(&chunk.runs);
        if rows > budget {
            return Err(PackError::OverBudget { rows, budget });
        }
        chunks.push(chunk);
    }
    Ok(chunks)
}

impl Members {
    fn add(&mut self, runs: BTreeSet<RunId>, for_run: RunId, asked: &[Vec<usize>], captured: &[Vec<usize>]) {
        self.runs.extend(runs);
        self.readouts.extend(&asked[for_run.0 as usize]);
        self.captures.extend(&captured[for_run.0 as usize]);
    }
}

/// Adds a run and, transitively, the runs it reads.
fn add_with_reads(plan: &Plan, run: RunId, set: &mut BTreeSet<RunId>) {
    if set.insert(run) {
        for read in reads(plan, run) {
            add_with_reads(plan, read, set);
        }
    }
}

/// The same plan with every branch as a root of its own that carries its ancestors' edits.
fn flattened(plan: &Plan) -> Plan {
    let mut flat = Plan { runs: Vec::with_capacity(plan.runs.len()), ..plan.clone() };
    for run in &plan.runs {
        let mut edits: Vec<Edit> =
            run.parent.map_or_else(Vec::new, |p| flat.runs[p.0 as usize].edits.clone());
        edits.extend(run.edits.iter().cloned());
        flat.runs.push(Run { tokens: run.tokens.clone(), parent: None, edits });
    }
    flat
}
