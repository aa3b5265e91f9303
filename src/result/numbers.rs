//! The numbers of a result: a table and arrays, from which each file is written. A job keeps these, so that its files can be
//! chosen from later as those of an answer are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::{Format, PictureRequestError, RenderError};
use super::pictures::chosen;
use crate::export::array::{ArrayData, NamedArray};
use crate::export::csv::{Column, ColumnData};
use crate::export::{csv, jsonl, npz, parquet, safetensors};

/// An array with the metric that it is of, if it is of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfMetric {
    /// The metric.
    pub metric: Option<String>,
    /// The array.
    pub array: NamedArray,
}

/// Everything that files are written from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Names of the metrics.
    pub metrics: Vec<String>,
    /// A tidy table, whose column `metric` says which one a row is of, if it is of one.
    pub table: Vec<Column>,
    /// Arrays.
    pub arrays: Vec<OfMetric>,
    /// Where the numbers come from.
    pub metadata: BTreeMap<String, String>,
}

impl Numbers {
    /// A file of them, of one metric or of all.
    ///
    /// # Errors
    /// [`RenderError`]: an unknown metric, or a form that carries no numbers.
    pub fn write(self, format: Format, metric: Option<&str>) -> Result<Vec<u8>, RenderError> {
        let Self { metrics, table, arrays, metadata } = self;
        check_metric(metric, &metrics.iter().map(String::as_str).collect::<Vec<_>>())?;
        match format {
            Format::Csv => Ok(csv::write(&rows_of(table, &metrics, metric))?),
            Format::Jsonl => {
                let mut out = Vec::new();
                jsonl::append(&mut out, &rows_of(table, &metrics, metric))?;
                Ok(out)
            }
            Format::Parquet => Ok(parquet::write([rows_of(table, &metrics, metric)], &metadata)?),
            Format::Npz => numpy(arrays_of(arrays, metric), &metadata),
            _ => tensors(arrays_of(arrays, metric), &metadata),
        }
    }

    /// As bytes to be kept.
    ///
    /// # Panics
    /// Never: they are plain data.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("BUG: numbers are plain data")
    }

    /// Kept bytes; `None` if another version of this program wrote them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The table without the rows of other metrics.
fn rows_of(table: Vec<Column>, metrics: &[String], metric: Option<&str>) -> Vec<Column> {
    let column = table.iter().find(|column| column.name == "metric");
    let (Some(metric), Some(ColumnData::Text(of))) = (metric, column.map(|column| &column.data)) else {
        return table;
    };
    let keep: Vec<bool> = of.iter().map(|own| own == metric || !metrics.contains(own)).collect();
    table.iter().map(|column| column.only(&keep)).collect()
}

/// The arrays without those of other metrics.
fn arrays_of(arrays: Vec<OfMetric>, metric: Option<&str>) -> Vec<NamedArray> {
    let is_other =
        |own: &OfMetric| own.metric.as_deref().zip(metric).is_some_and(|(own, asked)| own != asked);
    arrays.into_iter().filter(|own| !is_other(own)).map(|own| own.array).collect()
}

/// A metric that is named must exist, whatever the format.
pub(super) fn check_metric(asked: Option<&str>, known: &[&str]) -> Result<(), PictureRequestError> {
    if asked.is_some() { chosen(asked, known).map(|_| ()) } else { Ok(()) }
}

/// The metadata as an array of one text, for `.npz`, which has no place of its own for them.
pub(super) fn metadata_array(metadata: &BTreeMap<String, String>) -> NamedArray {
    let text = serde_json::json!(metadata).to_string();
    NamedArray { name: "metadata".to_owned(), shape: Vec::new(), data: ArrayData::Text(vec![text]) }
}

pub(super) fn numpy(
    mut arrays: Vec<NamedArray>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, RenderError> {
    arrays.push(metadata_array(metadata));
    Ok(npz::write(&arrays)?)
}

pub(super) fn tensors(
    mut arrays: Vec<NamedArray>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, RenderError> {
    arrays.retain(|array| !matches!(array.data, ArrayData::Text(_)));
    Ok(safetensors::write(&arrays, metadata)?)
}
