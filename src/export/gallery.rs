//! A file of every kind, for other programs to read: `cargo test --lib gallery -- --ignored` writes them to `target/gallery`.

use std::collections::BTreeMap;

use super::array::{ArrayData, NamedArray};
use super::{csv, npz, safetensors};

fn tables() -> (Vec<NamedArray>, BTreeMap<String, String>, Vec<csv::Column>) {
    const TOKENS: [&str; 3] = ["The", " electric", "ian \u{1f642}"];
    let values: Vec<Option<f64>> = (0..12).map(|i| (i != 7).then_some(0.1 * f64::from(i) - 0.4)).collect();
    let named =
        |name: &str, shape: &[usize], data| NamedArray { name: name.into(), shape: shape.to_vec(), data };
    let texts: Vec<String> = TOKENS.map(str::to_owned).to_vec();
    let repeated: Vec<String> = (0..12).map(|i| TOKENS[i % 3].to_owned()).collect();
    let arrays = vec![
        NamedArray::from_options("effect", vec![4, 3], &values),
        named("exact_null", &[4, 3], ArrayData::Bool((0..12).map(|i| i % 2 == 0).collect())),
        named("f32", &[2, 2], ArrayData::F32(vec![0.5, f32::NAN, -1.0e-30, 7.0])),
        named("token_ids", &[3], ArrayData::U32(vec![0, 5, u32::MAX])),
        named("layers", &[4], ArrayData::I64(vec![-1, 0, i64::MAX, i64::MIN])),
        named("tokens", &[3], ArrayData::Text(texts)),
        named("p_clean", &[], ArrayData::F64(vec![0.656])),
    ];
    let columns = vec![
        csv::Column { name: "token".into(), data: csv::ColumnData::Text(repeated) },
        csv::Column { name: "effect".into(), data: csv::ColumnData::Float(values) },
    ];
    (
        arrays,
        BTreeMap::from([("model".into(), "smollm2".into()), ("prompt".into(), "a \"b\"\n".into())]),
        columns,
    )
}

#[test]
#[ignore = "writes files for other programs to read"]
fn gallery() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gallery");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (arrays, metadata, columns) = tables();
    std::fs::write(folder.join("a.npz"), npz::write(&arrays).expect("npz")).expect("written");
    let tensors: Vec<_> = arrays.into_iter().filter(|a| !matches!(a.data, ArrayData::Text(_))).collect();
    let bytes = safetensors::write(&tensors, &metadata).expect("safetensors");
    std::fs::write(folder.join("a.safetensors"), bytes).expect("written");
    std::fs::write(folder.join("a.csv"), csv::write(&columns).expect("csv")).expect("written");
}
