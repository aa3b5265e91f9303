//! Parquet: a table by columns, compressed, with its types; readable by `pyarrow`, pandas, `DuckDB`, Spark.
//!
//! Without Arrow: columns are written one by one, which is all that plain columns need.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::Type;

use super::array::EncodeError;
use super::csv::{Column, ColumnData, check};

/// zstd's own default; higher ones cost more time than they save room.
const LEVEL: i32 = 3;

/// Writes a table, each piece a row group. The pieces have the same columns; there is at least one piece, which may have no
/// rows. Texts are always there; numbers, truths, and texts of which there are few, are optional, so that what is missing, or no
/// finite number, is null. `metadata` is the file's key-value metadata.
///
/// # Errors
/// Columns of different lengths, two columns of one name, a piece with other columns than the first.
pub fn write(
    pieces: impl IntoIterator<Item = Vec<Column>>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, EncodeError> {
    let mut pieces = pieces.into_iter().peekable();
    let first = pieces.peek().map(Vec::as_slice).unwrap_or_default();
    let fields = first.iter().map(|column| field(column).map(Arc::new)).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .set_created_by(concat!("mediant ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(pairs))
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    for piece in pieces {
        check(&piece)?;
        let mut group = writer.next_row_group()?;
        for column in &piece {
            let mut writer =
                group.next_column()?.ok_or_else(|| EncodeError::Name { name: column.name.clone() })?;
            put(&mut writer, &column.data)?;
            writer.close()?;
        }
        group.close()?;
    }
    Ok(writer.into_inner()?)
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (kind, optional, text) = match column.data {
        ColumnData::Text(_) => (Physical::BYTE_ARRAY, false, true),
        ColumnData::Names { .. } => (Physical::BYTE_ARRAY, true, true),
        ColumnData::Int(_) => (Physical::INT64, true, false),
        ColumnData::Float(_) => (Physical::DOUBLE, true, false),
        ColumnData::Bool(_) => (Physical::BOOLEAN, true, false),
    };
    Type::primitive_type_builder(&column.name, kind)
        .with_repetition(if optional { Repetition::OPTIONAL } else { Repetition::REQUIRED })
        .with_logical_type(text.then_some(LogicalType::String))
        .build()
}

fn put(writer: &mut SerializedColumnWriter<'_>, data: &ColumnData) -> Result<(), ParquetError> {
    match data {
        ColumnData::Text(v) => {
            let texts: Vec<ByteArray> = v.iter().map(|text| ByteArray::from(text.as_str())).collect();
            writer.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
        }
        ColumnData::Names { names, rows } => {
            let names: Vec<ByteArray> = names.iter().map(|name| ByteArray::from(name.as_str())).collect();
            let (texts, there) = split(rows.iter().map(|row| row.map(|i| names[i as usize].clone())));
            writer.typed::<ByteArrayType>().write_batch(&texts, Some(&there), None)?;
        }
        ColumnData::Int(v) => {
            let (numbers, there) = split(v.iter().copied());
            writer.typed::<Int64Type>().write_batch(&numbers, Some(&there), None)?;
        }
        ColumnData::Float(v) => {
            let (numbers, there) = split(v.iter().map(|x| x.filter(|x| x.is_finite())));
            writer.typed::<DoubleType>().write_batch(&numbers, Some(&there), None)?;
        }
        ColumnData::Bool(v) => {
            let (truths, there) = split(v.iter().copied());
            writer.typed::<BoolType>().write_batch(&truths, Some(&there), None)?;
        }
    }
    Ok(())
}

/// The values that are there, and for each row whether one is (Parquet's definition levels).
fn split<T>(values: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let (mut found, mut there) = (Vec::new(), Vec::new());
    for value in values {
        there.push(i16::from(value.is_some()));
        found.extend(value);
    }
    (found, there)
}

#[cfg(test)]
mod tests {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::Field;

    use super::*;

    fn piece(layers: Vec<Option<i64>>) -> Vec<Column> {
        let n = layers.len();
        let column = |name: &str, data| Column { name: name.into(), data };
        vec![
            column("token", ColumnData::Text(vec![" current".into(); n])),
            column(
                "group",
                ColumnData::Names { names: vec!["g".into()], rows: vec![(n > 1).then_some(0); n] },
            ),
            column("effect", ColumnData::Float(vec![Some(f64::INFINITY), Some(0.1)][..n].to_vec())),
            column("layer", ColumnData::Int(layers)),
            column("trivial", ColumnData::Bool(vec![Some(true), None][..n].to_vec())),
        ]
    }

    #[test]
    fn pieces_become_row_groups_and_missing_numbers_nulls() {
        let metadata = BTreeMap::from([("model".to_owned(), "tiny".to_owned())]);
        let write = || write([piece(vec![Some(7), None]), piece(vec![Some(-1)])], &metadata).unwrap();
        let bytes = write();
        assert_eq!(bytes, write(), "a file repeats to the byte");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let reader = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert_eq!((pairs[0].key.as_str(), pairs[0].value.as_deref()), ("model", Some("tiny")));
        let rows: Vec<Vec<Field>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().into_columns().into_iter().map(|(_, field)| field).collect())
            .collect();
        let text = |text: &str| Field::Str(text.into());
        assert_eq!(
            rows,
            [
                vec![text(" current"), text("g"), Field::Null, Field::Long(7), Field::Bool(true)],
                vec![text(" current"), text("g"), Field::Double(0.1), Field::Null, Field::Null],
                vec![text(" current"), Field::Null, Field::Null, Field::Long(-1), Field::Bool(true)],
            ]
        );
    }

    #[test]
    fn a_table_without_rows_is_a_file_and_ragged_columns_are_refused() {
        assert!(write([piece(vec![])], &BTreeMap::new()).is_ok());
        let mut ragged = piece(vec![Some(1), Some(2)]);
        ragged[3] = Column { name: "layer".into(), data: ColumnData::Int(vec![]) };
        assert!(matches!(write([ragged], &BTreeMap::new()), Err(EncodeError::RaggedColumn { .. })));
    }
}
