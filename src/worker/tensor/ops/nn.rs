//! Functions of `torch.nn.functional`.

use super::super::args::Args;
use super::super::array::Array;
use super::super::dtype::Dtype;
use super::super::heap::Heap;
use super::super::index::spread_into;
use super::super::value::{Stop, Value, index_error, not_implemented, runtime};
use super::super::view::{broadcast, count, dim};
use super::reduce::row;
use super::{Op, as_rows, build, from_rows, op};

pub(super) static OPS: &[Op] = &[
    op("softmax", "input dim dtype", |heap, args| soft(heap, args, |x, sum| x.exp() / sum)),
    op("softmin", "input dim dtype", |heap, args| {
        let turned = super::call(heap, "neg", &[Value::Tensor(args.tensor("input")?)], &[])?;
        let mut more = vec![turned.clone()];
        more.extend(args.get("dim").cloned());
        let result = super::call(heap, "softmax", &more, &[]);
        if let Value::Tensor(turned) = turned {
            heap.free(turned);
        }
        result
    }),
    op("log_softmax", "input dim dtype", |heap, args| soft(heap, args, |x, sum| x - sum.ln())),
    op("normalize", "input p dim eps", normalize),
    op("cosine_similarity", "x1 x2 dim eps", cosine_similarity),
    op("layer_norm", "input normalized_shape weight bias eps", |heap, args| norm(heap, args, 1e-5, true)),
    op("rms_norm", "input normalized_shape weight eps", |heap, args| {
        let least = if heap.dtype(args.tensor("input")?)? == Dtype::Float64 {
            f64::EPSILON
        } else {
            f64::from(f32::EPSILON)
        };
        norm(heap, args, least, false)
    }),
    op("one_hot", "input num_classes", one_hot),
    op("embedding", "input weight", |heap, args| {
        let (index, weight) = (args.array(heap, "input")?, args.array(heap, "weight")?);
        let [rows, width] = weight.shape[..] else {
            return Err(runtime("'weight' must be 2-D").into());
        };
        let mut shape = index.shape.clone();
        shape.push(width);
        heap.check_room(Dtype::Int64, count(&shape)?)?;
        let mut places = Vec::new();
        for place in index.to_i64s() {
            if place < 0 || place as usize >= rows {
                return Err(index_error("index out of range in self").into());
            }
            places.extend(place as usize * width..(place as usize + 1) * width);
        }
        let array = weight.gather(shape, places.into_iter());
        heap.give(array)
    }),
    op("dropout", "input p training", |heap, args| {
        // the model is served in evaluation mode
        if args.flag("training", false)? && args.float_or(heap, "p", 0.5)? != 0.0 {
            return Err(
                runtime("dropout with training=True is not served: the model is in evaluation mode").into()
            );
        }
        let view = heap.view(args.tensor("input")?)?.clone();
        Ok(heap.give_view(view))
    }),
    op(
        "cross_entropy",
        "input target weight size_average ignore_index reduce reduction label_smoothing",
        |heap, args| cross_entropy(heap, args, true),
    ),
    op("nll_loss", "input target weight size_average ignore_index reduce reduction", |heap, args| {
        cross_entropy(heap, args, false)
    }),
    op("mse_loss", "input target size_average reduce reduction", |heap, args| {
        loss(heap, args, |a, b| (a - b) * (a - b))
    }),
    op("l1_loss", "input target size_average reduce reduction", |heap, args| {
        loss(heap, args, |a, b| (a - b).abs())
    }),
    op("kl_div", "input target size_average reduce reduction log_target", |heap, args| {
        if args.flag("log_target", false)? {
            loss(heap, args, |input, target| target.exp() * (target - input))
        } else {
            loss(heap, args, |input, target| if target == 0.0 { 0.0 } else { target * (target.ln() - input) })
        }
    }),
];

fn need_float(name: &str, array: Array) -> Result<Array, Stop> {
    if array.dtype.is_float() {
        return Ok(array);
    }
    Err(not_implemented(format!(
        "\"{name}_kernel_impl\" not implemented for '{}'",
        array.dtype.scalar_name()
    ))
    .into())
}

/// The dimension that torch takes where none is given.
fn usual_dim(dims: usize) -> i64 {
    i64::from(!matches!(dims, 0 | 1 | 3))
}

fn soft(heap: &mut Heap, args: &Args<'_>, f: fn(f64, f64) -> f64) -> Result<Value, Stop> {
    let dtype = args.dtype("dtype")?;
    let array = args.array(heap, "input")?;
    let array = match dtype {
        Some(dtype) => array.cast(dtype),
        None => array,
    };
    let at = dim(args.int_or(heap, "dim", usual_dim(array.shape.len()))?, array.shape.len())?;
    let last = if at + 1 == array.shape.len().max(1) { "_lastdim" } else { "" };
    let array = need_float(&format!("{}{last}", args.name), array)?;
    heap.check_room(Dtype::Float64, array.len())?;
    let (shape, dtype) = (array.shape.clone(), array.dtype);
    let (rows, sizes, n) = as_rows(array, if shape.is_empty() { &[] } else { std::slice::from_ref(&at) });
    let mut numbers = rows.to_f64s();
    for row in numbers.chunks_mut(n.max(1)) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        for x in row {
            *x = f(*x - largest, sum);
        }
    }
    let result = Array::of_f64s(dtype, rows.shape, numbers);
    heap.give(if shape.is_empty() { result.shaped(shape) } else { from_rows(result, &sizes, at, n) })
}

fn normalize(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (p, least) = (args.float_or(heap, "p", 2.0)?, args.float_or(heap, "eps", 1e-12)?);
    let id = args.tensor("input")?;
    let at = args.int_or(heap, "dim", 1)?;
    let length = super::call(
        heap,
        "norm",
        &[Value::Tensor(id), Value::Float(p), Value::Int(at), Value::Bool(true)],
        &[],
    )?;
    let Value::Tensor(length) = length else { return Ok(Value::None) };
    let (input, lengths) = (heap.array(id)?, heap.array(length)?);
    heap.free(length);
    let lengths = spread_into(lengths, &input.shape)?;
    let array =
        build(input.dtype, input.shape.clone(), input.len(), |at| input.get(at) / lengths.get(at).max(least));
    heap.give(array)
}

fn cosine_similarity(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let (a, b) = (args.array(heap, "x1")?, args.array(heap, "x2")?);
    let least = args.float_or(heap, "eps", 1e-8)?;
    let shape = broadcast([a.shape.as_slice(), &b.shape])?;
    let dtype = a.dtype.promote(b.dtype);
    if !dtype.is_float() {
        return Err(runtime(
            "expected common dtype to be floating point, yet common dtype is ".to_owned()
                + dtype.scalar_name(),
        )
        .into());
    }
    heap.check_room(Dtype::Float64, count(&shape)?)?;
    let at = dim(args.int_or(heap, "dim", 1)?, shape.len())?;
    let (a, _, _) = as_rows(spread_into(a, &shape)?, std::slice::from_ref(&at));
    let (b, sizes, n) = as_rows(spread_into(b, &shape)?, std::slice::from_ref(&at));
    let len = sizes.iter().product();
    let array = build(dtype, sizes, len, |at| {
        let product: f64 = row(&a, at, n).zip(row(&b, at, n)).map(|(a, b)| a * b).sum();
        let length = |array| row(array, at, n).map(|x| x * x).sum::<f64>().sqrt().max(least);
        product / (length(&a) * length(&b))
    });
    heap.give(array)
}

/// Norms over the last dimensions, around their mean or not.
fn norm(heap: &mut Heap, args: &Args<'_>, least: f64, centred: bool) -> Result<Value, Stop> {
    let input = need_float(args.name, args.array(heap, "input")?)?;
    let over = args.shape(heap, "normalized_shape")?;
    if over.is_empty() || !input.shape.ends_with(&over) {
        return Err(runtime(format!(
            "Given normalized_shape={over:?}, expected input with shape [*, {}], but got input of size{:?}",
            over.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
            input.shape
        ))
        .into());
    }
    let least = args.float_or(heap, "eps", least)?;
    let affine = |param: &str| -> Result<Option<Array>, Stop> {
        let array = args.optional_tensor(param)?.map(|id| heap.array(id)).transpose()?;
        if let Some(array) = &array
            && array.shape != over
        {
            return Err(runtime(format!(
                "Expected {param} to be of same shape as normalized_shape, but got {param} of shape {:?} and normalized_shape = {over:?}",
                array.shape
            ))
            .into());
        }
        Ok(array)
    };
    let (weight, bias) = (affine("weight")?, affine("bias")?);
    let n: usize = over.iter().product();
    let mut numbers = input.to_f64s();
    for row in numbers.chunks_mut(n.max(1)) {
        let count = row.len() as f64;
        let shift = if centred { row.iter().sum::<f64>() / count } else { 0.0 };
        let spread = row.iter().map(|x| (x - shift) * (x - shift)).sum::<f64>() / count;
        let scale = 1.0 / (spread + least).sqrt();
        for (at, x) in row.iter_mut().enumerate() {
            *x = (*x - shift) * scale * weight.as_ref().map_or(1.0, |weight| weight.get(at))
                + bias.as_ref().map_or(0.0, |bias| bias.get(at));
        }
    }
    heap.give(Array::of_f64s(input.dtype, input.shape, numbers))
}

fn one_hot(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let index = args.array(heap, "input")?;
    if index.dtype != Dtype::Int64 {
        return Err(runtime("one_hot is only applicable to index tensor of type LongTensor.").into());
    }
    let places = index.to_i64s();
    if places.iter().any(|&place| place < 0) {
        return Err(runtime("Class values must be non-negative.").into());
    }
    let most = places.iter().max().map_or(0, |&largest| largest.saturating_add(1));
    let classes = match args.int_or(heap, "num_classes", -1)? {
        -1 => most,
        given if given < most => return Err(runtime("Class values must be smaller than num_classes.").into()),
        given => given,
    } as usize;
    let mut shape = index.shape;
    shape.push(classes);
    let len = count(&shape)?;
    heap.check_room(Dtype::Int64, len)?;
    let mut numbers = vec![0; len];
    for (row, place) in places.into_iter().enumerate() {
        numbers[row * classes + place as usize] = 1;
    }
    heap.give(Array::of_i64s(Dtype::Int64, shape, numbers))
}

/// One number of many losses, as `reduction` says.
fn reduced(heap: &mut Heap, args: &Args<'_>, losses: Array, weight: f64) -> Result<Value, Stop> {
    let sum: f64 = (0..losses.len()).map(|at| losses.get(at)).sum();
    let one = |number| Array::of_f64s(losses.dtype, vec![], vec![number]);
    match args.text("reduction")? {
        None | Some("mean") => heap.give(one(sum / weight)),
        Some("sum") => heap.give(one(sum)),
        Some("batchmean") => {
            let first = losses.shape.first().copied().unwrap_or(1) as f64;
            heap.give(one(sum / first))
        }
        Some("none") => heap.give(losses),
        Some(other) => {
            Err(super::super::value::value_error(format!("{other} is not a valid value for reduction"))
                .into())
        }
    }
}

fn loss(heap: &mut Heap, args: &Args<'_>, f: fn(f64, f64) -> f64) -> Result<Value, Stop> {
    let (input, target) = (args.array(heap, "input")?, args.array(heap, "target")?);
    let shape = broadcast([input.shape.as_slice(), &target.shape])?;
    heap.check_room(Dtype::Float64, count(&shape)?)?;
    let dtype = input.dtype.promote(target.dtype);
    let (input, target) = (spread_into(input, &shape)?, spread_into(target, &shape)?);
    let losses = build(dtype, shape, input.len(), |at| f(input.get(at), target.get(at)));
    let n = losses.len() as f64;
    reduced(heap, args, losses, n)
}

/// The loss of classes, of logits or (`log`: false) of logarithms of probabilities.
fn cross_entropy(heap: &mut Heap, args: &Args<'_>, logits: bool) -> Result<Value, Stop> {
    let input = need_float("log_softmax_lastdim", args.array(heap, "input")?)?;
    let target = args.array(heap, "target")?;
    let at = usize::from(input.shape.len() != 1);
    let Some(&classes) = input.shape.get(at) else {
        return Err(runtime("cross_entropy(): the input needs a dimension of classes").into());
    };
    let weights = args.optional_tensor("weight")?.map(|id| heap.array(id)).transpose()?;
    if weights.as_ref().is_some_and(|weights| weights.shape != [classes]) {
        return Err(
            runtime("cross_entropy: weight tensor should be defined either for all or no classes").into()
        );
    }
    let weight = |class: usize| weights.as_ref().map_or(1.0, |weights| weights.get(class));
    let smooth = args.float_or(heap, "label_smoothing", 0.0)?;
    heap.check_room(Dtype::Float64, input.len().saturating_mul(2))?;
    let (whole, dtype) = (input.shape.clone(), input.dtype);
    let (rows, sizes, _) = as_rows(input, &[at]);
    let mut scores = rows.to_f64s();
    if logits {
        for row in scores.chunks_mut(classes.max(1)) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum = row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() + largest;
            for score in row {
                *score -= sum;
            }
        }
    }
    if logits && target.dtype.is_float() {
        if target.shape != whole {
            return Err(runtime(format!(
                "Expected floating point type for target with class probabilities, got {}",
                target.dtype.scalar_name()
            ))
            .into());
        }
        let (target, ..) = as_rows(target, &[at]);
        let n = scores.len().checked_div(classes).unwrap_or(0);
        let losses = build(dtype, sizes, n, |row| {
            -(0..classes)
                .map(|class| {
                    let wanted = target.get(row * classes + class) * (1.0 - smooth) + smooth / classes as f64;
                    wanted * weight(class) * scores[row * classes + class]
                })
                .sum::<f64>()
        });
        let n = losses.len() as f64;
        return reduced(heap, args, losses, n);
    }
    if target.shape != sizes {
        return Err(match (sizes.first(), target.shape.first()) {
            (Some(have), Some(given)) if have != given => super::super::value::value_error(format!(
                "Expected input batch_size ({have}) to match target batch_size ({given})."
            ))
            .into(),
            _ => runtime(format!("Expected target size {sizes:?}, got {:?}", target.shape)).into(),
        });
    }
    let ignored = args.int_or(heap, "ignore_index", -100)?;
    let places = target.to_i64s();
    if let Some(wrong) =
        places.iter().find(|&&class| class != ignored && (class < 0 || class as usize >= classes))
    {
        return Err(index_error(format!("Target {wrong} is out of bounds.")).into());
    }
    let weight_of = |row: usize| if places[row] == ignored { 0.0 } else { weight(places[row] as usize) };
    let losses = build(dtype, sizes, places.len(), |row| {
        if places[row] == ignored {
            return 0.0;
        }
        let own = -scores[row * classes + places[row] as usize] * weight_of(row);
        if smooth == 0.0 {
            return own;
        }
        let all: f64 = (0..classes).map(|class| -scores[row * classes + class] * weight(class)).sum();
        own * (1.0 - smooth) + smooth * all / classes as f64
    });
    let total = (0..places.len()).map(weight_of).sum();
    reduced(heap, args, losses, total)
}
