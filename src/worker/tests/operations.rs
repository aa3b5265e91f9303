//! The worker's tensors against torch: each operation, and ten thousand sequences of views and writes.
//!
//! `goldens.py` beside this file asks torch and writes what it says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "tests fail loudly, and some numbers must be the very same"
)]

use mediant_worker::tensor::{self, Array, Budget, Data, Dtype, Heap, Stop, Value, View};
use serde_json::Value as Json;
use std::path::Path;
use std::sync::Arc;

fn lines(name: &str) -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let text = zstd::stream::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn heap() -> Heap {
    Heap::new(Budget { bytes: 1 << 28, operations: 1_000_000 })
}

fn number(json: &Json) -> f64 {
    match json {
        Json::String(text) => text.parse().unwrap(),
        other => other.as_f64().unwrap(),
    }
}

fn sizes(json: &Json) -> Vec<usize> {
    json.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

/// A tensor as the file has it: its storage and the view on it.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    numbers: Vec<f64>,
    wholes: Vec<i64>,
}

impl Stored {
    fn of(json: &Json) -> Stored {
        let parts = json.as_array().unwrap();
        let dtype = Dtype::from_name(parts[0].as_str().unwrap()).unwrap();
        let members = parts[4].as_array().unwrap();
        Stored {
            dtype,
            shape: sizes(&parts[1]),
            strides: sizes(&parts[2]),
            offset: parts[3].as_u64().unwrap() as usize,
            numbers: members.iter().map(number).collect(),
            wholes: if dtype.is_float() {
                vec![]
            } else {
                members.iter().map(|n| n.as_i64().unwrap()).collect()
            },
        }
    }

    fn data(&self) -> Data {
        match self.dtype {
            Dtype::Float64 => Data::F64(Arc::new(self.numbers.clone())),
            dtype if dtype.is_float() => {
                Data::F32(Arc::new(self.numbers.iter().map(|&x| x as f32).collect()))
            }
            _ => Data::I64(Arc::new(self.wholes.clone())),
        }
    }

    fn make(&self, heap: &mut Heap) -> Value {
        let whole = Array { dtype: self.dtype, shape: vec![self.numbers.len()], data: self.data() };
        let whole = Value::Tensor(heap.put(whole).unwrap());
        let tuple = |sizes: &[usize]| Value::sizes(sizes);
        let args = [whole, tuple(&self.shape), tuple(&self.strides), Value::Int(self.offset as i64)];
        tensor::call(heap, "as_strided", &args, &[]).unwrap()
    }

    /// Numbers in the order of the tensor.
    fn row_by_row(&self) -> Vec<f64> {
        let view = View {
            storage: 0,
            offset: self.offset,
            shape: self.shape.clone(),
            strides: self.strides.clone(),
        };
        view.places().map(|place| self.numbers[place]).collect()
    }
}

fn value(heap: &mut Heap, json: &Json) -> Value {
    match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => Value::Int(number.as_i64().unwrap()),
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| value(heap, item)).collect()),
        Json::Object(members) => {
            let (kind, inner) = members.iter().next().unwrap();
            match kind.as_str() {
                "t" => Stored::of(inner).make(heap),
                "u" => Value::Tuple(inner.as_array().unwrap().iter().map(|item| value(heap, item)).collect()),
                "l" => value(heap, inner),
                "s" => {
                    let Value::List(parts) = value(heap, inner) else { panic!("a slice") };
                    Value::Slice(Box::new(parts.try_into().unwrap()))
                }
                "e" => Value::Ellipsis,
                "d" => Value::Dtype(Dtype::from_name(inner.as_str().unwrap()).unwrap()),
                "f" => Value::Float(number(inner)),
                other => panic!("{other}"),
            }
        }
    }
}

/// How far a number may be from torch's: a few units of the last place, of the largest number of the tensor where a sum may
/// cancel.
fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float64 => 1e-13,
        Dtype::Float32 => 1e-6,
        Dtype::Float16 => 1e-3,
        Dtype::BFloat16 => 8e-3,
        _ => 0.0,
    }
}

fn differs(heap: &Heap, name: &str, got: &Value, wanted: &Json) -> Option<String> {
    let wrong = |what: &str| Some(format!("{what}: got {got:?}, torch has {wanted}"));
    match (got, wanted) {
        (Value::Tensor(id), Json::Object(members)) if members.contains_key("t") => {
            let wanted = Stored::of(&members["t"]);
            let view = heap.view(*id).unwrap();
            if view.shape != wanted.shape {
                return Some(format!("shape {:?}, torch has {:?}", view.shape, wanted.shape));
            }
            if heap.dtype(*id).unwrap() != wanted.dtype {
                return Some(format!("dtype {:?}, torch has {:?}", heap.dtype(*id).unwrap(), wanted.dtype));
            }
            let significant = |strides: &[usize]| -> Vec<usize> {
                strides
                    .iter()
                    .zip(&wanted.shape)
                    .filter(|(_, n)| **n > 1)
                    .map(|(stride, _)| *stride)
                    .collect()
            };
            // what einsum gives may be a view in torch
            if name != "einsum"
                && !view.is_empty()
                && significant(&view.strides) != significant(&wanted.strides)
            {
                return Some(format!("strides {:?}, torch has {:?}", view.strides, wanted.strides));
            }
            let array = heap.array(*id).unwrap();
            let numbers: Vec<f64> = match &array.data {
                Data::F32(numbers) => numbers.iter().map(|&x| f64::from(x)).collect(),
                Data::F64(numbers) => numbers.to_vec(),
                Data::I64(numbers) => numbers.iter().map(|&x| x as f64).collect(),
            };
            let right = wanted.row_by_row();
            let largest = right.iter().filter(|x| x.is_finite()).fold(0.0_f64, |all, x| all.max(x.abs()));
            let tolerance = tolerance(wanted.dtype);
            let close = |a: f64, b: f64| {
                a == b
                    || (a.is_nan() && b.is_nan())
                    || (a - b).abs() <= tolerance * b.abs().max(largest * 0.3).max(0.05)
            };
            if numbers.iter().zip(&right).all(|(&a, &b)| close(a, b)) {
                None
            } else {
                Some(format!("numbers {numbers:?}, torch has {right:?}"))
            }
        }
        (Value::Tuple(items), Json::Object(members)) if members.contains_key("u") => {
            let wanted = members["u"].as_array().unwrap();
            if items.len() != wanted.len() {
                return wrong("length");
            }
            items.iter().zip(wanted).find_map(|(got, wanted)| differs(heap, name, got, wanted))
        }
        (Value::Named(_, items), Json::Object(members)) if members.contains_key("u") => {
            let wanted = members["u"].as_array().unwrap();
            items.iter().zip(wanted).find_map(|((_, got), wanted)| differs(heap, name, got, wanted))
        }
        (Value::List(items), Json::Object(members)) if members.contains_key("l") => {
            let wanted = members["l"].as_array().unwrap();
            if items.len() != wanted.len() {
                return wrong("length");
            }
            items.iter().zip(wanted).find_map(|(got, wanted)| differs(heap, name, got, wanted))
        }
        (Value::Float(got), Json::Object(members)) if members.contains_key("f") => {
            let wanted = number(&members["f"]);
            ((got - wanted).abs() > 1e-6 * wanted.abs() && *got != wanted)
                .then(|| format!("{got} and {wanted}"))
        }
        (Value::Dtype(dtype), Json::Object(members)) if members.contains_key("d") => {
            (dtype.name() != members["d"].as_str().unwrap()).then(|| dtype.name().into())
        }
        (Value::None, Json::Null) => None,
        (Value::Bool(got), Json::Bool(wanted)) if got == wanted => None,
        (Value::Int(got), Json::Number(wanted)) if Some(*got) == wanted.as_i64() => None,
        (Value::Str(got), Json::String(wanted)) if got == wanted => None,
        _ => wrong("another kind of value"),
    }
}

/// Parts of errors of torch that list its own overloads: of those the kind must be right.
const OTHER_WORDS: &[&str] = &["invalid combination of arguments"];

#[test]
fn each_operation_gives_what_torch_gives() {
    let cases = lines("operations.jsonl.zst");
    assert!(cases.len() > 2000, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let mut heap = heap();
        let name = case["name"].as_str().unwrap();
        let args: Vec<Value> =
            case["args"].as_array().unwrap().iter().map(|arg| value(&mut heap, arg)).collect();
        let kwargs: Vec<(String, Value)> = case
            .get("kwargs")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(key, arg)| (key.clone(), value(&mut heap, arg)))
            .collect();
        if let Some(seed) = case.get("seed") {
            tensor::call(&mut heap, "manual_seed", &[Value::Int(seed.as_i64().unwrap())], &[]).unwrap();
        }
        let got = tensor::call(&mut heap, name, &args, &kwargs);
        let fault = match (&got, case.get("error")) {
            (Ok(got), None) => differs(&heap, name, got, &case["result"])
                .or_else(|| case.get("after").and_then(|after| differs(&heap, name, &args[0], after))),
            (Ok(got), Some(error)) => Some(format!("{got:?}, torch refuses: {error}")),
            (Err(stop), None) => Some(format!("{stop:?}, torch has {}", case["result"])),
            (Err(Stop::Error(error)), Some(wanted)) => {
                let (kind, message) = (wanted[0].as_str().unwrap(), wanted[1].as_str().unwrap());
                let mine = error.message.split('\n').next().unwrap();
                let words = mine == message || OTHER_WORDS.iter().any(|part| message.contains(part));
                (error.kind.name() != kind || !words)
                    .then(|| format!("{}: {mine} | torch: {kind}: {message}", error.kind.name()))
            }
            (Err(stop), Some(_)) => Some(format!("{stop:?}")),
        };
        if let Some(fault) = fault {
            let mut args = case["args"].to_string();
            args.truncate(160);
            wrong.push(format!("{name} {args} {}: {fault:.600}", case.get("kwargs").unwrap_or(&Json::Null)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn sequences_of_views_and_writes_leave_the_bits_that_torch_leaves() {
    let cases = lines("sequences.jsonl.zst");
    assert_eq!(cases.len(), 10_000);
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Err(fault) = follow(case) {
            wrong.push(format!("{number}: {fault}\n  {case}"));
        }
    }
    let few = wrong.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} sequences:\n{few}", wrong.len(), cases.len());
}

fn follow(case: &Json) -> Result<(), String> {
    let mut heap = heap();
    let shape = sizes(&case["shape"]);
    let len: usize = shape.iter().product();
    let numbers = (0..len).map(|x| x as f32).collect();
    let first = Array { dtype: Dtype::Float32, shape, data: Data::F32(Arc::new(numbers)) };
    let mut pool = vec![heap.put(first).unwrap()];
    for step in case["steps"].as_array().unwrap() {
        let name = step[0].as_str().unwrap();
        let args: Vec<Value> = step[1]
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| match arg.get("r") {
                Some(place) => Value::Tensor(pool[place.as_u64().unwrap() as usize]),
                None => value(&mut heap, arg),
            })
            .collect();
        if name == "contiguous_last" {
            let last = *pool.last().unwrap();
            let Ok(Value::Tensor(made)) = tensor::call(&mut heap, "contiguous", &[Value::Tensor(last)], &[])
            else {
                return Err("contiguous".into());
            };
            *pool.last_mut().unwrap() = made;
            continue;
        }
        match tensor::call(&mut heap, name, &args, &[]).map_err(|stop| format!("{name}: {stop:?}"))? {
            Value::Tensor(id) if !name.ends_with('_') => pool.push(id),
            Value::Tuple(items) => pool.extend(items.iter().map(|item| match item {
                Value::Tensor(id) => *id,
                other => panic!("{other:?}"),
            })),
            _ => {}
        }
    }
    if pool.len() as u64 != case["tensors"].as_u64().unwrap() {
        return Err(format!("{} tensors", pool.len()));
    }
    let mut sum = crc32fast::Hasher::new();
    for &id in &pool {
        let view = heap.view(id).unwrap();
        let n = view.len();
        let list = |numbers: &[usize]| {
            format!("[{}]", numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
        };
        // the stride of a dimension of one says nothing
        let pairs = view.strides.iter().zip(&view.shape);
        let strides: Vec<usize> =
            pairs.filter(|(_, size)| **size > 1 && n > 0).map(|(stride, _)| *stride).collect();
        let strides = list(&strides);
        sum.update(
            format!("({}, {strides}, {})", list(&view.shape), if n > 0 { view.offset } else { 0 }).as_bytes(),
        );
        for number in heap.array(id).unwrap().to_f32s() {
            sum.update(&number.to_le_bytes());
        }
    }
    if u64::from(sum.finalize()) != case["crc"].as_u64().unwrap() {
        return Err("other numbers or other views".into());
    }
    Ok(())
}
