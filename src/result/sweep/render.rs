//! A sweep's result as a file.

use super::{SweepOutcome, Table, arrays, picture};
use crate::export::{csv, jsonl, parquet};
use crate::result::numbers::{check_metric, numpy, tensors};
use crate::result::plates::Show;
use crate::result::render::{Format, RenderError, json};

/// What a sweep found in `format`: in tables `table`, by default the averages; as arrays everything; as a picture what suits
/// its averages, see [`picture()`]. Of the metric asked for alone, by default all, and of pictures the first.
///
/// # Errors
/// [`RenderError`]; those with a [`RenderError::problem`] are the caller's: an unknown metric, a table that wasn't kept or
/// that the format has no place for, a picture that can't be drawn.
pub fn render(
    outcome: &SweepOutcome,
    format: Format,
    table: Option<Table>,
    show: &Show,
) -> Result<Vec<u8>, RenderError> {
    let metric = show.metric.as_deref();
    let metrics: Vec<&str> = outcome.metrics.iter().map(String::as_str).collect();
    check_metric(metric, &metrics)?;
    if let Some(table) = table {
        check_table(outcome, format, table)?;
    }
    let pieces = || table.unwrap_or(Table::Averages).pieces(outcome, metric);
    match format {
        Format::Json => Ok(json(outcome)),
        Format::Csv => {
            let mut out = Vec::new();
            for (i, piece) in pieces().enumerate() {
                csv::append(&mut out, &piece, i == 0)?;
            }
            Ok(out)
        }
        Format::Jsonl => {
            let mut out = Vec::new();
            pieces().try_for_each(|piece| jsonl::append(&mut out, &piece))?;
            Ok(out)
        }
        Format::Parquet => Ok(parquet::write(pieces(), &arrays::metadata(outcome))?),
        Format::Npz => {
            let mut all = arrays::arrays(outcome, metric);
            all.extend(arrays::names(outcome));
            numpy(all, &arrays::metadata(outcome))
        }
        Format::Safetensors => tensors(arrays::arrays(outcome, metric), &arrays::metadata(outcome)),
        Format::Svg | Format::Png => picture(outcome, show, format),
    }
}

fn check_table(outcome: &SweepOutcome, format: Format, table: Table) -> Result<(), RenderError> {
    let asked = table.name();
    if !format.is_table() {
        let (reason, fix) = ("csv, jsonl and parquet alone are tables", "leave `table` out".to_owned());
        return Err(RenderError::Table { asked, reason, fix });
    }
    if table.is_of(outcome) {
        return Ok(());
    }
    let kept = Table::ALL.iter().filter(|(_, other)| other.is_of(outcome)).map(|(name, _)| *name);
    let fix = format!("write one of {}", kept.collect::<Vec<_>>().join(", "));
    Err(RenderError::Table { asked, reason: "the sweep was asked not to keep its cells", fix })
}
