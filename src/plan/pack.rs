//! Splits a plan into forward batches under a row budget. Every chunk carries the runs that its own read from, so a
//! patched row and its baseline pass through the same kernels side by side.

use std::ops::Range;

use super::batch::ForwardBatch;
use super::cone::Cones;
use super::edits::EditedRow;
use super::live::Live;
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
    /// Indices into the plan's captures: those of the batch.
    pub captures: Vec<usize>,
    /// The rows that the batch edits, as [`super::batch::EditRows::first`] counts them.
    pub edited: Vec<EditedRow>,
}

/// A plan split into chunks. Only who is in which chunk is kept; the tables of a chunk are laid out when it is due, since
/// those of a long sweep would not fit in memory together.
#[derive(Debug)]
pub struct Packing {
    plan: Plan,
    cones: Cones,
    layers: u32,
    mode: Mode,
    /// Runs that something is asked of, in the order in which they are computed.
    asked: Vec<Asked>,
    /// Runs that every chunk carries.
    always: Closed,
    /// Which of `asked` each chunk computes.
    chunks: Vec<Range<usize>>,
}

/// What is asked of one run.
#[derive(Debug)]
struct Asked {
    run: RunId,
    readouts: Vec<usize>,
    captures: Vec<usize>,
}

/// Keys that the runs of a chunk may see together, in each layer: 4 MB of tables. A sweep over heads at the last position of a long
/// prompt has a row a run, but thousands of keys.
const MOST_KEYS: usize = 1 << 20;

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
        let asked = asked(&plan, &cones);
        let mut always = Closed::new(&plan);
        // Reference distributions are needed wherever divergences are computed.
        for &readout in &plan.scoring.kl_refs {
            always.add(&plan, plan.readouts[readout as usize].run);
        }
        let mut packing = Packing { plan, cones, layers, mode, asked, always, chunks: Vec::new() };
        packing.chunks = packing.split(budget)?;
        Ok(packing)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the plan reads nothing.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// For each run whether others read it, so that it may stand in several chunks.
    pub fn read_by_any(&self) -> Vec<bool> {
        let mut read = self.always.has.clone();
        for other in self.plan.runs.iter().flat_map(Run::reads) {
            read[other.0 as usize] = true;
        }
        read
    }

    /// Lays out a chunk.
    pub fn chunk(&self, index: usize) -> Chunk {
        self.lay_out(&self.part(index))
    }

    /// All of a chunk.
    pub fn part(&self, index: usize) -> Part {
        Part(self.chunks[index].clone().collect())
    }

    /// Lays out a part of a chunk: the numbers asked for have the same bits as in the whole.
    pub fn lay_out(&self, part: &Part) -> Chunk {
        let asked = || part.0.iter().map(|&i| &self.asked[i]);
        let readouts: Vec<usize> = asked().flat_map(|asked| &asked.readouts).copied().collect();
        let captures: Vec<usize> = asked().flat_map(|asked| &asked.captures).copied().collect();
        let references = self.plan.scoring.kl_refs.iter().map(|&r| r as usize);
        let needed: Vec<usize> = readouts.iter().copied().chain(references).collect();
        let prune = self.mode == Mode::Branching;
        let runs = self.members(part);
        let live = Live::new(&self.plan, &self.cones, self.layers, &runs, &needed, &captures, prune);
        let (batch, places, edited) = lay_out(&live, &readouts);
        Chunk { batch, readouts: readouts.into_iter().zip(places).collect(), captures, edited }
    }

    /// What a part gives: indices of its readouts and captures in the plan.
    pub fn outputs(&self, part: &Part) -> (Vec<usize>, Vec<usize>) {
        let asked = || part.0.iter().map(|&i| &self.asked[i]);
        let readouts = asked().flat_map(|asked| &asked.readouts).copied().collect();
        (readouts, asked().flat_map(|asked| &asked.captures).copied().collect())
    }

    /// The runs of a part that others of it read, and the others.
    pub fn read_by_others(&self, part: Part) -> (Part, Part) {
        // References are computed with every part.
        let mut read = self.always.clone();
        for &i in &part.0 {
            for other in self.plan.run(self.asked[i].run).reads() {
                read.add(&self.plan, other);
            }
        }
        let (shared, others) = part.0.into_iter().partition(|&i| read.has[self.asked[i].run.0 as usize]);
        (Part(shared), Part(others))
    }

    /// A part without and with what cannot be computed where `lost` cannot: it is that, or reads it.
    pub fn without(&self, part: Part, lost: &Part) -> (Part, Part) {
        let mut is_lost = vec![false; self.plan.runs.len()];
        for &i in &lost.0 {
            is_lost[self.asked[i].run.0 as usize] = true;
        }
        // What a run reads comes before it.
        for (i, run) in self.plan.runs.iter().enumerate() {
            is_lost[i] |= run.reads().any(|read| is_lost[read.0 as usize]);
        }
        // A reference is computed with every part, so nothing can be without it.
        if self.always.runs.iter().any(|reference| is_lost[reference.0 as usize]) {
            is_lost.fill(true);
        }
        let (lost, kept) = part.0.into_iter().partition(|i| is_lost[self.asked[*i].run.0 as usize]);
        (Part(kept), Part(lost))
    }

    /// The runs that compute a part, closed under parents and sources, ascending.
    fn members(&self, part: &Part) -> Vec<RunId> {
        let mut closed = self.always.clone();
        for &i in &part.0 {
            closed.add(&self.plan, self.asked[i].run);
        }
        closed.runs.sort_unstable();
        closed.runs
    }

    /// Rows in all chunks together, the most rows of one chunk, and row-layers: what the plan costs at most (rows that
    /// turn out not to be needed are counted).
    pub fn size(&self) -> Size {
        let mut size = Size { chunks: self.chunks.len() as u64, ..Size::default() };
        for index in 0..self.len() {
            let part = self.part(index);
            let runs = self.members(&part);
            let rows = self.rows(&runs) as u64;
            size.rows += rows;
            size.peak_rows = size.peak_rows.max(rows);
            size.row_layers += runs.iter().map(|&r| self.cones.row_layers(r, self.layers)).sum::<u64>();
            size.readouts += self.outputs(&part).0.len() as u64;
        }
        size
    }

    fn rows(&self, runs: &[RunId]) -> usize {
        runs.iter().map(|&r| self.cones.own_rows(r)).sum()
    }

    /// Every run has a list of the keys that it sees, whatever it has of rows.
    fn keys(&self, runs: &[RunId]) -> usize {
        runs.iter().map(|&r| self.plan.run(r).tokens.len()).sum()
    }

    fn split(&self, budget: usize) -> Result<Vec<Range<usize>>, PackError> {
        let mut chunks: Vec<Range<usize>> = Vec::new();
        let mut closed = self.always.clone();
        let (mut rows, mut keys) = (0, 0);
        for (i, &Asked { run, .. }) in self.asked.iter().enumerate() {
            let added = closed.add(&self.plan, run);
            rows += self.rows(added);
            keys += self.keys(added);
            match chunks.last_mut() {
                Some(chunk) if rows <= budget && keys <= MOST_KEYS => chunk.end = i + 1,
                _ => {
                    closed = self.always.clone();
                    closed.add(&self.plan, run);
                    rows = self.rows(&closed.runs);
                    keys = self.keys(&closed.runs);
                    if rows > budget {
                        return Err(PackError::OverBudget { rows, budget });
                    }
                    chunks.push(i..i + 1);
                }
            }
        }
        Ok(chunks)
    }
}

/// Some of the runs asked for: what is computed together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part(Vec<usize>);

impl Part {
    /// Number of runs asked for.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Two halves; of a single run there is no second one.
    #[must_use]
    pub fn halves(self) -> [Part; 2] {
        let mut first = self.0;
        let rest = first.split_off(first.len().div_ceil(2));
        [Part(first), Part(rest)]
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

/// Runs that something is asked of, in the order of their parent and of the layer at which they part from it.
fn asked(plan: &Plan, cones: &Cones) -> Vec<Asked> {
    let ids = (0..plan.runs.len() as u32).map(RunId);
    let mut all: Vec<Asked> =
        ids.map(|run| Asked { run, readouts: Vec::new(), captures: Vec::new() }).collect();
    for (i, readout) in plan.readouts.iter().enumerate() {
        all[readout.run.0 as usize].readouts.push(i);
    }
    for (i, capture) in plan.captures.iter().enumerate() {
        all[capture.run.0 as usize].captures.push(i);
    }
    all.retain(|asked| !asked.readouts.is_empty() || !asked.captures.is_empty());
    all.sort_by_cached_key(|asked| (plan.run(asked.run).parent, cones.first_birth(asked.run), asked.run));
    all
}

/// Runs with all that they read.
#[derive(Debug, Clone)]
struct Closed {
    runs: Vec<RunId>,
    /// Of each run of the plan, whether it is among them.
    has: Vec<bool>,
}

impl Closed {
    fn new(plan: &Plan) -> Closed {
        Closed { runs: Vec::new(), has: vec![false; plan.runs.len()] }
    }

    /// Adds a run and, transitively, the runs it reads; returns those that are new.
    fn add(&mut self, plan: &Plan, run: RunId) -> &[RunId] {
        let first = self.runs.len();
        self.insert(run);
        let mut next = first;
        while let Some(&run) = self.runs.get(next) {
            plan.run(run).reads().for_each(|read| self.insert(read));
            next += 1;
        }
        &self.runs[first..]
    }

    fn insert(&mut self, run: RunId) {
        if !std::mem::replace(&mut self.has[run.0 as usize], true) {
            self.runs.push(run);
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
        let (tokens, prompt, context) = (run.tokens.clone(), run.prompt, run.context);
        flat.runs.push(Run { tokens, prompt, parent: None, edits, context });
    }
    flat
}
