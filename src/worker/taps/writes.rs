//! Writes into what has no numbers yet, recognised as what they are: replaced, added to, scaled, zeroed, or what another run has
//! there. What is not recognised is read first.

use super::{Change, Failed, Planned, Shown, Tap, Taps, Then, Unread};
use crate::evaluator::Refusal;
use crate::tensor::{
    Array, Dtype, Heap, Id, Stop, Value, View, Weight, broadcast, call, constant, places, result_type,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A recognised write, in the order of the offsets that it touches.
#[derive(Debug)]
pub(super) enum Written {
    Replace(Vec<f32>),
    Add(Vec<f32>),
    Scale(f32),
    Zero,
    /// What another tap at the same place had at these offsets, after `seen` writes.
    ByRun {
        tap: usize,
        seen: Vec<usize>,
        offsets: Vec<usize>,
    },
    /// What is there already.
    Nothing,
}

/// A rectangle of written cells: positions of a run, the same columns of each, and which of the written numbers stand there, row by
/// row.
struct Patch {
    run: usize,
    positions: Vec<u32>,
    columns: Range<u32>,
    numbers: Vec<usize>,
}

/// A rectangle that another run gives the numbers of.
struct Taken {
    run: usize,
    positions: Vec<u32>,
    columns: Range<u32>,
    from: Change,
}

/// Cells of one row, as ranges of columns, and which of the written numbers stand there.
struct Row {
    ranges: Vec<Range<u32>>,
    numbers: Vec<usize>,
}

impl Taps {
    /// A write into an open tap without numbers; `None`: it is none, or not recognised.
    pub(super) fn write(
        &mut self,
        heap: &mut Heap,
        name: &str,
        args: &[Value],
        kwargs: &[(String, Value)],
    ) -> Result<Option<Value>, Failed> {
        let in_place = name == "setitem" || (name.ends_with('_') && !name.starts_with('_'));
        let Some(&Value::Tensor(target)) = args.first().filter(|_| in_place) else { return Ok(None) };
        let view = heap.view(target)?.clone();
        let Some(tap) = self.taps.iter().position(|tap| tap.open && tap.storage == view.storage) else {
            return Ok(None);
        };
        self.check_writable(tap)?;
        if !heap.is_unread(view.storage)
            || !self.taps[tap].writable
            || !kwargs.is_empty()
            || view.overlaps_itself()
        {
            return Ok(None);
        }
        let dtype = self.dtype;
        let answer = if name == "setitem" { Value::None } else { args[0].clone() };
        let (shape, offsets, written) = match (name, args) {
            ("setitem", [_, index, value]) => {
                let found = places(heap, target, index)?;
                let written = self.replaced(heap, tap, &found.shape, &found.offsets, value)?;
                (found.shape, found.offsets, written)
            }
            ("copy_" | "fill_", [_, value]) => {
                let offsets = heap.offsets(target)?;
                let written = self.replaced(heap, tap, &view.shape, &offsets, value)?;
                (view.shape, offsets, written)
            }
            ("zero_", [_]) => (view.shape, heap.offsets(target)?, Some(Written::Zero)),
            ("add_" | "sub_", [_, value]) if fits(heap, value, &view.shape, dtype)? => {
                let mut numbers = constant(heap, value, &view.shape, dtype)?;
                if name == "sub_" {
                    negate(&mut numbers);
                }
                (view.shape, heap.offsets(target)?, Some(Written::Add(numbers)))
            }
            ("mul_", [_, value]) => match number(value, dtype) {
                Some(factor) => (view.shape, heap.offsets(target)?, Some(Written::Scale(factor))),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let Some(written) = written else { return Ok(None) };
        debug_assert_eq!(shape.iter().product::<usize>(), offsets.len());
        self.record(tap, &offsets, &written)?;
        Ok(Some(answer))
    }

    /// What writing a value to these offsets of a tap comes to; `None`: its numbers are needed.
    fn replaced(
        &self,
        heap: &Heap,
        tap: usize,
        shape: &[usize],
        offsets: &[usize],
        value: &Value,
    ) -> Result<Option<Written>, Failed> {
        if matches!(value, Value::Int(0)) || matches!(value, Value::Float(x) if x.to_bits() == 0) {
            return Ok(Some(Written::Zero));
        }
        if let Value::Tensor(id) = value {
            let view = heap.view(*id)?;
            if let Some(unread) = self.unread.get(&view.storage).filter(|_| heap.is_unread(view.storage)) {
                return Ok(self.replaced_by_unread(heap, tap, shape, offsets, (view, *id), unread)?);
            }
        }
        Ok(Some(Written::Replace(constant(heap, value, shape, self.dtype)?)))
    }

    fn replaced_by_unread(
        &self,
        heap: &Heap,
        tap: usize,
        shape: &[usize],
        offsets: &[usize],
        (view, id): (&View, Id),
        unread: &Unread,
    ) -> Result<Option<Written>, Stop> {
        if without_ones(&view.shape) != without_ones(shape) {
            return Err(Stop::Unread(view.storage));
        }
        let (source, seen, from, then) = match unread {
            Unread::Tap(source) => (*source, self.seen(*source), heap.offsets(id)?, None),
            Unread::Late { tap: source, seen, view: base, then, .. } => {
                let all: Vec<usize> = base.places().collect();
                let from = view.places().map(|at| all[at]).collect();
                (
                    *source,
                    seen.clone(),
                    from,
                    then.as_ref().map(|then| (then, view.places().collect::<Vec<_>>())),
                )
            }
        };
        if source == tap {
            let now = seen == self.seen(tap) && from == offsets;
            return match then {
                None if now => Ok(Some(Written::Nothing)),
                Some((Then::Add(numbers), at)) if now => {
                    Ok(Some(Written::Add(at.into_iter().map(|at| numbers[at]).collect())))
                }
                Some((Then::Scale(factor), _)) if now => Ok(Some(Written::Scale(*factor))),
                _ => Err(Stop::Unread(view.storage)),
            };
        }
        let (from_tap, to) = (&self.taps[source], &self.taps[tap]);
        if then.is_some() || from_tap.place != to.place || from_tap.shown != Shown::Whole {
            return Err(Stop::Unread(view.storage));
        }
        let written = Written::ByRun { tap: source, seen, offsets: from };
        if self.by_run(tap, offsets, &written).is_none() {
            return Err(Stop::Unread(view.storage));
        }
        Ok(Some(written))
    }

    /// A new value of a module's input or output.
    pub fn replace(
        &mut self,
        heap: &mut Heap,
        server: &mut dyn super::Server,
        (trace, invoke): (usize, usize),
        path: &str,
        value: &Value,
    ) -> Result<(), Refusal> {
        let value = match value {
            Value::Tuple(members) | Value::List(members) => members.first().unwrap_or(&Value::None),
            value => value,
        };
        let Value::Tensor(id) = value else {
            let message = format!("`{path}` can be replaced by a tensor, not by a {}", value.type_name());
            return Err(Refusal::new("TypeError", message));
        };
        let found = self.find(path)?;
        let tap = self.reach(heap, trace, invoke, path, &found)?;
        self.check_writable(tap)?;
        let this = &self.taps[tap];
        let shape = vec![this.runs.len(), this.length, this.width];
        let view = heap.view(*id)?.clone();
        if view.shape != shape {
            let message = format!(
                "`{path}` has the shape {shape:?} and cannot be replaced by a tensor of {:?}",
                view.shape
            );
            return Err(Refusal::new("RuntimeError", message));
        }
        if view == View::whole(this.storage, shape.clone()) {
            return Ok(());
        }
        // The value is the model's from now on: what is written into it later reaches the model too. Only a tensor that waits for
        // its numbers can become the tap itself; another tap is read.
        let late = matches!(self.unread.get(&view.storage), Some(Unread::Late { .. }));
        if heap.is_unread(view.storage) && !(late && view == View::whole(view.storage, shape.clone())) {
            self.force(heap, server, view.storage)?;
        }
        let offsets: Vec<usize> = (0..shape.iter().product()).collect();
        let written = loop {
            if found.replaced_at.is_some() {
                // The norm's output is computed from the numbers.
                match constant(heap, value, &shape, self.dtype) {
                    Ok(numbers) => break Written::Replace(numbers),
                    Err(Stop::Unread(storage)) => self.force(heap, server, storage)?,
                    Err(stop) => return Err(crate::evaluator::refusal(stop)),
                }
                continue;
            }
            match self.replaced(heap, tap, &shape, &offsets, value) {
                Ok(Some(written)) => break written,
                Ok(None) => return Err(Refusal::new("RuntimeError", "BUG: a value without numbers")),
                Err(Failed::Stop(Stop::Unread(storage))) => self.force(heap, server, storage)?,
                Err(Failed::Stop(stop)) => return Err(crate::evaluator::refusal(stop)),
                Err(Failed::Refused(refusal)) => return Err(refusal),
            }
        };
        if let Some(site) = &found.replaced_at {
            let Written::Replace(numbers) = &written else { return Ok(()) };
            self.replace_input(server, tap, (found.layer, site), numbers.clone())?;
        }
        let flows = self.taps[tap].writable && found.replaced_at.is_none();
        // What the block already holds of it stays as it was.
        let before = self.seen(tap);
        let this = &mut self.taps[tap];
        let base = this.base;
        (this.open, this.seen, this.original) = (false, Some(before), None);
        let (runs, key, place) = (this.runs.clone(), this.key, this.place.clone());
        let (length, width, padding) = (this.length, this.width, this.padding.clone());
        heap.free(base);
        let alias =
            call(heap, "detach", std::slice::from_ref(value), &[]).map_err(crate::evaluator::refusal)?;
        let (base, original) = match (&written, alias) {
            (Written::Replace(numbers), Value::Tensor(alias)) if heap.dtype(alias)? == self.dtype => {
                (alias, Some(numbers.clone()))
            }
            (Written::Replace(numbers), alias) => {
                if let Value::Tensor(alias) = alias {
                    heap.free(alias);
                }
                (heap.put(Array::of_f32s(self.dtype, shape, numbers.clone()))?, Some(numbers.clone()))
            }
            (_, Value::Tensor(alias)) => (alias, None),
            _ => return Err(Refusal::new("RuntimeError", "BUG: no tensor")),
        };
        let storage = heap.view(base)?.storage;
        let new = self.taps.len();
        if original.is_none() {
            self.unread.insert(storage, Unread::Tap(new));
        }
        self.taps.push(Tap {
            trace,
            invoke,
            runs,
            length,
            width,
            key,
            place,
            shown: Shown::Whole,
            writable: flows,
            base,
            storage,
            open: true,
            seen: None,
            original,
            partly: false,
            padding,
        });
        let open = &mut self.traces[trace].invokes[invoke].open;
        open.retain(|&other| other != tap);
        open.push(new);
        if flows {
            self.record(new, &offsets, &written)?;
        }
        Ok(())
    }

    /// Refuses a write to what a block can only read.
    fn check_writable(&self, tap: usize) -> Result<(), Refusal> {
        let tap = &self.taps[tap];
        // nothing follows the logits, and nothing reads the pattern that transformers returns: the change stays with the block
        if tap.writable || ["logits", "pattern"].contains(&tap.place.site.as_str()) {
            return Ok(());
        }
        let message = if tap.shown == Shown::Activated {
            "what the activation function gives can be read, not changed: change `down_proj.input`, which is that times \
             `up_proj.output`"
                .to_owned()
        } else {
            format!("the values at `{}` can be read, not changed", tap.place.site)
        };
        Err(Refusal::new("NotServedError", message))
    }

    /// Puts a write at the end of its runs' lists.
    pub(super) fn record(&mut self, tap: usize, offsets: &[usize], written: &Written) -> Result<(), Refusal> {
        let this = &self.taps[tap];
        let (key, place, runs, width) = (this.key, this.place.clone(), this.runs.clone(), this.width);
        let invokes = self.traces[this.trace].invokes.iter().enumerate();
        let mut others = invokes.filter(|(invoke, other)| {
            *invoke != this.invoke && other.runs.start < runs.end && runs.start < other.runs.end
        });
        let passed = others.any(|(_, other)| other.at.is_some_and(|at| at > key));
        if passed && !matches!(written, Written::Nothing) {
            let message = "an invoke changed what an invoke before it had already run past; write the invoke that changes it first";
            return Err(Refusal::new("OutOfOrderError", message));
        }
        let planned = |positions: Vec<u32>, columns: &Range<u32>, op: Change| Planned {
            key,
            place: place.clone(),
            positions,
            columns: (*columns != (0..width as u32)).then(|| columns.clone()),
            op,
        };
        self.write_padding(tap, offsets, written);
        let mut made: Vec<(usize, Planned)> = Vec::new();
        if let Written::ByRun { .. } = written {
            for taken in self.by_run(tap, offsets, written).unwrap_or_default() {
                made.push((taken.run, planned(taken.positions, &taken.columns, taken.from)));
            }
        } else {
            for patch in self.groups(tap, offsets) {
                let pick = |from: &[f32]| patch.numbers.iter().map(|&at| from[at]).collect();
                let op = match written {
                    Written::Replace(from) => Change::Replace(pick(from)),
                    Written::Add(from) => Change::Add(pick(from)),
                    Written::Scale(factor) => Change::Scale(*factor),
                    Written::Zero => Change::Zero,
                    Written::ByRun { .. } | Written::Nothing => continue,
                };
                made.push((patch.run, planned(patch.positions, &patch.columns, op)));
            }
        }
        for (run, write) in made {
            self.hold(write.op.len())?;
            self.runs[run].writes.push(write);
        }
        Ok(())
    }

    /// The same write where a shorter prompt has no token: it stays with the tap.
    fn write_padding(&mut self, tap: usize, offsets: &[usize], written: &Written) {
        let this = &self.taps[tap];
        let (width, dtype) = (this.width, self.dtype);
        let padded = |offset: usize| self.position(this, offset / width).is_none();
        if this.runs.clone().all(|run| self.runs[run].tokens.len() == this.length) {
            return;
        }
        let cells: Vec<(usize, usize)> =
            offsets.iter().copied().enumerate().filter(|&(_, offset)| padded(offset)).collect();
        for (i, offset) in cells {
            let row = self.taps[tap].padding.entry(offset / width).or_insert_with(|| vec![0.0; width]);
            let cell = &mut row[offset % width];
            match written {
                Written::Replace(numbers) => *cell = numbers[i],
                Written::Add(numbers) => *cell = dtype.round(*cell + numbers[i]),
                Written::Scale(factor) => *cell = dtype.round(*cell * factor),
                Written::Zero => *cell = 0.0,
                // such a write is recognised only where there is no padding
                Written::ByRun { .. } | Written::Nothing => {}
            }
        }
    }

    /// Written cells as rectangles.
    fn groups(&self, tap: usize, offsets: &[usize]) -> Vec<Patch> {
        let tap = &self.taps[tap];
        let mut patches: Vec<Patch> = Vec::new();
        for (row, cells) in rows(offsets, tap.width) {
            let Some((run, position)) = self.position(tap, row) else { continue };
            let mut first = 0;
            for columns in cells.ranges {
                let numbers = &cells.numbers[first..first + columns.len()];
                first += columns.len();
                let same =
                    patches.iter_mut().rev().find(|patch| patch.run == run && patch.columns == columns);
                if let Some(patch) = same {
                    patch.positions.push(position);
                    patch.numbers.extend_from_slice(numbers);
                } else {
                    patches.push(Patch {
                        run,
                        positions: vec![position],
                        columns,
                        numbers: numbers.to_vec(),
                    });
                }
            }
        }
        patches
    }

    /// The run and the position in its tokens that a row of a tap shows; none: padding.
    pub(super) fn position(&self, tap: &Tap, row: usize) -> Option<(usize, u32)> {
        let run = tap.runs.start + row / tap.length;
        let padding = tap.length - self.runs[run].tokens.len();
        (row % tap.length).checked_sub(padding).map(|position| (run, position as u32))
    }

    /// A write of what other runs have at the same place, by run; `None`: it is not that simple.
    fn by_run(&self, tap: usize, offsets: &[usize], written: &Written) -> Option<Vec<Taken>> {
        let Written::ByRun { tap: source, seen, offsets: from } = written else { return None };
        let target = &self.taps[tap];
        if offsets.iter().any(|offset| self.position(target, offset / target.width).is_none()) {
            return None;
        }
        let source = &self.taps[*source];
        let width = source.width;
        let mut made: Vec<Taken> = Vec::new();
        for Patch { run, positions, columns, numbers } in self.groups(tap, offsets) {
            for (position, cells) in positions.into_iter().zip(numbers.chunks(columns.len())) {
                let row = from[cells[0]] / width;
                let mut both = cells.iter().zip(columns.clone());
                let straight = both.all(|(&at, column)| from[at] == row * width + column as usize);
                let (other, place) = self.position(source, row).filter(|_| straight)?;
                if self.depends(other, run) {
                    return None;
                }
                let same = made.iter_mut().find(|taken| {
                    let of = matches!(&taken.from, Change::ByRun { run, .. } if *run == other);
                    of && taken.run == run && taken.columns == columns
                });
                if let Some(Taken { positions, from: Change::ByRun { positions: places, .. }, .. }) = same {
                    positions.push(position);
                    places.push(place);
                } else {
                    let seen = seen[other - source.runs.start];
                    let from = Change::ByRun { run: other, seen, positions: vec![place] };
                    made.push(Taken { run, positions: vec![position], columns: columns.clone(), from });
                }
            }
        }
        Some(made)
    }

    /// Whether what a run computes may depend on another run.
    fn depends(&self, run: usize, on: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut todo = vec![run];
        while let Some(run) = todo.pop() {
            if run == on {
                return true;
            }
            if seen.insert(run) {
                todo.extend(self.runs[run].writes.iter().filter_map(|write| match &write.op {
                    Change::ByRun { run, .. } => Some(*run),
                    _ => None,
                }));
            }
        }
        false
    }

    /// An operation whose result need not be known yet: a copy, a sum with a constant, a product with a number.
    pub(super) fn defer(
        &mut self,
        heap: &mut Heap,
        name: &str,
        args: &[Value],
        kwargs: &[(String, Value)],
    ) -> Result<Option<Value>, Refusal> {
        let dtype = self.dtype;
        if !kwargs.is_empty() {
            return Ok(None);
        }
        let unread = |heap: &Heap, value: &Value| match value {
            Value::Tensor(id) => heap.view(*id).ok().cloned().filter(|view| heap.is_unread(view.storage)),
            _ => None,
        };
        let (view, other) = match (name, args) {
            ("clone" | "contiguous", [x]) => (unread(heap, x), None),
            ("add" | "mul", [x, y]) => match (unread(heap, x), unread(heap, y)) {
                (Some(view), None) => (Some(view), Some(y)),
                (None, Some(view)) => (Some(view), Some(x)),
                _ => return Ok(None),
            },
            ("sub", [x, y]) if unread(heap, y).is_none() => (unread(heap, x), Some(y)),
            _ => return Ok(None),
        };
        let Some(view) = view else { return Ok(None) };
        let then = match other {
            None => None,
            Some(value) if name == "mul" => match number(value, dtype) {
                Some(factor) => Some(Then::Scale(factor)),
                None => return Ok(None),
            },
            Some(value) => {
                if !fits(heap, value, &view.shape, dtype)? {
                    return Ok(None);
                }
                let mut numbers =
                    constant(heap, value, &view.shape, dtype).map_err(crate::evaluator::refusal)?;
                if name == "sub" {
                    negate(&mut numbers);
                }
                Some(Then::Add(numbers))
            }
        };
        let late = match self.unread.get(&view.storage) {
            Some(Unread::Tap(tap)) => {
                let padding = self.taps[*tap].padding.clone();
                Unread::Late { tap: *tap, seen: self.seen(*tap), padding, view: view.clone(), then }
            }
            Some(Unread::Late { tap, seen, padding, view: base, then: None })
                if view == View::whole(view.storage, base.shape.clone()) =>
            {
                Unread::Late {
                    tap: *tap,
                    seen: seen.clone(),
                    padding: padding.clone(),
                    view: base.clone(),
                    then,
                }
            }
            _ => return Ok(None),
        };
        if let Unread::Late { then: Some(Then::Add(numbers)), .. } = &late {
            self.forget(heap);
            self.hold(numbers.len())?;
        }
        let id = heap.unread(view.shape, dtype)?;
        self.unread.insert(heap.view(id)?.storage, late);
        Ok(Some(Value::Tensor(id)))
    }
}

/// Whether a sum with this constant has the shape and the dtype of the tap, to the bit as the engine would add it.
fn fits(heap: &Heap, value: &Value, shape: &[usize], dtype: Dtype) -> Result<bool, Refusal> {
    match value {
        Value::Int(_) | Value::Float(_) => Ok(dtype == Dtype::Float32),
        Value::Tensor(id) => {
            let view = heap.view(*id)?;
            let other = heap.dtype(*id)?;
            let weight = if view.shape.is_empty() { Weight::Zero } else { Weight::Tensor };
            let exact = other == dtype || dtype == Dtype::Float32;
            let result = result_type([(dtype, Weight::Tensor), (other, weight)]);
            let spread = broadcast([shape, &view.shape]).is_ok_and(|spread| spread == shape);
            Ok(exact && result == dtype && spread && !shape.is_empty() && !heap.is_unread(view.storage))
        }
        _ => Ok(false),
    }
}

/// A factor that the engine can multiply by, to the bit as torch would.
fn number(value: &Value, dtype: Dtype) -> Option<f32> {
    let factor = match value {
        Value::Int(x) => *x as f32,
        Value::Float(x) => *x as f32,
        _ => return None,
    };
    (dtype == Dtype::Float32 && factor.is_finite()).then_some(factor)
}

fn negate(numbers: &mut [f32]) {
    for x in numbers {
        *x = -*x;
    }
}

fn without_ones(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

/// Offsets by row, the last write of a cell winning; rows in their order.
fn rows(offsets: &[usize], width: usize) -> BTreeMap<usize, Row> {
    let mut stretches: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
    let mut at = 0;
    while at < offsets.len() {
        let row = offsets[at] / width * width..(offsets[at] / width + 1) * width;
        let end = offsets[at..].iter().position(|offset| !row.contains(offset));
        let end = end.map_or(offsets.len(), |n| at + n);
        stretches.entry(row.start / width).or_default().push(at..end);
        at = end;
    }
    let ranges = |mut cells: Vec<(u32, usize)>| {
        cells.sort_by_key(|&(column, _)| column);
        let mut row = Row { ranges: Vec::new(), numbers: Vec::with_capacity(cells.len()) };
        for (column, number) in cells {
            match row.ranges.last_mut() {
                Some(range) if range.end == column => range.end += 1,
                Some(range) if range.end == column + 1 => {
                    row.numbers.pop();
                }
                _ => row.ranges.push(column..column + 1),
            }
            row.numbers.push(number);
        }
        row
    };
    let of_row = |stretches: Vec<Range<usize>>| match stretches.as_slice() {
        // Columns that follow one another, as most slices have them.
        [one] if offsets[one.clone()].windows(2).all(|two| two[0] + 1 == two[1]) => {
            let first = (offsets[one.start] % width) as u32;
            let columns = first..first + one.len() as u32;
            Row { ranges: std::iter::once(columns).collect(), numbers: one.clone().collect() }
        }
        _ => ranges(stretches.into_iter().flatten().map(|i| ((offsets[i] % width) as u32, i)).collect()),
    };
    stretches.into_iter().map(|(row, stretches)| (row, of_row(stretches))).collect()
}
