//! Operations on the order of numbers along a dimension: sorting, the largest, running sums.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::Dtype;
use super::super::heap::Heap;
use super::super::value::{Stop, Value, index_error, runtime};
use super::reduce::row;
use super::{Op, as_rows, both, from_rows, op};
use std::cmp::Ordering;

pub(super) static OPS: &[Op] = &[
    op("max", "input dim keepdim", |heap, args| extreme(heap, args, "maximum", Ordering::Greater)),
    op("min", "input dim keepdim", |heap, args| extreme(heap, args, "minimum", Ordering::Less)),
    op("argmax", "input dim keepdim", |heap, args| arg(heap, args, Ordering::Greater)),
    op("argmin", "input dim keepdim", |heap, args| arg(heap, args, Ordering::Less)),
    op("sort", "input dim descending stable", |heap, args| {
        let (values, indices) = sorted(heap, args)?;
        named(heap, "torch.return_types.sort", values, indices)
    }),
    op("argsort", "input dim descending stable", |heap, args| {
        let (_, indices) = sorted(heap, args)?;
        heap.give(indices)
    }),
    op("msort", "input", |heap, args| {
        let input = args.array(heap, "input")?;
        let (values, _) = sort_along(heap, input, 0, false)?;
        heap.give(values)
    }),
    op("topk", "input k dim largest sorted", topk),
    op("kthvalue", "input k dim keepdim", kthvalue),
    op("median", "input dim keepdim", median),
    both("cumsum", "input dim dtype", |heap, args| running(heap, args, i64::wrapping_add, |sum, x| sum + x)),
    both("cumprod", "input dim dtype", |heap, args| running(heap, args, i64::wrapping_mul, |all, x| all * x)),
    op("cummax", "input dim", |heap, args| {
        running_extreme(heap, args, "torch.return_types.cummax", Ordering::Greater)
    }),
    op("cummin", "input dim", |heap, args| {
        running_extreme(heap, args, "torch.return_types.cummin", Ordering::Less)
    }),
];

/// NaN counts as the largest.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn named(heap: &mut Heap, kind: &'static str, values: Array, indices: Array) -> Result<Value, Stop> {
    heap.check_room(Dtype::Int64, indices.len().saturating_mul(2))?;
    Ok(Value::Named(kind, vec![("values", heap.give(values)?), ("indices", heap.give(indices)?)]))
}

/// Place of the first number of a row that goes before all others.
fn first(array: &Array, at: usize, n: usize, order: Ordering) -> usize {
    let mut best = at * n;
    for place in at * n + 1..(at + 1) * n {
        let (a, b) = (array.get(place), array.get(best));
        let before =
            if a.is_nan() || b.is_nan() { a.is_nan() && !b.is_nan() } else { compare(a, b) == order };
        if before {
            best = place;
        }
    }
    best - at * n
}

/// Nothing is the largest of nothing.
fn empty(name: &str) -> Stop {
    let message = format!("{name}(): Expected reduction dim to be specified for input.numel() == 0.");
    if name.starts_with("arg") {
        return index_error(message).into();
    }
    runtime(message + " Specify the reduction dim with the 'dim' argument.").into()
}

/// The shape without a dimension, or with one place in it.
fn reduced(shape: &[usize], dim: usize, keep: bool) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if keep && dim < shape.len() {
        shape[dim] = 1;
    } else if dim < shape.len() {
        shape.remove(dim);
    }
    shape
}

/// A row for each place outside of a dimension; a tensor without dimensions is one row of one.
fn along(array: Array, dim: usize) -> (Array, Vec<usize>, usize) {
    if array.shape.is_empty() { as_rows(array, &[]) } else { as_rows(array, &[dim]) }
}

/// The first in order of each row along a dimension: numbers and places.
fn firsts(array: Array, dim: usize, keep: bool, order: Ordering, name: &str) -> Result<(Array, Array), Stop> {
    let shape = reduced(&array.shape, dim, keep);
    let (array, _, n) = along(array, dim);
    let rows: usize = shape.iter().product();
    if n == 0 && rows > 0 {
        return Err(
            index_error(format!("{name}(): Expected reduction dim {dim} to have non-zero size.")).into()
        );
    }
    let places: Vec<usize> = (0..rows).map(|at| first(&array, at, n, order)).collect();
    let values = array.gather(shape.clone(), places.iter().enumerate().map(|(at, place)| at * n + place));
    let indices = Array::of_i64s(Dtype::Int64, shape, places.into_iter().map(|place| place as i64).collect());
    Ok((values, indices))
}

fn extreme(heap: &mut Heap, args: &Args<'_>, pointwise: &str, order: Ordering) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    if let Some(Value::Tensor(other)) = args.get("dim") {
        return super::call(heap, pointwise, &[Value::Tensor(id), Value::Tensor(*other)], &[]);
    }
    let input = heap.array(id)?;
    if args.get("dim").is_none() {
        if input.is_empty() {
            return Err(empty(args.name));
        }
        let n = input.len();
        let place = first(&input, 0, n, order);
        let array = input.gather(vec![], std::iter::once(place));
        return heap.give(array);
    }
    let dim = args.dim(heap, "dim", input.shape.len())?;
    let (values, indices) = firsts(input, dim, args.flag("keepdim", false)?, order, args.name)?;
    let kind = if args.name == "max" { "torch.return_types.max" } else { "torch.return_types.min" };
    named(heap, kind, values, indices)
}

fn arg(heap: &mut Heap, args: &Args<'_>, order: Ordering) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let keep = args.flag("keepdim", false)?;
    let indices = if args.get("dim").is_none() {
        if input.is_empty() {
            return Err(empty(args.name));
        }
        let shape = if keep { vec![1; input.shape.len()] } else { vec![] };
        Array::of_i64s(Dtype::Int64, shape, vec![first(&input, 0, input.len(), order) as i64])
    } else {
        let dim = args.dim(heap, "dim", input.shape.len())?;
        firsts(input, dim, keep, order, args.name)?.1
    };
    heap.give(indices)
}

fn sorted(heap: &Heap, args: &Args<'_>) -> Result<(Array, Array), Stop> {
    let input = args.array(heap, "input")?;
    let dim = super::super::view::dim(args.int_or(heap, "dim", -1)?, input.shape.len())?;
    sort_along(heap, input, dim, args.flag("descending", false)?)
}

/// Sorted numbers along a dimension and where they stood; equal ones keep their order.
fn sort_along(heap: &Heap, array: Array, dim: usize, descending: bool) -> Result<(Array, Array), Stop> {
    heap.check_room(Dtype::Int64, array.len().saturating_mul(3))?;
    let shape = array.shape.clone();
    let (array, sizes, n) = along(array, dim);
    let mut places: Vec<usize> = Vec::with_capacity(array.len());
    for at in 0..array.len().checked_div(n).unwrap_or(0) {
        let numbers: Vec<f64> = row(&array, at, n).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| {
            let order = compare(numbers[a], numbers[b]);
            if descending { order.reverse() } else { order }
        });
        places.extend(order);
    }
    let indices: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    let values =
        array.gather(array.shape.clone(), places.iter().enumerate().map(|(at, place)| at / n * n + place));
    let indices = Array::of_i64s(Dtype::Int64, array.shape, indices);
    if shape.is_empty() {
        return Ok((values.shaped(vec![]), indices.shaped(vec![])));
    }
    Ok((from_rows(values, &sizes, dim, n), from_rows(indices, &sizes, dim, n)))
}

fn topk(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let dim = super::super::view::dim(args.int_or(heap, "dim", -1)?, input.shape.len())?;
    let k = args.int(heap, "k")?;
    let n = input.shape.get(dim).copied().unwrap_or(1);
    if k < 0 || k as usize > n {
        return Err(runtime("selected index k out of range").into());
    }
    let k = k as usize;
    let largest = args.flag("largest", true)?;
    let zero = input.shape.is_empty();
    let (array, sizes, n) = along(input, dim);
    let mut places: Vec<usize> = Vec::new();
    for at in 0..array.len().checked_div(n).unwrap_or(0) {
        let numbers: Vec<f64> = row(&array, at, n).collect();
        let order = |&a: &usize, &b: &usize| {
            let order = compare(numbers[a], numbers[b]);
            (if largest { order.reverse() } else { order }).then(a.cmp(&b))
        };
        let mut best: Vec<usize> = (0..n).collect();
        if k > 0 && k < n {
            best.select_nth_unstable_by(k - 1, order);
        }
        best.truncate(k);
        best.sort_unstable_by(order);
        places.extend(best);
    }
    let shape = vec![places.len()];
    let values = array.gather(shape.clone(), places.iter().enumerate().map(|(at, place)| at / k * n + place));
    let indices = Array::of_i64s(Dtype::Int64, shape, places.into_iter().map(|place| place as i64).collect());
    if zero {
        let shape = if k == 1 { vec![] } else { vec![0] };
        return named(heap, "torch.return_types.topk", values.shaped(shape.clone()), indices.shaped(shape));
    }
    let (values, indices) = (from_rows(values, &sizes, dim, k), from_rows(indices, &sizes, dim, k));
    named(heap, "torch.return_types.topk", values, indices)
}

/// The number at a place of each sorted row.
fn pick(
    heap: &Heap,
    array: Array,
    dim: usize,
    keep: bool,
    place: impl Fn(&[f64]) -> usize,
) -> Result<(Array, Array), Stop> {
    let shape = reduced(&array.shape, dim, keep);
    let (values, indices) = sort_along(heap, array, dim, false)?;
    let ((values, _, n), (indices, ..)) = (along(values, dim), along(indices, dim));
    let rows: usize = shape.iter().product();
    let places: Vec<usize> =
        (0..rows).map(|at| at * n + place(&row(&values, at, n).collect::<Vec<f64>>())).collect();
    Ok((values.gather(shape.clone(), places.iter().copied()), indices.gather(shape, places.iter().copied())))
}

fn kthvalue(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let dim = super::super::view::dim(args.int_or(heap, "dim", -1)?, input.shape.len())?;
    let k = args.int(heap, "k")?;
    if k < 1 || k as usize > input.shape.get(dim).copied().unwrap_or(1) {
        return Err(runtime("kthvalue(): selected number k out of range for dimension").into());
    }
    let (values, indices) = pick(heap, input, dim, args.flag("keepdim", false)?, |_| k as usize - 1)?;
    named(heap, "torch.return_types.kthvalue", values, indices)
}

/// The lower of the two in the middle; NaN if there is one.
fn middle(sorted: &[f64]) -> usize {
    match sorted.last() {
        Some(last) if last.is_nan() => sorted.partition_point(|x| !x.is_nan()),
        _ => sorted.len().saturating_sub(1) / 2,
    }
}

fn median(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    if input.is_empty() {
        return Err(empty("median"));
    }
    if args.get("dim").is_none() {
        let n = input.len();
        let (values, _) = pick(heap, input.shaped(vec![n]), 0, false, middle)?;
        return heap.give(values);
    }
    let dim = args.dim(heap, "dim", input.shape.len())?;
    let (values, indices) = pick(heap, input, dim, args.flag("keepdim", false)?, middle)?;
    named(heap, "torch.return_types.median", values, indices)
}

fn running(
    heap: &mut Heap,
    args: &Args<'_>,
    ints: fn(i64, i64) -> i64,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let dim = args.dim(heap, "dim", input.shape.len())?;
    let dtype =
        args.dtype("dtype")?.unwrap_or(if input.dtype.is_float() { input.dtype } else { Dtype::Int64 });
    let input = input.cast(dtype);
    let shape = input.shape.clone();
    let (array, sizes, n) = along(input, dim);
    let result = if dtype.is_float() {
        let mut numbers = array.to_f64s();
        for row in numbers.chunks_mut(n.max(1)) {
            for at in 1..row.len() {
                row[at] = floats(row[at - 1], row[at]);
            }
        }
        Array::of_f64s(dtype, array.shape, numbers)
    } else {
        let mut numbers = array.to_i64s();
        for row in numbers.chunks_mut(n.max(1)) {
            for at in 1..row.len() {
                row[at] = ints(row[at - 1], row[at]);
            }
        }
        Array::of_i64s(dtype, array.shape, numbers)
    };
    let result = if shape.is_empty() { result.shaped(shape) } else { from_rows(result, &sizes, dim, n) };
    heap.give(result)
}

fn running_extreme(
    heap: &mut Heap,
    args: &Args<'_>,
    kind: &'static str,
    order: Ordering,
) -> Result<Value, Stop> {
    let input = args.array(heap, "input")?;
    let dim = args.dim(heap, "dim", input.shape.len())?;
    let shape = input.shape.clone();
    let (array, sizes, n) = along(input, dim);
    let mut places: Vec<usize> = (0..array.len()).collect();
    for start in (0..array.len()).step_by(n.max(1)) {
        for at in start + 1..start + n {
            let (now, best) = (array.get(at), array.get(places[at - 1]));
            // the last of equal ones; NaN stays
            let stays = if best.is_nan() {
                !now.is_nan()
            } else {
                !now.is_nan() && compare(now, best) == order.reverse()
            };
            if stays {
                places[at] = places[at - 1];
            }
        }
    }
    let values = array.gather(array.shape.clone(), places.iter().copied());
    let indices = places.into_iter().map(|place| (place % n.max(1)) as i64).collect();
    let indices = Array::of_i64s(Dtype::Int64, array.shape, indices);
    if shape.is_empty() {
        return named(heap, kind, values.shaped(shape.clone()), indices.shaped(shape));
    }
    named(heap, kind, from_rows(values, &sizes, dim, n), from_rows(indices, &sizes, dim, n))
}
