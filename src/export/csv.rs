//! CSV: a tidy table, one row a measurement.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::array::EncodeError;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its header.
    pub name: String,
    /// One field a row.
    pub data: ColumnData,
}

/// Fields of one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ColumnData {
    /// Texts, written as they are (quoted where CSV needs it).
    Text(Vec<String>),
    /// Integers; `None` is an empty field.
    Int(Vec<Option<i64>>),
    /// Floats in their shortest form that reads back as the same number; `None` and non-finite ones are empty fields.
    Float(Vec<Option<f64>>),
    /// `true` or `false`; `None` is an empty field.
    Bool(Vec<Option<bool>>),
    /// Texts of which there are few, each an index into `names`; `None` is an empty field.
    Names {
        /// The texts.
        names: Vec<String>,
        /// Which one each row has.
        rows: Vec<Option<u32>>,
    },
}

impl Column {
    /// The same of those rows that `keep` says.
    #[must_use]
    pub fn only(&self, keep: &[bool]) -> Self {
        fn kept<T: Clone>(rows: &[T], keep: &[bool]) -> Vec<T> {
            rows.iter().zip(keep).filter(|(_, keep)| **keep).map(|(row, _)| row.clone()).collect()
        }
        let data = match &self.data {
            ColumnData::Text(rows) => ColumnData::Text(kept(rows, keep)),
            ColumnData::Int(rows) => ColumnData::Int(kept(rows, keep)),
            ColumnData::Float(rows) => ColumnData::Float(kept(rows, keep)),
            ColumnData::Bool(rows) => ColumnData::Bool(kept(rows, keep)),
            ColumnData::Names { names, rows } => {
                ColumnData::Names { names: names.clone(), rows: kept(rows, keep) }
            }
        };
        Self { name: self.name.clone(), data }
    }
}

impl ColumnData {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(v) => v.len(),
            Self::Int(v) => v.len(),
            Self::Float(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Names { rows, .. } => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn field(&self, row: usize) -> Cow<'_, str> {
        match self {
            Self::Text(v) => Cow::from(&v[row]),
            Self::Int(v) => v[row].map_or_else(Cow::default, |x| x.to_string().into()),
            Self::Float(v) => {
                v[row].filter(|x| x.is_finite()).map_or_else(Cow::default, |x| format!("{x:?}").into())
            }
            Self::Bool(v) => Cow::from(match v[row] {
                Some(true) => "true",
                Some(false) => "false",
                None => "",
            }),
            Self::Names { names, rows } => {
                rows[row].map_or_else(Cow::default, |i| Cow::from(&names[i as usize]))
            }
        }
    }
}

/// Every column is as long as the first and has a name of its own; their length.
///
/// # Errors
/// Columns of different lengths, two columns of one name.
pub(super) fn check(columns: &[Column]) -> Result<usize, EncodeError> {
    let expected = columns.first().map_or(0, |column| column.data.len());
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        let name = || column.name.clone();
        if !seen.insert(column.name.as_str()) {
            return Err(EncodeError::Duplicate { name: name() });
        }
        let got = column.data.len();
        if got != expected {
            return Err(EncodeError::RaggedColumn { name: name(), expected, got });
        }
    }
    Ok(expected)
}

/// Writes a header and the rows, lines ended by line feeds, UTF-8 without a byte order mark.
///
/// Texts are data, not formulas: one that starts with `=` is written as it is.
///
/// # Errors
/// Columns of different lengths, two columns of one name. No columns: an empty file.
pub fn write(columns: &[Column]) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    append(&mut out, columns, true)?;
    Ok(out)
}

/// The same to the end of a table that is written piece by piece; the header belongs to the first.
///
/// # Errors
/// As [`write()`].
pub fn append(out: &mut Vec<u8>, columns: &[Column], header: bool) -> Result<(), EncodeError> {
    let rows = check(columns)?;
    if columns.is_empty() {
        return Ok(());
    }
    let failed = |error: ::csv::Error| EncodeError::Write(error.into());
    let mut writer = ::csv::Writer::from_writer(out);
    if header {
        writer.write_record(columns.iter().map(|column| &column.name)).map_err(failed)?;
    }
    for row in 0..rows {
        for column in columns {
            writer.write_field(column.data.field(row).as_bytes()).map_err(failed)?;
        }
        writer.write_record(None::<&[u8]>).map_err(failed)?;
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_exactly() {
        let numbers = vec![Some(0.1), Some(1.0 / 3.0), Some(-1e-300), None, Some(f64::NAN), Some(5e-324)];
        let texts = [" current", "a,b", "\"q\"", "line\nfeed", "", "=1+1"].map(String::from).to_vec();
        let columns = [
            Column { name: "layer".into(), data: ColumnData::Int((0..6).map(Some).collect()) },
            Column { name: "token".into(), data: ColumnData::Text(texts.clone()) },
            Column { name: "effect".into(), data: ColumnData::Float(numbers.clone()) },
            Column { name: "trivial".into(), data: ColumnData::Bool(vec![Some(false); 6]) },
            Column {
                name: "group".into(),
                data: ColumnData::Names { names: vec!["g".into()], rows: (0..6).map(|_| None).collect() },
            },
        ];
        let bytes = write(&columns).expect("written");
        let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().expect("a header"), vec!["layer", "token", "effect", "trivial", "group"]);
        let rows: Vec<::csv::StringRecord> = reader.records().map(|r| r.expect("a row")).collect();
        assert_eq!(rows.len(), 6);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!((&row[0], &row[1], &row[3]), (i.to_string().as_str(), texts[i].as_str(), "false"));
            match numbers[i].filter(|x| x.is_finite()) {
                Some(x) => assert_eq!(row[2].parse::<f64>().expect("a number").to_bits(), x.to_bits()),
                None => assert_eq!(&row[2], ""),
            }
        }
        assert!(String::from_utf8(bytes).expect("UTF-8").contains("-1e-300"), "short form");
    }

    #[test]
    fn ragged_and_repeated_columns_are_refused() {
        let column = |name: &str, rows| Column { name: name.into(), data: ColumnData::Int(vec![None; rows]) };
        assert!(matches!(
            write(&[column("a", 2), column("b", 3)]),
            Err(EncodeError::RaggedColumn { expected: 2, got: 3, .. })
        ));
        assert!(matches!(write(&[column("a", 2), column("a", 2)]), Err(EncodeError::Duplicate { .. })));
        assert_eq!(write(&[]).expect("written"), b"");
        assert_eq!(write(&[column("a", 0)]).expect("written"), b"a\n");
    }
}
