//! Edits on the device, and the log of what they changed.
//!
//! Operations that treat each number by itself run in one kernel. Those that couple the columns of a row (projections, kept
//! norms, another direction) are rare and small: their rows are edited on the host by the reference, and written back.

use super::device::{Arg, Buffer, Device, Shape};
use super::{Cuda, Fault, Matrix};
use crate::kernels::edit::edited;
use crate::kernels::{OutOfMemory, RowChange};
use crate::plan::batch::{EditRows, RowOp, Values};
use crate::plan::output::larger;

/// Entries that stay on the device before they are fetched.
const ENTRIES: usize = 1 << 19;
/// Numbers of given rows that travel at once.
const GIVEN: usize = 4 << 20;

/// A row's change as the kernel writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Change {
    squared: f64,
    before: f64,
    largest: f64,
}

/// What edits changed, row by row.
#[derive(Default)]
pub struct Log {
    fetched: Vec<RowChange>,
    buffer: Option<Buffer>,
    /// Entries in the buffer.
    filled: usize,
    /// Entries, of all, whose rows were cancelled: only the host knows.
    cancelled: Vec<usize>,
}

/// Memory of a log.
pub(super) fn buffer(device: &Device) -> Result<Buffer, Fault> {
    device.allocate(ENTRIES * size_of::<Change>()).map_err(|OutOfMemory { .. }| Fault::NoMemory)
}

/// Where the numbers come from.
#[derive(Clone, Copy)]
enum From<'a> {
    Nowhere,
    Rows(&'a [u32]),
    Given(&'a [f32]),
}

impl Cuda {
    /// See [`crate::kernels::Kernels::edit`].
    pub(super) fn apply(&self, x: &mut Matrix, edit: &EditRows, log: &mut Log) {
        let columns = edit.columns.clone().unwrap_or(0..x.columns as u32);
        if edit.couples_columns() {
            let (numbers, cancelled) = self.edited_on_host(x, edit);
            let first = log.fetched.len() + log.filled;
            log.cancelled.extend((first..).zip(cancelled).filter_map(|(entry, is)| is.then_some(entry)));
            self.write(x, &edit.rows, columns, (0, 0.0), From::Given(&numbers), log);
            return;
        }
        let (op, values) = match &edit.op {
            RowOp::Replace(values) => ((0, 0.0), Some(values)),
            RowOp::Add { values, coef, .. } => ((1, *coef), Some(values)),
            RowOp::Scale(factor) => ((2, *factor), None),
            RowOp::Cut => ((3, f32::NEG_INFINITY), None),
            RowOp::Zero | RowOp::Project { .. } | RowOp::Along { .. } => ((3, 0.0), None),
        };
        let from = match values {
            None => From::Nowhere,
            Some(Values::Rows(rows)) => From::Rows(rows),
            Some(Values::Given(given)) => From::Given(given),
        };
        self.write(x, &edit.rows, columns, op, from, log);
    }

    /// The rows that a coupled edit makes, `[rows, columns]`, and which of them were cancelled.
    fn edited_on_host(&self, x: &Matrix, edit: &EditRows) -> (Vec<f32>, Vec<bool>) {
        let columns = edit.columns.clone().map_or(0..x.columns, |c| c.start as usize..c.end as usize);
        let read = |rows: &[u32]| -> Vec<f32> {
            let whole = self.read_rows(x, rows);
            whole.chunks_exact(x.columns).flat_map(|row| &row[columns.clone()]).copied().collect()
        };
        let sources = match edit.op.values() {
            Some(Values::Rows(rows)) => read(rows),
            Some(Values::Given(given)) => given.clone(),
            None => Vec::new(),
        };
        edited(edit, &read(&edit.rows), &sources)
    }

    fn write(
        &self,
        x: &Matrix,
        rows: &[u32],
        columns: std::ops::Range<u32>,
        (op, coef): (u32, f32),
        from: From<'_>,
        log: &mut Log,
    ) {
        let width = columns.len();
        let most = (GIVEN / width.max(1)).clamp(1, ENTRIES);
        let kernel = if x.wide(self.dtype) { "edit_f32" } else { "edit" };
        for (i, rows) in rows.chunks(most).enumerate() {
            let entries = self.room(log, rows.len());
            let part = i * most..i * most + rows.len();
            let values: &[u8] = match from {
                From::Nowhere => &[],
                From::Rows(sources) => bytemuck::cast_slice(&sources[part]),
                From::Given(given) => bytemuck::cast_slice(&given[part.start * width..part.end * width]),
            };
            let [rows_at, values] = self.device.tables([bytemuck::cast_slice(rows), values]);
            let (sources, given) = match from {
                From::Nowhere => (Arg::NULL, Arg::NULL),
                From::Rows(_) => (values, Arg::NULL),
                From::Given(_) => (Arg::NULL, values),
            };
            let args = [
                x.start(),
                rows_at,
                sources,
                given,
                entries,
                (x.columns as u32).into(),
                columns.start.into(),
                (width as u32).into(),
                op.into(),
                coef.into(),
            ];
            self.device.launch(kernel, Shape::blocks(rows.len(), 128), args);
        }
    }

    /// Room for so many further entries.
    fn room(&self, log: &mut Log, entries: usize) -> Arg {
        if log.filled + entries > ENTRIES {
            self.fetch(log);
        }
        let buffer = log.buffer.get_or_insert_with(|| {
            self.scratch.log.take().expect("BUG: one batch is logged at a time, and returns the buffer")
        });
        let at = buffer.at(log.filled * size_of::<Change>());
        log.filled += entries;
        at
    }

    fn fetch(&self, log: &mut Log) {
        if let Some(buffer) = &log.buffer {
            let changes = self.device.download::<Change>(buffer, log.filled);
            log.fetched.extend(changes.iter().map(|c| RowChange {
                squared: c.squared,
                before: c.before,
                largest: larger(0.0, c.largest as f32),
                cancelled: false,
            }));
            log.filled = 0;
        }
    }

    /// See [`crate::kernels::Kernels::changes`].
    pub(super) fn read_log(&self, mut log: Log) -> Vec<RowChange> {
        self.fetch(&mut log);
        if log.buffer.is_some() {
            self.scratch.log.replace(log.buffer);
        }
        for entry in log.cancelled {
            log.fetched[entry].cancelled = true;
        }
        log.fetched
    }
}
