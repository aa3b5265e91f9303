//! Splits a plan into forward batches under a row budget. Every chunk carries the runs that its own read from, so a
//! patched row and its baseline pass through the same kernels side by side.

use std::collections::HashSet;
use std::ops::Range;

use super::batch::ForwardBatch;
use super::cone::Cones;
use super::edits::EditedRow;
use super::live::{Live, Reading};
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
    /// Which of `asked` each chunk computes, and what that takes.
    chunks: Vec<(Range<usize>, Need)>,
}

/// What a batch has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Rows at once.
    pub rows: usize,
    /// Keys that its runs see together, in each layer.
    pub keys: usize,
    /// Work, in row-layers.
    pub work: u64,
    /// How many row-layers a readout is as much work as.
    pub readout: u64,
    /// There is room for so many times the work of the runs that the first one reads, however much that is: they are computed
    /// again with every further piece.
    pub spread: u64,
}

/// Rows alone.
impl From<usize> for Space {
    fn from(rows: usize) -> Space {
        Space { rows, keys: MOST_KEYS, work: u64::MAX, readout: 0, spread: 0 }
    }
}

/// The first runs of a part that a batch has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// How many: one at least, whether there is room or not.
    pub runs: usize,
    /// What they take.
    pub need: Need,
    /// What the runs take that the first one reads.
    pub carried: Need,
}

/// What runs take of a batch, at most: rows that turn out not to be needed are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Rows at once.
    pub rows: usize,
    /// See [`Space::keys`].
    pub keys: usize,
    /// Rows times the layers each passes through.
    pub row_layers: u64,
    /// Readouts.
    pub readouts: u64,
}

impl Need {
    /// Both together.
    fn and(self, other: Need) -> Need {
        Need {
            rows: self.rows + other.rows,
            keys: self.keys + other.keys,
            row_layers: self.row_layers + other.row_layers,
            readouts: self.readouts + other.readouts,
        }
    }
}

impl Space {
    /// The work of so much, in row-layers.
    pub fn work_of(&self, need: &Need) -> u64 {
        need.row_layers + need.readouts * self.readout
    }

    /// Whether there is room for so much.
    pub fn holds(&self, need: &Need) -> bool {
        need.rows <= self.rows && need.keys <= self.keys && self.work_of(need) <= self.work
    }

    /// What is left beside so much.
    #[must_use]
    pub fn beside(self, need: &Need) -> Space {
        Space {
            rows: self.rows.saturating_sub(need.rows),
            keys: self.keys.saturating_sub(need.keys),
            work: self.work.saturating_sub(self.work_of(need)),
            ..self
        }
    }
}

/// What is asked of one run.
#[derive(Debug)]
struct Asked {
    run: RunId,
    readouts: Vec<usize>,
    captures: Vec<usize>,
    kept: Vec<usize>,
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
    /// Splits a plan into chunks, each of which has a batch's room for itself.
    ///
    /// Runs are taken in the order of their parent and of the layer at which they part from it, so that a chunk spans
    /// few start layers.
    pub fn new(plan: &Plan, layers: u32, space: impl Into<Space>, mode: Mode) -> Result<Packing, PackError> {
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
        packing.chunks = packing.split(&space.into())?;
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
        Part(self.chunks[index].0.clone().collect())
    }

    /// All that is asked for.
    pub fn whole(&self) -> Part {
        Part((0..self.asked.len()).collect())
    }

    /// Columns of a head where the plan holds attention scores; 0 if it holds them nowhere.
    pub fn held_keys(&self) -> u32 {
        if self.plan.holds_scores() { self.plan.keys() } else { 0 }
    }

    /// The first runs of a part that a batch has room for. The part asks for something.
    pub fn fitting(&self, part: &Part, space: &Space) -> Fit {
        self.fit(&part.0, *space)
    }

    /// Lays out a part of a chunk: the numbers asked for have the same bits as in the whole.
    pub fn lay_out(&self, part: &Part) -> Chunk {
        let asked = || part.0.iter().map(|&i| &self.asked[i]);
        let readouts: Vec<usize> = asked().flat_map(|asked| &asked.readouts).copied().collect();
        let captures: Vec<usize> = asked().flat_map(|asked| &asked.captures).copied().collect();
        let references = self.plan.scoring.kl_refs.iter().map(|&r| r as usize);
        let reading = Reading {
            readouts: readouts.iter().copied().chain(references).collect(),
            captures: captures.clone(),
            kept: asked().flat_map(|asked| &asked.kept).copied().collect(),
        };
        let prune = self.mode == Mode::Branching;
        let runs = self.members(part);
        let live = Live::new(&self.plan, &self.cones, self.layers, &runs, reading, prune);
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

    /// How large the plan is, rows counted that turn out not to be needed.
    pub fn size(&self) -> Size {
        let need = self.need(&self.members(&self.whole()));
        Size {
            rows: need.rows as u64,
            row_layers: need.row_layers,
            readouts: self.asked.iter().map(|asked| asked.readouts.len() as u64).sum(),
            in_chunks: self.chunks.iter().map(|(_, need)| need.row_layers).sum(),
        }
    }

    /// What runs take by themselves. Every run has a list of the keys that it sees, whatever it has of rows.
    fn need(&self, runs: &[RunId]) -> Need {
        let need = |run: &RunId| Need {
            rows: self.cones.own_rows(*run),
            keys: self.plan.run(*run).tokens.len(),
            row_layers: self.cones.row_layers(*run, self.layers),
            readouts: 0,
        };
        runs.iter().map(need).fold(Need::default(), Need::and)
    }

    fn fit(&self, asked: &[usize], mut space: Space) -> Fit {
        let mut closed = self.always.clone();
        let mut fit = Fit { runs: 0, need: self.need(&closed.runs), carried: Need::default() };
        for Asked { run, readouts, .. } in asked.iter().map(|&i| &self.asked[i]) {
            let added = self.need(closed.add(&self.plan, *run));
            let need = fit.need.and(Need { readouts: readouts.len() as u64, ..added });
            if fit.runs == 0 {
                let read: Vec<RunId> = closed.runs.iter().copied().filter(|read| read != run).collect();
                fit.carried = self.need(&read);
                space.work = space.work.max(space.spread * space.work_of(&fit.carried));
            } else if !space.holds(&need) {
                break;
            }
            fit.need = need;
            fit.runs += 1;
        }
        fit
    }

    fn split(&self, space: &Space) -> Result<Vec<(Range<usize>, Need)>, PackError> {
        let Part(all) = self.whole();
        let (mut chunks, mut first) = (Vec::new(), 0);
        while first < all.len() {
            let Fit { runs, need, .. } = self.fit(&all[first..], *space);
            if need.rows > space.rows {
                return Err(PackError::OverBudget { rows: need.rows, budget: space.rows });
            }
            chunks.push((first..first + runs, need));
            first += runs;
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

    /// Takes out its first runs.
    #[must_use]
    pub fn take(&mut self, runs: usize) -> Part {
        let rest = self.0.split_off(runs);
        Part(std::mem::replace(&mut self.0, rest))
    }

    /// Takes out what another part asks for.
    pub fn remove(&mut self, other: &Part) {
        if self.0.starts_with(&other.0) {
            self.0.drain(..other.0.len());
            return;
        }
        let other: HashSet<usize> = other.0.iter().copied().collect();
        self.0.retain(|asked| !other.contains(asked));
    }

    /// Adds what another part asks for.
    pub fn add(&mut self, other: Part) {
        self.0.extend(other.0);
        self.0.sort_unstable();
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
    /// Rows, those of each run once.
    pub rows: u64,
    /// Rows times the layers each passes through.
    pub row_layers: u64,
    /// Rows unembedded.
    pub readouts: u64,
    /// Row-layers of all chunks: runs that others read are in each that has such others.
    pub in_chunks: u64,
}

/// Runs that something is asked of, in the order of their parent and of the layer at which they part from it.
fn asked(plan: &Plan, cones: &Cones) -> Vec<Asked> {
    let ids = (0..plan.runs.len() as u32).map(RunId);
    let mut all: Vec<Asked> =
        ids.map(|run| Asked { run, readouts: Vec::new(), captures: Vec::new(), kept: Vec::new() }).collect();
    for (i, readout) in plan.readouts.iter().enumerate() {
        all[readout.run.0 as usize].readouts.push(i);
    }
    for (i, capture) in plan.captures.iter().enumerate() {
        all[capture.run.0 as usize].captures.push(i);
    }
    for (i, kept) in plan.kept.iter().enumerate() {
        all[kept.run.0 as usize].kept.push(i);
    }
    all.retain(|asked| !asked.readouts.is_empty() || !asked.captures.is_empty() || !asked.kept.is_empty());
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
