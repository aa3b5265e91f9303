//! Operations that move, repeat, mask and count the entries of one tensor.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::Dtype;
use super::super::heap::Heap;
use super::super::value::{Stop, Value, runtime};
use super::super::view::{count, dim};
use super::pick::whole;
use super::{Op, both, build, op};

pub(super) static OPS: &[Op] = &[
    op("flip", "input *dims", |heap, args| {
        let input = args.array(heap, "input")?;
        let mut dims = Vec::new();
        for place in args.ints(heap, "dims")? {
            dims.push(dim(place, input.shape.len())?);
        }
        moved(heap, &input, |at, place, n| if dims.contains(&at) { n - 1 - place } else { place })
    }),
    op("roll", "input shifts dims", roll),
    op("repeat", "input *repeats", |heap, args| {
        let repeats = args.shape(heap, "repeats")?;
        let input = args.array(heap, "input")?;
        if repeats.len() < input.shape.len() {
            return Err(runtime(
                "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor",
            )
            .into());
        }
        tiled(heap, &input, &repeats)
    }),
    op("tile", "input *dims", |heap, args| {
        let mut repeats = args.shape(heap, "dims")?;
        let input = args.array(heap, "input")?;
        while repeats.len() < input.shape.len() {
            repeats.insert(0, 1);
        }
        tiled(heap, &input, &repeats)
    }),
    op("repeat_interleave", "input repeats dim", repeat_interleave),
    both("tril", "input diagonal", |heap, args| {
        triangle(heap, args, |row, column, diagonal| column <= row + diagonal)
    }),
    both("triu", "input diagonal", |heap, args| {
        triangle(heap, args, |row, column, diagonal| column >= row + diagonal)
    }),
    op("diag", "input diagonal", diag),
    op("unique", "input sorted return_inverse return_counts", unique),
    op("bincount", "input weights minlength", |heap, args| {
        let input = whole(args.array(heap, "input")?)?.to_i64s();
        if input.iter().any(|&place| place < 0) {
            return Err(runtime("bincount only supports 1-d non-negative integral inputs.").into());
        }
        let n = input
            .iter()
            .max()
            .map_or(0, |&largest| largest as usize + 1)
            .max(args.int_or(heap, "minlength", 0)?.max(0) as usize);
        heap.check_room(Dtype::Int64, n)?;
        let mut counts = vec![0; n];
        for place in input {
            counts[place as usize] += 1;
        }
        heap.give(Array::of_i64s(Dtype::Int64, vec![n], counts))
    }),
];

/// An array of the same shape whose numbers come from other places: `from(dim, place, n)`.
fn moved(heap: &mut Heap, input: &Array, from: impl Fn(usize, usize, usize) -> usize) -> Result<Value, Stop> {
    let strides = super::super::view::row_major(&input.shape);
    let places = (0..input.len()).map(|number| {
        (0..input.shape.len())
            .map(|at| {
                let n = input.shape[at];
                from(at, number / strides[at] % n, n) * strides[at]
            })
            .sum()
    });
    let array = input.gather(input.shape.clone(), places);
    heap.give(array)
}

fn roll(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let shifts = match args.need("shifts")? {
        Value::Int(shift) => vec![*shift],
        _ => args.ints(heap, "shifts")?,
    };
    let back = |place: usize, shift: i64, n: usize| (place as i64 - shift).rem_euclid(n as i64) as usize;
    let Some(dims) = args.dims(heap, "dims", input.shape.len())? else {
        let [shift] = shifts[..] else {
            return Err(runtime(format!(
                "shifts and dimensions must align. shifts: {}, dims:0",
                shifts.len()
            ))
            .into());
        };
        let (shape, n) = (input.shape.clone(), input.len());
        let shift = if n == 0 { 0 } else { shift % n as i64 };
        let array = input.gather(shape, (0..n).map(|place| back(place, shift, n)));
        return heap.give(array);
    };
    if dims.len() != shifts.len() {
        return Err(runtime(format!(
            "shifts and dimensions must align. shifts: {}, dims:{}",
            shifts.len(),
            dims.len()
        ))
        .into());
    }
    moved(heap, &input, |at, place, n| {
        let shift =
            dims.iter().zip(&shifts).find(|(dim, _)| **dim == at).map_or(0, |(_, shift)| shift % n as i64);
        back(place, shift, n)
    })
}

fn tiled(heap: &mut Heap, input: &Array, repeats: &[usize]) -> Result<Value, Stop> {
    let mut own = vec![1; repeats.len() - input.shape.len()];
    own.extend(&input.shape);
    let shape = own.iter().zip(repeats).map(|(&n, &times)| n.saturating_mul(times)).collect::<Vec<usize>>();
    let len = count(&shape)?;
    heap.check_room(input.dtype, len)?;
    let (strides, from) = (super::super::view::row_major(&shape), super::super::view::row_major(&own));
    let places = (0..len)
        .map(|number| (0..shape.len()).map(|at| number / strides[at] % shape[at] % own[at] * from[at]).sum());
    let array = input.gather(shape.clone(), places);
    heap.give(array)
}

fn repeat_interleave(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let mut input = args.array(heap, "input")?;
    let at = match args.optional_dim(heap, "dim", input.shape.len())? {
        Some(at) if !input.shape.is_empty() => at,
        _ => {
            let n = input.len();
            input = input.shaped(vec![n]);
            0
        }
    };
    let n = input.shape[at];
    let repeats = match args.need("repeats")? {
        Value::Tensor(id) => heap.array(*id)?.to_i64s(),
        _ => vec![args.int(heap, "repeats")?],
    };
    let repeats = if repeats.len() == 1 { vec![repeats[0]; n] } else { repeats };
    if repeats.len() != n {
        return Err(runtime("repeats must have the same size as input along dim").into());
    }
    if repeats.iter().any(|&times| times < 0) {
        return Err(runtime("repeats can not be negative").into());
    }
    let total = repeats.iter().fold(0_usize, |all, &times| all.saturating_add(times as usize));
    let mut shape = input.shape.clone();
    shape[at] = total;
    heap.check_room(Dtype::Int64, count(&shape)?.saturating_mul(2))?;
    let from: Vec<usize> =
        (0..n).flat_map(|place| std::iter::repeat_n(place, repeats[place] as usize)).collect();
    let inner: usize = shape[at + 1..].iter().product();
    let len: usize = shape.iter().product();
    let places = (0..len).map(|number| {
        let (row, end) = (number / inner, number % inner);
        (row / total * n + from[row % total]) * inner + end
    });
    let array = input.gather(shape.clone(), places);
    heap.give(array)
}

fn triangle(heap: &mut Heap, args: &Args<'_>, keep: fn(i64, i64, i64) -> bool) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let diagonal = args.int_or(heap, "diagonal", 0)?.clamp(-(1 << 40), 1 << 40);
    let [.., rows, columns] = input.shape[..] else {
        return Err(runtime(format!("{}: input tensor must have at least 2 dimensions", args.name)).into());
    };
    let array = build(input.dtype, input.shape.clone(), input.len(), |at| {
        let (row, column) = (at / columns % rows, at % columns);
        if keep(row as i64, column as i64, diagonal) { input.get(at) } else { 0.0 }
    });
    heap.give(array)
}

fn diag(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let offset = args.int_or(heap, "diagonal", 0)?;
    let dims = heap.view(id)?.shape.len();
    if dims == 2 {
        let shown = super::call(heap, "diagonal", &[Value::Tensor(id), Value::Int(offset)], &[])?;
        let copy = super::call(heap, "clone", std::slice::from_ref(&shown), &[]);
        if let Value::Tensor(shown) = shown {
            heap.free(shown);
        }
        return copy;
    }
    if dims != 1 {
        return Err(runtime(format!("diag(): Supports 1D or 2D tensors. Got {dims}D")).into());
    }
    let input = heap.array(id)?;
    let away = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
    let n = input.len().saturating_add(away);
    heap.check_room(input.dtype, count(&[n, n])?)?;
    let array = build(input.dtype, vec![n, n], n * n, |at| {
        let (row, column) = (at / n, at % n);
        let (place, other) = if offset >= 0 { (row, column) } else { (column, row) };
        if other == place + away { input.get(place) } else { 0.0 }
    });
    heap.give(array)
}

fn unique(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    heap.check_room(Dtype::Int64, input.len().saturating_mul(3))?;
    let mut order: Vec<usize> = (0..input.len()).collect();
    order.sort_by(|&a, &b| input.get(a).total_cmp(&input.get(b)));
    let mut firsts: Vec<usize> = Vec::new();
    let (mut inverse, mut counts) = (vec![0; input.len()], Vec::new());
    for place in order {
        if firsts.last().is_none_or(|&first| input.get(first) != input.get(place)) {
            firsts.push(place);
            counts.push(0);
        }
        inverse[place] = firsts.len() as i64 - 1;
        if let Some(count) = counts.last_mut() {
            *count += 1;
        }
    }
    let values = input.gather(vec![firsts.len()], firsts.into_iter());
    let mut out = vec![heap.give(values)?];
    if args.flag("return_inverse", false)? {
        out.push(heap.give(Array::of_i64s(Dtype::Int64, input.shape, inverse))?);
    }
    if args.flag("return_counts", false)? {
        out.push(heap.give(Array::of_i64s(Dtype::Int64, vec![counts.len()], counts))?);
    }
    match <[Value; 1]>::try_from(out) {
        Ok([only]) => Ok(only),
        Err(out) => Ok(Value::Tuple(out)),
    }
}
