//! Files of torch: those inside of payloads are read, those of answers are written.

#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use mediant_worker::load;
use mediant_worker::message::Profile;
use mediant_worker::save;
use mediant_worker::tensor::{Array, Budget, Data, Dtype, Heap, Value, call};
use serde_json::Value as Json;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn heap() -> Heap {
    Heap::new(Budget { bytes: 1 << 24, operations: 1000 })
}

/// What torch wrote, and what is in it.
fn storages() -> Vec<(Vec<u8>, Json)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storages.jsonl.zst");
    let text = zstd::stream::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    String::from_utf8(text)
        .unwrap()
        .lines()
        .map(|line| {
            let row: Json = serde_json::from_str(line).unwrap();
            let hex = row["hex"].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            ((0..hex.len()).step_by(2).map(byte).collect(), row["tensor"]["t"].clone())
        })
        .collect()
}

#[test]
fn storages_that_torch_wrote_are_read() {
    let rows = storages();
    assert_eq!(rows.len(), 30);
    for (bytes, wanted) in rows {
        let mut heap = heap();
        let Value::Tensor(id) = load::tensor_bytes(&mut heap, &bytes).unwrap() else { panic!("no tensor") };
        assert_eq!(heap.dtype(id).unwrap().name(), wanted[0]);
        let numbers: Vec<f64> = wanted[4].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let array = heap.array(id).unwrap();
        let got: Vec<f64> = match &array.data {
            Data::F32(numbers) => numbers.iter().map(|&x| f64::from(x)).collect(),
            Data::F64(numbers) => numbers.to_vec(),
            Data::I64(numbers) => numbers.iter().map(|&x| x as f64).collect(),
        };
        assert_eq!(got, numbers, "{wanted}");
    }
}

/// Whatever the bytes are, they are read or refused.
#[test]
fn damaged_storages_are_refused() {
    let mut read = 0;
    for (bytes, _) in storages() {
        for end in 0..bytes.len() {
            assert!(load::tensor_bytes(&mut heap(), &bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                read += usize::from(load::tensor_bytes(&mut heap(), &damaged).is_ok());
            }
        }
    }
    // a number that changed is another number, and what describes the machine is not looked at
    assert!(read > 0);
}

/// An answer with all that can be in one.
#[test]
fn an_empty_array_of_endless_dimensions_is_refused() {
    let endless = usize::MAX >> 1;
    for shape in [[0, endless, endless], [endless, 0, 3], [endless, endless, 0]] {
        assert!(load::raw(&mut heap(), &[], Dtype::Float32, &shape).is_err(), "{shape:?}");
    }
    assert!(load::raw(&mut heap(), &[], Dtype::Float32, &[0, 5, 7]).is_ok());
}

fn answer(heap: &mut Heap) -> Value {
    let mut members = Vec::new();
    for dtype in Dtype::all() {
        let numbers = (0..6).map(|x| x as f32).collect();
        let array = Array { dtype: Dtype::Float32, shape: vec![2, 3], data: Data::F32(Arc::new(numbers)) };
        let tensor = Value::Tensor(heap.put(array).unwrap());
        let tensor = call(heap, "to", &[tensor, Value::Dtype(dtype)], &[]).unwrap();
        members.push((Value::Str(dtype.name().into()), tensor));
    }
    let first = members[8].1.clone();
    let column =
        Value::Tuple(vec![Value::Slice(Box::new([Value::None, Value::None, Value::None])), Value::Int(1)]);
    let column = call(heap, "getitem", &[first.clone(), column], &[]).unwrap();
    let scalars = [Value::None, Value::Bool(true), Value::Int(-3), Value::Int(1 << 40), Value::Float(0.5)];
    members.push((Value::Str("column".into()), column));
    members.push((Value::Str("same".into()), Value::List(vec![first.clone(), first])));
    members.push((Value::Str("scalars".into()), Value::Tuple(scalars.into())));
    members.push((Value::Str("text".into()), Value::Str("ä\n".into())));
    members.push((Value::Str("bytes".into()), Value::Bytes(vec![0, 255, 10])));
    members.push((Value::Str("dtype".into()), Value::Dtype(Dtype::BFloat16)));
    members.push((Value::Str("nested".into()), Value::Dict(vec![(Value::Int(3), Value::List(vec![]))])));
    Value::Dict(members)
}

/// The same in a Python that has torch (`MEDIANT_TORCH`: its path); there only, since torch is gigabytes.
#[test]
#[ignore = "needs a Python with torch: MEDIANT_TORCH=path"]
fn torch_loads_answers_with_weights_only() {
    let python = std::env::var("MEDIANT_TORCH").expect("MEDIANT_TORCH is a Python with torch");
    for (profile, legacy) in [(Profile::Plain, "False"), (Profile::Legacy, "True")] {
        let mut heap = heap();
        let answer = answer(&mut heap);
        let bytes = save::torch_save(&heap, &answer, profile).unwrap();
        let code = format!(
            "
import io, sys, torch
x = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=True)
for name in 'bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64'.split():
    assert x[name].dtype == getattr(torch, name), name
    assert x[name].tolist() == torch.arange(6).reshape(2, 3).to(x[name].dtype).tolist(), name
    assert hasattr(x[name], 'value') == {legacy}
    assert not {legacy} or torch.equal(x[name].value, x[name])
assert x['column'].tolist() == [1.0, 4.0] and x['column'].untyped_storage().nbytes() == 8
assert x['scalars'] == (None, True, -3, 1 << 40, 0.5) and x['text'] == 'ä\\n' and x['bytes'] == bytes([0, 255, 10])
assert x['dtype'] == torch.bfloat16 and x['nested'] == {{3: []}}
x['same'][0][0, 0] = 9
assert x['same'][1][0, 0] == 9
print('right')
"
        );
        let mut process = Command::new(&python)
            .args(["-c", &code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = process.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "right");
    }
}

#[test]
fn packed_answers_say_how_long_they_are() {
    let bytes = vec![7; 100_000];
    let packed = save::pack(&bytes, false).unwrap();
    assert_eq!(load::unpack(&packed, 100_000).unwrap(), bytes);
    assert!(load::unpack(&packed, 99_999).unwrap_err().contains("99999 bytes"));
    // the size stands in the frame's header: four bytes of it, as its descriptor says
    assert_eq!(packed[4] >> 6, 2);
    assert_eq!(packed[5..9], 100_000_u32.to_le_bytes());
}
