//! Copies of a tensor in another form, and what it says of itself.

use super::super::args::Args;
use super::super::dtype::Dtype;
use super::super::heap::Heap;
use super::super::index;
use super::super::print;
use super::super::value::{Id, Stop, Value, index_error, runtime, type_error};
use super::super::view::{View, broadcast, row_major};
use super::{Op, op};

pub(super) static OPS: &[Op] = &[
    op("detach", "input", alias),
    op("data", "input", alias),
    op("view_as_real", "input", |_, _| Err(type_error("complex numbers are not served").into())),
    op("cpu", "input", alias),
    op("cuda", "input device", alias),
    op("requires_grad_", "input requires_grad", |_, args| Ok(Value::Tensor(args.tensor("input")?))),
    op("detach_", "input", |_, args| Ok(Value::Tensor(args.tensor("input")?))),
    op("contiguous", "input", |heap, args| {
        let id = args.tensor("input")?;
        if heap.view(id)?.is_contiguous() {
            return alias(heap, args);
        }
        let array = heap.array(id)?;
        heap.give(array)
    }),
    op("clone", "input", |heap, args| cloned(heap, args.tensor("input")?, None)),
    op("to", "input other dtype", to),
    op("type", "input dtype", |heap, args| match args.get("dtype") {
        None => Ok(Value::Str(format!("torch.{}Tensor", heap.dtype(args.tensor("input")?)?.scalar_name()))),
        Some(Value::Dtype(dtype)) => converted(heap, args.tensor("input")?, *dtype),
        Some(other) => {
            Err(type_error(format!("type(): a {} is not served; give a torch.dtype", other.type_name()))
                .into())
        }
    }),
    op("type_as", "input other", |heap, args| {
        let dtype = heap.dtype(args.tensor("other")?)?;
        converted(heap, args.tensor("input")?, dtype)
    }),
    op("float", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Float32)),
    op("double", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Float64)),
    op("half", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Float16)),
    op("bfloat16", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::BFloat16)),
    op("long", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Int64)),
    op("int", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Int32)),
    op("bool", "input", |heap, args| converted(heap, args.tensor("input")?, Dtype::Bool)),
    op("shape", "input", |heap, args| Ok(Value::sizes(&heap.view(args.tensor("input")?)?.shape))),
    op("size", "input dim", |heap, args| {
        let shape = &heap.view(args.tensor("input")?)?.shape;
        Ok(match args.optional_dim(heap, "dim", shape.len())? {
            Some(at) => Value::Int(
                *shape
                    .get(at)
                    .ok_or_else(|| index_error("Dimension specified as 0 but tensor has no dimensions"))?
                    as i64,
            ),
            None => Value::sizes(shape),
        })
    }),
    op("stride", "input dim", |heap, args| {
        let view = heap.view(args.tensor("input")?)?;
        Ok(match args.optional_dim(heap, "dim", view.shape.len())? {
            Some(at) => Value::Int(view.strides.get(at).copied().unwrap_or(1) as i64),
            None => Value::sizes(&view.strides),
        })
    }),
    op("storage_offset", "input", |heap, args| {
        Ok(Value::Int(heap.view(args.tensor("input")?)?.offset as i64))
    }),
    op("is_contiguous", "input", |heap, args| {
        Ok(Value::Bool(heap.view(args.tensor("input")?)?.is_contiguous()))
    }),
    op("dim", "input", |heap, args| Ok(Value::Int(heap.view(args.tensor("input")?)?.shape.len() as i64))),
    op("ndim", "input", |heap, args| Ok(Value::Int(heap.view(args.tensor("input")?)?.shape.len() as i64))),
    op("numel", "input", |heap, args| Ok(Value::Int(heap.view(args.tensor("input")?)?.len() as i64))),
    op("element_size", "input", |heap, args| {
        Ok(Value::Int(heap.dtype(args.tensor("input")?)?.bytes() as i64))
    }),
    op("dtype", "input", |heap, args| Ok(Value::Dtype(heap.dtype(args.tensor("input")?)?))),
    op("device", "input", |_, args| {
        args.tensor("input").map(|_| Value::Device("cpu".into())).map_err(Stop::from)
    }),
    op("is_floating_point", "input", |heap, args| {
        Ok(Value::Bool(heap.dtype(args.tensor("input")?)?.is_float()))
    }),
    op("repr", "input", |heap, args| Ok(Value::Str(print::repr(heap, args.tensor("input")?)?))),
    op("item", "input", item),
    op("tolist", "input", tolist),
    op("copy_", "input src", |heap, args| {
        let id = args.tensor("input")?;
        let view = heap.view(id)?.clone();
        heap.check_writable(&view)?;
        let source = args.operand(heap, "src")?.array;
        let common = broadcast([view.shape.as_slice(), &source.shape])?;
        if common != view.shape {
            return Err(runtime(format!(
                "output with shape {:?} doesn't match the broadcast shape {common:?}",
                view.shape
            ))
            .into());
        }
        let source = index::spread_into(source, &view.shape)?;
        heap.write(&view, source)?;
        Ok(Value::Tensor(id))
    }),
];

pub(super) fn alias(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?.clone();
    Ok(heap.give_view(view))
}

/// A copy in another dtype or the same, its numbers in the same order of dimensions if they were dense.
fn cloned(heap: &mut Heap, id: Id, dtype: Option<Dtype>) -> Result<Value, Stop> {
    let view = heap.view(id)?;
    let strides = kept_strides(view);
    let mut array = heap.array(id)?;
    if let Some(dtype) = dtype {
        heap.check_room(dtype, array.len())?;
        array = array.cast(dtype);
    }
    Ok(Value::Tensor(heap.put_strided(array, strides)?))
}

/// Strides of a tensor of the same shape that torch makes after this one.
pub(super) fn kept_strides(view: &View) -> Vec<usize> {
    if view.is_dense() {
        view.strides.clone()
    } else {
        super::pointwise::layout(&view.shape, &[(&view.shape, &view.strides)])
    }
}

pub(super) fn converted(heap: &mut Heap, id: Id, dtype: Dtype) -> Result<Value, Stop> {
    if heap.dtype(id)? == dtype {
        let view = heap.view(id)?.clone();
        return Ok(heap.give_view(view));
    }
    cloned(heap, id, Some(dtype))
}

fn to(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let mut dtype = args.dtype("dtype")?;
    match args.get("other") {
        None | Some(Value::Device(_) | Value::Str(_) | Value::Int(_) | Value::Bool(_)) => {}
        Some(Value::Dtype(given)) => dtype = Some(*given),
        Some(Value::Tensor(other)) => dtype = Some(heap.dtype(*other)?),
        Some(other) => {
            return Err(type_error(format!(
                "to() received an invalid combination of arguments - got ({})",
                other.type_name()
            ))
            .into());
        }
    }
    let dtype = dtype.map_or_else(|| heap.dtype(id), Ok)?;
    converted(heap, id, dtype)
}

fn scalar(array: &super::super::array::Array, place: usize) -> Value {
    match array.dtype {
        Dtype::Bool => Value::Bool(array.get(place) != 0.0),
        dtype if dtype.is_float() => Value::Float(array.get(place)),
        _ => match &array.data {
            super::super::array::Data::I64(numbers) => Value::Int(numbers[place]),
            _ => Value::Int(array.get(place) as i64),
        },
    }
}

fn item(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let n = heap.view(id)?.len();
    if n != 1 {
        return Err(runtime(format!("a Tensor with {n} elements cannot be converted to Scalar")).into());
    }
    Ok(scalar(&heap.array(id)?, 0))
}

fn tolist(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    fn list(array: &super::super::array::Array, shape: &[usize], strides: &[usize], at: usize) -> Value {
        match (shape, strides) {
            ([n, shape @ ..], [stride, strides @ ..]) => {
                Value::List((0..*n).map(|place| list(array, shape, strides, at + place * stride)).collect())
            }
            _ => scalar(array, at),
        }
    }
    let array = args.array(heap, "input")?;
    heap.check_room(Dtype::Int64, array.len().saturating_mul(4))?;
    Ok(list(&array, &array.shape, &row_major(&array.shape), 0))
}
