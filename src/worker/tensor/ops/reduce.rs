//! Operations that make one number of many.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::Dtype;
use super::super::heap::Heap;
use super::super::value::{Stop, Value, index_error, not_implemented, runtime};
use super::{Op, as_rows, op};

pub(super) static OPS: &[Op] = &[
    op("sum", "input dim keepdim dtype", |heap, args| {
        let dtype = args.dtype("dtype")?;
        let input = array(heap, args, dtype)?;
        let out = dtype.unwrap_or(if input.dtype.is_float() { input.dtype } else { Dtype::Int64 });
        if input.dtype.is_float() {
            reduce(heap, args, input, out, total)
        } else {
            whole_sum(heap, args, input, out)
        }
    }),
    op("nansum", "input dim keepdim dtype", |heap, args| {
        let input = array(heap, args, args.dtype("dtype")?)?;
        let out = input.dtype;
        reduce(heap, args, input, out, |row| row.filter(|x| !x.is_nan()).sum())
    }),
    op("mean", "input dim keepdim dtype", |heap, args| {
        let input = array(heap, args, args.dtype("dtype")?)?;
        let dtype = need_float("mean", &input)?;
        reduce(heap, args, input, dtype, |row| {
            let n = row.len() as f64;
            total(row) / n
        })
    }),
    op("nanmean", "input dim keepdim dtype", |heap, args| {
        let input = array(heap, args, args.dtype("dtype")?)?;
        let dtype = need_float("nanmean", &input)?;
        reduce(heap, args, input, dtype, |row| {
            let mut n = 0.0;
            let sum: f64 = row.filter(|x| !x.is_nan()).inspect(|_| n += 1.0).sum();
            sum / n
        })
    }),
    op("var", "input dim keepdim correction unbiased", |heap, args| spread(heap, args, |var| var)),
    op("std", "input dim keepdim correction unbiased", |heap, args| spread(heap, args, f64::sqrt)),
    op("var_mean", "input dim keepdim correction unbiased", |heap, args| with_mean(heap, args, |var| var)),
    op("std_mean", "input dim keepdim correction unbiased", |heap, args| with_mean(heap, args, f64::sqrt)),
    op("norm", "input p dim keepdim dtype ord", norm),
    op("amax", "input dim keepdim", |heap, args| {
        let input = need_some(heap, args, array(heap, args, None)?)?;
        let dtype = input.dtype;
        reduce(heap, args, input, dtype, |row| row.reduce(largest).unwrap_or(f64::NAN))
    }),
    op("amin", "input dim keepdim", |heap, args| {
        let input = need_some(heap, args, array(heap, args, None)?)?;
        let dtype = input.dtype;
        reduce(heap, args, input, dtype, |row| row.reduce(smallest).unwrap_or(f64::NAN))
    }),
    op("prod", "input dim keepdim dtype", |heap, args| {
        let dtype = args.dtype("dtype")?;
        let input = array(heap, args, dtype)?;
        let out = dtype.unwrap_or(if input.dtype.is_float() { input.dtype } else { Dtype::Int64 });
        reduce(heap, args, input, out, |row| row.product())
    }),
    op("all", "input dim keepdim", |heap, args| {
        let input = array(heap, args, None)?;
        reduce(heap, args, input, Dtype::Bool, |mut row| f64::from(u8::from(row.all(|x| x != 0.0))))
    }),
    op("any", "input dim keepdim", |heap, args| {
        let input = array(heap, args, None)?;
        reduce(heap, args, input, Dtype::Bool, |mut row| f64::from(u8::from(row.any(|x| x != 0.0))))
    }),
    op("count_nonzero", "input dim", |heap, args| {
        let input = array(heap, args, None)?;
        reduce(heap, args, input, Dtype::Int64, |row| row.filter(|&x| x != 0.0).count() as f64)
    }),
    op("logsumexp", "input dim keepdim", |heap, args| {
        let input = array(heap, args, None)?;
        let dtype = if input.dtype.is_float() { input.dtype } else { Dtype::Float32 };
        reduce(heap, args, input, dtype, |row| {
            let largest = row.clone().reduce(largest).unwrap_or(f64::NEG_INFINITY);
            if largest.is_infinite() {
                largest
            } else {
                row.map(|x| (x - largest).exp()).sum::<f64>().ln() + largest
            }
        })
    }),
    op("equal", "input other", |heap, args| {
        let (one, other) = (args.array(heap, "input")?, args.array(heap, "other")?);
        let same = one.shape == other.shape && (0..one.len()).all(|at| one.get(at) == other.get(at));
        Ok(Value::Bool(same))
    }),
    op("allclose", "input other rtol atol equal_nan", |heap, args| {
        Ok(Value::Bool(close(heap, args)?.into_iter().all(|close| close)))
    }),
    op("isclose", "input other rtol atol equal_nan", |heap, args| {
        let shape = super::super::view::broadcast([
            heap.view(args.tensor("input")?)?.shape.as_slice(),
            &heap.view(args.tensor("other")?)?.shape,
        ])?;
        let array = Array::of_bools(shape, close(heap, args)?);
        heap.give(array)
    }),
];

/// The numbers of one row.
type Row<'a> = Numbers<'a>;

/// Walks over numbers of an array.
#[derive(Debug, Clone)]
pub(super) struct Numbers<'a> {
    array: &'a Array,
    next: usize,
    end: usize,
}

impl Iterator for Numbers<'_> {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        (self.next < self.end).then(|| {
            self.next += 1;
            self.array.get(self.next - 1)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl ExactSizeIterator for Numbers<'_> {}

/// The numbers of a row of `[rows, n]`.
pub(super) fn row(array: &Array, row: usize, n: usize) -> Numbers<'_> {
    Numbers { array, next: row * n, end: (row + 1) * n }
}

fn total(row: Row<'_>) -> f64 {
    row.sum()
}

fn largest(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

fn smallest(a: f64, b: f64) -> f64 {
    if a.is_nan() || a <= b { a } else { b }
}

fn array(heap: &Heap, args: &Args<'_>, dtype: Option<Dtype>) -> Result<Array, Stop> {
    let array = args.array(heap, "input")?;
    Ok(match dtype {
        Some(dtype) => array.cast(dtype),
        None => array,
    })
}

fn need_float(name: &str, array: &Array) -> Result<Dtype, Stop> {
    if array.dtype.is_float() {
        return Ok(array.dtype);
    }
    Err(not_implemented(format!(
        "{name}(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: {}",
        array.dtype.scalar_name()
    ))
    .into())
}

fn need_some(heap: &Heap, args: &Args<'_>, array: Array) -> Result<Array, Stop> {
    if !array.is_empty() {
        return Ok(array);
    }
    match args.dims(heap, "dim", array.shape.len())? {
        None => Err(index_error(format!(
            "{}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the 'dim' argument.",
            args.name
        ))
        .into()),
        Some(dims) => match dims.into_iter().find(|&dim| array.shape[dim] == 0) {
            Some(dim) => Err(index_error(format!(
                "{}(): Expected reduction dim {dim} to have non-zero size.",
                args.name
            ))
            .into()),
            None => Ok(array),
        },
    }
}

/// Rows along the dimensions of `dim` (all, if none are named), and the shape of what becomes of them.
fn rows(heap: &Heap, args: &Args<'_>, array: Array) -> Result<(Array, Vec<usize>, usize), Stop> {
    let all = array.shape.len();
    let dims = args.dims(heap, "dim", all)?.unwrap_or_else(|| (0..all).collect());
    let dims: Vec<usize> = dims.into_iter().filter(|&dim| dim < all).collect();
    let mut kept = array.shape.clone();
    for &dim in &dims {
        kept[dim] = 1;
    }
    let (array, sizes, n) = as_rows(array, &dims);
    let shape = if args.flag("keepdim", false)? { kept } else { sizes };
    Ok((array, shape, n))
}

fn reduce(
    heap: &mut Heap,
    args: &Args<'_>,
    array: Array,
    dtype: Dtype,
    f: impl Fn(Row<'_>) -> f64,
) -> Result<Value, Stop> {
    let (array, shape, n) = rows(heap, args, array)?;
    let count = shape.iter().product();
    heap.check_room(dtype, count)?;
    let numbers = (0..count).map(|at| f(row(&array, at, n))).collect();
    heap.give(Array::of_f64s(dtype, shape, numbers))
}

fn whole_sum(heap: &mut Heap, args: &Args<'_>, array: Array, dtype: Dtype) -> Result<Value, Stop> {
    let (array, shape, n) = rows(heap, args, array)?;
    let count: usize = shape.iter().product();
    let numbers = array.to_i64s();
    let sums = (0..count)
        .map(|at| numbers[at * n..][..n].iter().fold(0, |sum: i64, &x| sum.wrapping_add(x)))
        .collect();
    heap.give(Array::of_i64s(dtype, shape, sums))
}

fn correction(heap: &Heap, args: &Args<'_>) -> Result<f64, Stop> {
    // `var(unbiased)` and `var(dim, unbiased)`: a bool stands where a number or a dimension could
    let default = if args.flag("unbiased", true)? { 1.0 } else { 0.0 };
    match args.get("correction") {
        Some(Value::Bool(flag)) => Ok(f64::from(u8::from(*flag))),
        _ => args.float_or(heap, "correction", default),
    }
}

fn variance(row: Row<'_>, correction: f64) -> f64 {
    let n = row.len() as f64;
    let mean = row.clone().sum::<f64>() / n;
    row.map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - correction).max(0.0)
}

fn spread(heap: &mut Heap, args: &Args<'_>, of: fn(f64) -> f64) -> Result<Value, Stop> {
    let input = array(heap, args, None)?;
    if !input.dtype.is_float() {
        return Err(not_implemented("std and var only support floating point and complex dtypes").into());
    }
    let correction = correction(heap, args)?;
    let dtype = input.dtype;
    reduce(heap, args, input, dtype, |row| of(variance(row, correction)))
}

fn with_mean(heap: &mut Heap, args: &Args<'_>, of: fn(f64) -> f64) -> Result<Value, Stop> {
    let spread = spread(heap, args, of)?;
    let input = array(heap, args, None)?;
    let dtype = input.dtype;
    let mean = reduce(heap, args, input, dtype, |row| {
        let n = row.len() as f64;
        total(row) / n
    })?;
    Ok(Value::Tuple(vec![spread, mean]))
}

fn norm(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = array(heap, args, args.dtype("dtype")?)?;
    if !input.dtype.is_float() {
        return Err(not_implemented(format!(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got {}",
            input.dtype.scalar_name()
        ))
        .into());
    }
    let param = if args.get("ord").is_some() { "ord" } else { "p" };
    let p = match args.get(param) {
        None => 2.0,
        Some(Value::Str(text)) => match text.as_str() {
            "fro" => 2.0,
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            other => return Err(runtime(format!("norm(): the order '{other}' is not served")).into()),
        },
        Some(_) => args.float(heap, param)?,
    };
    let matrix = matches!(args.get(param), None | Some(Value::Str(_)));
    if let Some(dims) = args.dims(heap, "dim", input.shape.len())?
        && matrix
        && dims.len() > 2
    {
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        return Err(
            runtime(format!("linalg.matrix_norm: dim must be a 2-tuple. Got {}", dims.join(" "))).into()
        );
    }
    let dtype = input.dtype;
    reduce(heap, args, input, dtype, |row| {
        let sizes = row.map(f64::abs);
        if p == 2.0 {
            sizes.map(|x| x * x).sum::<f64>().sqrt()
        } else if p == 1.0 {
            sizes.sum()
        } else if p == 0.0 {
            sizes.filter(|&x| x != 0.0).count() as f64
        } else if p == f64::INFINITY {
            sizes.fold(0.0, largest)
        } else if p == f64::NEG_INFINITY {
            sizes.fold(f64::INFINITY, smallest)
        } else {
            sizes.map(|x| x.powf(p)).sum::<f64>().powf(1.0 / p)
        }
    })
}

fn close(heap: &Heap, args: &Args<'_>) -> Result<Vec<bool>, Stop> {
    let (one, other) = (args.array(heap, "input")?, args.array(heap, "other")?);
    if one.dtype != other.dtype {
        return Err(runtime(format!(
            "{} did not match {}",
            one.dtype.scalar_name(),
            other.dtype.scalar_name()
        ))
        .into());
    }
    let (relative, absolute) = (args.float_or(heap, "rtol", 1e-5)?, args.float_or(heap, "atol", 1e-8)?);
    let nan = args.flag("equal_nan", false)?;
    let shape = super::super::view::broadcast([one.shape.as_slice(), &other.shape])?;
    let one = super::super::index::spread_into(one, &shape)?;
    let other = super::super::index::spread_into(other, &shape)?;
    Ok((0..one.len())
        .map(|at| {
            let (a, b) = (one.get(at), other.get(at));
            a == b
                || (nan && a.is_nan() && b.is_nan())
                || (b.is_finite() && (a - b).abs() <= absolute + relative * b.abs())
        })
        .collect())
}
