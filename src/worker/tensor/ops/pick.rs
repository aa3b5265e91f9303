//! Operations that pick from a tensor, or write into it, at places that another tensor names.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::{Dtype, Weight};
use super::super::heap::Heap;
use super::super::index::{nonzero, spread_into};
use super::super::value::{Stop, Value, index_error, runtime};
use super::super::view::{View, broadcast, count};
use super::{Op, as_rows, both, build, from_rows, op};

pub(super) static OPS: &[Op] = &[
    op("gather", "input dim index sparse_grad", gather),
    both("scatter", "input dim index src value reduce", scatter),
    both("scatter_add", "input dim index src", |heap, args| {
        scattered(heap, args, |before, new| before + new)
    }),
    op("index_select", "input dim index", index_select),
    both("index_add", "input dim index source alpha", |heap, args| {
        let alpha = args.float_or(heap, "alpha", 1.0)?;
        indexed(heap, args, move |before, new| before + alpha * new)
    }),
    both("index_copy", "input dim index source", |heap, args| indexed(heap, args, |_, new| new)),
    both("index_fill", "input dim index value", |heap, args| {
        let value = args.float(heap, "value")?;
        let (input, at, places) = lines(heap, args)?;
        let n = input.shape.get(at).copied().unwrap_or(1);
        let (shape, dtype) = (input.shape.clone(), input.dtype);
        let (rows, sizes, _) = as_rows(input, &[at]);
        let filled = build(dtype, rows.shape.clone(), rows.len(), |place| {
            if places.contains(&(place % n)) { value } else { rows.get(place) }
        });
        heap.give(from_rows(filled, &sizes, at, n).shaped(shape))
    }),
    op("take_along_dim", "input indices dim", |heap, args| {
        let (input, index) = (args.array(heap, "input")?, args.array(heap, "indices")?);
        if args.get("dim").is_none() {
            let n = input.len();
            let index = whole(index)?;
            let array = pick(&input.shaped(vec![n]), 0, &index)?;
            return heap.give(array);
        }
        let at = args.dim(heap, "dim", input.shape.len())?;
        let mut common = input.shape.clone();
        let mut wide = index.shape.clone();
        if common.len() == wide.len() && at < common.len() {
            wide[at] = 1;
            common[at] = 1;
        }
        let common = broadcast([common.as_slice(), &wide])?;
        let with = |n: usize| {
            let mut shape = common.clone();
            shape[at] = n;
            shape
        };
        let (n, k) = (input.shape[at], index.shape.get(at).copied().unwrap_or(1));
        let (input, index) = (spread_into(input, &with(n))?, spread_into(whole(index)?, &with(k))?);
        let array = pick(&input, at, &index)?;
        heap.give(array)
    }),
    op("take", "input index", |heap, args| {
        let (input, index) = (args.array(heap, "input")?, whole(args.array(heap, "index")?)?);
        let n = input.len();
        let array =
            pick(&input.shaped(vec![n]), 0, &index.clone().shaped(vec![index.len()]))?.shaped(index.shape);
        heap.give(array)
    }),
    op("nonzero", "input as_tuple", |heap, args| {
        let input = args.array(heap, "input")?;
        let lists = nonzero(&input);
        if args.flag("as_tuple", false)? {
            return Ok(Value::Tuple(
                lists.into_iter().map(|list| heap.give(list)).collect::<Result<_, _>>()?,
            ));
        }
        let (n, dims) = (lists[0].len(), input.shape.len());
        let numbers = (0..n * dims).map(|at| lists[at % dims].get(at / dims) as i64).collect();
        // torch collects it column by column
        let array = Array::of_i64s(Dtype::Int64, vec![n, dims], numbers);
        Ok(Value::Tensor(heap.put_strided(array, vec![1, n.max(1)])?))
    }),
];

pub(super) fn whole(index: Array) -> Result<Array, Stop> {
    if matches!(index.dtype, Dtype::Int64 | Dtype::Int32) {
        return Ok(index);
    }
    Err(runtime("gather(): Expected dtype int32/int64 for index").into())
}

/// Place of each number that an index along a dimension picks; the index may be smaller in the other dimensions.
fn picked(shape: &[usize], at: usize, index: &Array) -> Result<Vec<usize>, Stop> {
    let n = shape.get(at).copied().unwrap_or(1);
    let whole = View::whole(0, shape.to_vec());
    let mut view = whole.clone();
    if !shape.is_empty() {
        view.shape.clone_from(&index.shape);
        view.strides[at] = 0;
    }
    let stride = whole.strides.get(at).copied().unwrap_or(1);
    view.places()
        .zip(index.to_i64s())
        .map(|(place, chosen)| {
            if chosen < 0 || chosen as usize >= n {
                return Err(index_error_of_gather(chosen, at, n));
            }
            Ok(place + chosen as usize * stride)
        })
        .collect()
}

fn index_error_of_gather(place: i64, at: usize, n: usize) -> Stop {
    runtime(format!("index {place} is out of bounds for dimension {at} with size {n}")).into()
}

fn pick(input: &Array, at: usize, index: &Array) -> Result<Array, Stop> {
    if input.shape.len().max(1) != index.shape.len().max(1) {
        return Err(runtime("Index tensor must have the same number of dimensions as input tensor").into());
    }
    if let Some(wrong) = (0..input.shape.len().min(index.shape.len()))
        .find(|&dim| dim != at && index.shape[dim] > input.shape[dim])
    {
        return Err(runtime(format!(
            "Size does not match at dimension {wrong} expected index {:?} to be no larger than self {:?} apart from dimension {at}",
            index.shape, input.shape
        ))
        .into());
    }
    Ok(input.gather(index.shape.clone(), picked(&input.shape, at, index)?.into_iter()))
}

fn gather(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (input, index) = (args.array(heap, "input")?, args.array(heap, "index")?);
    let at = args.dim(heap, "dim", input.shape.len())?;
    heap.check_room(input.dtype, index.len().saturating_mul(3))?;
    let array = pick(&input, at, &whole(index)?)?;
    heap.give(array)
}

fn scatter(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    match args.text("reduce")? {
        None => scattered(heap, args, |_, new| new),
        Some("add") => scattered(heap, args, |before, new| before + new),
        Some("multiply") => scattered(heap, args, |before, new| before * new),
        Some(_) => Err(runtime("reduce argument must be either add or multiply.").into()),
    }
}

fn scattered(heap: &mut Heap, args: &Args<'_>, f: fn(f64, f64) -> f64) -> Result<Value, Stop> {
    let (input, index) = (args.array(heap, "input")?, whole(args.array(heap, "index")?)?);
    let at = args.dim(heap, "dim", input.shape.len())?;
    let param = if args.get("src").is_some() { "src" } else { "value" };
    let source = args.operand(heap, param)?;
    let source = if source.weight == Weight::Number {
        spread_into(source.array, &index.shape)?
    } else {
        if source.array.dtype != input.dtype {
            return Err(runtime("scatter(): Expected self.dtype to be equal to src.dtype").into());
        }
        if source.array.shape.len() != index.shape.len()
            || source.array.shape.iter().zip(&index.shape).any(|(have, need)| have < need)
        {
            return Err(runtime(format!(
                "Expected index {:?} to be no larger than self {:?} apart from dimension {at} and to be no larger size than src {:?}",
                index.shape, input.shape, source.array.shape
            ))
            .into());
        }
        let view = View { shape: index.shape.clone(), ..View::whole(0, source.array.shape.clone()) };
        source.array.gather(index.shape.clone(), view.places())
    };
    if input.shape.len().max(1) != index.shape.len().max(1)
        || (0..input.shape.len()).any(|dim| dim != at && index.shape[dim] > input.shape[dim])
    {
        return Err(runtime(format!(
            "Expected index {:?} to be no larger than self {:?} apart from dimension {at}",
            index.shape, input.shape
        ))
        .into());
    }
    let places = picked(&input.shape, at, &index)?;
    let mut numbers = input.to_f64s();
    for (from, place) in places.into_iter().enumerate() {
        numbers[place] = f(numbers[place], source.get(from));
    }
    heap.give(Array::of_f64s(input.dtype, input.shape, numbers))
}

/// The input, a dimension of it and places along it.
fn lines(heap: &Heap, args: &Args<'_>) -> Result<(Array, usize, Vec<usize>), Stop> {
    let (input, index) = (args.array(heap, "input")?, args.array(heap, "index")?);
    let at = args.dim(heap, "dim", input.shape.len())?;
    if index.shape.len() > 1 {
        return Err(index_error(format!("{}(): Index is supposed to be a vector", args.name)).into());
    }
    if !matches!(index.dtype, Dtype::Int64 | Dtype::Int32) {
        return Err(runtime(format!("{}(): Expected dtype int32 or int64 for index", args.name)).into());
    }
    let n = input.shape.get(at).copied().unwrap_or(1) as i64;
    let mut places = Vec::new();
    for place in index.to_i64s() {
        if place < 0 || place >= n {
            return Err(index_error("index out of range in self").into());
        }
        places.push(place as usize);
    }
    Ok((input, at, places))
}

fn index_select(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (input, at, places) = lines(heap, args)?;
    if input.shape.is_empty() {
        return heap.give(input);
    }
    let mut shape = input.shape.clone();
    shape[at] = places.len();
    heap.check_room(Dtype::Int64, count(&shape)?)?;
    let inner: usize = shape[at + 1..].iter().product();
    let outer: usize = shape[..at].iter().product();
    let n = input.shape[at];
    let all: Vec<usize> = (0..outer)
        .flat_map(|row| {
            places.iter().flat_map(move |&place| (0..inner).map(move |end| (row * n + place) * inner + end))
        })
        .collect();
    let array = input.gather(shape, all.into_iter());
    heap.give(array)
}

/// Rows of a source put into places along a dimension.
fn indexed(heap: &mut Heap, args: &Args<'_>, f: impl Fn(f64, f64) -> f64) -> Result<Value, Stop> {
    let (input, at, places) = lines(heap, args)?;
    let source = args.array(heap, "source")?;
    let mut wanted = input.shape.clone();
    if let Some(n) = wanted.get_mut(at) {
        *n = places.len();
    }
    if source.shape != wanted {
        return Err(runtime(format!(
            "{}(): source has shape {:?}, but the index asks for {wanted:?}",
            args.name, source.shape
        ))
        .into());
    }
    if source.dtype != input.dtype {
        return Err(runtime(format!(
            "{}(): self and source expected to have the same dtype, but got (self) {} and (source) {}",
            args.name,
            input.dtype.scalar_name(),
            source.dtype.scalar_name()
        ))
        .into());
    }
    let inner: usize = input.shape.get(at + 1..).unwrap_or(&[]).iter().product();
    let outer: usize = input.shape.get(..at).unwrap_or(&[]).iter().product();
    let n = input.shape.get(at).copied().unwrap_or(1);
    let mut numbers = input.to_f64s();
    for row in 0..outer {
        for (from, &place) in places.iter().enumerate() {
            for end in 0..inner {
                let to = &mut numbers[(row * n + place) * inner + end];
                *to = f(*to, source.get((row * places.len() + from) * inner + end));
            }
        }
    }
    heap.give(Array::of_f64s(input.dtype, input.shape, numbers))
}
