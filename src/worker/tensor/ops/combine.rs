//! Operations that put tensors together or pick from them by other tensors.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::{Dtype, Weight, result_type};
use super::super::heap::Heap;
use super::super::index::{nonzero, spread_into};
use super::super::value::{Stop, Value, index_error, runtime};
use super::super::view::{View, broadcast, count, dim};
use super::pointwise::ternary;
use super::{Op, as_rows, both, build, from_rows, op};

pub(super) static OPS: &[Op] = &[
    op("cat", "tensors dim", cat),
    op("stack", "tensors dim", stack),
    op("hstack", "tensors", |heap, args| beside(heap, args, 0, 1)),
    op("vstack", "tensors", |heap, args| beside(heap, args, 1, 0)),
    op("where", "condition input other", choose),
    op("Tensor.where", "input condition other", choose),
    both("masked_fill", "input mask value", masked_fill),
    op("masked_select", "input mask", |heap, args| {
        let (input, mask) = (
            args.array(heap, "input")?,
            need_bool(args.array(heap, "mask")?, "masked_select: expected BoolTensor for mask")?,
        );
        let shape = broadcast([input.shape.as_slice(), &mask.shape])?;
        heap.check_room(Dtype::Int64, count(&shape)?)?;
        let (input, mask) = (spread_into(input, &shape)?, spread_into(mask, &shape)?);
        let places: Vec<usize> = (0..mask.len()).filter(|&at| mask.get(at) != 0.0).collect();
        let array = input.gather(vec![places.len()], places.into_iter());
        heap.give(array)
    }),
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

fn need_bool(mask: Array, message: &str) -> Result<Array, Stop> {
    if mask.dtype == Dtype::Bool {
        return Ok(mask);
    }
    Err(runtime(format!("{message}, but got {} instead", mask.dtype.scalar_name())).into())
}

fn whole(index: Array) -> Result<Array, Stop> {
    if matches!(index.dtype, Dtype::Int64 | Dtype::Int32) {
        return Ok(index);
    }
    Err(runtime(format!("{}(): Expected dtype int32/int64 for index", "gather")).into())
}

/// Tensors one after the other along a dimension.
fn joined(heap: &Heap, arrays: Vec<Array>, at: usize) -> Result<Array, Stop> {
    let dtype = arrays.iter().map(|array| array.dtype).reduce(Dtype::promote).unwrap_or(Dtype::Float32);
    let mut shape = arrays[0].shape.clone();
    shape[at] = arrays.iter().map(|array| array.shape[at]).sum();
    let len = count(&shape)?;
    heap.check_room(dtype, len)?;
    let (before, after): (usize, usize) = (shape[..at].iter().product(), shape[at + 1..].iter().product());
    let mut all = super::super::array::Data::zeros(dtype, len);
    let mut start = 0;
    let row = shape[at] * after;
    for array in arrays {
        let n = array.shape[at] * after;
        let places = (0..before).flat_map(|outer| {
            let first = outer * row + start;
            first..first + n
        });
        all.scatter(places, &array.cast(dtype).data);
        start += n;
    }
    Ok(Array { dtype, shape, data: all })
}

fn cat(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let ids = args.tensors("tensors")?;
    if ids.is_empty() {
        return Err(value_missing("torch.cat(): expected a non-empty list of Tensors"));
    }
    let mut arrays = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let array = heap.array(*id)?;
        if array.shape.is_empty() {
            return Err(runtime(format!(
                "zero-dimensional tensor (at position {at}) cannot be concatenated"
            ))
            .into());
        }
        arrays.push(array);
    }
    let dtype = arrays.iter().map(|array| array.dtype).reduce(Dtype::promote).unwrap_or(Dtype::Float32);
    // torch passes over what is empty and has one dimension
    let empty = |array: &Array| array.shape == [0];
    let dims = arrays.iter().find(|array| !empty(array)).map_or(1, |array| array.shape.len());
    let at = dim(args.int_or(heap, "dim", 0)?, dims)?;
    if dims != 1 {
        arrays.retain(|array| !empty(array));
    }
    for (place, array) in arrays.iter().enumerate().skip(1) {
        let first = &arrays[0].shape;
        if array.shape.len() != first.len() {
            return Err(runtime(format!(
                "Tensors must have same number of dimensions: got {} and {}",
                first.len(),
                array.shape.len()
            ))
            .into());
        }
        if let Some(wrong) = (0..dims).find(|&dim| dim != at && array.shape[dim] != first[dim]) {
            return Err(runtime(format!(
                "Sizes of tensors must match except in dimension {at}. Expected size {} but got size {} for tensor number {place} in the list.",
                first[wrong], array.shape[wrong]
            ))
            .into());
        }
    }
    let array = joined(heap, arrays, at)?.cast(dtype);
    heap.give(array)
}

fn value_missing(message: &str) -> Stop {
    super::super::value::value_error(message).into()
}

fn stack(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let ids = args.tensors("tensors")?;
    if ids.is_empty() {
        return Err(runtime("stack expects a non-empty TensorList").into());
    }
    let mut arrays: Vec<Array> = Vec::new();
    for (place, id) in ids.iter().enumerate() {
        let array = heap.array(*id)?;
        if let Some(first) = arrays.first()
            && first.shape != array.shape
        {
            return Err(runtime(format!(
                "stack expects each tensor to be equal size, but got {:?} at entry 0 and {:?} at entry {place}",
                first.shape, array.shape
            ))
            .into());
        }
        arrays.push(array);
    }
    let at = dim(args.int_or(heap, "dim", 0)?, arrays[0].shape.len() + 1)?;
    let arrays = arrays
        .into_iter()
        .map(|array| {
            let mut shape = array.shape.clone();
            shape.insert(at, 1);
            array.shaped(shape)
        })
        .collect();
    let array = joined(heap, arrays, at)?;
    heap.give(array)
}

/// `hstack` and `vstack`: tensors with few dimensions get more first.
fn beside(heap: &mut Heap, args: &Args<'_>, fewest: usize, at: usize) -> Result<Value, Stop> {
    let mut members = Vec::new();
    for id in args.tensors("tensors")? {
        let shape = heap.view(id)?.shape.clone();
        let wider = match shape.len() {
            0 if fewest == 1 => vec![1, 1],
            0 => vec![1],
            1 if fewest == 1 => vec![1, shape[0]],
            _ => shape,
        };
        members.push(super::shape::reshaped(heap, id, &wider)?);
    }
    let flat = matches!(members.first(), Some(Value::Tensor(id)) if heap.view(*id)?.shape.len() == 1);
    let at = if flat { 0 } else { at as i64 };
    let result = super::call(heap, "cat", &[Value::List(members.clone()), Value::Int(at)], &[]);
    for member in members {
        if let Value::Tensor(id) = member {
            heap.free(id);
        }
    }
    result
}

fn choose(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    if args.get("input").is_none() {
        return super::call(
            heap,
            "nonzero",
            &[Value::Tensor(args.tensor("condition")?), Value::Bool(true)],
            &[],
        );
    }
    let (condition, input, other) =
        (args.operand(heap, "condition")?, args.operand(heap, "input")?, args.operand(heap, "other")?);
    if condition.array.dtype != Dtype::Bool {
        return Err(runtime(format!(
            "where expected condition to be a boolean tensor, but got a tensor with dtype {}",
            condition.array.dtype.scalar_name()
        ))
        .into());
    }
    let dtype = result_type([(input.array.dtype, input.weight), (other.array.dtype, other.weight)]);
    if !dtype.is_float() {
        // whole numbers are too long for f64
        let shape =
            broadcast([&condition.array.shape, &input.array.shape, &other.array.shape].map(Vec::as_slice))?;
        heap.check_room(dtype, count(&shape)?)?;
        let condition = spread_into(condition.array, &shape)?;
        let (input, other) =
            (spread_into(input.array, &shape)?.to_i64s(), spread_into(other.array, &shape)?.to_i64s());
        let numbers = (0..condition.len())
            .map(|at| if condition.get(at) == 0.0 { other[at] } else { input[at] })
            .collect();
        return heap.give(Array::of_i64s(dtype, shape, numbers));
    }
    ternary(
        heap,
        dtype,
        [&condition, &input, &other],
        |condition, input, other| {
            if condition == 0.0 { other } else { input }
        },
    )
}

fn masked_fill(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (input, mask, value) =
        (args.operand(heap, "input")?, args.operand(heap, "mask")?, args.operand(heap, "value")?);
    if mask.array.dtype != Dtype::Bool {
        return Err(runtime(format!(
            "masked_fill_ only supports boolean masks, but got mask with dtype {}",
            mask.array.dtype.cpp_name()
        ))
        .into());
    }
    if !value.array.shape.is_empty() {
        return Err(runtime(format!(
            "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with {} dimension(s).",
            value.array.shape.len()
        ))
        .into());
    }
    let dtype = input.array.dtype;
    if value.weight == Weight::Number && value.array.dtype.is_float() && !dtype.is_float() {
        return Err(
            runtime(format!("value cannot be converted to type {} without overflow", dtype.name())).into()
        );
    }
    ternary(
        heap,
        dtype,
        [&input, &mask, &value],
        |input, mask, value| if mask == 0.0 { input } else { value },
    )
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
