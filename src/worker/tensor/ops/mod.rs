//! The served operations, by torch's names.

mod arrange;
mod combine;
mod convert;
mod create;
mod nn;
mod order;
mod pick;
mod pointwise;
mod product;
mod reduce;
mod shape;

use super::args::{Args, Operand};
use super::array::Array;
use super::dtype::Dtype;
use super::heap::Heap;
use super::index::spread_into;
use super::value::{Kind, Stop, TorchError, Value, runtime, type_error};
use super::view::View;
use std::collections::HashMap;
use std::sync::LazyLock;

pub(crate) use create::nested;
pub(crate) use pointwise::layout;
pub use pointwise::silu;

/// A served operation.
struct Op {
    /// torch's name.
    name: &'static str,
    /// Names of its parameters; `*` takes all further positional arguments.
    params: &'static str,
    run: Run,
    /// Whether `name_` writes the result into the first argument.
    in_place: bool,
}

/// How an operation runs.
type Run = fn(&mut Heap, &Args<'_>) -> Result<Value, Stop>;

/// An operation that has no in-place form.
const fn op(name: &'static str, params: &'static str, run: Run) -> Op {
    Op { name, params, run, in_place: false }
}

/// An operation that has one.
const fn both(name: &'static str, params: &'static str, run: Run) -> Op {
    Op { name, params, run, in_place: true }
}

static OPS: LazyLock<HashMap<&'static str, &'static Op>> = LazyLock::new(|| {
    [
        shape::OPS,
        convert::OPS,
        pointwise::OPS,
        reduce::OPS,
        order::OPS,
        product::OPS,
        create::OPS,
        combine::OPS,
        pick::OPS,
        arrange::OPS,
        nn::OPS,
    ]
    .into_iter()
    .flatten()
    .map(|op| (op.name, op))
    .collect()
});

/// Other names of the same operations.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("__getitem__", "getitem"),
    ("__setitem__", "setitem"),
    ("absolute", "abs"),
    ("clip", "clamp"),
    ("concat", "cat"),
    ("concatenate", "cat"),
    ("divide", "div"),
    ("true_divide", "div"),
    ("greater", "gt"),
    ("greater_equal", "ge"),
    ("less", "lt"),
    ("less_equal", "le"),
    ("multiply", "mul"),
    ("negative", "neg"),
    ("ndimension", "dim"),
    ("nelement", "numel"),
    ("not_equal", "ne"),
    ("subtract", "sub"),
    ("special.expit", "sigmoid"),
    ("special.softmax", "softmax"),
    ("special.log_softmax", "log_softmax"),
    ("special.logsumexp", "logsumexp"),
    ("linalg.norm", "norm"),
    ("linalg.vector_norm", "norm"),
    ("swapaxes", "transpose"),
    ("swapdims", "transpose"),
    ("moveaxis", "movedim"),
];

fn plain(name: &str) -> &str {
    ["torch.", "Tensor.", "_VariableFunctionsClass.", "nn.functional.", "F."]
        .iter()
        .fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name))
}

/// The operation of a name, and whether it is the in-place form.
fn find(name: &str) -> Option<(&'static Op, bool)> {
    let rename = |name: &str| {
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == name);
        OPS.get(other.map_or(name, |(_, name)| name)).copied()
    };
    // the method has its arguments in another order than the function
    let name = if name == "Tensor.where" { name } else { plain(name) };
    if let Some(op) = rename(name) {
        return Some((op, false));
    }
    let op = name.strip_suffix('_').and_then(rename).filter(|op| op.in_place)?;
    Some((op, true))
}

/// Whether an operation is served.
pub fn is_served(name: &str) -> bool {
    find(name).is_some()
}

/// Names of all served operations, in order.
pub fn served() -> Vec<&'static str> {
    let mut names: Vec<&str> = OPS.keys().copied().collect();
    names.sort_unstable();
    names
}

/// Runs an operation. The name may stand behind `torch.`, `Tensor.` or `torch.nn.functional.`.
pub fn call(heap: &mut Heap, name: &str, args: &[Value], kwargs: &[(String, Value)]) -> Result<Value, Stop> {
    let Some((op, in_place)) = find(name) else {
        return Err(unserved(plain(name)).into());
    };
    heap.count_operation()?;
    if kwargs.iter().any(|(key, value)| key == "out" && *value != Value::None) {
        return Err(type_error(format!("{name}(): `out` is not served; assign the result instead")).into());
    }
    let bound = Args::bind(op.name, op.params, args, kwargs)?;
    if in_place { write_back(heap, op, &bound) } else { (op.run)(heap, &bound) }
}

/// Runs an operation and writes its result into its first argument.
fn write_back(heap: &mut Heap, op: &Op, args: &Args<'_>) -> Result<Value, Stop> {
    let first = op.params.split(' ').next().unwrap_or_default();
    let id = args.tensor(first)?;
    let view = heap.view(id)?.clone();
    heap.check_writable(&view)?;
    let Value::Tensor(made) = (op.run)(heap, args)? else {
        return Err(type_error(format!("{}_() is not served", op.name)).into());
    };
    let array = heap.array(made);
    heap.free(made);
    let array = array?;
    let dtype = heap.dtype(id)?;
    if array.shape != view.shape {
        return Err(runtime(format!(
            "output with shape {:?} doesn't match the broadcast shape {:?}",
            view.shape, array.shape
        ))
        .into());
    }
    if !array.dtype.can_cast(dtype) {
        return Err(runtime(format!(
            "result type {} can't be cast to the desired output type {}",
            array.dtype.scalar_name(),
            dtype.scalar_name()
        ))
        .into());
    }
    heap.write(&view, array)?;
    Ok(Value::Tensor(id))
}

fn unserved(name: &str) -> TorchError {
    // As long as no operation's name is, so that comparing takes no time.
    let name: String = name.chars().take(64).collect();
    let mut near: Vec<(usize, &str)> = served().into_iter().map(|op| (distance(op, &name), op)).collect();
    near.sort_unstable();
    let near: Vec<&str> = near
        .iter()
        .take_while(|(steps, op)| *steps * 2 < op.len().max(3))
        .take(3)
        .map(|(_, op)| *op)
        .collect();
    let hint = if near.is_empty() { String::new() } else { format!("; near to it: {}", near.join(", ")) };
    TorchError {
        kind: Kind::Attribute,
        message: format!("the tensor operation '{name}' is not served here{hint}"),
    }
}

/// How many letters must change to make one name the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (place, &wanted) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != wanted);
            corner = row[place + 1];
            row[place + 1] = changed.min(corner + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

/// The numbers that writing a tensor or a Python number into a tensor of this shape and dtype would put there.
pub fn constant(heap: &Heap, value: &Value, shape: &[usize], dtype: Dtype) -> Result<Vec<f32>, Stop> {
    let Some(mut operand) = Operand::of(heap, value)? else {
        return Err(type_error(format!("a {} is neither a tensor nor a number", value.type_name())).into());
    };
    while operand.array.shape.len() > shape.len() && operand.array.shape[0] == 1 {
        operand.array.shape.remove(0);
    }
    Ok(spread_into(operand.array, shape)?.cast(dtype).to_f32s())
}

/// An array of `dtype` whose numbers `f` gives, place by place.
fn build(dtype: Dtype, shape: Vec<usize>, len: usize, f: impl Fn(usize) -> f64) -> Array {
    match dtype {
        Dtype::Float16 | Dtype::BFloat16 | Dtype::Float32 => {
            Array::of_f32s(dtype, shape, (0..len).map(|place| f(place) as f32).collect())
        }
        _ => Array::of_f64s(dtype, shape, (0..len).map(f).collect()),
    }
}

/// An array of whole numbers whose numbers `f` gives, place by place.
fn build_i64(dtype: Dtype, shape: Vec<usize>, len: usize, f: impl Fn(usize) -> i64) -> Array {
    Array::of_i64s(dtype, shape, (0..len).map(f).collect())
}

/// An array as rows along some dimensions: `[rows, n]`, and the sizes of the rest.
fn as_rows(array: Array, dims: &[usize]) -> (Array, Vec<usize>, usize) {
    let rest: Vec<usize> = (0..array.shape.len()).filter(|dim| !dims.contains(dim)).collect();
    let order: Vec<usize> = rest.iter().chain(dims).copied().collect();
    let sizes: Vec<usize> = rest.iter().map(|&dim| array.shape[dim]).collect();
    let n: usize = dims.iter().map(|&dim| array.shape[dim]).product();
    let whole = View::whole(0, array.shape.clone());
    let shape = vec![sizes.iter().product(), n];
    let array = if order.is_sorted() {
        array.shaped(shape)
    } else {
        let view = whole.permute(&order);
        array.gather(shape, view.places())
    };
    (array, sizes, n)
}

/// Rows along one dimension back in their places: the inverse of [`as_rows`] for one dimension of `n` numbers.
fn from_rows(array: Array, sizes: &[usize], dim: usize, n: usize) -> Array {
    let mut shape = sizes.to_vec();
    shape.push(n);
    let view = View::whole(0, shape);
    let last = view.shape.len() - 1;
    let mut order: Vec<usize> = (0..last).collect();
    order.insert(dim.min(last), last);
    let view = view.permute(&order);
    if view.is_contiguous() {
        return array.shaped(view.shape);
    }
    array.gather(view.shape.clone(), view.places())
}
