//! `x[...]` and `x[...] = v`, as torch reads what stands between the brackets.

use super::args::Operand;
use super::array::Array;
use super::dtype::{Dtype, Weight};
use super::heap::Heap;
use super::value::{Id, Stop, TorchError, Value, index_error, runtime, type_error, value_error};
use super::view::{View, broadcast, count};

/// The elements that an index means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Their storage.
    pub storage: u32,
    /// Shape of what `x[index]` is.
    pub shape: Vec<usize>,
    /// Their places in the storage, in the order of that shape.
    pub offsets: Vec<usize>,
}

/// What an index comes to: a view, or a view some of whose dimensions are picked from by lists of places.
enum Found {
    View(View),
    Picked { view: View, lists: Vec<Option<Array>> },
}

/// The elements that `x[index]` means, without reading them.
pub fn places(heap: &Heap, id: Id, index: &Value) -> Result<Written, Stop> {
    match find(heap, id, index)? {
        Found::View(view) => {
            Ok(Written { storage: view.storage, offsets: view.places().collect(), shape: view.shape })
        }
        Found::Picked { view, lists } => Ok(pick(heap, &view, &lists)?.0),
    }
}

/// `x[index]`.
pub(crate) fn get(heap: &mut Heap, id: Id, index: &Value) -> Result<Value, Stop> {
    match find(heap, id, index)? {
        Found::View(view) => Ok(heap.give_view(view)),
        Found::Picked { view, lists } => {
            let (picked, strides) = pick(heap, &view, &lists)?;
            let whole = View::whole(view.storage, vec![heap.storage_len(view.storage)]);
            let all = heap.array_of(&whole)?;
            let array = all.gather(picked.shape, picked.offsets.into_iter());
            Ok(Value::Tensor(heap.put_strided(array, strides)?))
        }
    }
}

/// `x[index] = value`.
pub(crate) fn set(heap: &mut Heap, id: Id, index: &Value, value: &Value) -> Result<(), Stop> {
    let dtype = heap.dtype(id)?;
    let found = find(heap, id, index)?;
    let (Found::View(view) | Found::Picked { view, .. }) = &found;
    heap.check_known(view)?;
    let Some(operand) = Operand::of(heap, value)? else {
        return Err(type_error(format!(
            "can't assign a {} to a torch.{}Tensor",
            value.type_name(),
            dtype.scalar_name()
        ))
        .into());
    };
    let mut array = operand.array;
    match found {
        Found::View(view) => {
            // torch fills with one number also what stands in several places, but copies only where each place is its own
            if !array.shape.is_empty() {
                heap.check_writable(&view)?;
            }
            while array.shape.len() > view.shape.len() && array.shape[0] == 1 {
                array.shape.remove(0);
            }
            let array = spread_into(array, &view.shape)?;
            heap.write_places(view.storage, view.places(), array)
        }
        Found::Picked { view, lists } => {
            let mask = lists.iter().flatten().any(|list| list.dtype == Dtype::Bool);
            if operand.weight != Weight::Number && array.dtype != dtype && !(mask && array.len() == 1) {
                return Err(runtime(format!(
                    "Index put requires the source and destination dtypes match, got {} for the destination and {} for the source.",
                    dtype.scalar_name(),
                    array.dtype.scalar_name()
                ))
                .into());
            }
            let (picked, _) = pick(heap, &view, &lists)?;
            while array.shape.len() > picked.shape.len() && array.shape[0] == 1 {
                array.shape.remove(0);
            }
            let sizes = (array.shape.clone(), picked.shape.clone());
            let array = spread_into(array, &picked.shape).map_err(|_| {
                runtime(format!(
                    "shape mismatch: value tensor of shape {:?} cannot be broadcast to indexing result of shape {:?}",
                    sizes.0, sizes.1
                ))
            })?;
            heap.write_places(picked.storage, picked.offsets.into_iter(), array)
        }
    }
}

/// An array spread to a shape.
pub(crate) fn spread_into(array: Array, shape: &[usize]) -> Result<Array, TorchError> {
    if array.shape == shape {
        return Ok(array);
    }
    let wrong = |at: usize, n: usize, have: usize| {
        runtime(format!(
            "The expanded size of the tensor ({n}) must match the existing size ({have}) at non-singleton dimension {at}.  \
             Target sizes: {shape:?}.  Tensor sizes: {:?}",
            array.shape
        ))
    };
    let whole = View::whole(0, array.shape.clone());
    let Some(view) = whole.expand(shape) else {
        if array.shape.len() > shape.len() {
            return Err(runtime(format!(
                "output with shape {shape:?} doesn't match the broadcast shape {:?}",
                array.shape
            )));
        }
        let ahead = shape.len() - array.shape.len();
        let at = (0..array.shape.len())
            .rev()
            .find(|&at| array.shape[at] != 1 && array.shape[at] != shape[ahead + at]);
        let at = at.unwrap_or(0);
        return Err(wrong(ahead + at, shape[ahead + at], array.shape[at]));
    };
    Ok(array.gather(shape.to_vec(), view.places()))
}

fn find(heap: &Heap, id: Id, index: &Value) -> Result<Found, Stop> {
    // a list that holds more than numbers is read as a tuple, as torch still does
    let many = |item: &Value| {
        matches!(
            item,
            Value::List(_)
                | Value::Tuple(_)
                | Value::Slice(_)
                | Value::Tensor(_)
                | Value::None
                | Value::Ellipsis
        )
    };
    let items = match index {
        Value::Tuple(items) => items.as_slice(),
        Value::List(items) if items.len() < 32 && items.iter().any(many) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut view = heap.view(id)?.clone();
    let dims = view.shape.len();
    let mut taken = 0;
    for item in items {
        taken += match item {
            Value::None | Value::Ellipsis | Value::Bool(_) => 0,
            Value::Tensor(id) if matches!(heap.dtype(*id)?, Dtype::Bool | Dtype::Uint8) => {
                heap.view(*id)?.shape.len()
            }
            _ => 1,
        };
    }
    if taken > dims {
        return Err(index_error(if dims == 0 {
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a \
             0-dim tensor to a number"
                .into()
        } else {
            format!("too many indices for tensor of dimension {dims}")
        })
        .into());
    }
    let mut lists: Vec<Option<Array>> = Vec::new();
    let mut at = 0;
    for item in items {
        match item {
            Value::Ellipsis => {
                at += dims - taken;
                lists.resize(at.max(lists.len()), None);
            }
            Value::None => {
                view = view.unsqueeze(at);
                at += 1;
            }
            Value::Bool(flag) => {
                view = view.unsqueeze(at);
                lists.resize(at, None);
                let numbers = if *flag { vec![0] } else { vec![] };
                lists.push(Some(Array::of_i64s(Dtype::Int64, vec![numbers.len()], numbers)));
                at += 1;
            }
            Value::Int(place) => view = select(&view, at, *place)?,
            Value::Slice(parts) => {
                let (start, n, step) = slice(heap, parts, view.shape[at])?;
                view = view.slice(at, start, n, step);
                at += 1;
            }
            Value::Tensor(_) | Value::List(_) => {
                let list = match item {
                    Value::Tensor(id) => heap.array(*id)?,
                    other => super::ops::nested(heap, other, None)?,
                };
                match list.dtype {
                    _ if list.is_empty() && matches!(item, Value::List(_)) => {
                        lists.resize(at, None);
                        lists.push(Some(list.cast(Dtype::Int64)));
                        at += 1;
                    }
                    Dtype::Bool | Dtype::Uint8 => {
                        if list.shape.is_empty() {
                            view = view.unsqueeze(at);
                        } else if let Some(wrong) = (0..list.shape.len())
                            .find(|&dim| view.shape.get(at + dim) != Some(&list.shape[dim]))
                        {
                            return Err(index_error(format!(
                                "The shape of the mask {:?} at index {wrong} does not match the shape of the indexed tensor {:?} at index {}",
                                list.shape,
                                view.shape,
                                at + wrong
                            ))
                            .into());
                        }
                        lists.resize(at, None);
                        for mut one in nonzero(&list) {
                            one.dtype = Dtype::Bool;
                            lists.push(Some(one));
                            at += 1;
                        }
                    }
                    dtype if dtype.is_float() => {
                        return Err(index_error(
                            "tensors used as indices must be long, int, byte or bool tensors",
                        )
                        .into());
                    }
                    _ if list.shape.is_empty() => view = select(&view, at, list.to_i64s()[0])?,
                    _ => {
                        lists.resize(at, None);
                        lists.push(Some(list));
                        at += 1;
                    }
                }
            }
            Value::Str(_) => return Err(type_error("new(): invalid data type 'str'").into()),
            other => {
                return Err(index_error(format!(
                    "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices (got {})",
                    other.type_name()
                ))
                .into());
            }
        }
    }
    if lists.iter().all(Option::is_none) {
        return Ok(Found::View(view));
    }
    lists.resize(view.shape.len(), None);
    Ok(Found::Picked { view, lists })
}

fn select(view: &View, at: usize, place: i64) -> Result<View, TorchError> {
    let n = view.shape[at] as i64;
    if place < -n || place >= n {
        return Err(index_error(format!("index {place} is out of bounds for dimension {at} with size {n}")));
    }
    Ok(view.select(at, if place < 0 { place + n } else { place } as usize))
}

/// First place, number of places and step of a slice.
fn slice(heap: &Heap, parts: &[Value; 3], n: usize) -> Result<(usize, usize, usize), Stop> {
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(parts) {
        if !matches!(part, Value::None) {
            *number = Some(super::args::whole(heap, part)?.ok_or_else(|| {
                type_error("slice indices must be integers or None or have an __index__ method")
            })?);
        }
    }
    let step = numbers[2].unwrap_or(1);
    if step <= 0 {
        return Err(value_error("step must be greater than zero").into());
    }
    let n = n as i64;
    let clamp = |place: i64| if place < 0 { place.saturating_add(n).max(0) } else { place.min(n) };
    let start = clamp(numbers[0].unwrap_or(0));
    let stop = clamp(numbers[1].unwrap_or(n)).max(start);
    let places = (stop - start + step.min(n.max(1)) - 1) / step.min(n.max(1));
    let places = if stop == start {
        0
    } else if step >= n.max(1) {
        1
    } else {
        places
    };
    Ok((start as usize, places as usize, usize::try_from(step).unwrap_or(usize::MAX)))
}

/// For each dimension of a mask, the places along it of what is true.
pub(crate) fn nonzero(mask: &Array) -> Vec<Array> {
    let mut at = vec![0_usize; mask.shape.len()];
    let dims = mask.shape.len().max(1);
    let mut found: Vec<Vec<i64>> = vec![Vec::new(); dims];
    for place in 0..mask.len() {
        if mask.get(place) != 0.0 {
            if at.is_empty() {
                found[0].push(0);
            }
            for (list, &place) in found.iter_mut().zip(&at) {
                list.push(place as i64);
            }
        }
        for dim in (0..at.len()).rev() {
            at[dim] += 1;
            if at[dim] < mask.shape[dim] {
                break;
            }
            at[dim] = 0;
        }
    }
    found.into_iter().map(|list| Array::of_i64s(Dtype::Int64, vec![list.len()], list)).collect()
}

/// The elements of a view whose dimensions are picked from by lists that spread to one shape, and how torch lays out a copy of
/// them.
fn pick(heap: &Heap, view: &View, lists: &[Option<Array>]) -> Result<(Written, Vec<usize>), TorchError> {
    let shapes: Vec<&[usize]> = lists.iter().flatten().map(|list| list.shape.as_slice()).collect();
    let common = broadcast(shapes.iter().copied()).map_err(|_| {
        let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
        index_error(format!(
            "shape mismatch: indexing tensors could not be broadcast together with shapes {}",
            shapes.join(", ")
        ))
    })?;
    let picked: Vec<usize> = (0..lists.len()).filter(|&dim| lists[dim].is_some()).collect();
    let first = picked[0];
    let together = picked.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let ahead: Vec<usize> = (0..if together { first } else { 0 }).collect();
    let after: Vec<usize> =
        (0..lists.len()).filter(|dim| lists[*dim].is_none() && !ahead.contains(dim)).collect();
    let outer = view.permute(&ahead);
    let inner = View { offset: 0, ..view.permute(&after) };
    let shape = [outer.shape.as_slice(), &common, &inner.shape].concat();
    let len = count(&shape)?;
    heap.check_room(Dtype::Int64, len)?;
    let mut between = vec![0_usize; count(&common)?];
    // what torch's iterator goes through: the view, which stands still along the lists, and each list along its own dimensions
    let mut walked = vec![[outer.strides.as_slice(), &vec![0; common.len()], &inner.strides].concat()];
    for (number, &dim) in picked.iter().enumerate() {
        let Some(list) = &lists[dim] else { continue };
        let own =
            View::whole(0, list.shape.clone()).expand(&common).map_or_else(Vec::new, |view| view.strides);
        walked.push([vec![0; ahead.len()], own, vec![0; after.len()]].concat());
        let n = view.shape[dim] as i64;
        let places = spread_into(list.clone(), &common)?.to_i64s();
        for (offset, place) in between.iter_mut().zip(places) {
            if len > 0 && (place < -n || place >= n) {
                return Err(index_error(format!(
                    "index {place} is out of bounds for dimension {number} with size {n}"
                )));
            }
            *offset += if place < 0 { place + n } else { place } as usize * view.strides[dim];
        }
    }
    let inner: Vec<usize> = inner.places().collect();
    let mut offsets = Vec::with_capacity(len);
    for start in outer.places() {
        for &middle in &between {
            offsets.extend(inner.iter().map(|end| start + middle + end));
        }
    }
    let tensors: Vec<(&[usize], &[usize])> =
        walked.iter().map(|strides| (shape.as_slice(), strides.as_slice())).collect();
    let strides = super::ops::layout(&shape, &tensors);
    Ok((Written { storage: view.storage, shape, offsets }, strides))
}
