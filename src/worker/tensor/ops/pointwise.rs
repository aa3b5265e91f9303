//! Operations on each number by itself: arithmetic, comparisons, logic, functions.

use super::super::args::{Args, Operand};
use super::super::array::{Array, Data};
use super::super::dtype::{Dtype, Weight, result_type};
use super::super::heap::Heap;
use super::super::value::{Stop, Value, not_implemented, runtime};
use super::super::view::{View, broadcast, count, row_major};
use super::{Op, both, build, build_i64, op};

pub(super) static OPS: &[Op] = &[
    both("add", "input other alpha", |heap, args| scaled(heap, args, i64::wrapping_add, |a, b| a + b)),
    both("sub", "input other alpha", |heap, args| {
        match (boolean(heap, args, "input")?, boolean(heap, args, "other")?) {
            (false, false) => {}
            (true, true) => return Err(not_implemented("Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` operator instead.").into()),
            _ => return Err(not_implemented("Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a mask, use the `~` or `logical_not()` operator instead.").into()),
        }
        scaled(heap, args, i64::wrapping_sub, |a, b| a - b)
    }),
    op("rsub", "input other", |heap, args| arithmetic(heap, args, |a, b| b.wrapping_sub(a), |a, b| b - a)),
    both("mul", "input other", |heap, args| arithmetic(heap, args, i64::wrapping_mul, |a, b| a * b)),
    both("div", "input other rounding_mode", div),
    both("floor_divide", "input other", |heap, args| {
        refuse_zero(heap, args)?;
        arithmetic(heap, args, floor_div, float_floor_div)
    }),
    both("remainder", "input other", |heap, args| {
        refuse_zero(heap, args)?;
        arithmetic(heap, args, |a, b| a.wrapping_sub(floor_div(a, b).wrapping_mul(b)), float_remainder)
    }),
    both("fmod", "input other", |heap, args| {
        refuse_zero(heap, args)?;
        arithmetic(heap, args, i64::wrapping_rem, |a, b| a % b)
    }),
    both("pow", "input exponent", pow),
    both("maximum", "input other", |heap, args| arithmetic(heap, args, i64::max, largest)),
    both("minimum", "input other", |heap, args| arithmetic(heap, args, i64::min, |a, b| -largest(-a, -b))),
    both("atan2", "input other", |heap, args| floats(heap, args, f64::atan2)),
    both("eq", "input other", |heap, args| compare(heap, args, |a, b| a == b, |a, b| a == b)),
    both("ne", "input other", |heap, args| compare(heap, args, |a, b| a != b, |a, b| a != b)),
    both("lt", "input other", |heap, args| compare(heap, args, |a, b| a < b, |a, b| a < b)),
    both("le", "input other", |heap, args| compare(heap, args, |a, b| a <= b, |a, b| a <= b)),
    both("gt", "input other", |heap, args| compare(heap, args, |a, b| a > b, |a, b| a > b)),
    both("ge", "input other", |heap, args| compare(heap, args, |a, b| a >= b, |a, b| a >= b)),
    both("logical_and", "input other", |heap, args| truth(heap, args, |a, b| a && b)),
    both("logical_or", "input other", |heap, args| truth(heap, args, |a, b| a || b)),
    both("logical_xor", "input other", |heap, args| truth(heap, args, |a, b| a != b)),
    both("logical_not", "input", |heap, args| ask(heap, args, |a| a == 0.0)),
    both("bitwise_and", "input other", |heap, args| bits(heap, args, "and", |a, b| a & b)),
    both("bitwise_or", "input other", |heap, args| bits(heap, args, "or", |a, b| a | b)),
    both("bitwise_xor", "input other", |heap, args| bits(heap, args, "xor", |a, b| a ^ b)),
    both("bitwise_not", "input", |heap, args| {
        let array = args.array(heap, "input")?;
        match array.dtype {
            Dtype::Bool => map(heap, args, |a| i64::from(a == 0), |a| a),
            dtype if dtype.is_float() => Err(not_implemented(format!(
                "\"bitwise_not_cpu\" not implemented for '{}'",
                dtype.scalar_name()
            ))
            .into()),
            _ => map(heap, args, |a| !a, |a| a),
        }
    }),
    op("isnan", "input", |heap, args| ask(heap, args, f64::is_nan)),
    op("isinf", "input", |heap, args| ask(heap, args, f64::is_infinite)),
    op("isfinite", "input", |heap, args| ask(heap, args, f64::is_finite)),
    both("neg", "input", |heap, args| {
        if boolean(heap, args, "input")? {
            return Err(not_implemented("Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, use the `~` or `logical_not()` operator instead.").into());
        }
        map(heap, args, i64::wrapping_neg, |a| -a)
    }),
    op("positive", "input", |heap, args| map(heap, args, |a| a, |a| a)),
    both("abs", "input", |heap, args| map(heap, args, i64::wrapping_abs, f64::abs)),
    both("sign", "input", |heap, args| {
        map(heap, args, i64::signum, |a| {
            if a > 0.0 {
                1.0
            } else if a < 0.0 {
                -1.0
            } else {
                a * 0.0
            }
        })
    }),
    both("square", "input", |heap, args| map(heap, args, |a| a.wrapping_mul(a), |a| a * a)),
    both("relu", "input", |heap, args| map(heap, args, |a| a.max(0), |a| if a < 0.0 { 0.0 } else { a })),
    both("floor", "input", |heap, args| map(heap, args, |a| a, f64::floor)),
    both("ceil", "input", |heap, args| map(heap, args, |a| a, f64::ceil)),
    both("trunc", "input", |heap, args| map(heap, args, |a| a, f64::trunc)),
    both("frac", "input", |heap, args| activation(heap, args, f64::fract)),
    both("round", "input decimals", |heap, args| {
        let scale = 10_f64.powi(args.int_or(heap, "decimals", 0)?.clamp(-300, 300) as i32);
        map(heap, args, |a| a, |a| (a * scale).round_ties_even() / scale)
    }),
    both("exp", "input", |heap, args| function(heap, args, f64::exp)),
    both("exp2", "input", |heap, args| function(heap, args, f64::exp2)),
    both("expm1", "input", |heap, args| function(heap, args, f64::exp_m1)),
    both("log", "input", |heap, args| function(heap, args, f64::ln)),
    both("log2", "input", |heap, args| function(heap, args, f64::log2)),
    both("log10", "input", |heap, args| function(heap, args, f64::log10)),
    both("log1p", "input", |heap, args| function(heap, args, f64::ln_1p)),
    both("sqrt", "input", |heap, args| function(heap, args, f64::sqrt)),
    both("rsqrt", "input", |heap, args| function(heap, args, |a| 1.0 / a.sqrt())),
    both("reciprocal", "input", |heap, args| function(heap, args, |a| 1.0 / a)),
    both("sin", "input", |heap, args| function(heap, args, f64::sin)),
    both("cos", "input", |heap, args| function(heap, args, f64::cos)),
    both("tan", "input", |heap, args| function(heap, args, f64::tan)),
    both("acos", "input", |heap, args| function(heap, args, f64::acos)),
    both("asin", "input", |heap, args| function(heap, args, f64::asin)),
    both("atan", "input", |heap, args| function(heap, args, f64::atan)),
    both("sinh", "input", |heap, args| function(heap, args, f64::sinh)),
    both("cosh", "input", |heap, args| function(heap, args, f64::cosh)),
    both("tanh", "input", |heap, args| function(heap, args, f64::tanh)),
    both("erf", "input", |heap, args| function(heap, args, libm::erf)),
    both("sigmoid", "input", |heap, args| function(heap, args, sigmoid)),
    both("logsigmoid", "input", |heap, args| function(heap, args, |a| a.min(0.0) - (-a.abs()).exp().ln_1p())),
    both("silu", "input", |heap, args| activation(heap, args, |a| a * sigmoid(a))),
    op("softplus", "input beta threshold", |heap, args| {
        let (beta, threshold) = (args.float_or(heap, "beta", 1.0)?, args.float_or(heap, "threshold", 20.0)?);
        activation(
            heap,
            args,
            move |a| if a * beta > threshold { a } else { (a * beta).exp().ln_1p() / beta },
        )
    }),
    op("gelu", "input approximate", gelu),
    both("leaky_relu", "input negative_slope", |heap, args| {
        let slope = args.float_or(heap, "negative_slope", 0.01)?;
        activation(heap, args, move |a| if a > 0.0 { a } else { a * slope })
    }),
    both("clamp", "input min max", clamp),
    both("clamp_min", "input min", clamp),
    both("clamp_max", "input max", clamp),
    both("nan_to_num", "input nan posinf neginf", |heap, args| {
        let top = match heap.dtype(args.tensor("input")?)? {
            Dtype::Float16 => 65504.0,
            Dtype::BFloat16 => 3.389_531_389_251_535_5e38,
            Dtype::Float64 => f64::MAX,
            _ => f64::from(f32::MAX),
        };
        let nan = args.float_or(heap, "nan", 0.0)?;
        let (high, low) = (args.float_or(heap, "posinf", top)?, args.float_or(heap, "neginf", -top)?);
        map(
            heap,
            args,
            |a| a,
            move |a| {
                if a.is_nan() {
                    nan
                } else if a == f64::INFINITY {
                    high
                } else if a == f64::NEG_INFINITY {
                    low
                } else {
                    a
                }
            },
        )
    }),
    both("lerp", "input end weight", |heap, args| {
        let (start, end, weight) =
            (args.operand(heap, "input")?, args.operand(heap, "end")?, args.operand(heap, "weight")?);
        let dtype = result_type([(start.array.dtype, start.weight), (end.array.dtype, end.weight)]);
        ternary(heap, dtype, [&start, &end, &weight], |a, b, w| {
            if w.abs() < 0.5 { a + w * (b - a) } else { b - (b - a) * (1.0 - w) }
        })
    }),
    both("addcmul", "input tensor1 tensor2 value", |heap, args| {
        let value = args.float_or(heap, "value", 1.0)?;
        three(heap, args, move |a, b, c| a + value * b * c)
    }),
    both("addcdiv", "input tensor1 tensor2 value", |heap, args| {
        let value = args.float_or(heap, "value", 1.0)?;
        three(heap, args, move |a, b, c| a + value * b / c)
    }),
];

/// Strides that torch gives a result of several tensors: the order of dimensions of the first that has one, without gaps.
pub(crate) fn layout(shape: &[usize], tensors: &[(&[usize], &[usize])]) -> Vec<usize> {
    let like = |(own, strides): &(&[usize], &[usize])| {
        let view = View { storage: 0, offset: 0, shape: own.to_vec(), strides: strides.to_vec() };
        *own == shape && view.is_dense()
    };
    if let [(_, first), ..] = tensors
        && tensors.iter().all(|tensor| like(tensor) && tensor.1 == *first)
    {
        return first.to_vec();
    }
    if tensors.iter().all(|(own, strides)| *own == shape && row_major(own) == *strides) {
        return row_major(shape);
    }
    let dims = shape.len();
    // strides as torch's iterator sees them: zero where a dimension is spread
    let spread: Vec<Vec<usize>> = tensors
        .iter()
        .map(|(own, strides)| {
            let ahead = dims - own.len();
            (0..dims)
                .map(|dim| {
                    dim.checked_sub(ahead)
                        .map_or(0, |at| if own[at] == 1 && shape[dim] != 1 { 0 } else { strides[at] })
                })
                .collect()
        })
        .collect();
    let swap = |one: usize, other: usize| {
        for strides in &spread {
            let (first, second) = (strides[one], strides[other]);
            if first == 0 || second == 0 {
                continue;
            }
            if first != second {
                return if first < second { -1 } else { 1 };
            }
            if shape[one] > shape[other] {
                return 1;
            }
        }
        0
    };
    let mut order: Vec<usize> = (0..dims).rev().collect();
    for start in 1..dims {
        let mut at = start;
        for before in (0..start).rev() {
            match swap(order[before], order[at]) {
                1 => {
                    order.swap(before, at);
                    at = before;
                }
                -1 => break,
                _ => {}
            }
        }
    }
    let mut strides = vec![0; dims];
    let mut next = 1;
    for dim in order {
        strides[dim] = next;
        next *= shape[dim].max(1);
    }
    strides
}

/// Spread to a common shape unless it is one number; then every place shows that number.
fn spread(array: &Array, shape: &[usize]) -> Array {
    if array.len() == 1 || array.shape == shape {
        return array.clone();
    }
    match View::whole(0, array.shape.clone()).expand(shape) {
        Some(view) => array.gather(shape.to_vec(), view.places()),
        None => array.clone(),
    }
}

/// The common shape and the strides of a result.
fn common(heap: &Heap, dtype: Dtype, operands: &[&Operand]) -> Result<(Vec<usize>, Vec<usize>), Stop> {
    let shape = broadcast(operands.iter().map(|operand| operand.array.shape.as_slice()))?;
    heap.check_room(dtype, count(&shape)?)?;
    let tensors: Vec<(&[usize], &[usize])> = operands
        .iter()
        .filter_map(|operand| Some((operand.array.shape.as_slice(), operand.strides.as_deref()?)))
        // what has one number says nothing about the order of dimensions
        .filter(|(own, _)| operands.len() == 1 || !own.is_empty())
        .collect();
    let strides = layout(&shape, &tensors);
    Ok((shape, strides))
}

fn place_of(array: &Array) -> usize {
    usize::from(array.len() != 1)
}

/// Whole numbers of an operand: of a Python float, cut off.
fn wholes(array: &Array) -> std::sync::Arc<Vec<i64>> {
    match &array.data {
        Data::I64(numbers) => numbers.clone(),
        _ => std::sync::Arc::new(array.to_i64s()),
    }
}

fn binary(
    heap: &mut Heap,
    dtype: Dtype,
    (one, other): (&Operand, &Operand),
    ints: impl Fn(i64, i64) -> i64,
    floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, Stop> {
    let (shape, strides) = common(heap, dtype, &[one, other])?;
    let len = shape.iter().product();
    let (a, b) = (spread(&one.array, &shape), spread(&other.array, &shape));
    let (step_a, step_b) = (place_of(&a), place_of(&b));
    let array = if a.dtype.is_float() || b.dtype.is_float() || dtype.is_float() {
        // a Python float beside short floats is rounded to f32 first, as torch computes
        let short = dtype != Dtype::Float64;
        let operand =
            |array: &Array, at: usize| if short { f64::from(array.get(at) as f32) } else { array.get(at) };
        build(dtype, shape, len, |at| floats(operand(&a, at * step_a), operand(&b, at * step_b)))
    } else {
        let (a, b) = (wholes(&a), wholes(&b));
        build_i64(dtype, shape, len, |at| ints(a[at * step_a], b[at * step_b]))
    };
    Ok(Value::Tensor(heap.put_strided(array, strides)?))
}

fn type_of(one: &Operand, other: &Operand) -> Dtype {
    result_type([(one.array.dtype, one.weight), (other.array.dtype, other.weight)])
}

fn boolean(heap: &Heap, args: &Args<'_>, param: &str) -> Result<bool, Stop> {
    Ok(match args.need(param)? {
        Value::Tensor(id) => heap.dtype(*id)? == Dtype::Bool,
        Value::Bool(_) => true,
        _ => false,
    })
}

fn pair(heap: &Heap, args: &Args<'_>) -> Result<(Operand, Operand), Stop> {
    Ok((args.operand(heap, "input")?, args.operand(heap, "other")?))
}

fn arithmetic(
    heap: &mut Heap,
    args: &Args<'_>,
    ints: fn(i64, i64) -> i64,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Stop> {
    let (one, other) = pair(heap, args)?;
    let dtype = type_of(&one, &other);
    binary(heap, dtype, (&one, &other), ints, floats)
}

/// `input + alpha * other` and the like.
fn scaled(
    heap: &mut Heap,
    args: &Args<'_>,
    ints: fn(i64, i64) -> i64,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Stop> {
    let (one, mut other) = pair(heap, args)?;
    let dtype = type_of(&one, &other);
    if other.weight == Weight::Number
        && (args.name == "sub" || args.get("alpha").is_some())
        && dtype.is_float()
    {
        // torch rounds the number to the tensor's dtype here, but not where it adds
        other.array = other.array.cast(dtype);
    }
    if args.get("alpha").is_none() {
        return binary(heap, dtype, (&one, &other), ints, floats);
    }
    let alpha = args.float(heap, "alpha")?;
    binary(
        heap,
        dtype,
        (&one, &other),
        |a, b| ints(a, b.wrapping_mul(alpha as i64)),
        |a, b| floats(a, alpha * b),
    )
}

/// Functions of two numbers whose result has a fraction.
fn floats(heap: &mut Heap, args: &Args<'_>, f: fn(f64, f64) -> f64) -> Result<Value, Stop> {
    let (one, other) = pair(heap, args)?;
    let dtype = float_of(type_of(&one, &other));
    binary(heap, dtype, (&one, &other), |_, _| 0, f)
}

fn float_of(dtype: Dtype) -> Dtype {
    if dtype.is_float() { dtype } else { Dtype::Float32 }
}

fn div(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    match args.text("rounding_mode")? {
        None => floats(heap, args, |a, b| a / b),
        Some("floor") => {
            refuse_zero(heap, args)?;
            arithmetic(heap, args, floor_div, float_floor_div)
        }
        Some("trunc") => {
            refuse_zero(heap, args)?;
            arithmetic(heap, args, i64::wrapping_div, |a, b| (a / b).trunc())
        }
        Some(other) => Err(runtime(format!(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{other}'"
        ))
        .into()),
    }
}

/// Whole numbers cannot be divided by zero.
fn refuse_zero(heap: &Heap, args: &Args<'_>) -> Result<(), Stop> {
    let (one, other) = pair(heap, args)?;
    if !type_of(&one, &other).is_float() && (0..other.array.len()).any(|at| other.array.get(at) == 0.0) {
        return Err(runtime("ZeroDivisionError").into());
    }
    Ok(())
}

fn floor_div(a: i64, b: i64) -> i64 {
    let quotient = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

fn float_floor_div(a: f64, b: f64) -> f64 {
    if b == 0.0 {
        return a / b;
    }
    let rest = a % b;
    let quotient = (a - rest) / b;
    let quotient = if rest != 0.0 && (b < 0.0) != (rest < 0.0) { quotient - 1.0 } else { quotient };
    if quotient == 0.0 {
        return 0.0_f64.copysign(a / b);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

fn float_remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (b < 0.0) != (rest < 0.0) { rest + b } else { rest }
}

fn largest(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn pow(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (base, exponent) = (args.operand(heap, "input")?, args.operand(heap, "exponent")?);
    let dtype = type_of(&base, &exponent);
    let negative = (0..exponent.array.len()).any(|at| exponent.array.get(at) < 0.0);
    if !dtype.is_float() && negative && exponent.weight == Weight::Number {
        return Err(runtime("Integers to negative integer powers are not allowed.").into());
    }
    let ints = |base: i64, exponent: i64| {
        if exponent < 0 {
            return match base {
                1 => 1,
                -1 => 1 - 2 * (exponent & 1),
                _ => 0,
            };
        }
        let (mut all, mut power, mut left) = (1_i64, base, exponent);
        while left > 0 {
            if left & 1 == 1 {
                all = all.wrapping_mul(power);
            }
            power = power.wrapping_mul(power);
            left >>= 1;
        }
        all
    };
    binary(heap, dtype, (&base, &exponent), ints, |base, exponent| {
        if exponent == 0.5 {
            base.sqrt()
        } else if exponent == -0.5 {
            1.0 / base.sqrt()
        } else {
            base.powf(exponent)
        }
    })
}

fn compare(
    heap: &mut Heap,
    args: &Args<'_>,
    ints: fn(i64, i64) -> bool,
    floats: fn(f64, f64) -> bool,
) -> Result<Value, Stop> {
    let (one, other) = pair(heap, args)?;
    // both sides are compared in the dtype that holds both
    let dtype = type_of(&one, &other);
    let rounded = |operand: Operand| Operand { array: operand.array.cast(dtype), ..operand };
    let (one, other) = if dtype.is_float() { (rounded(one), rounded(other)) } else { (one, other) };
    binary(
        heap,
        Dtype::Bool,
        (&one, &other),
        move |a, b| i64::from(ints(a, b)),
        move |a, b| f64::from(u8::from(floats(a, b))),
    )
}

fn truth(heap: &mut Heap, args: &Args<'_>, f: fn(bool, bool) -> bool) -> Result<Value, Stop> {
    let (one, other) = pair(heap, args)?;
    binary(
        heap,
        Dtype::Bool,
        (&one, &other),
        move |a, b| i64::from(f(a != 0, b != 0)),
        move |a, b| f64::from(u8::from(f(a != 0.0, b != 0.0))),
    )
}

fn bits(heap: &mut Heap, args: &Args<'_>, name: &str, f: fn(i64, i64) -> i64) -> Result<Value, Stop> {
    let (one, other) = pair(heap, args)?;
    let dtype = type_of(&one, &other);
    if dtype.is_float() {
        return Err(not_implemented(format!(
            "\"bitwise_{name}_cpu\" not implemented for '{}'",
            dtype.scalar_name()
        ))
        .into());
    }
    binary(heap, dtype, (&one, &other), f, |a, _| a)
}

fn ask(heap: &mut Heap, args: &Args<'_>, f: fn(f64) -> bool) -> Result<Value, Stop> {
    let operand = args.operand(heap, "input")?;
    unary(heap, args, Dtype::Bool, &operand, |a| f64::from(u8::from(f(a))))
}

/// A function of each number that keeps the dtype.
pub(super) fn map(
    heap: &mut Heap,
    args: &Args<'_>,
    ints: impl Fn(i64) -> i64,
    floats: impl Fn(f64) -> f64,
) -> Result<Value, Stop> {
    let operand = args.operand(heap, "input")?;
    let dtype = operand.array.dtype;
    if dtype.is_float() {
        return unary(heap, args, dtype, &operand, floats);
    }
    args.tensor("input")?;
    let (shape, strides) = common(heap, dtype, &[&operand])?;
    let numbers = wholes(&operand.array);
    let array = build_i64(dtype, shape, numbers.len(), |at| ints(numbers[at]));
    Ok(Value::Tensor(heap.put_strided(array, strides)?))
}

fn unary(
    heap: &mut Heap,
    args: &Args<'_>,
    dtype: Dtype,
    operand: &Operand,
    f: impl Fn(f64) -> f64,
) -> Result<Value, Stop> {
    args.tensor("input")?;
    let (shape, strides) = common(heap, dtype, &[operand])?;
    let array = build(dtype, shape, operand.array.len(), |at| f(operand.array.get(at)));
    Ok(Value::Tensor(heap.put_strided(array, strides)?))
}

/// A function of each number whose result has a fraction.
fn function(heap: &mut Heap, args: &Args<'_>, f: fn(f64) -> f64) -> Result<Value, Stop> {
    let operand = args.operand(heap, "input")?;
    unary(heap, args, float_of(operand.array.dtype), &operand, f)
}

/// The same of floats only.
fn activation(heap: &mut Heap, args: &Args<'_>, f: impl Fn(f64) -> f64) -> Result<Value, Stop> {
    let operand = args.operand(heap, "input")?;
    let dtype = operand.array.dtype;
    if !dtype.is_float() {
        let kernel =
            if args.name == "gelu" { "GeluKernelImpl".to_owned() } else { format!("{}_cpu", args.name) };
        return Err(
            not_implemented(format!("\"{kernel}\" not implemented for '{}'", dtype.scalar_name())).into()
        );
    }
    unary(heap, args, dtype, &operand, f)
}

/// `x * sigmoid(x)`, as torch has it.
pub fn silu(x: f32) -> f32 {
    let a = f64::from(x);
    (a * sigmoid(a)) as f32
}

fn sigmoid(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

fn gelu(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    match args.text("approximate")? {
        None | Some("none") => {
            activation(heap, args, |a| 0.5 * a * (1.0 + libm::erf(a * std::f64::consts::FRAC_1_SQRT_2)))
        }
        Some("tanh") => activation(heap, args, |a| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (a + 0.044_715 * a * a * a);
            0.5 * a * (1.0 + inner.tanh())
        }),
        Some(_) => Err(runtime("approximate argument must be either none or tanh.").into()),
    }
}

fn clamp(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let input = args.operand(heap, "input")?;
    let bound = |param| args.get(param).map(|_| args.operand(heap, param)).transpose();
    let (low, high) = (bound("min")?, bound("max")?);
    if low.is_none() && high.is_none() {
        return Err(runtime("torch.clamp: At least one of 'min' or 'max' must not be None").into());
    }
    let all = [Some(&input), low.as_ref(), high.as_ref()];
    let dtype = result_type(all.into_iter().flatten().map(|operand| (operand.array.dtype, operand.weight)));
    let endless = |number: f64| Operand {
        array: Array::of_f64s(Dtype::Float64, vec![], vec![number]),
        weight: Weight::Number,
        strides: None,
    };
    let low = low.unwrap_or_else(|| endless(f64::NEG_INFINITY));
    let high = high.unwrap_or_else(|| endless(f64::INFINITY));
    ternary(heap, dtype, [&input, &low, &high], |a, low, high| {
        if a.is_nan() {
            return a;
        }
        let a = if a < low || low.is_nan() { low } else { a };
        if a > high || high.is_nan() { high } else { a }
    })
}

/// A function of three operands.
pub(super) fn ternary(
    heap: &mut Heap,
    dtype: Dtype,
    operands: [&Operand; 3],
    f: impl Fn(f64, f64, f64) -> f64,
) -> Result<Value, Stop> {
    let (shape, strides) = common(heap, dtype, &operands)?;
    let len = shape.iter().product();
    let [a, b, c] = operands.map(|operand| spread(&operand.array, &shape));
    let [step_a, step_b, step_c] = [&a, &b, &c].map(place_of);
    let array = build(dtype, shape, len, |at| f(a.get(at * step_a), b.get(at * step_b), c.get(at * step_c)));
    Ok(Value::Tensor(heap.put_strided(array, strides)?))
}

fn three(heap: &mut Heap, args: &Args<'_>, f: impl Fn(f64, f64, f64) -> f64) -> Result<Value, Stop> {
    let operands =
        [args.operand(heap, "input")?, args.operand(heap, "tensor1")?, args.operand(heap, "tensor2")?];
    let dtype = result_type(operands.iter().map(|operand| (operand.array.dtype, operand.weight)));
    let [a, b, c] = &operands;
    ternary(heap, dtype, [a, b, c], f)
}
