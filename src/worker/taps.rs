//! The model's inputs and outputs as a block sees them: tensors whose numbers are computed when they are looked at.
//!
//! Asking for a module's output computes nothing. The block gets a tensor without numbers, and views of it stay such. While a tap
//! is open, which it is until its invoke asks for a later place, writes into it reach the model: those that need none of its
//! numbers are recorded as what they are (`writes.rs`), for the others the tap is read first and compared when it closes. What
//! saved tensors need is read once, when the job ends (`forward.rs`).

use crate::evaluator::{Refusal, refusal};
use crate::message::{Limits, Model};
use crate::program::Place;
use crate::tensor::{Dtype, Heap, Id, Stop, Value, View, call};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

mod forward;
#[cfg(test)]
mod tests;
mod writes;

pub use forward::Server;

/// Where in the forward pass, in its order: before the layers, in one, or after them; then the moment inside.
pub(crate) type Key = (u32, u32);

/// A change of one run at one place, as it will be sent.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    key: Key,
    place: Place,
    /// Positions in the run's tokens.
    positions: Vec<u32>,
    columns: Option<Range<u32>>,
    op: Change,
}

/// What happens there.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Replace(Vec<f32>),
    Add(Vec<f32>),
    Scale(f32),
    Zero,
    /// What another run has at the same place, after its first `seen` writes.
    ByRun {
        run: usize,
        seen: usize,
        positions: Vec<u32>,
    },
}

impl Change {
    /// How many numbers it holds.
    fn len(&self) -> usize {
        match self {
            Change::Replace(numbers) | Change::Add(numbers) => numbers.len(),
            Change::Scale(_) | Change::Zero | Change::ByRun { .. } => 0,
        }
    }
}

/// A prompt and what was changed in its forward pass.
#[derive(Debug)]
pub(crate) struct Run {
    tokens: Vec<u32>,
    writes: Vec<Planned>,
}

#[derive(Debug)]
struct Trace {
    invokes: Vec<Invoke>,
    /// Positions shown: the longest prompt's.
    length: usize,
}

#[derive(Debug)]
struct Invoke {
    runs: Range<usize>,
    /// It sees the rows of all.
    all: bool,
    /// The last place asked for.
    at: Option<Key>,
    open: Vec<usize>,
}

/// A place of one invoke.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    trace: usize,
    invoke: usize,
    runs: Range<usize>,
    length: usize,
    width: usize,
    key: Key,
    place: Place,
    shown: Shown,
    writable: bool,
    /// Held while the tap is open.
    base: Id,
    storage: u32,
    open: bool,
    /// How many writes of each run came before: set when nothing more can be written through this tap.
    seen: Option<Vec<usize>>,
    /// Its numbers when they were read, to be compared at the close.
    original: Option<Vec<f32>>,
    /// Some of its rows were read alone; next time all are.
    partly: bool,
    /// What was written to positions ahead of shorter prompts, by row; others there are zero. The model never sees it.
    padding: Padding,
}

/// What a tap shows of the numbers at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// They themselves.
    Whole,
    /// What `silu` makes of them.
    Activated,
    /// Attention weights: those of each head, over as many keys as the trace shows positions.
    Weights,
}

/// Rows ahead of shorter prompts that are not zero.
type Padding = BTreeMap<usize, Vec<f32>>;

/// What a storage without numbers stands for.
#[derive(Debug, Clone)]
pub(crate) enum Unread {
    /// A tap itself.
    Tap(usize),
    /// What part of a tap was at some moment, and perhaps one operation on it.
    Late { tap: usize, seen: Vec<usize>, padding: Padding, view: View, then: Option<Then> },
}

/// An operation that waits for its numbers.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    Add(Vec<f32>),
    Scale(f32),
}

/// All taps of a job.
#[expect(clippy::struct_field_names, reason = "its taps are what it is named for")]
#[derive(Debug)]
pub struct Taps {
    model: Model,
    dtype: Dtype,
    traces: Vec<Trace>,
    pub(crate) runs: Vec<Run>,
    pub(crate) taps: Vec<Tap>,
    pub(crate) unread: HashMap<u32, Unread>,
    programs: u64,
    limits: Limits,
    /// Numbers of writes and of what waits, counted generously.
    held: u64,
}

/// A served path, found.
#[derive(Clone)]
struct Found {
    key: Key,
    layer: Option<u32>,
    place: Place,
    width: usize,
    writable: bool,
    replaced_at: Option<String>,
    tuple: u32,
    second: Option<String>,
    shown: Shown,
}

impl Taps {
    /// Of a model.
    pub fn new(model: Model, limits: Limits) -> Result<Taps, Refusal> {
        let dtype = Dtype::from_name(&model.dtype).ok_or_else(|| {
            Refusal::new("RuntimeError", format!("BUG: the model's dtype is {}", model.dtype))
        })?;
        Ok(Taps {
            model,
            dtype,
            traces: Vec::new(),
            runs: Vec::new(),
            taps: Vec::new(),
            unread: HashMap::new(),
            programs: 0,
            limits,
            held: 0,
        })
    }

    /// A trace over the prompts of each invoke; `None` sees the rows of all.
    pub fn begin(&mut self, invokes: Vec<Option<Vec<Vec<u32>>>>) -> Result<usize, Refusal> {
        let first = self.runs.len();
        let mut made = Vec::with_capacity(invokes.len());
        let mut length = 0;
        for rows in invokes {
            let start = self.runs.len();
            let all = rows.is_none();
            for tokens in rows.unwrap_or_default() {
                if tokens.is_empty() {
                    return Err(Refusal::new("ValueError", "a prompt has no tokens"));
                }
                if tokens.len() > self.model.context as usize {
                    let (n, most) = (tokens.len(), self.model.context);
                    return Err(Refusal::new(
                        "ValueError",
                        format!("a prompt has {n} tokens, the model takes {most}"),
                    ));
                }
                length = length.max(tokens.len());
                self.runs.push(Run { tokens, writes: Vec::new() });
            }
            made.push(Invoke { runs: start..self.runs.len(), all, at: None, open: Vec::new() });
        }
        if length == 0 {
            return Err(Refusal::new(
                "ValueError",
                "trace() needs an input, or at least one `with tracer.invoke(...)` block",
            ));
        }
        for invoke in made.iter_mut().filter(|invoke| invoke.all) {
            invoke.runs = first..self.runs.len();
        }
        self.traces.push(Trace { invokes: made, length });
        Ok(self.traces.len() - 1)
    }

    /// What a module's input or output is for an invoke.
    pub fn read(
        &mut self,
        heap: &mut Heap,
        trace: usize,
        invoke: usize,
        path: &str,
    ) -> Result<Value, Refusal> {
        let found = self.find(path)?;
        let tap = self.reach(heap, trace, invoke, path, &found)?;
        let shown = call(heap, "detach", &[Value::Tensor(self.taps[tap].base)], &[]).map_err(refusal)?;
        Ok(match found.tuple {
            0 => shown,
            n => {
                let second = self.second(heap, trace, invoke, path, &found)?.unwrap_or(Value::None);
                let nothing = (2..n).map(|_| Value::None);
                let members = std::iter::once(shown).chain((n > 1).then_some(second)).chain(nothing);
                Value::Tuple(members.collect())
            }
        })
    }

    /// The second member of a module's output: attention weights, `[prompts, heads, positions, keys]`.
    fn second(
        &mut self,
        heap: &mut Heap,
        trace: usize,
        invoke: usize,
        path: &str,
        found: &Found,
    ) -> Result<Option<Value>, Refusal> {
        let Some(site) = &found.second else { return Ok(None) };
        let (heads, length) = (self.model.heads as usize, self.traces[trace].length);
        let found = Found {
            place: Place { site: site.clone(), layer: found.layer },
            width: heads * length,
            writable: false,
            shown: Shown::Weights,
            ..found.clone()
        };
        let tap = self.reach(heap, trace, invoke, path, &found)?;
        let base = self.taps[tap].base;
        let rows = self.taps[tap].runs.len();
        let sizes = [rows, length, heads, length].map(|size| Value::Int(size as i64));
        let split = call(heap, "reshape", &[Value::Tensor(base), Value::Tuple(sizes.to_vec())], &[]);
        let split = split.map_err(refusal)?;
        let turned = call(heap, "transpose", &[split.clone(), Value::Int(1), Value::Int(2)], &[]);
        if let Value::Tensor(split) = split {
            heap.free(split);
        }
        turned.map(Some).map_err(refusal)
    }

    /// The tap of a place, which is the last one asked for from now on.
    fn reach(
        &mut self,
        heap: &mut Heap,
        trace: usize,
        invoke: usize,
        path: &str,
        found: &Found,
    ) -> Result<usize, Refusal> {
        let gone = || Refusal::new("ValueError", format!("Cannot access `{path}` outside of interleaving"));
        let length = self.traces.get(trace).ok_or_else(gone)?.length;
        let asking = self.traces[trace].invokes.get_mut(invoke).ok_or_else(gone)?;
        if asking.at.is_some_and(|at| found.key < at) {
            let message = format!("'{path}.i0' was requested but the model already ran past it");
            return Err(Refusal::new("OutOfOrderError", message));
        }
        let runs = asking.runs.clone();
        let at = asking.at.replace(found.key);
        if at != Some(found.key) {
            self.close_open(heap, trace, invoke)?;
        }
        let open = &self.traces[trace].invokes[invoke].open;
        let here = open
            .iter()
            .copied()
            .find(|&tap| self.taps[tap].place == found.place && self.taps[tap].shown == found.shown);
        if let Some(tap) = here {
            return Ok(tap);
        }
        let shape = vec![runs.len(), length, found.width];
        let base = heap.unread(shape, self.dtype)?;
        let storage = heap.view(base)?.storage;
        let tap = self.taps.len();
        self.unread.insert(storage, Unread::Tap(tap));
        self.taps.push(Tap {
            trace,
            invoke,
            runs,
            length,
            width: found.width,
            key: found.key,
            place: found.place.clone(),
            shown: found.shown,
            writable: found.writable,
            base,
            storage,
            open: true,
            seen: None,
            original: None,
            partly: false,
            padding: Padding::new(),
        });
        self.traces[trace].invokes[invoke].open.push(tap);
        Ok(tap)
    }

    /// An invoke's body has ended: nothing it holds reaches the model any more.
    pub fn close(&mut self, heap: &mut Heap, trace: usize, invoke: usize) -> Result<(), Refusal> {
        if self.traces.get(trace).is_some_and(|trace| invoke < trace.invokes.len()) {
            self.close_open(heap, trace, invoke)?;
        }
        Ok(())
    }

    fn close_open(&mut self, heap: &mut Heap, trace: usize, invoke: usize) -> Result<(), Refusal> {
        for tap in std::mem::take(&mut self.traces[trace].invokes[invoke].open) {
            self.close_tap(heap, tap)?;
        }
        Ok(())
    }

    /// Rows that were changed here become writes; later changes stay with the block.
    fn close_tap(&mut self, heap: &mut Heap, tap: usize) -> Result<(), Refusal> {
        let this = &mut self.taps[tap];
        this.open = false;
        let (base, storage) = (this.base, this.storage);
        if let Some(original) = this.original.take().filter(|_| this.writable) {
            let now = heap.array(base).map_err(refusal)?.to_f32s();
            let same = |row: usize| {
                let row = row * this.width..(row + 1) * this.width;
                original[row.clone()].iter().zip(&now[row]).all(|(a, b)| a.to_bits() == b.to_bits())
            };
            let changed: Vec<usize> = (0..this.runs.len() * this.length).filter(|&row| !same(row)).collect();
            if !changed.is_empty() {
                let width = this.width;
                let offsets: Vec<usize> =
                    changed.iter().flat_map(|row| row * width..(row + 1) * width).collect();
                let numbers = offsets.iter().map(|&at| now[at]).collect();
                self.record(tap, &offsets, &writes::Written::Replace(numbers))?;
            }
        }
        self.taps[tap].seen = Some(self.seen(tap));
        heap.free(base);
        if !heap.is_unread(storage) {
            self.unread.remove(&storage);
        }
        Ok(())
    }

    /// How many writes of each run a tap shows.
    fn seen(&self, tap: usize) -> Vec<usize> {
        let tap = &self.taps[tap];
        tap.seen
            .clone()
            .unwrap_or_else(|| self.runs[tap.runs.clone()].iter().map(|run| run.writes.len()).collect())
    }

    /// An operation of the block's.
    pub fn call(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn Server,
        name: &str,
        args: &[Value],
        kwargs: &[(String, Value)],
    ) -> Result<Value, Refusal> {
        loop {
            let done = match self.write(heap, name, args, kwargs) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => call(heap, name, args, kwargs),
                Err(Failed::Stop(stop)) => Err(stop),
                Err(Failed::Refused(refusal)) => return Err(refusal),
            };
            let storage = match done {
                Ok(value) => return Ok(value),
                Err(Stop::Unread(storage)) => storage,
                Err(stop) => return Err(refusal(stop)),
            };
            if let Some(value) = self.defer(heap, name, args, kwargs)? {
                return Ok(value);
            }
            if let Some(value) = self.call_partly(heap, server, storage, name, args, kwargs)? {
                return Ok(value);
            }
            self.force(heap, server, storage)?;
        }
    }

    /// Refuses more numbers of writes and of what waits than a job's tensors may be.
    fn hold(&mut self, numbers: usize) -> Result<(), Refusal> {
        self.held += numbers as u64;
        if self.held * 4 <= self.limits.tensor_bytes {
            return Ok(());
        }
        // what the block let go of since is not held any more
        let written = self.runs.iter().flat_map(|run| &run.writes).map(|write| write.op.len());
        let waiting = self.unread.values().map(|unread| match unread {
            Unread::Late { then: Some(Then::Add(numbers)), .. } => numbers.len(),
            _ => 0,
        });
        self.held = (written.chain(waiting).sum::<usize>() + numbers) as u64;
        if self.held * 4 <= self.limits.tensor_bytes {
            return Ok(());
        }
        let message = format!(
            "what the block writes takes more than the {} bytes that a job may use",
            self.limits.tensor_bytes
        );
        Err(Refusal::new("MemoryError", message))
    }

    /// A served path: its place, and how it is shown.
    fn find(&self, path: &str) -> Result<Found, Refusal> {
        let mut layer = None;
        let parts: Vec<&str> = path
            .split('.')
            .map(|part| match part.parse::<u32>() {
                Ok(number) if layer.is_none() => {
                    layer = Some(number);
                    "*"
                }
                _ => part,
            })
            .collect();
        let pattern = parts.join(".");
        let taps = &self.model.taps;
        let at = taps.iter().position(|tap| tap.path == pattern);
        let at = at
            .filter(|_| layer.is_none_or(|layer| layer < self.model.layers))
            .ok_or_else(|| self.unserved(path))?;
        let tap = &taps[at];
        let mut found = Found {
            key: (0, at as u32),
            layer,
            place: Place { site: tap.site.clone(), layer },
            width: tap.width as usize,
            writable: tap.writable,
            replaced_at: tap.replaced_at.clone(),
            tuple: tap.tuple,
            second: tap.second.clone(),
            shown: if tap.activated { Shown::Activated } else { Shown::Whole },
        };
        let before = taps.iter().position(|tap| tap.path.contains('*')).is_some_and(|first| at < first);
        // one place may have several paths
        let at = taps.iter().position(|other| other.site == tap.site).unwrap_or(at);
        found.key = match layer {
            Some(layer) => (layer + 1, tap.moment),
            None if before => (0, at as u32),
            None => (u32::MAX, at as u32),
        };
        // a layer's input is the output of the one before
        let output = taps.iter().find(|tap| tap.site == "resid_post");
        if let (Some(layer @ 1..), "resid_pre", Some(output)) = (layer, tap.site.as_str(), output) {
            found.place = Place { site: "resid_post".into(), layer: Some(layer - 1) };
            found.key = (layer, output.moment);
        }
        Ok(found)
    }

    fn unserved(&self, path: &str) -> Refusal {
        let below = |path: &str| path.rsplitn(3, '.').nth(2).unwrap_or_default().to_owned();
        let pattern: String = path
            .split('.')
            .map(|part| if part.parse::<u32>().is_ok() { "*" } else { part })
            .collect::<Vec<_>>()
            .join(".");
        let near: Vec<&str> = self
            .model
            .taps
            .iter()
            .map(|tap| tap.path.as_str())
            .filter(|served| below(served) == below(&pattern))
            .collect();
        let all = || self.model.taps.iter().map(|tap| tap.path.as_str()).collect::<Vec<_>>();
        let near = if near.is_empty() { all() } else { near };
        Refusal::new(
            "NotServedError",
            format!("`{path}` is not served. Served near it are: {}", near.join(", ")),
        )
    }
}

/// Why a write was not recognised.
pub(crate) enum Failed {
    Stop(Stop),
    Refused(Refusal),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Failed {
        Failed::Stop(stop)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed::Refused(refusal)
    }
}

impl From<crate::tensor::TorchError> for Failed {
    fn from(error: crate::tensor::TorchError) -> Failed {
        Failed::Stop(Stop::Error(error))
    }
}
