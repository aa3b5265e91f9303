//! New tensors, of given numbers or by chance.

use super::super::args::{Args, number};
use super::super::array::{Array, Data};
use super::super::dtype::{Dtype, Weight, result_type};
use super::super::heap::Heap;
use super::super::random::Generator;
use super::super::value::{Stop, TorchError, Value, runtime, type_error, value_error};
use super::super::view::{View, count};
use super::convert::kept_strides;
use super::{Op, op};

pub(super) static OPS: &[Op] = &[
    op("tensor", "data dtype", |heap, args| {
        let dtype = args.dtype("dtype")?;
        let array = nested(heap, args.need("data")?, dtype)?;
        heap.give(array)
    }),
    op("as_tensor", "data dtype", |heap, args| match args.need("data")? {
        Value::Tensor(id) => {
            let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(*id), Ok)?;
            super::convert::converted(heap, *id, dtype)
        }
        data => {
            let array = nested(heap, data, args.dtype("dtype")?)?;
            heap.give(array)
        }
    }),
    op("Tensor", "*data", |heap, args| match args.rest() {
        [data @ (Value::List(_) | Value::Tuple(_))] => {
            let array = nested(heap, data, Some(Dtype::Float32))?;
            heap.give(array)
        }
        _ => filled(heap, args, "data", 0.0),
    }),
    op("FloatTensor", "data", |heap, args| typed(heap, args, Dtype::Float32)),
    op("LongTensor", "data", |heap, args| typed(heap, args, Dtype::Int64)),
    op("BoolTensor", "data", |heap, args| typed(heap, args, Dtype::Bool)),
    op("scalar_tensor", "s dtype", |heap, args| {
        let array = nested(heap, args.need("s")?, Some(args.dtype("dtype")?.unwrap_or(Dtype::Float32)))?;
        heap.give(array)
    }),
    op("zeros", "*size dtype", |heap, args| filled(heap, args, "size", 0.0)),
    op("empty", "*size dtype", |heap, args| filled(heap, args, "size", 0.0)),
    op("ones", "*size dtype", |heap, args| filled(heap, args, "size", 1.0)),
    op("full", "size fill_value dtype", |heap, args| {
        let shape = args.shape(heap, "size")?;
        let fill = args.need("fill_value")?;
        full(heap, args, shape, fill, args.dtype("dtype")?)
    }),
    op("zeros_like", "input dtype", |heap, args| like(heap, args, 0.0)),
    op("empty_like", "input dtype", |heap, args| like(heap, args, 0.0)),
    op("ones_like", "input dtype", |heap, args| like(heap, args, 1.0)),
    op("full_like", "input fill_value dtype", |heap, args| {
        let fill = args.float(heap, "fill_value")?;
        like(heap, args, fill)
    }),
    op("new_zeros", "input *size dtype", |heap, args| new_like(heap, args, 0.0)),
    op("new_empty", "input *size dtype", |heap, args| new_like(heap, args, 0.0)),
    op("new_ones", "input *size dtype", |heap, args| new_like(heap, args, 1.0)),
    op("new_full", "input size fill_value dtype", |heap, args| {
        let fill = args.float(heap, "fill_value")?;
        new_like(heap, args, fill)
    }),
    op("new_tensor", "input data dtype", |heap, args| {
        let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(args.tensor("input")?), Ok)?;
        let array = nested(heap, args.need("data")?, Some(dtype))?;
        heap.give(array)
    }),
    op("arange", "start end step dtype", arange),
    op("linspace", "start end steps dtype", |heap, args| {
        let (start, end, steps) = spaced(heap, args)?;
        let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Float32);
        space(heap, dtype, steps, |at| line(start, end, steps, at, dtype))
    }),
    op("logspace", "start end steps base dtype", |heap, args| {
        let (start, end, steps) = spaced(heap, args)?;
        let base = args.float_or(heap, "base", 10.0)?;
        let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Float32);
        space(heap, dtype, steps, |at| base.powf(line(start, end, steps, at, dtype)))
    }),
    op("eye", "n m dtype", |heap, args| {
        let n = args.int(heap, "n")?;
        let m = args.int_or(heap, "m", n)?;
        if n < 0 || m < 0 {
            return Err(runtime(format!("n must be greater or equal to 0, got {}", n.min(m))).into());
        }
        let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Float32);
        let shape = vec![n as usize, m as usize];
        heap.check_room(dtype, count(&shape)?)?;
        let mut numbers = vec![0; shape[0] * shape[1]];
        for at in 0..shape[0].min(shape[1]) {
            numbers[at * shape[1] + at] = 1;
        }
        heap.give(Array::of_i64s(dtype, shape, numbers))
    }),
    op("fill_", "input value", |heap, args| {
        let id = args.tensor("input")?;
        let view = heap.view(id)?.clone();
        heap.check_known(&view)?;
        let dtype = heap.dtype(id)?;
        if let Value::Tensor(value) = args.need("value")?
            && !heap.view(*value)?.shape.is_empty()
        {
            return Err(runtime(format!(
                "fill_ only supports 0-dimension value tensor but got tensor with {} dimensions.",
                heap.view(*value)?.shape.len()
            ))
            .into());
        }
        let fill = args.operand(heap, "value")?.array.cast(dtype);
        let array = fill.gather(view.shape.clone(), std::iter::repeat_n(0, view.len()));
        heap.write_places(view.storage, view.places(), array)?;
        Ok(Value::Tensor(id))
    }),
    op("zero_", "input", |heap, args| {
        let id = args.tensor("input")?;
        let view = heap.view(id)?.clone();
        let zeros = Array {
            dtype: heap.dtype(id)?,
            shape: view.shape.clone(),
            data: Data::zeros(heap.dtype(id)?, view.len()),
        };
        heap.write_places(view.storage, view.places(), zeros)?;
        Ok(Value::Tensor(id))
    }),
    op("manual_seed", "seed", |heap, args| {
        let seed = args.int(heap, "seed")?;
        heap.generator = Generator::new(seed as u64);
        Ok(Value::None)
    }),
    op("seed", "", |heap, _| Ok(Value::Int(heap.generator.seed() as i64))),
    op("initial_seed", "", |heap, _| Ok(Value::Int(heap.generator.seed() as i64))),
    op("randn", "*size dtype", |heap, args| {
        let shape = args.shape(heap, "size")?;
        random(heap, args, shape, &standard)
    }),
    op("rand", "*size dtype", |heap, args| {
        let shape = args.shape(heap, "size")?;
        random(heap, args, shape, &unit)
    }),
    op("randn_like", "input dtype", |heap, args| random_like(heap, args, &standard)),
    op("rand_like", "input dtype", |heap, args| random_like(heap, args, &unit)),
    op("randint", "low high size dtype", |heap, args| {
        // randint(high, size) and randint(low, high, size)
        let short =
            args.get("size").is_none() && matches!(args.get("high"), Some(Value::Tuple(_) | Value::List(_)));
        let (low, high, size) = if short {
            (0, args.int(heap, "low")?, "high")
        } else if args.get("low").is_none() {
            (0, args.int(heap, "high")?, "size")
        } else if args.get("high").is_none() {
            (0, args.int(heap, "low")?, "size")
        } else {
            (args.int(heap, "low")?, args.int(heap, "high")?, "size")
        };
        let shape = args.shape(heap, size)?;
        let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Int64);
        whole_numbers(heap, dtype, shape, low, high)
    }),
    op("randint_like", "input low high dtype", |heap, args| {
        let id = args.tensor("input")?;
        let (low, high) = if args.get("high").is_none() {
            (0, args.int(heap, "low")?)
        } else {
            (args.int(heap, "low")?, args.int(heap, "high")?)
        };
        let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(id), Ok)?;
        let shape = heap.view(id)?.shape.clone();
        whole_numbers(heap, dtype, shape, low, high)
    }),
    op("randperm", "n dtype", |heap, args| {
        let n = args.int(heap, "n")?;
        if n < 0 {
            return Err(runtime(format!("n must be non-negative, got {n}")).into());
        }
        let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Int64);
        heap.check_room(dtype, n as usize)?;
        let mut numbers: Vec<i64> = (0..n).collect();
        for at in 0..numbers.len().saturating_sub(1) {
            let other = heap.generator.below(0, (numbers.len() - at) as i64) as usize;
            numbers.swap(at, at + other);
        }
        heap.give(Array::of_i64s(dtype, vec![n as usize], numbers))
    }),
    op("normal", "mean std size dtype", |heap, args| {
        let (mean, std) = (
            args.operand(heap, "mean")?,
            if args.get("std").is_some() { args.operand(heap, "std")? } else { one() },
        );
        if args.get("size").is_some() {
            let (mean, std) = (mean.array.get(0), std.array.get(0));
            let shape = args.shape(heap, "size")?;
            return random(heap, args, shape, &|g, dtype, len, rows| {
                normal(g, dtype, len, rows, (mean, std))
            });
        }
        let shape = super::super::view::broadcast([mean.array.shape.as_slice(), &std.array.shape])?;
        let dtype = if mean.array.dtype.is_float() && mean.weight != Weight::Number {
            mean.array.dtype
        } else {
            Dtype::Float32
        };
        let len = count(&shape)?;
        heap.check_room(dtype, len)?;
        let mean = super::super::index::spread_into(mean.array, &shape)?;
        let std = super::super::index::spread_into(std.array, &shape)?;
        let draw = standard(&mut heap.generator, dtype, len, true);
        heap.give(super::build(dtype, shape, len, |at| draw.get(at) * std.get(at) + mean.get(at)))
    }),
    op("normal_", "input mean std", |heap, args| {
        let (mean, std) = (args.float_or(heap, "mean", 0.0)?, args.float_or(heap, "std", 1.0)?);
        if std < 0.0 {
            return Err(runtime(format!("normal expects std >= 0.0, but found std {std}")).into());
        }
        redraw(heap, args, &|g, dtype, len, rows| normal(g, dtype, len, rows, (mean, std)))
    }),
    op("uniform_", "input from to", |heap, args| {
        let (from, to) = (args.float_or(heap, "from", 0.0)?, args.float_or(heap, "to", 1.0)?);
        if from > to {
            return Err(runtime(format!(
                "uniform_ expects to return a [from, to) range, but found from={from} > to={to}"
            ))
            .into());
        }
        redraw(heap, args, &|g, dtype, len, _| uniform(g, dtype, len, (from, to)))
    }),
    op("bernoulli", "input", |heap, args| {
        let input = args.array(heap, "input")?;
        if (0..input.len()).any(|at| !(0.0..=1.0).contains(&input.get(at))) {
            return Err(runtime("Expected p_in >= 0 && p_in <= 1 to be true, but got false.").into());
        }
        let draws: Vec<f64> = (0..input.len()).map(|_| f64::from(heap.generator.uniform_f32())).collect();
        let array = super::build(input.dtype, input.shape.clone(), input.len(), |at| {
            f64::from(u8::from(draws[at] < input.get(at)))
        });
        heap.give(array)
    }),
];

fn one() -> super::super::args::Operand {
    super::super::args::Operand {
        array: Array::of_f64s(Dtype::Float64, vec![], vec![1.0]),
        weight: Weight::Number,
        strides: None,
    }
}

/// What stands at one place of nested lists.
enum Leaf {
    Number(f64, Dtype),
    Whole(i64, Dtype),
}

/// Sizes of nested lists, as their first members have them.
fn sizes(heap: &Heap, value: &Value, depth: usize) -> Result<Vec<usize>, TorchError> {
    match value {
        _ if depth > 64 => Err(value_error("too many dimensions")),
        Value::List(items) | Value::Tuple(items) => {
            let mut shape = vec![items.len()];
            if let Some(first) = items.first() {
                shape.extend(sizes(heap, first, depth + 1)?);
            }
            Ok(shape)
        }
        Value::Tensor(id) => Ok(heap.view(*id)?.shape.clone()),
        _ => Ok(vec![]),
    }
}

/// Collects what stands in nested lists, which must be as long everywhere as their first members.
fn collect(
    heap: &Heap,
    value: &Value,
    shape: &[usize],
    depth: usize,
    leaves: &mut Vec<Leaf>,
) -> Result<(), Stop> {
    let uneven = |got: &str| {
        let wanted = shape.first().copied().unwrap_or_default();
        value_error(format!("expected sequence of length {wanted} at dim {depth} (got {got})"))
    };
    match value {
        Value::List(items) | Value::Tuple(items) => {
            let Some((&n, inner)) = shape.split_first() else {
                return Err(type_error(match leaves.last() {
                    Some(Leaf::Whole(..)) => {
                        format!("'{}' object cannot be interpreted as an integer", value.type_name())
                    }
                    _ => format!("must be real number, not {}", value.type_name()),
                })
                .into());
            };
            if items.len() != n {
                return Err(uneven(&items.len().to_string()).into());
            }
            return items.iter().try_for_each(|item| collect(heap, item, inner, depth + 1, leaves));
        }
        Value::Tensor(id) => {
            let array = heap.array(*id)?;
            if array.shape != shape {
                return Err(uneven(&format!("a tensor of shape {:?}", array.shape)).into());
            }
            match &array.data {
                Data::I64(numbers) => {
                    leaves.extend(numbers.iter().map(|&whole| Leaf::Whole(whole, array.dtype)));
                }
                _ => leaves.extend((0..array.len()).map(|at| Leaf::Number(array.get(at), array.dtype))),
            }
            return Ok(());
        }
        _ if !shape.is_empty() => return Err(type_error("not a sequence").into()),
        Value::Bool(flag) => leaves.push(Leaf::Whole(i64::from(*flag), Dtype::Bool)),
        Value::Int(whole) => leaves.push(Leaf::Whole(*whole, Dtype::Int64)),
        Value::Float(number) => leaves.push(Leaf::Number(*number, Dtype::Float32)),
        Value::Str(_) => return Err(type_error("new(): invalid data type 'str'").into()),
        other => return Err(runtime(format!("Could not infer dtype of {}", other.type_name())).into()),
    }
    Ok(())
}

/// A number, a tensor, or lists of them in lists, as one array; its dtype follows from the numbers unless it is given.
pub(crate) fn nested(heap: &Heap, value: &Value, dtype: Option<Dtype>) -> Result<Array, Stop> {
    let shape = sizes(heap, value, 0)?;
    let mut leaves = Vec::new();
    collect(heap, value, &shape, 0, &mut leaves)?;
    let found = leaves
        .iter()
        .map(|leaf| match leaf {
            Leaf::Number(_, dtype) | Leaf::Whole(_, dtype) => *dtype,
        })
        .reduce(Dtype::promote);
    let dtype = dtype.or(found).unwrap_or(Dtype::Float32);
    heap.check_room(dtype, leaves.len())?;
    Ok(if dtype.is_float() {
        let numbers = leaves.iter().map(|leaf| match leaf {
            Leaf::Number(number, _) => *number,
            Leaf::Whole(whole, _) => *whole as f64,
        });
        Array::of_f64s(dtype, shape, numbers.collect())
    } else {
        let numbers = leaves.iter().map(|leaf| match leaf {
            Leaf::Number(number, _) if dtype == Dtype::Bool => i64::from(*number != 0.0),
            Leaf::Number(number, _) => *number as i64,
            Leaf::Whole(whole, _) => *whole,
        });
        Array::of_i64s(dtype, shape, numbers.collect())
    })
}

fn typed(heap: &mut Heap, args: &Args<'_>, dtype: Dtype) -> Result<Value, Stop> {
    let array = nested(heap, args.need("data")?, Some(dtype))?;
    heap.give(array)
}

/// An array of one number.
fn repeated(dtype: Dtype, shape: Vec<usize>, number: f64) -> Array {
    let one = Array::of_f64s(dtype, vec![1], vec![number]);
    let len = shape.iter().product();
    one.gather(shape, std::iter::repeat_n(0, len))
}

fn filled(heap: &mut Heap, args: &Args<'_>, param: &str, number: f64) -> Result<Value, Stop> {
    let shape = args.shape(heap, param)?;
    let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Float32);
    heap.check_room(dtype, count(&shape)?)?;
    heap.give(repeated(dtype, shape, number))
}

fn full(
    heap: &mut Heap,
    args: &Args<'_>,
    shape: Vec<usize>,
    fill: &Value,
    dtype: Option<Dtype>,
) -> Result<Value, Stop> {
    let fill_number = number(heap, fill)?.ok_or_else(|| {
        type_error(format!("{}(): argument 'fill_value' must be Number, not {}", args.name, fill.type_name()))
    })?;
    let own = match fill {
        Value::Bool(_) => Dtype::Bool,
        Value::Int(_) => Dtype::Int64,
        Value::Tensor(id) => heap.dtype(*id)?,
        _ => Dtype::Float32,
    };
    let dtype = dtype.unwrap_or(own);
    heap.check_room(dtype, count(&shape)?)?;
    heap.give(repeated(dtype, shape, fill_number))
}

fn like(heap: &mut Heap, args: &Args<'_>, number: f64) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(id), Ok)?;
    let view = heap.view(id)?;
    let (shape, strides) = (view.shape.clone(), kept_strides(view));
    heap.check_room(dtype, count(&shape)?)?;
    Ok(Value::Tensor(heap.put_strided(repeated(dtype, shape, number), strides)?))
}

fn new_like(heap: &mut Heap, args: &Args<'_>, number: f64) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(id), Ok)?;
    let shape = args.shape(heap, "size")?;
    heap.check_room(dtype, count(&shape)?)?;
    heap.give(repeated(dtype, shape, number))
}

fn arange(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    // arange(end) and arange(start, end, step)
    let (start, end) = match (args.get("start"), args.get("end")) {
        (Some(_), Some(_)) => ("start", Some("end")),
        (Some(_), None) => ("start", None),
        (None, _) => ("end", None),
    };
    let read = |param: &str| args.float(heap, param);
    let (start, end) = match end {
        Some(end) => (read(start)?, read(end)?),
        None => (0.0, read(start)?),
    };
    let step = args.float_or(heap, "step", 1.0)?;
    let given = ["start", "end", "step"].into_iter().filter_map(|param| args.get(param));
    let mut types = Vec::new();
    for value in given {
        types.push(match value {
            Value::Float(_) => (Dtype::Float64, Weight::Number),
            Value::Tensor(id) => (heap.dtype(*id)?, Weight::Tensor),
            _ => (Dtype::Int64, Weight::Number),
        });
    }
    let dtype = args.dtype("dtype")?.unwrap_or_else(|| result_type(types));
    if step == 0.0 {
        return Err(runtime("step must be nonzero").into());
    }
    if !start.is_finite() || !end.is_finite() {
        return Err(runtime(format!("unsupported range: {start} -> {end}")).into());
    }
    if (end - start) / step < 0.0 {
        return Err(runtime("upper bound and lower bound inconsistent with step sign").into());
    }
    let n = ((end - start) / step).ceil();
    if n > 1e12 {
        return Err(runtime("invalid size, possible overflow?").into());
    }
    heap.check_room(dtype, n as usize)?;
    let array = super::build(dtype, vec![n as usize], n as usize, |at| start + at as f64 * step);
    heap.give(array)
}

fn spaced(heap: &Heap, args: &Args<'_>) -> Result<(f64, f64, usize), Stop> {
    let steps = args.int(heap, "steps")?;
    if steps < 0 {
        return Err(runtime("number of steps must be non-negative").into());
    }
    Ok((args.float(heap, "start")?, args.float(heap, "end")?, steps as usize))
}

/// A number between two, counted from the nearer end as torch does.
fn line(start: f64, end: f64, steps: usize, at: usize, dtype: Dtype) -> f64 {
    if steps < 2 {
        return start;
    }
    let step = (end - start) / (steps - 1) as f64;
    if dtype == Dtype::Float32 {
        let (start, end, step) = (start as f32, end as f32, (end as f32 - start as f32) / (steps - 1) as f32);
        let number = if at < steps / 2 {
            step.mul_add(at as f32, start)
        } else {
            (-step).mul_add((steps - at - 1) as f32, end)
        };
        return f64::from(number);
    }
    if at < steps / 2 { start + step * at as f64 } else { end - step * (steps - at - 1) as f64 }
}

fn space(heap: &mut Heap, dtype: Dtype, steps: usize, f: impl Fn(usize) -> f64) -> Result<Value, Stop> {
    heap.check_room(dtype, steps)?;
    heap.give(super::build(dtype, vec![steps], steps, f))
}

/// Draws so many numbers of a dtype; whether they go to one stretch of memory, row by row, is told last.
type Draw<'a> = &'a dyn Fn(&mut Generator, Dtype, usize, bool) -> Array;

/// Numbers by chance for a view, drawn in the order in which torch goes through its memory.
fn drawn(heap: &mut Heap, dtype: Dtype, view: &View, draw: Draw<'_>) -> Result<Array, Stop> {
    if !dtype.is_float() {
        return Err(
            runtime(format!("\"normal_kernel_cpu\" not implemented for '{}'", dtype.scalar_name())).into()
        );
    }
    let len = count(&view.shape)?;
    heap.check_room(dtype, len)?;
    let rows = view.is_contiguous();
    let array = draw(&mut heap.generator, dtype, len, rows);
    if rows {
        return Ok(array.shaped(view.shape.clone()));
    }
    let memory = View { storage: 0, offset: 0, shape: view.shape.clone(), strides: kept_strides(view) };
    Ok(array.gather(view.shape.clone(), memory.places()))
}

fn random(heap: &mut Heap, args: &Args<'_>, shape: Vec<usize>, draw: Draw<'_>) -> Result<Value, Stop> {
    let dtype = args.dtype("dtype")?.unwrap_or(Dtype::Float32);
    let array = drawn(heap, dtype, &View::whole(0, shape), draw)?;
    heap.give(array)
}

fn random_like(heap: &mut Heap, args: &Args<'_>, draw: Draw<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let dtype = args.dtype("dtype")?.map_or_else(|| heap.dtype(id), Ok)?;
    let view = heap.view(id)?;
    let view = View { storage: 0, offset: 0, shape: view.shape.clone(), strides: kept_strides(view) };
    let array = drawn(heap, dtype, &view, draw)?;
    Ok(Value::Tensor(heap.put_strided(array, view.strides)?))
}

fn redraw(heap: &mut Heap, args: &Args<'_>, draw: Draw<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let view = heap.view(id)?.clone();
    heap.check_writable(&view)?;
    let dtype = heap.dtype(id)?;
    let array = drawn(heap, dtype, &view, draw)?;
    heap.write(&view, array)?;
    Ok(Value::Tensor(id))
}

fn normal(generator: &mut Generator, dtype: Dtype, len: usize, rows: bool, (mean, std): (f64, f64)) -> Array {
    match dtype {
        Dtype::Float64 => Array::of_f64s(dtype, vec![len], generator.normal_f64(len, mean, std, rows)),
        _ => Array::of_f32s(
            dtype,
            vec![len],
            generator.normal_f32(len, mean, std, rows, dtype != Dtype::Float32),
        ),
    }
}

fn standard(generator: &mut Generator, dtype: Dtype, len: usize, rows: bool) -> Array {
    normal(generator, dtype, len, rows, (0.0, 1.0))
}

fn uniform(generator: &mut Generator, dtype: Dtype, len: usize, (from, to): (f64, f64)) -> Array {
    if dtype == Dtype::Float64 {
        let numbers = (0..len).map(|_| generator.uniform_f64() * (to - from) + from).collect();
        return Array::of_f64s(dtype, vec![len], numbers);
    }
    let (from, to) = (from as f32, to as f32);
    let numbers = (0..len).map(|_| generator.uniform_f32() * (to - from) + from).collect();
    Array::of_f32s(dtype, vec![len], numbers)
}

fn unit(generator: &mut Generator, dtype: Dtype, len: usize, _rows: bool) -> Array {
    uniform(generator, dtype, len, (0.0, 1.0))
}

fn whole_numbers(
    heap: &mut Heap,
    dtype: Dtype,
    shape: Vec<usize>,
    low: i64,
    high: i64,
) -> Result<Value, Stop> {
    if low >= high {
        return Err(runtime(format!(
            "random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        ))
        .into());
    }
    let len = count(&shape)?;
    heap.check_room(dtype, len.saturating_mul(2))?;
    let numbers = (0..len).map(|_| heap.generator.below(low, high)).collect();
    heap.give(Array::of_i64s(dtype, shape, numbers))
}
