//! Operations that show the same numbers in another way.

use super::super::args::Args;
use super::super::heap::Heap;
use super::super::index;
use super::super::value::{Id, Stop, TorchError, Value, index_error, runtime, type_error};
use super::super::view::{FARTHEST, View, count, dim};
use super::{Op, op};

pub(super) static OPS: &[Op] = &[
    op("getitem", "input index", |heap, args| index::get(heap, args.tensor("input")?, args.need("index")?)),
    op("setitem", "input index value", |heap, args| {
        index::set(heap, args.tensor("input")?, args.need("index")?, args.need("value")?)?;
        Ok(Value::None)
    }),
    op("view", "input *shape", view),
    op("reshape", "input *shape", reshape),
    op("view_as", "input other", |heap, args| {
        let shape = heap.view(args.tensor("other")?)?.shape.clone();
        viewed(heap, args.tensor("input")?, &shape)
    }),
    op("reshape_as", "input other", |heap, args| {
        let shape = heap.view(args.tensor("other")?)?.shape.clone();
        reshaped(heap, args.tensor("input")?, &shape)
    }),
    op("flatten", "input start_dim end_dim", flatten),
    op("unflatten", "input dim sizes", unflatten),
    op("ravel", "input", |heap, args| {
        let id = args.tensor("input")?;
        let view = heap.view(id)?;
        let len = view.len();
        if view.is_contiguous() {
            return viewed(heap, id, &[len]);
        }
        let array = heap.array(id)?.shaped(vec![len]);
        heap.give(array)
    }),
    op("transpose", "input dim0 dim1", transpose),
    op("t", "input", |heap, args| {
        let view = heap.view(args.tensor("input")?)?;
        if view.shape.len() > 2 {
            return Err(runtime(format!(
                "t() expects a tensor with <= 2 dimensions, but self is {}D",
                view.shape.len()
            ))
            .into());
        }
        reversed(heap, args)
    }),
    op("T", "input", reversed),
    op("mT", "input", |heap, args| {
        let view = heap.view(args.tensor("input")?)?;
        let dims = view.shape.len();
        if dims < 2 {
            return Err(runtime(format!(
                "tensor.mT is only supported on matrices or batches of matrices. Got {dims}-D tensor."
            ))
            .into());
        }
        let mut order: Vec<usize> = (0..dims).collect();
        order.swap(dims - 2, dims - 1);
        let view = view.permute(&order);
        Ok(heap.give_view(view))
    }),
    op("permute", "input *dims", permute),
    op("movedim", "input source destination", movedim),
    op("unsqueeze", "input dim", unsqueeze),
    op("squeeze", "input dim", squeeze),
    op("expand", "input *size", expand),
    op("expand_as", "input other", |heap, args| {
        let shape = heap.view(args.tensor("other")?)?.shape.clone();
        expanded(heap, args.tensor("input")?, &shape)
    }),
    op("broadcast_to", "input size", expand),
    op("narrow", "input dim start length", narrow),
    op("select", "input dim index", select),
    op("unbind", "input dim", unbind),
    op("split", "input split_size_or_sections dim", split),
    op("chunk", "input chunks dim", chunk),
    op("diagonal", "input offset dim1 dim2", diagonal),
    op("as_strided", "input size stride storage_offset", as_strided),
    op("unsqueeze_", "input dim", |heap, args| renewed(heap, args, unsqueeze)),
    op("squeeze_", "input dim", |heap, args| renewed(heap, args, squeeze)),
    op("transpose_", "input dim0 dim1", |heap, args| renewed(heap, args, transpose)),
    op("t_", "input", |heap, args| renewed(heap, args, reversed)),
];

/// Does to the handle itself what another operation does to a new one.
fn renewed(
    heap: &mut Heap,
    args: &Args<'_>,
    operation: fn(&mut Heap, &Args<'_>) -> Result<Value, Stop>,
) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    if let Value::Tensor(made) = operation(heap, args)? {
        let view = heap.view(made)?.clone();
        heap.set_view(id, view)?;
        heap.free(made);
    }
    Ok(Value::Tensor(id))
}

/// Sizes with at most one `-1`, which becomes what is left.
pub(super) fn infer(sizes: &[i64], len: usize) -> Result<Vec<usize>, TorchError> {
    let invalid = || runtime(format!("shape '{sizes:?}' is invalid for input of size {len}"));
    if sizes.iter().filter(|&&n| n == -1).count() > 1 {
        return Err(runtime("only one dimension can be inferred"));
    }
    if let Some(wrong) = sizes.iter().position(|&n| n < -1) {
        return Err(runtime(format!(
            "invalid shape dimension {} at index {wrong} of shape {sizes:?}",
            sizes[wrong]
        )));
    }
    let known: Vec<usize> = sizes.iter().filter(|&&n| n != -1).map(|&n| n as usize).collect();
    let product = count(&known)?;
    if known.len() == sizes.len() {
        return if product == len { Ok(known) } else { Err(invalid()) };
    }
    if product == 0 {
        return Err(runtime(format!(
            "cannot reshape tensor of 0 elements into shape {sizes:?} because the unspecified dimension size -1 can be any value and is ambiguous"
        )));
    }
    if !len.is_multiple_of(product) {
        return Err(invalid());
    }
    Ok(sizes.iter().map(|&n| if n == -1 { len / product } else { n as usize }).collect())
}

fn viewed(heap: &mut Heap, id: Id, shape: &[usize]) -> Result<Value, Stop> {
    let view = heap.view(id)?;
    let view = view.reshape(shape).ok_or_else(|| {
        runtime(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across two \
             contiguous subspaces). Use .reshape(...) instead.",
        )
    })?;
    Ok(heap.give_view(view))
}

pub(super) fn reshaped(heap: &mut Heap, id: Id, shape: &[usize]) -> Result<Value, Stop> {
    if let Some(view) = heap.view(id)?.reshape(shape) {
        return Ok(heap.give_view(view));
    }
    let array = heap.array(id)?.shaped(shape.to_vec());
    heap.give(array)
}

fn view(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    if let [Value::Dtype(dtype)] = args.rest() {
        if *dtype == heap.dtype(id)? {
            return super::convert::alias(heap, args);
        }
        return Err(type_error("view(dtype) is not served: use .to(dtype)").into());
    }
    let shape = infer(&args.ints(heap, "shape")?, heap.view(id)?.len())?;
    viewed(heap, id, &shape)
}

fn reshape(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let shape = infer(&args.ints(heap, "shape")?, heap.view(id)?.len())?;
    reshaped(heap, id, &shape)
}

fn flatten(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let shape = heap.view(id)?.shape.clone();
    let start = dim(args.int_or(heap, "start_dim", 0)?, shape.len())?;
    let end = dim(args.int_or(heap, "end_dim", -1)?, shape.len())?;
    if start > end {
        return Err(runtime("flatten() has invalid args: start_dim cannot come after end_dim").into());
    }
    if shape.is_empty() {
        return reshaped(heap, id, &[1]);
    }
    if start == end {
        return super::convert::alias(heap, args);
    }
    let mut flat = shape[..start].to_vec();
    flat.push(shape[start..=end].iter().product());
    flat.extend_from_slice(&shape[end + 1..]);
    reshaped(heap, id, &flat)
}

fn unflatten(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let shape = heap.view(id)?.shape.clone();
    let at = args.dim(heap, "dim", shape.len())?;
    let sizes = infer(&args.ints(heap, "sizes")?, shape.get(at).copied().unwrap_or(1))?;
    let mut wider = shape[..at].to_vec();
    wider.extend(sizes);
    wider.extend_from_slice(shape.get(at + 1..).unwrap_or(&[]));
    viewed(heap, id, &wider)
}

fn transpose(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    let dims = view.shape.len();
    let (one, other) = (args.dim(heap, "dim0", dims)?, args.dim(heap, "dim1", dims)?);
    let mut order: Vec<usize> = (0..dims).collect();
    if dims > 0 {
        order.swap(one, other);
    }
    let view = view.permute(&order);
    Ok(heap.give_view(view))
}

fn reversed(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    let order: Vec<usize> = (0..view.shape.len()).rev().collect();
    let view = view.permute(&order);
    Ok(heap.give_view(view))
}

fn permute(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let dims = heap.view(id)?.shape.len();
    let given = args.ints(heap, "dims")?;
    if given.len() != dims {
        return Err(runtime(format!(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired ordering \
             of dimensions i.e. input.dim() = {dims} is not equal to len(dims) = {}",
            given.len()
        ))
        .into());
    }
    let mut order = Vec::new();
    for place in given {
        let place = dim(place, dims)?;
        if order.contains(&place) {
            return Err(runtime("permute(): duplicate dims are not allowed.").into());
        }
        order.push(place);
    }
    let view = heap.view(id)?.permute(&order);
    Ok(heap.give_view(view))
}

fn movedim(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let dims = heap.view(id)?.shape.len();
    let from = args.dims(heap, "source", dims)?.unwrap_or_default();
    let to = args.dims(heap, "destination", dims)?.unwrap_or_default();
    if from.len() != to.len() {
        return Err(runtime(
            "movedim: Invalid source or destination dims: they must have the same number of elements",
        )
        .into());
    }
    let mut order = vec![None; dims];
    for (&source, &place) in from.iter().zip(&to) {
        order[place] = Some(source);
    }
    let mut rest = (0..dims).filter(|dim| !from.contains(dim));
    let order: Vec<usize> = order.into_iter().filter_map(|source| source.or_else(|| rest.next())).collect();
    let view = heap.view(id)?.permute(&order);
    Ok(heap.give_view(view))
}

fn unsqueeze(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    let at = args.dim(heap, "dim", view.shape.len() + 1)?;
    let view = view.unsqueeze(at);
    Ok(heap.give_view(view))
}

fn squeeze(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let mut view = heap.view(args.tensor("input")?)?.clone();
    let dims = view.shape.len();
    let only = args.dims(heap, "dim", dims)?;
    for at in (0..dims).rev() {
        if view.shape[at] == 1 && only.as_ref().is_none_or(|only| only.contains(&at)) {
            view = view.select(at, 0);
        }
    }
    Ok(heap.give_view(view))
}

fn expanded(heap: &mut Heap, id: Id, shape: &[usize]) -> Result<Value, Stop> {
    let view = heap.view(id)?;
    let (have, dims) = (view.shape.clone(), view.shape.len());
    count(shape)?;
    if let Some(view) = view.expand(shape) {
        return Ok(heap.give_view(view));
    }
    if dims > shape.len() {
        return Err(runtime(format!(
            "expand(torch.{}Tensor{{{have:?}}}, size={shape:?}): the number of sizes provided ({}) must be greater or equal to the number of dimensions in the tensor ({dims})",
            heap.dtype(id)?.scalar_name(),
            shape.len()
        ))
        .into());
    }
    let ahead = shape.len() - dims;
    let at = (0..dims).rev().find(|&at| have[at] != 1 && have[at] != shape[ahead + at]).unwrap_or(0);
    Err(runtime(format!(
        "The expanded size of the tensor ({}) must match the existing size ({}) at non-singleton dimension {}.  Target sizes: {shape:?}.  Tensor sizes: {have:?}",
        shape[ahead + at],
        have[at],
        ahead + at
    ))
    .into())
}

fn expand(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let id = args.tensor("input")?;
    let have = heap.view(id)?.shape.clone();
    let sizes = args.ints(heap, "size")?;
    let ahead = sizes.len().checked_sub(have.len());
    let mut shape = Vec::new();
    for (at, &n) in sizes.iter().enumerate() {
        let own = ahead.and_then(|ahead| at.checked_sub(ahead)).map(|at| have[at]);
        shape.push(match (n, own) {
            (-1, Some(own)) => own,
            (-1, None) => {
                return Err(runtime(format!(
                    "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {at}"
                ))
                .into());
            }
            (n, _) if n < -1 => {
                return Err(runtime(format!("expand: the requested size {n} is negative")).into());
            }
            (n, _) => n as usize,
        });
    }
    expanded(heap, id, &shape)
}

fn not_of_zero(view: &View, what: &str) -> Result<(), TorchError> {
    if view.shape.is_empty() {
        Err(runtime(format!("{what}() cannot be applied to a 0-dim tensor.")))
    } else {
        Ok(())
    }
}

fn narrow(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    not_of_zero(view, "narrow")?;
    let at = args.dim(heap, "dim", view.shape.len())?;
    let (mut start, length) = (args.int(heap, "start")?, args.int(heap, "length")?);
    let n = view.shape[at] as i64;
    if length < 0 {
        return Err(runtime("narrow(): length must be non-negative.").into());
    }
    if start < -n || start > n {
        return Err(index_error(format!(
            "start out of range (expected to be in range of [-{n}, {n}], but got {start})"
        ))
        .into());
    }
    if start < 0 {
        start += n;
    }
    if start > n - length {
        return Err(
            runtime(format!("start ({start}) + length ({length}) exceeds dimension size ({n}).")).into()
        );
    }
    let view = view.slice(at, start as usize, length as usize, 1);
    Ok(heap.give_view(view))
}

fn select(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    if view.shape.is_empty() {
        return Err(index_error("select() cannot be applied to a 0-dim tensor.").into());
    }
    let at = args.dim(heap, "dim", view.shape.len())?;
    let place = args.int(heap, "index")?;
    let n = view.shape[at] as i64;
    if place < -n || place >= n {
        return Err(index_error(format!(
            "select(): index {place} out of range for tensor of size {:?} at dimension {at}",
            view.shape
        ))
        .into());
    }
    let view = view.select(at, if place < 0 { place + n } else { place } as usize);
    Ok(heap.give_view(view))
}

fn unbind(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?.clone();
    if view.shape.is_empty() {
        return Err(index_error("Dimension specified as 0 but tensor has no dimensions").into());
    }
    let at = dim(args.int_or(heap, "dim", 0)?, view.shape.len())?;
    Ok(Value::Tuple((0..view.shape[at]).map(|place| heap.give_view(view.select(at, place))).collect()))
}

fn pieces(heap: &mut Heap, view: &View, at: usize, sizes: &[usize]) -> Value {
    let mut start = 0;
    let parts = sizes.iter().map(|&n| {
        let part = view.slice(at, start, n, 1);
        start += n;
        heap.give_view(part)
    });
    Value::Tuple(parts.collect())
}

fn even(n: usize, size: usize) -> Vec<usize> {
    if n == 0 {
        return vec![0];
    }
    (0..n.div_ceil(size)).map(|part| size.min(n - part * size)).collect()
}

fn split(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?.clone();
    not_of_zero(&view, "split")?;
    let at = dim(args.int_or(heap, "dim", 0)?, view.shape.len())?;
    let n = view.shape[at];
    let sizes = if let Value::Int(size) = args.need("split_size_or_sections")? {
        if *size < 0 {
            return Err(runtime(format!(
                "split expects split_size be non-negative, but got split_size={size}"
            ))
            .into());
        }
        if *size == 0 && n != 0 {
            return Err(runtime(format!(
                "split_size can only be 0 if dimension size is 0, but got dimension size of {n}"
            ))
            .into());
        }
        even(n, (*size as usize).max(1))
    } else {
        let sizes = args.ints(heap, "split_size_or_sections")?;
        if sizes.iter().any(|&size| size < 0) || sizes.iter().sum::<i64>() != n as i64 {
            return Err(runtime(format!(
                "split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension {at}), but got split_sizes={sizes:?}"
            ))
            .into());
        }
        sizes.into_iter().map(|size| size as usize).collect()
    };
    Ok(pieces(heap, &view, at, &sizes))
}

fn chunk(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?.clone();
    not_of_zero(&view, "chunk")?;
    let at = dim(args.int_or(heap, "dim", 0)?, view.shape.len())?;
    let chunks = args.int(heap, "chunks")?;
    if chunks <= 0 {
        return Err(runtime(format!("chunk expects `chunks` to be greater than 0, got: {chunks}")).into());
    }
    let n = view.shape[at];
    let sizes =
        if n == 0 { vec![0; (chunks as usize).min(1 << 16)] } else { even(n, n.div_ceil(chunks as usize)) };
    Ok(pieces(heap, &view, at, &sizes))
}

fn diagonal(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    let dims = view.shape.len();
    let (one, other) = (dim(args.int_or(heap, "dim1", 0)?, dims)?, dim(args.int_or(heap, "dim2", 1)?, dims)?);
    if one == other {
        return Err(runtime(format!("diagonal dimensions cannot be identical {one}, {other}")).into());
    }
    let offset = args.int_or(heap, "offset", 0)?;
    let (rows, columns) = (view.shape[one] as i64, view.shape[other] as i64);
    let n = if offset >= 0 {
        rows.min(columns.saturating_sub(offset))
    } else {
        rows.saturating_add(offset).min(columns)
    };
    let n = n.max(0) as usize;
    let (first, second) = (view.strides[one], view.strides[other]);
    let mut diagonal = view.clone();
    if n > 0 {
        diagonal.offset += if offset >= 0 { offset as usize * second } else { (-offset) as usize * first };
    }
    for at in [one.max(other), one.min(other)] {
        diagonal.shape.remove(at);
        diagonal.strides.remove(at);
    }
    diagonal.shape.push(n);
    diagonal.strides.push(first + second);
    Ok(heap.give_view(diagonal))
}

fn as_strided(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let view = heap.view(args.tensor("input")?)?;
    let (storage, before) = (view.storage, view.offset);
    let shape = args.shape(heap, "size")?;
    let strides = args.ints(heap, "stride")?;
    let offset = args.int_or(heap, "storage_offset", before as i64)?;
    if shape.len() != strides.len() {
        return Err(runtime("mismatch in length of strides and shape").into());
    }
    if offset < 0 || strides.iter().any(|&stride| stride < 0) {
        return Err(runtime("as_strided: Negative strides are not supported at the moment").into());
    }
    count(&shape)?;
    let last = shape.iter().zip(&strides).try_fold(offset as usize, |last, (&n, &stride)| {
        n.saturating_sub(1).checked_mul(stride as usize).and_then(|step| last.checked_add(step))
    });
    let (held, bytes) = (heap.storage_len(storage), heap.dtype(args.tensor("input")?)?.bytes() as u64);
    if !shape.contains(&0) && last.is_none_or(|last| last >= held) {
        return Err(runtime(format!(
            "setStorage: sizes {shape:?}, strides {strides:?}, storage offset {offset}, and itemsize {bytes} requiring a storage size of {} are out of bounds for storage of size {}",
            last.map_or(u64::MAX, |last| (last as u64 + 1).saturating_mul(bytes)),
            held as u64 * bytes
        ))
        .into());
    }
    let strides = strides.into_iter().map(|stride| (stride as usize).min(FARTHEST)).collect();
    Ok(heap.give_view(View { storage, offset: offset as usize, shape, strides }))
}
