//! Packed rows in a GPU's memory.

use std::cell::Cell;

use super::PAD;
use super::device::{Arg, Buffer};
use super::peers::Parts;
use crate::spec::dtype::Dtype;

/// Packed rows on the device.
pub struct Matrix {
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Bytes of a number.
    pub(super) element: usize,
    pub(super) buffer: Option<Buffer>,
    /// The other ranks' parts that are still to be added, by whatever reads it first.
    pub(super) parts: Cell<Option<Parts>>,
}

impl Matrix {
    /// No rows of this width, `element` bytes a number.
    pub(super) fn new(columns: usize, element: usize) -> Matrix {
        Matrix { columns, rows: 0, element, buffer: None, parts: Cell::default() }
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
        assert!(self.parts.get().is_none(), "BUG: a product is read before its parts are added up");
        self.own_row(row)
    }

    /// Where a row lies, of which the other ranks' parts may not have been added.
    pub(super) fn own_row(&self, row: usize) -> Arg {
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
