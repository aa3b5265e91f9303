//! What heads wrote in other layers, put in place of what they write in this one.
//!
//! What a head writes is its `z` through the output projection of its layer. Written into another layer, it is the `z` of
//! no head there: it is kept as the `z` that it was, beside the layer whose projection it goes through. All that is done to
//! a head's output (copying, scaling, zeroing) is linear in `z`, so it is done to these numbers as to `z` itself.

use std::collections::{BTreeMap, BTreeSet};

use super::shard::Columns;
use crate::plan::batch::{EditRows, RowOp, Values};

/// Numbers of `z`, this rank's columns, by the layer whose projection they go through and by row. All ranks hold the same
/// rows.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(BTreeMap<(u32, u32), Vec<f32>>);

/// The layers and rows that go through another layer's projection, with their numbers.
pub(super) struct Through {
    /// That layer.
    pub layer: u32,
    /// Rows of the batch.
    pub rows: Vec<u32>,
    /// `[rows, own columns]`
    pub z: Vec<f32>,
}

impl Elsewhere {
    /// Rows join as copies of others; the first of them gets the number `first`.
    pub(super) fn join(&mut self, parents: &[u32], first: usize) {
        for (row, parent) in (first as u32..).zip(parents) {
            for layer in self.layers() {
                if let Some(numbers) = self.0.get(&(layer, *parent)).cloned() {
                    self.0.insert((layer, row), numbers);
                }
            }
        }
    }

    /// Does to these numbers what an edit of heads' outputs does to `z`. The edit is of the whole site; `columns` says which
    /// are this rank's.
    pub(super) fn edit(&mut self, edit: &EditRows, columns: &Columns) {
        // Another direction is one of `z`, which moves alone.
        if edit.instead.is_some() {
            return;
        }
        let written = columns.written(edit);
        let held = columns.held(&written);
        let own = (held.start - columns.own.start) as usize..(held.end - columns.own.start) as usize;
        let width = columns.own.len();
        match &edit.op {
            RowOp::Replace(Values::Rows(sources)) => {
                debug_assert!(edit.through.is_none(), "rows hold what goes through other layers themselves");
                for layer in self.layers() {
                    for (row, source) in edit.rows.iter().zip(sources) {
                        match self.0.get(&(layer, *source)).map(|source| source[own.clone()].to_vec()) {
                            Some(numbers) => {
                                let row = self.0.entry((layer, *row)).or_insert_with(|| vec![0.0; width]);
                                row[own.clone()].copy_from_slice(&numbers);
                            }
                            None => self.each(layer, *row, |row| row[own.clone()].fill(0.0)),
                        }
                    }
                }
            }
            RowOp::Replace(Values::Given(given)) => {
                self.every(&edit.rows, |row| row[own.clone()].fill(0.0));
                let Some(layer) = edit.through else { return };
                for (row, given) in edit.rows.iter().zip(given.chunks_exact(written.len())) {
                    // Where none of the columns is this rank's, the row is there all the same.
                    let row = self.0.entry((layer, *row)).or_insert_with(|| vec![0.0; width]);
                    let part = given.iter().skip(held.start.saturating_sub(written.start) as usize);
                    row[own.clone()].iter_mut().zip(part).for_each(|(row, given)| *row = *given);
                }
            }
            RowOp::Scale(factor) => {
                self.every(&edit.rows, |row| row[own.clone()].iter_mut().for_each(|x| *x *= factor));
            }
            RowOp::Zero => self.every(&edit.rows, |row| row[own.clone()].fill(0.0)),
            RowOp::Add { .. } | RowOp::Project { .. } | RowOp::Along { .. } | RowOp::Cut => {
                unreachable!("BUG: a head's output is copied, scaled or zeroed")
            }
        }
    }

    /// What goes through the projection of each other layer, in the order of the layers.
    pub(super) fn through(&self) -> impl Iterator<Item = Through> {
        self.layers().into_iter().map(|layer| {
            let of = || self.0.iter().filter(move |((other, _), _)| *other == layer);
            Through {
                layer,
                rows: of().map(|((_, row), _)| *row).collect(),
                z: of().flat_map(|(_, numbers)| numbers).copied().collect(),
            }
        })
    }

    fn layers(&self) -> BTreeSet<u32> {
        self.0.keys().map(|(layer, _)| *layer).collect()
    }

    fn every(&mut self, rows: &[u32], change: impl Fn(&mut [f32])) {
        for layer in self.layers() {
            for row in rows {
                self.each(layer, *row, &change);
            }
        }
    }

    fn each(&mut self, layer: u32, row: u32, change: impl Fn(&mut [f32])) {
        if let Some(numbers) = self.0.get_mut(&(layer, row)) {
            change(numbers);
        }
    }
}
