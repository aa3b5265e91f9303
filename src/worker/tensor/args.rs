//! Arguments of an operation, bound to the names of its parameters as Python binds them.

use super::array::Array;
use super::dtype::{Dtype, Weight};
use super::heap::Heap;
use super::value::{Id, Stop, TorchError, Value, type_error};
use super::view::dim;

/// Bound arguments.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    /// The operation's name.
    pub(crate) name: &'static str,
    params: &'static str,
    bound: Vec<(&'static str, &'a Value)>,
    /// What stands for `*sizes`: all positional arguments from there on.
    rest: &'a [Value],
}

/// Other names of the same parameters, as NumPy has them.
const OTHER_NAMES: [(&str, &str); 6] = [
    ("axis", "dim"),
    ("keepdims", "keepdim"),
    ("self", "input"),
    ("x", "input"),
    ("a", "input"),
    ("axes", "dim"),
];

/// Parameters that say where and how numbers are held; all of ours are on the host.
const IGNORED: [&str; 9] = [
    "device",
    "requires_grad",
    "layout",
    "pin_memory",
    "non_blocking",
    "memory_format",
    "copy",
    "generator",
    "inplace",
];

impl<'a> Args<'a> {
    /// Binds by position, then by name. `params` are names separated by blanks; one that begins with `*` takes the rest.
    pub(crate) fn bind(
        name: &'static str,
        params: &'static str,
        args: &'a [Value],
        kwargs: &'a [(String, Value)],
    ) -> Result<Args<'a>, TorchError> {
        let mut bound: Vec<(&'static str, &'a Value)> = Vec::new();
        let mut rest: &[Value] = &[];
        let mut at = 0;
        for param in params.split(' ') {
            if let Some(_sizes) = param.strip_prefix('*') {
                rest = args.get(at..).unwrap_or(&[]);
                at = args.len();
            } else if let Some(value) = args.get(at) {
                bound.push((param, value));
                at += 1;
            }
        }
        if at < args.len() {
            return Err(type_error(format!(
                "{name}() takes at most {} positional arguments ({} given)",
                params.split(' ').count(),
                args.len()
            )));
        }
        for (key, value) in kwargs {
            let given = key.as_str();
            let known = |name: &str| params.split(' ').find(|param| param.trim_start_matches('*') == name);
            let other = OTHER_NAMES.iter().find(|(other, _)| *other == given).map(|(_, name)| *name);
            let Some(param) = known(given).or_else(|| other.and_then(known)) else {
                if IGNORED.contains(&given) {
                    continue;
                }
                return Err(type_error(format!("{name}() got an unexpected keyword argument '{given}'")));
            };
            if let Some(sizes) = param.strip_prefix('*') {
                bound.push((sizes, value));
                continue;
            }
            if bound.iter().any(|(before, _)| *before == param) {
                return Err(type_error(format!("{name}() got multiple values for argument '{param}'")));
            }
            bound.push((param, value));
        }
        Ok(Args { name, params, bound, rest })
    }

    /// An argument, unless it is missing or `None`.
    pub(crate) fn get(&self, param: &str) -> Option<&'a Value> {
        self.given(param).filter(|value| !matches!(value, Value::None))
    }

    /// An argument, unless it is missing.
    pub(crate) fn given(&self, param: &str) -> Option<&'a Value> {
        self.bound.iter().find(|(name, _)| *name == param).map(|(_, value)| *value)
    }

    /// An argument that must be there.
    pub(crate) fn need(&self, param: &str) -> Result<&'a Value, TorchError> {
        self.given(param).ok_or_else(|| {
            type_error(format!("{}() missing 1 required positional arguments: \"{param}\"", self.name))
        })
    }

    /// What torch says where a tensor should stand.
    pub(crate) fn not_a_tensor(&self, param: &str, value: &Value) -> TorchError {
        let place = self.params.split(' ').position(|other| other == param).unwrap_or_default().max(1);
        type_error(format!(
            "{}(): argument '{param}' (position {place}) must be Tensor, not {}",
            self.name,
            value.type_name()
        ))
    }

    fn wrong(&self, param: &str, wanted: &str, value: &Value) -> TorchError {
        type_error(format!("{}(): argument '{param}' must be {wanted}, not {}", self.name, value.type_name()))
    }

    /// A tensor.
    pub(crate) fn tensor(&self, param: &str) -> Result<Id, TorchError> {
        match self.need(param)? {
            Value::Tensor(id) => Ok(*id),
            other => Err(self.not_a_tensor(param, other)),
        }
    }

    /// A tensor, if it is given.
    pub(crate) fn optional_tensor(&self, param: &str) -> Result<Option<Id>, TorchError> {
        self.get(param).map(|_| self.tensor(param)).transpose()
    }

    /// The numbers of a tensor.
    pub(crate) fn array(&self, heap: &Heap, param: &str) -> Result<Array, Stop> {
        heap.array(self.tensor(param)?)
    }

    /// A whole number.
    pub(crate) fn int(&self, heap: &Heap, param: &str) -> Result<i64, Stop> {
        whole(heap, self.need(param)?)?.ok_or_else(|| {
            self.need(param).map_or_else(|error| error, |value| self.wrong(param, "int", value)).into()
        })
    }

    /// A whole number, or what is meant without it.
    pub(crate) fn int_or(&self, heap: &Heap, param: &str, default: i64) -> Result<i64, Stop> {
        if self.get(param).is_none() { Ok(default) } else { self.int(heap, param) }
    }

    /// A number, of a Python number or a tensor with one.
    pub(crate) fn float(&self, heap: &Heap, param: &str) -> Result<f64, Stop> {
        number(heap, self.need(param)?)?.ok_or_else(|| {
            self.need(param).map_or_else(|error| error, |value| self.wrong(param, "Number", value)).into()
        })
    }

    /// A number, or what is meant without it.
    pub(crate) fn float_or(&self, heap: &Heap, param: &str, default: f64) -> Result<f64, Stop> {
        if self.get(param).is_none() { Ok(default) } else { self.float(heap, param) }
    }

    /// `True` or `False`; missing: the default.
    pub(crate) fn flag(&self, param: &str, default: bool) -> Result<bool, TorchError> {
        match self.get(param) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Int(number)) => Ok(*number != 0),
            Some(other) => Err(self.wrong(param, "bool", other)),
        }
    }

    /// A dtype, if it is given.
    pub(crate) fn dtype(&self, param: &str) -> Result<Option<Dtype>, TorchError> {
        match self.get(param) {
            None => Ok(None),
            Some(Value::Dtype(dtype)) => Ok(Some(*dtype)),
            Some(other) => Err(self.wrong(param, "torch.dtype", other)),
        }
    }

    /// A text, if it is given.
    pub(crate) fn text(&self, param: &str) -> Result<Option<&'a str>, TorchError> {
        match self.get(param) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(param, "str", other)),
        }
    }

    /// A dimension of a tensor with so many.
    pub(crate) fn dim(&self, heap: &Heap, param: &str, dims: usize) -> Result<usize, Stop> {
        Ok(dim(self.int(heap, param)?, dims)?)
    }

    /// A dimension, if it is given.
    pub(crate) fn optional_dim(&self, heap: &Heap, param: &str, dims: usize) -> Result<Option<usize>, Stop> {
        if self.get(param).is_none() { Ok(None) } else { self.dim(heap, param, dims).map(Some) }
    }

    /// Several dimensions of a tensor with so many, each once; missing or empty: none.
    pub(crate) fn dims(&self, heap: &Heap, param: &str, dims: usize) -> Result<Option<Vec<usize>>, Stop> {
        let Some(value) = self.get(param) else { return Ok(None) };
        let numbers = match value {
            Value::List(items) | Value::Tuple(items) => wholes(heap, items)?,
            one => whole(heap, one)?.map(|number| vec![number]),
        }
        .ok_or_else(|| self.wrong(param, "tuple of ints", value))?;
        let mut places = Vec::new();
        for number in numbers {
            let place = dim(number, dims)?;
            if places.contains(&place) {
                return Err(super::value::runtime(format!(
                    "dim {place} appears multiple times in the list of dims"
                ))
                .into());
            }
            places.push(place);
        }
        Ok((!places.is_empty()).then_some(places))
    }

    /// Whole numbers that are given one by one or as one list: `view(2, 3)`, `view((2, 3))`, `view(size=(2, 3))`.
    pub(crate) fn ints(&self, heap: &Heap, param: &str) -> Result<Vec<i64>, Stop> {
        let items = match (self.rest, self.given(param)) {
            ([Value::List(items) | Value::Tuple(items)], None)
            | (_, Some(Value::List(items) | Value::Tuple(items))) => items.as_slice(),
            (rest, None) => rest,
            (_, Some(one)) => std::slice::from_ref(one),
        };
        wholes(heap, items)?.ok_or_else(|| {
            let wrong = items.iter().find(|item| !matches!(item, Value::Int(_)));
            type_error(format!(
                "{}(): argument '{param}' must be tuple of ints, but found element of type {}",
                self.name,
                wrong.map_or("object", Value::type_name)
            ))
            .into()
        })
    }

    /// Positional arguments that were taken by `*`.
    pub(crate) fn rest(&self) -> &'a [Value] {
        self.rest
    }

    /// Sizes of a new tensor.
    pub(crate) fn shape(&self, heap: &Heap, param: &str) -> Result<Vec<usize>, Stop> {
        let sizes = self.ints(heap, param)?;
        if let Some(negative) = sizes.iter().find(|&&n| n < 0) {
            return Err(super::value::runtime(match self.name {
                "zeros" | "empty" => format!("{}: Dimension size must be non-negative.", self.name),
                _ => format!("Trying to create tensor with negative dimension {negative}: {sizes:?}"),
            })
            .into());
        }
        Ok(sizes.into_iter().map(|n| n as usize).collect())
    }

    /// A list or tuple of tensors.
    pub(crate) fn tensors(&self, param: &str) -> Result<Vec<Id>, TorchError> {
        let value = self.need(param)?;
        let (Value::List(items) | Value::Tuple(items)) = value else {
            return Err(self.wrong(param, "tuple of Tensors", value));
        };
        items
            .iter()
            .enumerate()
            .map(|(at, item)| match item {
                Value::Tensor(id) => Ok(*id),
                other => Err(type_error(format!(
                    "expected Tensor as element {at} in argument 0, but got {}",
                    other.type_name()
                ))),
            })
            .collect()
    }

    /// A tensor or a Python number as an operand.
    pub(crate) fn operand(&self, heap: &Heap, param: &str) -> Result<Operand, Stop> {
        let value = self.need(param)?;
        Operand::of(heap, value)?.ok_or_else(|| self.not_a_tensor(param, value).into())
    }
}

/// One side of a pointwise operation.
#[derive(Debug)]
pub(crate) struct Operand {
    /// Its numbers.
    pub(crate) array: Array,
    /// What it is to the result's dtype.
    pub(crate) weight: Weight,
    /// Its strides, if it is a tensor.
    pub(crate) strides: Option<Vec<usize>>,
}

impl Operand {
    /// A tensor or a Python number; none: something else.
    pub(crate) fn of(heap: &Heap, value: &Value) -> Result<Option<Operand>, Stop> {
        let number = |array| Some(Operand { array, weight: Weight::Number, strides: None });
        Ok(match value {
            Value::Tensor(id) => {
                let view = heap.view(*id)?;
                let weight = if view.shape.is_empty() { Weight::Zero } else { Weight::Tensor };
                Some(Operand { array: heap.array(*id)?, weight, strides: Some(view.strides.clone()) })
            }
            Value::Bool(flag) => number(Array::of_bools(vec![], vec![*flag])),
            Value::Int(whole) => number(Array::of_i64s(Dtype::Int64, vec![], vec![*whole])),
            Value::Float(float) => number(Array::of_f64s(Dtype::Float64, vec![], vec![*float])),
            _ => None,
        })
    }
}

/// A whole number of a Python number or of a tensor that holds one.
pub(crate) fn whole(heap: &Heap, value: &Value) -> Result<Option<i64>, Stop> {
    Ok(match value {
        Value::Int(number) => Some(*number),
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Tensor(id) if heap.view(*id)?.len() == 1 && !heap.dtype(*id)?.is_float() => {
            heap.array(*id)?.to_i64s().first().copied()
        }
        _ => None,
    })
}

fn wholes(heap: &Heap, values: &[Value]) -> Result<Option<Vec<i64>>, Stop> {
    values.iter().map(|value| whole(heap, value)).collect()
}

/// A number of a Python number or of a tensor that holds one.
pub(crate) fn number(heap: &Heap, value: &Value) -> Result<Option<f64>, Stop> {
    Ok(match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Tensor(id) if heap.view(*id)?.len() == 1 => Some(heap.array(*id)?.get(0)),
        _ => None,
    })
}
