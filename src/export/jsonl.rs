//! JSON lines: one object a row, its fields the columns.

use serde_json::to_writer;

use super::array::EncodeError;
use super::csv::{Column, ColumnData, check};

/// Appends the rows of a table, each an object on a line of its own. What is missing, or no finite number, is null; floats
/// are in their shortest form that reads back as the same number.
///
/// # Errors
/// Columns of different lengths, two columns of one name.
pub fn append(out: &mut Vec<u8>, columns: &[Column]) -> Result<(), EncodeError> {
    let rows = check(columns)?;
    let failed = |error: serde_json::Error| EncodeError::Write(error.into());
    // Names and few texts are written once and copied.
    let json = |text: &String| serde_json::to_vec(text).map_err(failed);
    let mut texts = Vec::with_capacity(columns.len());
    for column in columns {
        let names = match &column.data {
            ColumnData::Names { names, .. } => names.iter().map(json).collect::<Result<Vec<_>, _>>()?,
            _ => Vec::new(),
        };
        texts.push((json(&column.name)?, names));
    }
    for row in 0..rows {
        for (i, (column, (name, names))) in columns.iter().zip(&texts).enumerate() {
            out.push(if i == 0 { b'{' } else { b',' });
            out.extend_from_slice(name);
            out.push(b':');
            match &column.data {
                ColumnData::Text(v) => to_writer(&mut *out, &v[row]),
                ColumnData::Int(v) => to_writer(&mut *out, &v[row]),
                // Writes what isn't finite as null.
                ColumnData::Float(v) => to_writer(&mut *out, &v[row]),
                ColumnData::Bool(v) => to_writer(&mut *out, &v[row]),
                ColumnData::Names { rows, .. } => {
                    out.extend_from_slice(rows[row].map_or(b"null", |i| &names[i as usize]));
                    Ok(())
                }
            }
            .map_err(failed)?;
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_line_is_an_object_and_what_is_missing_is_null() {
        let column = |name: &str, data| Column { name: name.into(), data };
        let columns = [
            column("a \"b\"", ColumnData::Text(vec!["x\ny".into(), String::new()])),
            column("layer", ColumnData::Int(vec![Some(3), None])),
            column("effect", ColumnData::Float(vec![Some(0.1), Some(f64::NAN)])),
            column("trivial", ColumnData::Bool(vec![Some(true), None])),
            column("group", ColumnData::Names { names: vec!["g".into()], rows: vec![Some(0), None] }),
        ];
        let mut out = Vec::new();
        append(&mut out, &columns).unwrap();
        let lines: Vec<Value> =
            std::str::from_utf8(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({"a \"b\"": "x\ny", "layer": 3, "effect": 0.1, "trivial": true, "group": "g"}),
                json!({"a \"b\"": "", "layer": null, "effect": null, "trivial": null, "group": null}),
            ]
        );
        assert!(append(&mut out, &[columns[1].clone(), columns[1].clone()]).is_err());
    }
}
