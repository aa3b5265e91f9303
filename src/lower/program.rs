//! What a traced block asks of the model, as a plan. The program comes from a process that runs other people's code: every index,
//! length and size of it is checked here.

#![allow(clippy::needless_pass_by_value, reason = "a program is given away where it becomes a plan")]

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use mediant_worker::program::{Op as Asked, Place, Program, Read, Run, Write};

use super::facts::Facts;
use crate::model::config::ModelConfig;
use crate::plan::{Address, Capture, Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::problem::{Problems, code};
use crate::spec::site::Site;

/// A program as a plan.
#[derive(Debug, Clone)]
pub struct LoweredProgram {
    /// What is computed.
    pub plan: Plan,
    /// What is read of that.
    pub reads: Reads,
}

/// Which of a plan's captures each read is; none where it names no position.
#[derive(Debug, Clone)]
pub struct Reads(Vec<Option<usize>>);

impl Reads {
    /// What each read gives, of what the plan's captures gave.
    pub fn values(&self, mut captures: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let values = self.0.iter().map(|read| read.map(|capture| std::mem::take(&mut captures[capture])));
        values.map(Option::unwrap_or_default).collect()
    }
}

/// A program to a plan, or everything that is wrong with it. `most_numbers`: as many numbers may be read.
///
/// # Errors
/// Each wrong field by its pointer in the program.
pub fn program(program: Program, most_numbers: u64, facts: &dyn Facts) -> Result<LoweredProgram, Problems> {
    let mut lowering =
        Lowering { facts, config: facts.config(), program: &program, keys: 0, out: Problems::default() };
    lowering.sizes();
    // Lists longer than may be are not gone through.
    if lowering.out.is_empty() {
        for (i, run) in program.runs.iter().enumerate() {
            lowering.run(i, run);
        }
        lowering.keys = program.runs.iter().map(|run| run.tokens.len()).max().unwrap_or(0);
    }
    let mut edits = vec![Vec::new(); program.runs.len()];
    let mut captures = Vec::new();
    let mut reads = Vec::with_capacity(program.reads.len());
    if lowering.out.is_empty() {
        for (i, write) in program.writes.iter().enumerate() {
            if let Some(edit) = lowering.write(i, write) {
                edits[write.run as usize].push(edit);
            }
        }
        let mut numbers = 0;
        for (i, read) in program.reads.iter().enumerate() {
            let capture = lowering.read(i, read, &mut numbers);
            reads.push(capture.as_ref().map(|_| captures.len()));
            captures.extend(capture);
        }
        if numbers > most_numbers {
            let detail = format!("{numbers} numbers are read at once, the limit is {most_numbers}");
            lowering.out.push(
                "/reads",
                code::LIMIT,
                detail,
                "save fewer positions, or a part of what is there, in each trace",
            );
        }
    }
    let mut plan = Plan::default();
    if lowering.out.is_empty() {
        for (run, edits) in program.runs.iter().zip(edits) {
            if let Some(parent) = run.parent {
                plan.branch(RunId(parent), edits);
            } else {
                let root = plan.root(run.tokens.as_slice().into());
                plan.runs[root.0 as usize].edits = edits;
            }
        }
        plan.captures = captures;
    }
    lowering.out.or(Some(LoweredProgram { plan, reads: Reads(reads) }))
}

struct Lowering<'p> {
    facts: &'p dyn Facts,
    config: &'p ModelConfig,
    program: &'p Program,
    /// Columns of a head at `scores` and `pattern`.
    keys: usize,
    out: Problems,
}

impl Lowering<'_> {
    /// How much of everything there is.
    fn sizes(&mut self) {
        let (program, limits) = (self.program, self.facts.limits());
        let written: usize = program.writes.iter().map(|write| write.positions.len()).sum();
        let read: usize = program.reads.iter().map(|read| read.positions.len()).sum();
        let sizes = [
            ("/runs", "prompts", program.runs.len(), limits.cells),
            ("/writes", "writes", program.writes.len(), limits.edits),
            ("/writes", "positions written", written, limits.edit_positions),
            ("/reads", "reads", program.reads.len(), limits.edits),
            ("/reads", "positions read", read, limits.edit_positions),
        ];
        for (at, what, n, most) in sizes {
            if n as u64 > most {
                let detail = format!("{n} {what} in one forward pass, the limit is {most}");
                self.out.push(at, code::LIMIT, detail, "spread them over several traces");
            }
        }
    }

    fn run(&mut self, i: usize, run: &Run) {
        let at = format!("/runs/{i}");
        let most = self.facts.limits().prompt_tokens;
        let tokens = format!("{at}/tokens");
        if run.tokens.is_empty() {
            self.out.push(&tokens, code::EMPTY, "the prompt has no tokens", "give it one at least");
        } else if run.tokens.len() as u64 > most {
            let detail = format!("the prompt has {} tokens, the model sees {most}", run.tokens.len());
            self.out.push(&tokens, code::LIMIT, detail, "shorten the prompt");
        }
        let vocabulary = self.config.vocab_size as u32;
        if let Some(token) = run.tokens.iter().find(|token| **token >= vocabulary) {
            let detail = format!("token {token} is not in the vocabulary");
            self.out.push(
                tokens,
                code::UNKNOWN_TOKEN,
                detail,
                format!("token ids are 0 to {}", vocabulary - 1),
            );
        }
        let Some(parent) = run.parent else { return };
        let pointer = format!("{at}/parent");
        let Some(of) = self.program.runs[..i].get(parent as usize) else {
            let detail = format!("run {parent} does not come before run {i}");
            return self.out.push(pointer, code::OUT_OF_RANGE, detail, "name an earlier run");
        };
        if of.tokens != run.tokens {
            let detail = format!("run {parent} has other tokens");
            self.out.push(pointer, code::LENGTH_MISMATCH, detail, "name a run with the same tokens, or none");
        } else if self.program.writes.iter().any(|write| write.run == parent) {
            let detail = format!("run {parent} is written to, and its branches would inherit that");
            self.out.push(pointer, code::CONFLICT, detail, "name a run that nothing is written to, or none");
        }
    }

    fn write(&mut self, i: usize, write: &Write) -> Option<Edit> {
        let at = format!("/writes/{i}");
        let address = self.place(&at, write.run, &write.place)?;
        if !address.site.is_editable()
            || address.site.written_as() != address.site
            || address.site.is_over_keys()
        {
            let detail = format!("a block cannot write at {}", address.site);
            self.out.push(
                format!("{at}/place/site"),
                code::NOT_SUPPORTED,
                detail,
                "write before or after it",
            );
            return None;
        }
        self.positions(&format!("{at}/positions"), write.run, &write.positions)?;
        let mut once = HashSet::with_capacity(write.positions.len());
        if let Some(twice) = write.positions.iter().find(|position| !once.insert(**position)) {
            let detail = format!("position {twice} is written twice at once");
            self.out.push(format!("{at}/positions"), code::DUPLICATE, detail, "name each once");
            return None;
        }
        let width = self.config.site_width(address.site, self.keys) as u32;
        let columns = match &write.columns {
            None => None,
            Some(Range { start, end }) if start < end && *end <= width => Some(*start..*end),
            Some(Range { start, end }) => {
                let detail = format!("columns {start} to {end} of {width}");
                let fix = "name a range inside the width";
                self.out.push(format!("{at}/columns"), code::OUT_OF_RANGE, detail, fix);
                return None;
            }
        };
        let count = columns.as_ref().map_or(width, |columns| columns.end - columns.start) as usize;
        let op = match &write.op {
            Asked::Replace(numbers) => Op::Replace(self.numbers(&at, numbers, write, count)?),
            Asked::Add(numbers) => Op::add(self.numbers(&at, numbers, write, count)?),
            Asked::Scale(factor) => Op::Scale(*factor),
            Asked::Zero => Op::Zero,
            Asked::ReplaceByRun { run, positions } => {
                // What a run reads is computed before it.
                if *run >= write.run {
                    let detail =
                        format!("run {} cannot read run {run}, which does not come before it", write.run);
                    self.out.push(format!("{at}/op/run"), code::OUT_OF_RANGE, detail, "name an earlier run");
                    return None;
                }
                let pointer = format!("{at}/op/positions");
                self.positions(&pointer, *run, positions)?;
                if positions.len() != write.positions.len() {
                    let (read, written) = (positions.len(), write.positions.len());
                    let detail = format!("{read} positions are read and {written} written");
                    self.out.push(pointer, code::LENGTH_MISMATCH, detail, "read as many as are written");
                    return None;
                }
                Op::Replace(Source::Run { run: RunId(*run), positions: positions.clone() })
            }
        };
        if write.positions.is_empty() {
            return None;
        }
        Some(Edit { columns, ..Edit::new(address, write.positions.clone(), op, EditGroup::Patch) })
    }

    /// Rows as they are written: `[positions, columns]`.
    fn numbers(&mut self, at: &str, numbers: &[f32], write: &Write, columns: usize) -> Option<Source> {
        let wanted = write.positions.len() * columns;
        if numbers.len() == wanted {
            return Some(Source::Constant(Arc::from(numbers)));
        }
        let detail =
            format!("{} numbers for {} positions of {columns}", numbers.len(), write.positions.len());
        self.out.push(format!("{at}/op"), code::LENGTH_MISMATCH, detail, format!("give {wanted}"));
        None
    }

    /// A read as a capture, if it names a position. `numbers`: of all reads so far.
    fn read(&mut self, i: usize, read: &Read, numbers: &mut u64) -> Option<Capture> {
        let at = format!("/reads/{i}");
        let address = self.place(&at, read.run, &read.place)?;
        self.positions(&format!("{at}/positions"), read.run, &read.positions)?;
        *numbers += (read.positions.len() * self.config.site_width(address.site, self.keys)) as u64;
        let capture = Capture { run: RunId(read.run), at: address, positions: read.positions.clone() };
        (!read.positions.is_empty()).then_some(capture)
    }

    /// Where something is read or written, if there is such a place.
    fn place(&mut self, at: &str, run: u32, place: &Place) -> Option<Address> {
        if run as usize >= self.program.runs.len() {
            let detail = format!("run {run} of {}", self.program.runs.len());
            self.out.push(format!("{at}/run"), code::OUT_OF_RANGE, detail, "name a run of the program");
            return None;
        }
        let pointer = format!("{at}/place/site");
        let Some(site) = Site::ALL.into_iter().find(|site| site.name() == place.site) else {
            let detail = format!("{:?} is no site", place.site.chars().take(48).collect::<String>());
            self.out.push(
                pointer,
                code::UNKNOWN_VALUE,
                detail,
                "name a site as requests do, such as resid_post",
            );
            return None;
        };
        if self.config.absent(site).is_some() {
            let detail = format!("this model has no {site}");
            self.out.push(pointer, code::NOT_SUPPORTED, detail, "name a site that it has");
            return None;
        }
        let layers = site.layers(self.config.num_layers as u32);
        let pointer = format!("{at}/place/layer");
        let layer = match place.layer {
            Some(layer) if site.has_layer() && layers.contains(&layer) => layer,
            None if !site.has_layer() => layers.start,
            Some(layer) if site.has_layer() => {
                let detail = format!("layer {layer} of {}", self.config.num_layers);
                self.out.push(pointer, code::OUT_OF_RANGE, detail, "name a layer of the model");
                return None;
            }
            Some(_) => {
                let detail = format!("{site} stands in no layer");
                self.out.push(pointer, code::CONFLICT, detail, "leave the layer out");
                return None;
            }
            None => {
                let detail = format!("{site} stands in every layer");
                self.out.push(pointer, code::MISSING, detail, "name the layer");
                return None;
            }
        };
        Some(Address { layer, site })
    }

    /// Positions in the tokens of a run.
    fn positions(&mut self, at: &str, run: u32, positions: &[u32]) -> Option<()> {
        let tokens = self.program.runs[run as usize].tokens.len() as u32;
        let Some(outside) = positions.iter().find(|position| **position >= tokens) else { return Some(()) };
        let detail = format!("position {outside} of {tokens}");
        self.out.push(at, code::OUT_OF_RANGE, detail, "name positions of the run");
        None
    }
}
