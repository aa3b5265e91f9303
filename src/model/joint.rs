//! Edits that couple columns of several ranks: their rows are gathered on every rank's host, edited there by the definition, and
//! each rank writes its own columns back.

use super::shard::{Columns, Shard, cut};
use crate::kernels::Kernels;
use crate::kernels::edit::edited;
use crate::plan::batch::{EditRows, RowOp, Values};
use crate::spec::site::Site;

/// Whether an edit couples columns that no rank holds all of. Every rank finds the same.
pub(super) fn is_joint(shard: &Shard, columns: &Columns, edit: &EditRows) -> bool {
    let width = columns.own.len() as u32;
    let written = columns.written(edit);
    // Ranks hold equal parts of every site that is edited.
    shard.world > 1 && edit.couples_columns() && written.start / width != (written.end - 1) / width
}

/// The edit as a plain replacement in the numbering of the whole site, to be localised like any other, and which of its rows
/// were cancelled ([`RowChange`](crate::kernels::RowChange)).
pub(super) fn resolved<K: Kernels>(
    kernels: &K,
    shard: &Shard,
    site: Site,
    keys: usize,
    x: &K::Matrix,
    edit: &EditRows,
) -> (EditRows, Vec<bool>) {
    let columns = shard.columns(site, keys);
    let (written, width) = (columns.written(edit), columns.width as usize);
    let mut own = kernels.read(x, &edit.rows);
    if let Some(Values::Rows(rows)) = edit.op.values() {
        own.extend(kernels.read(x, rows));
    }
    let all = kernels.exchange(own);
    let mut gathered = vec![0.0; all[0].len() / columns.own.len() * width];
    for (rank, numbers) in all.iter().enumerate() {
        let held = shard.of_rank(rank).columns(site, keys).own;
        for (whole, part) in gathered.chunks_exact_mut(width).zip(numbers.chunks_exact(held.len())) {
            whole[held.start as usize..held.end as usize].copy_from_slice(part);
        }
    }
    let rows = cut(&gathered, width, &written);
    let (old, from_rows) = rows.split_at(edit.rows.len() * written.len());
    let source = match edit.op.values() {
        Some(Values::Given(given)) => given,
        _ => from_rows,
    };
    let (numbers, cancelled) = edited(edit, old, source);
    let edit = EditRows {
        rows: edit.rows.clone(),
        first: edit.first,
        columns: Some(written),
        op: RowOp::Replace(Values::Given(numbers)),
        instead: None,
        through: None,
    };
    (edit, cancelled)
}
