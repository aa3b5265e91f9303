//! Packed rows in a GPU's memory.

use super::PAD;
use super::device::{Arg, Buffer};
use crate::spec::dtype::Dtype;

/// Packed rows on the device.
pub struct Matrix {
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Bytes of a number.
    pub(super) element: usize,
    pub(super) buffer: Option<Buffer>,
}

impl Matrix {
    /// No rows of this width, `element` bytes a number.
    pub(super) fn new(columns: usize, element: usize) -> Matrix {
        Matrix { columns, rows: 0, element, buffer: None }
    }

    /// Bytes of a row.
    pub(super) fn bytes_per_row(&self) -> usize {
        self.columns * self.element
    }

    /// Rows that fit the buffer, beside those that padding adds.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.as_ref().map_or(0, |b| (b.bytes() / self.bytes_per_row().max(1)).saturating_sub(PAD))
    }

    /// Where a row lies.
    pub(super) fn row(&self, row: usize) -> Arg {
        self.buffer.as_ref().map_or(Arg::NULL, |b| b.at(row * self.bytes_per_row()))
    }

    /// Where the first row lies.
    pub(super) fn start(&self) -> Arg {
        self.row(0)
    }

    /// Whether its numbers are f32 though the compute dtype is not.
    pub(super) fn wide(&self, dtype: Dtype) -> bool {
        self.element != dtype.bytes() as usize
    }
}
