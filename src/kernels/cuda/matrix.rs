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
    /// What is still to be added, by whatever reads it first.
    pub(super) pending: Cell<Pending>,
}

/// What is still to be added to a product.
#[derive(Clone, Copy, Default)]
pub(super) struct Pending {
    /// The other ranks' parts.
    pub(super) parts: Option<Parts>,
    /// The bias, after these.
    pub(super) bias: Option<Arg>,
}

impl Pending {
    pub(super) fn is_none(&self) -> bool {
        self.parts.is_none() && self.bias.is_none()
    }
}

impl Matrix {
    /// No rows of this width, `element` bytes a number.
    pub(super) fn new(columns: usize, element: usize) -> Matrix {
        Matrix { columns, rows: 0, element, buffer: None, pending: Cell::default() }
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
        assert!(self.pending.get().is_none(), "BUG: a product is read before its parts are added up");
        self.own_row(row)
    }

    /// Where a row lies, to which the other ranks' parts and the bias may not have been added.
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
