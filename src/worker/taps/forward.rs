//! What taps need, as one forward pass: which runs, as they were after which of their writes, and which positions of them.

use super::writes::Written;
use super::{Change, Key, Padding, Planned, Shown, Tap, Taps, Then, Unread};
use crate::evaluator::Refusal;
use crate::program::{Op, Place, Program, Read, Run, Write};
use crate::tensor::{Array, Dtype, Heap, Id, Value, View, silu};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Numbers that are read alone rather than with all rows of their tap: from this width on.
const WIDE: usize = 16_384;

/// Numbers that are read beside what is asked for, at most.
const TOGETHER: usize = 1 << 24;

/// Whoever computes programs.
pub trait Server {
    /// The numbers of each read, `[positions, width]`.
    ///
    /// # Errors
    /// What is wrong with the program, in words for the block's author.
    fn forward(&mut self, program: Program) -> Result<Vec<Vec<f32>>, Refusal>;
}

/// By run, its version and place: the positions.
type Reads = BTreeMap<(usize, usize, Place), BTreeSet<u32>>;

/// Rows of a tap, as it was after some writes.
struct Wanted {
    tap: usize,
    seen: Vec<usize>,
    padding: Padding,
    rows: BTreeSet<usize>,
}

/// Rows that were read; those that are not here are zero.
#[derive(Debug, Default)]
struct Rows(HashMap<usize, Vec<f32>>);

impl Rows {
    /// The numbers at these offsets. Neighbours mostly stand in one row.
    fn gather(&self, offsets: impl Iterator<Item = usize>, width: usize) -> Vec<f32> {
        let (mut start, mut row) = (0, None);
        let mut first = true;
        let mut number = |offset: usize| {
            if first || !(start..start + width).contains(&offset) {
                first = false;
                start = offset / width * width;
                row = self.0.get(&(offset / width));
            }
            row.map_or(0.0, |row| row[offset - start])
        };
        offsets.map(&mut number).collect()
    }
}

impl Taps {
    /// Reads a storage that has no numbers yet.
    pub(super) fn force(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn Server,
        storage: u32,
    ) -> Result<(), Refusal> {
        self.forget(heap);
        let mut storages = vec![storage];
        // What something was made of is read with it, if the block still holds it.
        if let Some(Unread::Late { tap, seen, .. }) = self.unread.get(&storage) {
            let base = self.taps[*tap].storage;
            let same = matches!(self.unread.get(&base), Some(Unread::Tap(of)) if of == tap)
                && self.seen(*tap) == *seen;
            storages.extend(Some(base).filter(|_| same && self.taps[*tap].width < WIDE));
        }
        // What ended traces left unread and the block still holds: one pass for all of it.
        if self.unread.get(&storage).is_some_and(|unread| !self.taps[tap_of(unread)].open) {
            let more = self.unread.iter().filter(|(other, unread)| {
                let tap = &self.taps[tap_of(unread)];
                !storages.contains(*other) && !tap.open && tap.width < WIDE
            });
            let mut more: Vec<u32> = more.map(|(&other, _)| other).collect();
            more.sort_unstable();
            let mut numbers = 0;
            storages.extend(more.into_iter().take_while(|other| {
                let tap = self.unread.get(other).map(|unread| &self.taps[tap_of(unread)]);
                numbers += tap.map_or(0, |tap| tap.runs.len() * tap.length * tap.width);
                numbers <= TOGETHER
            }));
        }
        let mut wanted = Vec::with_capacity(storages.len());
        for storage in &storages {
            let unread = self
                .unread
                .get(storage)
                .ok_or_else(|| Refusal::new("RuntimeError", "BUG: no tap is unread here"))?;
            let (tap, seen, padding) = self.as_seen(unread);
            let rows = match unread {
                Unread::Tap(_) => (0..self.taps[tap].runs.len() * self.taps[tap].length).collect(),
                Unread::Late { view, .. } => rows_of(view.places(), self.taps[tap].width),
            };
            wanted.push(Wanted { tap, seen, padding, rows });
        }
        let got = self.fetch(server, &wanted)?;
        for (storage, rows) in storages.into_iter().zip(got) {
            let Some(unread) = self.unread.remove(&storage) else { continue };
            let tap = tap_of(&unread);
            let width = self.taps[tap].width;
            let numbers = match &unread {
                Unread::Tap(tap) => {
                    let tap = &mut self.taps[*tap];
                    let mut numbers = vec![0.0; tap.runs.len() * tap.length * width];
                    for (row, values) in rows.0 {
                        numbers[row * width..(row + 1) * width].copy_from_slice(&values);
                    }
                    tap.original = tap.open.then(|| numbers.clone());
                    numbers
                }
                Unread::Late { view, then, .. } => {
                    let base = rows.gather(view.places(), width);
                    apply(base, then.as_ref(), self.dtype)
                }
            };
            heap.fill(storage, numbers)?;
        }
        Ok(())
    }

    /// An operation on a few rows of a wide tap: only those are read, once; whoever comes again gets all.
    pub(super) fn call_partly(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn Server,
        storage: u32,
        name: &str,
        args: &[Value],
        kwargs: &[(String, Value)],
    ) -> Result<Option<Value>, Refusal> {
        let Some(Unread::Tap(tap)) = self.unread.get(&storage).cloned() else { return Ok(None) };
        let this = &self.taps[tap];
        let first = match args.first() {
            Some(Value::Tensor(id)) => *id,
            _ => return Ok(None),
        };
        if this.width < WIDE
            || this.partly
            || name == "setitem"
            || name.ends_with('_')
            || heap.view(first)?.storage != storage
        {
            return Ok(None);
        }
        let rows = rows_of(heap.view(first)?.places(), this.width);
        if rows.len() == this.runs.len() * this.length {
            return Ok(None);
        }
        self.taps[tap].partly = true;
        let value = self
            .gathered(heap, server, &[first])?
            .remove(&first)
            .ok_or_else(|| Refusal::new("RuntimeError", "BUG: not read"))?;
        let mut args = args.to_vec();
        args[0] = Value::Tensor(value);
        let result = self.call(heap, server, name, &args, kwargs);
        heap.free(value);
        result.map(Some)
    }

    /// The answer of the job with all of its numbers: what is still unread is read in one pass, only where it shows.
    pub fn settle(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn Server,
        value: Value,
    ) -> Result<Value, Refusal> {
        let mut ids = Vec::new();
        tensors(&value, &mut ids);
        let mut unread: Vec<Id> = Vec::new();
        for id in ids {
            if heap.is_unread(heap.view(id)?.storage) && !unread.contains(&id) {
                unread.push(id);
            }
        }
        let made = self.gathered(heap, server, &unread)?;
        Ok(replaced(value, &made))
    }

    /// New tensors with the numbers of these, which have none.
    fn gathered(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn Server,
        ids: &[Id],
    ) -> Result<HashMap<Id, Id>, Refusal> {
        let mut wanted = Vec::with_capacity(ids.len());
        let mut shown: Vec<(View, Vec<usize>, Option<Then>)> = Vec::with_capacity(ids.len());
        for id in ids {
            let view = heap.view(*id)?.clone();
            let unread = self
                .unread
                .get(&view.storage)
                .ok_or_else(|| Refusal::new("RuntimeError", "BUG: no tap is unread here"))?;
            let (tap, seen, padding) = self.as_seen(unread);
            let (offsets, then): (Vec<usize>, _) = match unread {
                Unread::Tap(_) => (view.places().collect(), None),
                Unread::Late { view: base, then, .. } => {
                    let all: Vec<usize> = base.places().collect();
                    let at: Vec<usize> = view.places().collect();
                    let then = then.as_ref().map(|then| match then {
                        Then::Add(numbers) => Then::Add(at.iter().map(|&at| numbers[at]).collect()),
                        Then::Scale(factor) => Then::Scale(*factor),
                    });
                    (at.iter().map(|&at| all[at]).collect(), then)
                }
            };
            let rows = rows_of(offsets.iter().copied(), self.taps[tap].width);
            wanted.push(Wanted { tap, seen, padding, rows });
            shown.push((view, offsets, then));
        }
        let got = self.fetch(server, &wanted)?;
        let mut made = HashMap::new();
        for (((id, want), rows), (view, offsets, then)) in ids.iter().zip(&wanted).zip(got).zip(shown) {
            let width = self.taps[want.tap].width;
            let base = rows.gather(offsets.into_iter(), width);
            let numbers = apply(base, then.as_ref(), self.dtype);
            made.insert(*id, heap.put(Array::of_f32s(self.dtype, view.shape, numbers))?);
        }
        Ok(made)
    }

    fn as_seen(&self, unread: &Unread) -> (usize, Vec<usize>, Padding) {
        match unread {
            Unread::Tap(tap) => (*tap, self.seen(*tap), self.taps[*tap].padding.clone()),
            Unread::Late { tap, seen, padding, .. } => (*tap, seen.clone(), padding.clone()),
        }
    }

    /// Storages that no tensor shows any more stand for nothing.
    pub(super) fn forget(&mut self, heap: &Heap) {
        self.unread.retain(|storage, _| heap.is_unread(*storage));
    }

    /// Which of a run's writes a read after `seen` of them may be computed with: all, unless a later one would change it.
    fn version(&self, run: usize, seen: usize, key: Key) -> usize {
        let writes = &self.runs[run].writes;
        if writes[seen..].iter().any(|write| write.key <= key) { seen } else { writes.len() }
    }

    /// One forward pass for all that is wanted.
    fn fetch(&mut self, server: &mut dyn Server, wanted: &[Wanted]) -> Result<Vec<Rows>, Refusal> {
        let mut reads: Reads = BTreeMap::new();
        for want in wanted {
            let tap = &self.taps[want.tap];
            for &row in &want.rows {
                let Some((run, position)) = self.position(tap, row) else { continue };
                let version = self.version(run, want.seen[run - tap.runs.start], tap.key);
                reads.entry((run, version, tap.place.clone())).or_default().insert(position);
            }
        }
        let mut got: HashMap<(usize, usize, Place), HashMap<u32, Vec<f32>>> = HashMap::new();
        if !reads.is_empty() {
            self.programs += 1;
            if self.programs > self.limits.programs {
                let message = format!(
                    "a job may take {} forward passes: look at fewer values in the middle of a trace",
                    self.limits.programs
                );
                return Err(Refusal::new("RuntimeError", message));
            }
            let program = self.program(&reads);
            let sizes: Vec<usize> = program.reads.iter().map(|read| read.positions.len()).collect();
            let values = server.forward(program)?;
            if values.len() != sizes.len() {
                return Err(Refusal::new("RuntimeError", "BUG: the server answered another question"));
            }
            for ((key, positions), values) in reads.into_iter().zip(values) {
                let width = values.len() / positions.len();
                let rows =
                    positions.into_iter().zip(values.chunks(width.max(1)).map(<[f32]>::to_vec)).collect();
                got.insert(key, rows);
            }
        }
        let mut answers = Vec::with_capacity(wanted.len());
        for want in wanted {
            let tap = &self.taps[want.tap];
            let padding = want.padding.iter().filter(|(row, _)| want.rows.contains(row));
            let mut rows = Rows(padding.map(|(&row, values)| (row, values.clone())).collect());
            let mut of_run = (None, None);
            for &row in &want.rows {
                let Some((run, position)) = self.position(tap, row) else { continue };
                if of_run.0 != Some(run) {
                    let version = self.version(run, want.seen[run - tap.runs.start], tap.key);
                    of_run = (Some(run), got.get(&(run, version, tap.place.clone())));
                }
                let values = of_run.1.and_then(|rows| rows.get(&position));
                match values.and_then(|values| self.shown(tap, values, run, position)) {
                    Some(values) => rows.0.insert(row, values),
                    None => {
                        return Err(Refusal::new(
                            "RuntimeError",
                            "BUG: the server answered another question",
                        ));
                    }
                };
            }
            answers.push(rows);
        }
        Ok(answers)
    }

    /// What a tap shows of the numbers at a position of a run; `None`: they are not as many as there are.
    fn shown(&self, tap: &Tap, values: &[f32], run: usize, position: u32) -> Option<Vec<f32>> {
        let whole = values.len() == tap.width;
        match tap.shown {
            Shown::Whole => whole.then(|| values.to_vec()),
            Shown::Activated => whole.then(|| values.iter().map(|&x| self.dtype.round(silu(x))).collect()),
            Shown::Weights => {
                let heads = self.model.heads as usize;
                let (keys, tokens) = (values.len() / heads, self.runs[run].tokens.len());
                let first = tap.length - tokens;
                if values.len() != keys * heads || keys < tokens || tokens <= position as usize {
                    return None;
                }
                let seen = position as usize + 1;
                let mut row = vec![0.0; tap.width];
                for (shown, head) in row.chunks_mut(tap.length).zip(values.chunks(keys)) {
                    shown[first..first + seen].copy_from_slice(&head[..seen]);
                }
                Some(row)
            }
        }
    }

    /// The program of these reads: their runs, all runs that those depend on, and what equal prompts branch from.
    fn program(&self, reads: &Reads) -> Program {
        let mut versions: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut todo: Vec<(usize, usize)> = reads.keys().map(|(run, version, _)| (*run, *version)).collect();
        while let Some((run, version)) = todo.pop() {
            if versions.insert((run, version)) {
                todo.extend(self.runs[run].writes[..version].iter().filter_map(|write| self.source(write)));
            }
        }
        let mut prompts: HashMap<&[u32], usize> = HashMap::new();
        for &(run, _) in &versions {
            *prompts.entry(&self.runs[run].tokens).or_default() += 1;
        }
        let parents =
            prompts.into_iter().filter(|&(_, runs)| runs > 1).map(|(tokens, _)| (tokens, None)).collect();
        let mut order = Order { taps: self, program: Program::default(), index: HashMap::new(), parents };
        for &member in &versions {
            order.place(member);
        }
        let Order { mut program, index, .. } = order;
        for ((run, version, place), positions) in reads {
            let run = index[&(*run, *version)];
            program.reads.push(Read {
                run,
                place: place.clone(),
                positions: positions.iter().copied().collect(),
            });
        }
        program
    }

    /// The run and version that a write takes its numbers from.
    fn source(&self, write: &Planned) -> Option<(usize, usize)> {
        match &write.op {
            Change::ByRun { run, seen, .. } => Some((*run, self.version(*run, *seen, write.key))),
            _ => None,
        }
    }

    /// A new value of a norm's input: the residual stream stays, the norm's output becomes what the norm makes of the value.
    pub(super) fn replace_input(
        &mut self,
        server: &mut dyn Server,
        tap: usize,
        (layer, site): (Option<u32>, &str),
        numbers: Vec<f32>,
    ) -> Result<(), Refusal> {
        let output = self.model.taps.iter().find(|tap| tap.site == site);
        let (moment, width) = output.map_or((0, 0), |tap| (tap.moment, tap.width as usize));
        let this = &self.taps[tap];
        let cells = this.runs.len() * this.length;
        let mut norm = this.clone();
        norm.place = Place { site: site.to_owned(), layer };
        norm.key = (layer.map_or(u32::MAX, |layer| layer + 1), moment);
        (norm.width, norm.writable, norm.open, norm.padding) = (width, true, false, Padding::new());
        let offsets: Vec<usize> = (0..numbers.len()).collect();
        // one pass in which the residual stream is the value, of which only the norm's output is looked at
        let before = self.seen(tap);
        self.record(tap, &offsets, &Written::Replace(numbers))?;
        norm.seen = Some(self.seen(tap));
        let at = self.taps.len();
        self.taps.push(norm);
        let got = self.fetch(
            server,
            &[Wanted { tap: at, seen: self.seen(at), padding: Padding::new(), rows: (0..cells).collect() }],
        );
        for (run, before) in self.taps[tap].runs.clone().zip(before) {
            self.runs[run].writes.truncate(before);
        }
        let seen = self.taps[tap].seen.clone();
        self.taps[at].seen = seen;
        let rows = got?.pop().unwrap_or_default();
        let offsets: Vec<usize> = (0..cells * width).collect();
        let values = rows.gather(offsets.iter().copied(), width);
        self.record(at, &offsets, &Written::Replace(values))?;
        Ok(())
    }
}

/// Runs in an order in which each stands behind what it branches from and what it takes numbers from.
struct Order<'t> {
    taps: &'t Taps,
    program: Program,
    index: HashMap<(usize, usize), u32>,
    /// Of prompts that several runs have: the run without writes.
    parents: HashMap<&'t [u32], Option<u32>>,
}

impl Order<'_> {
    fn place(&mut self, member: (usize, usize)) -> u32 {
        if let Some(&index) = self.index.get(&member) {
            return index;
        }
        let taps = self.taps;
        let run = &taps.runs[member.0];
        let writes = &run.writes[..member.1];
        let sources: Vec<Option<u32>> =
            writes.iter().map(|write| taps.source(write).map(|source| self.place(source))).collect();
        let parent = self.parents.get(run.tokens.as_slice()).copied().map(|known| {
            known.unwrap_or_else(|| {
                self.program.runs.push(Run { tokens: run.tokens.clone(), parent: None });
                let index = self.program.runs.len() as u32 - 1;
                self.parents.insert(&run.tokens, Some(index));
                index
            })
        });
        let index = match parent {
            // Nothing is written to it: it is what the others branch from.
            Some(parent) if writes.is_empty() => parent,
            parent => {
                self.program.runs.push(Run { tokens: run.tokens.clone(), parent });
                self.program.runs.len() as u32 - 1
            }
        };
        self.index.insert(member, index);
        for (write, source) in writes.iter().zip(sources) {
            let op = match &write.op {
                Change::Replace(numbers) => Op::Replace(numbers.clone()),
                Change::Add(numbers) => Op::Add(numbers.clone()),
                Change::Scale(factor) => Op::Scale(*factor),
                Change::Zero => Op::Zero,
                Change::ByRun { positions, .. } => {
                    Op::ReplaceByRun { run: source.unwrap_or(index), positions: positions.clone() }
                }
            };
            let (positions, columns) = (write.positions.clone(), write.columns.clone());
            self.program.writes.push(Write {
                run: index,
                place: write.place.clone(),
                positions,
                columns,
                op,
            });
        }
        index
    }
}

fn tap_of(unread: &Unread) -> usize {
    match unread {
        Unread::Tap(tap) | Unread::Late { tap, .. } => *tap,
    }
}

fn rows_of(offsets: impl Iterator<Item = usize>, width: usize) -> BTreeSet<usize> {
    let mut rows = BTreeSet::new();
    let mut last = None;
    for offset in offsets {
        if last != Some(offset / width) {
            last = Some(offset / width);
            rows.insert(offset / width);
        }
    }
    rows
}

/// What waited for these numbers, in the arithmetic of the engine.
fn apply(mut numbers: Vec<f32>, then: Option<&Then>, dtype: Dtype) -> Vec<f32> {
    match then {
        None => {}
        Some(Then::Add(more)) => numbers.iter_mut().zip(more).for_each(|(x, y)| *x = dtype.round(*x + y)),
        Some(Then::Scale(factor)) => numbers.iter_mut().for_each(|x| *x = dtype.round(*x * factor)),
    }
    numbers
}

fn tensors(value: &Value, found: &mut Vec<Id>) {
    match value {
        Value::Tensor(id) => found.push(*id),
        Value::List(items) | Value::Tuple(items) => items.iter().for_each(|item| tensors(item, found)),
        Value::Named(_, members) => members.iter().for_each(|(_, item)| tensors(item, found)),
        Value::Dict(pairs) => pairs.iter().for_each(|(_, item)| tensors(item, found)),
        _ => {}
    }
}

fn replaced(value: Value, made: &HashMap<Id, Id>) -> Value {
    let all = |items: Vec<Value>| items.into_iter().map(|item| replaced(item, made)).collect();
    match value {
        Value::Tensor(id) => Value::Tensor(made.get(&id).copied().unwrap_or(id)),
        Value::List(items) => Value::List(all(items)),
        Value::Tuple(items) => Value::Tuple(all(items)),
        Value::Named(name, members) => Value::Named(
            name,
            members.into_iter().map(|(field, item)| (field, replaced(item, made))).collect(),
        ),
        Value::Dict(pairs) => {
            Value::Dict(pairs.into_iter().map(|(key, item)| (key, replaced(item, made))).collect())
        }
        value => value,
    }
}
