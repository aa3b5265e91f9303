//! Operations that put tensors together, or choose between them.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::{Dtype, Weight, result_type};
use super::super::heap::Heap;
use super::super::index::spread_into;
use super::super::value::{Stop, Value, runtime};
use super::super::view::{broadcast, count, dim};
use super::pointwise::ternary;
use super::{Op, both, op};

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
];

fn need_bool(mask: Array, message: &str) -> Result<Array, Stop> {
    if mask.dtype == Dtype::Bool {
        return Ok(mask);
    }
    Err(runtime(format!("{message}, but got {} instead", mask.dtype.scalar_name())).into())
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
