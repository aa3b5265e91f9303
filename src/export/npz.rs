//! `NumPy`'s `.npz`: a stored (not deflated) zip of `.npy` members, loadable with `allow_pickle=False`.
//!
//! Own writer because the `.npy` header is 128 bytes of text and candle's writer goes through files and tensors.

use std::io::{Cursor, Write as _};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::array::{self, ArrayData, EncodeError, NamedArray};

/// Writes the arrays in order, little-endian, C order. The same arrays give the same bytes (dates are fixed).
///
/// Text becomes `<U{n}` with `n` the longest text; `NumPy` cannot tell trailing NULs from padding.
///
/// # Errors
/// An array whose shape doesn't fit its data, an empty or repeated name, bfloat16.
pub fn write(arrays: &[NamedArray]) -> Result<Vec<u8>, EncodeError> {
    array::check(arrays, "")?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for array in arrays {
        if matches!(array.data, ArrayData::Bf16(_)) {
            return Err(EncodeError::Bf16 { name: array.name.clone() });
        }
        let body = npy(array);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(body.len() >= u32::MAX as usize);
        zip.start_file(format!("{}.npy", array.name), options).map_err(std::io::Error::from)?;
        zip.write_all(&body)?;
    }
    Ok(zip.finish().map_err(std::io::Error::from)?.into_inner())
}

/// One `.npy` file, format version 1.0 (2.0 where a shape is too long for it).
fn npy(array: &NamedArray) -> Vec<u8> {
    let longest = match &array.data {
        ArrayData::Text(texts) => texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1),
        _ => 0,
    };
    let descr = match &array.data {
        ArrayData::F32(_) => "<f4".to_owned(),
        ArrayData::F16(_) => "<f2".to_owned(),
        // Refused before; its bits, if it came here.
        ArrayData::Bf16(_) => "<u2".to_owned(),
        ArrayData::F64(_) => "<f8".to_owned(),
        ArrayData::U32(_) => "<u4".to_owned(),
        ArrayData::I64(_) => "<i8".to_owned(),
        ArrayData::Bool(_) => "|b1".to_owned(),
        ArrayData::Text(_) => format!("<U{longest}"),
    };
    // A Python tuple: `()`, `(3,)`, `(3, 4)`.
    let axes: Vec<String> = array.shape.iter().map(ToString::to_string).collect();
    let comma = if axes.len() == 1 { "," } else { "" };
    let text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", axes.join(", "));
    // The data starts at a multiple of 64 bytes: magic, version, length (2 or 4 bytes), text, spaces, line feed.
    let long = text.len() + 11 + 64 > usize::from(u16::MAX);
    let before = if long { 12 } else { 10 };
    let total = (before + text.len() + 1).next_multiple_of(64);
    let mut out = Vec::with_capacity(total + array.data.len() * 8);
    out.extend_from_slice(b"\x93NUMPY");
    if long {
        out.extend_from_slice(&[2, 0]);
        out.extend_from_slice(&((total - before) as u32).to_le_bytes());
    } else {
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(&((total - before) as u16).to_le_bytes());
    }
    out.extend_from_slice(text.as_bytes());
    out.resize(total - 1, b' ');
    out.push(b'\n');
    array.data.append_to(&mut out, longest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays() -> Vec<NamedArray> {
        let named =
            |name: &str, shape: &[usize], data| NamedArray { name: name.into(), shape: shape.to_vec(), data };
        vec![
            named("f32", &[2, 3], ArrayData::F32(vec![0.0, 1.5, -2.25, 3.0e-30, f32::MAX, 6.0])),
            named("f64", &[3, 1, 2], ArrayData::F64(vec![0.1, 1.0 / 3.0, -1e300, 5e-324, 4.0, 5.0])),
            named("u32", &[2], ArrayData::U32(vec![0, u32::MAX])),
            named("i64", &[1, 2], ArrayData::I64(vec![i64::MIN, 7])),
            named("scalar", &[], ArrayData::F64(vec![0.656])),
        ]
    }

    #[test]
    fn another_reader_finds_the_same_numbers() {
        let file = tempfile::NamedTempFile::with_suffix(".npz").expect("a temporary file");
        std::fs::write(file.path(), write(&arrays()).expect("written")).expect("saved");
        let read: std::collections::HashMap<String, candle_core::Tensor> =
            candle_core::Tensor::read_npz(file.path()).expect("read").into_iter().collect();
        assert_eq!(read.len(), 5);
        for array in arrays() {
            let tensor = &read[&array.name];
            assert_eq!(tensor.dims(), array.shape);
            let flat = tensor.flatten_all().expect("flat");
            let same = match array.data {
                ArrayData::F32(v) => flat.to_vec1::<f32>().expect("f32") == v,
                ArrayData::F64(v) => flat.to_vec1::<f64>().expect("f64") == v,
                ArrayData::U32(v) => flat.to_vec1::<u32>().expect("u32") == v,
                ArrayData::I64(v) => flat.to_vec1::<i64>().expect("i64") == v,
                ArrayData::F16(_) | ArrayData::Bf16(_) | ArrayData::Bool(_) | ArrayData::Text(_) => false,
            };
            assert!(same, "{}", array.name);
        }
    }

    #[test]
    fn headers_are_aligned_and_say_what_follows() {
        let text = NamedArray {
            name: "t".into(),
            shape: vec![2],
            data: ArrayData::Text(vec!["日本".into(), "a".into()]),
        };
        let bytes = npy(&text);
        assert_eq!(bytes.len(), 128 + 2 * 2 * 4);
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        assert_eq!(u16::from_le_bytes([bytes[8], bytes[9]]), 118);
        let header = std::str::from_utf8(&bytes[10..128]).expect("text");
        assert!(
            header.starts_with("{'descr': '<U2', 'fortran_order': False, 'shape': (2,), }")
                && header.ends_with(" \n")
        );
        assert_eq!(&bytes[128..136], [0xe5, 0x65, 0, 0, 0x2c, 0x67, 0, 0]);
        let mask =
            NamedArray { name: "m".into(), shape: vec![3], data: ArrayData::Bool(vec![true, false, true]) };
        assert_eq!(&npy(&mask)[128..], [1, 0, 1]);
    }

    #[test]
    fn a_file_repeats_to_the_byte_and_is_not_compressed() {
        let bytes = write(&arrays()).expect("written");
        assert_eq!(bytes, write(&arrays()).expect("written"));
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).expect("a zip");
        for index in 0..archive.len() {
            assert_eq!(archive.by_index(index).expect("a member").compression(), CompressionMethod::Stored);
        }
    }

    #[test]
    fn no_arrays_and_empty_arrays_are_files_too() {
        assert!(write(&[]).is_ok());
        for data in [ArrayData::Text(vec![]), ArrayData::F64(vec![])] {
            assert!(write(&[NamedArray { name: "e".into(), shape: vec![0, 4], data }]).is_ok());
        }
        let deep = NamedArray { name: "d".into(), shape: vec![1; 30_000], data: ArrayData::Bool(vec![true]) };
        assert_eq!(npy(&deep)[6], 2);
    }
}
