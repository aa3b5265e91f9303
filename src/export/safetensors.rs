//! safetensors: a length, a JSON header, the data.
//!
//! Own writer because the reference crate keeps metadata in a hash map, so its bytes differ from run to run; ours
//! repeat, and that crate reads them back in the tests.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::array::{self, ArrayData, EncodeError, NamedArray};

const METADATA: &str = "__metadata__";

/// Writes the arrays with string metadata. Larger element types come first, then names in order, so that every array
/// is aligned; the header is padded to 8 bytes, as the reference writer does.
///
/// # Errors
/// An array whose shape doesn't fit its data, a name that is empty, repeated or `__metadata__`, a text array.
pub fn write(arrays: &[NamedArray], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, EncodeError> {
    array::check(arrays, METADATA)?;
    let mut sorted = Vec::with_capacity(arrays.len());
    for array in arrays {
        let (dtype, width) = element(array)?;
        sorted.push((std::cmp::Reverse(width), &array.name, dtype, array));
    }
    sorted.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));

    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.to_owned(), json!(metadata));
    }
    let mut data = Vec::new();
    for (_, name, dtype, array) in sorted {
        let start = data.len();
        array.data.append_to(&mut data, 0);
        let entry = json!({"dtype": dtype, "shape": array.shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = Vec::with_capacity(8 + text.len() + data.len());
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(&text);
    out.append(&mut data);
    Ok(out)
}

/// The format's name for the elements, and their width in bytes.
fn element(array: &NamedArray) -> Result<(&'static str, usize), EncodeError> {
    Ok(match array.data {
        ArrayData::F32(_) => ("F32", 4),
        ArrayData::F16(_) => ("F16", 2),
        ArrayData::Bf16(_) => ("BF16", 2),
        ArrayData::F64(_) => ("F64", 8),
        ArrayData::U32(_) => ("U32", 4),
        ArrayData::I64(_) => ("I64", 8),
        ArrayData::Bool(_) => ("BOOL", 1),
        ArrayData::Text(_) => return Err(EncodeError::Text { name: array.name.clone() }),
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "equality to the bit is what is promised")]
mod tests {
    use ::safetensors::{Dtype, SafeTensors};

    use super::*;

    fn arrays() -> Vec<NamedArray> {
        let named =
            |name: &str, shape: &[usize], data| NamedArray { name: name.into(), shape: shape.to_vec(), data };
        vec![
            named("mask", &[3], ArrayData::Bool(vec![true, false, true])),
            named("effect", &[2, 2], ArrayData::F64(vec![0.25, f64::NAN, -1e-300, 0.1])),
            named("b", &[2], ArrayData::F32(vec![1.5, -2.0])),
            named("ids", &[2], ArrayData::U32(vec![1, u32::MAX])),
            named("layers", &[1], ArrayData::I64(vec![-3])),
            named("none", &[0, 4], ArrayData::F32(vec![])),
        ]
    }

    #[test]
    fn the_reference_reader_finds_every_array_and_the_metadata() {
        let metadata =
            BTreeMap::from([("model".to_owned(), "smol \"2\"\n".to_owned()), ("a".into(), String::new())]);
        let bytes = write(&arrays(), &metadata).expect("written");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let found: BTreeMap<_, _> = header.metadata().clone().expect("metadata").into_iter().collect();
        assert_eq!(found, metadata);
        let read = SafeTensors::deserialize(&bytes).expect("readable");
        assert_eq!(read.len(), 6);
        let effect = read.tensor("effect").expect("effect");
        assert_eq!((effect.dtype(), effect.shape()), (Dtype::F64, &[2, 2][..]));
        let values: Vec<f64> = effect
            .data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
            .collect();
        assert!(values[0] == 0.25 && values[1].is_nan() && values[2] == -1e-300 && values[3] == 0.1);
        assert_eq!(read.tensor("mask").expect("mask").data(), [1, 0, 1]);
        assert_eq!(read.tensor("ids").expect("ids").data(), [1, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(read.tensor("none").expect("none").shape(), [0, 4]);
    }

    #[test]
    fn a_file_repeats_to_the_byte_whatever_the_order_of_the_arrays() {
        let metadata: BTreeMap<String, String> =
            (0..20).map(|i| (format!("key{i}"), i.to_string())).collect();
        let mut reversed = arrays();
        reversed.reverse();
        assert_eq!(
            write(&arrays(), &metadata).expect("written"),
            write(&reversed, &metadata).expect("written")
        );
    }

    #[test]
    fn text_and_reserved_names_are_refused() {
        let text = NamedArray { name: "t".into(), shape: vec![0], data: ArrayData::Text(vec![]) };
        assert!(matches!(write(&[text], &BTreeMap::new()), Err(EncodeError::Text { .. })));
        let named = NamedArray { name: METADATA.into(), shape: vec![0], data: ArrayData::F32(vec![]) };
        assert!(matches!(write(&[named], &BTreeMap::new()), Err(EncodeError::Name { .. })));
        assert!(SafeTensors::deserialize(&write(&[], &BTreeMap::new()).expect("written")).is_ok());
    }
}
