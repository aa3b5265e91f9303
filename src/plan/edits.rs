//! Tables of the edits at one moment: those alike are written as one.

use std::sync::Arc;

use super::batch::{EditRows, RowOp, Values};
use super::cone::Stage;
use super::moments::Applied;
use super::tables::Rows;
use super::{Edit, Op, Source};

/// Edits alike, and their table.
struct Alike<'a> {
    first: &'a Edit,
    table: EditRows,
}

/// Tables of the edits of runs of one depth. The n-th edits of all runs come before the (n+1)-th.
pub(super) fn edit_tables(rows: &Rows<'_>, edits: &[Applied<'_>], stage: Stage) -> Vec<EditRows> {
    let members = &rows.live.members;
    let mut by_ordinal: Vec<Vec<Alike<'_>>> = Vec::new();
    let mut found = Found::default();
    for Applied { run, ordinal, edit, which } in edits {
        found.clear();
        for &i in which {
            let row = rows.present(members.slot(*run, edit.positions[i]));
            let source =
                edit.op.run_read().map(|(run, positions)| members.standing(run, positions[i], stage));
            let source = source.map(|slot| rows.present(slot));
            // A row that is still there but that nothing reads any more: nor was its source kept.
            let (Some(row), false) = (row, source == Some(None)) else { continue };
            found.which.push(i);
            found.rows.push(row);
            found.sources.extend(source.flatten());
        }
        if found.which.is_empty() {
            continue;
        }
        if by_ordinal.len() <= *ordinal {
            by_ordinal.resize_with(ordinal + 1, Vec::new);
        }
        let tables = &mut by_ordinal[*ordinal];
        let alike = tables.iter().position(|alike| are_alike(alike.first, edit)).unwrap_or_else(|| {
            tables.push(Alike { first: edit, table: empty(edit) });
            tables.len() - 1
        });
        append(&mut tables[alike].table, edit, *run as u32, &found);
    }
    by_ordinal.into_iter().flatten().map(|alike| alike.table).collect()
}

/// What is there of one edit.
#[derive(Default)]
struct Found {
    /// Indices into the edit's positions.
    which: Vec<usize>,
    /// Rows written.
    rows: Vec<u32>,
    /// Rows read, where a run is.
    sources: Vec<u32>,
}

impl Found {
    fn clear(&mut self) {
        self.which.clear();
        self.rows.clear();
        self.sources.clear();
    }
}

fn append(table: &mut EditRows, edit: &Edit, run: u32, found: &Found) {
    let n = edit.positions.len();
    table.runs.resize(table.runs.len() + found.rows.len(), run);
    table.rows.extend(&found.rows);
    if let (Some(into), Some(from)) = (&mut table.instead, &edit.instead) {
        pick(from, n, &found.which, into);
    }
    match (table.op.values_mut(), edit.op.source()) {
        (Some(Values::Rows(rows)), Some(Source::Run { .. })) => rows.extend(&found.sources),
        (Some(Values::Given(into)), Some(Source::Constant(from))) => pick(from, n, &found.which, into),
        (None, None) => {}
        _ => unreachable!("BUG: only values of one kind are merged"),
    }
}

/// Appends the given ones of `n` equal parts of `from`.
fn pick(from: &[f32], n: usize, which: &[usize], into: &mut Vec<f32>) {
    let width = from.len() / n;
    into.extend(which.iter().flat_map(|&i| &from[i * width..(i + 1) * width]));
}

/// The table of an edit, without its rows.
fn empty(edit: &Edit) -> EditRows {
    let values = |source: &Source| match source {
        Source::Run { .. } => Values::Rows(Vec::new()),
        Source::Constant(_) => Values::Given(Vec::new()),
        Source::Captured(_) => unreachable!("BUG: a plan is filled before it is laid out"),
    };
    let op = match &edit.op {
        Op::Replace(source) => RowOp::Replace(values(source)),
        Op::Add { source, coef, norm_match } => {
            RowOp::Add { values: values(source), coef: *coef, norm_match: *norm_match }
        }
        Op::Scale(factor) => RowOp::Scale(*factor),
        Op::Zero => RowOp::Zero,
        Op::Project { basis, source } => {
            RowOp::Project { basis: Arc::clone(basis), values: source.as_ref().map(values) }
        }
    };
    EditRows {
        rows: Vec::new(),
        runs: Vec::new(),
        columns: edit.columns.clone(),
        op,
        instead: edit.instead.as_ref().map(|_| Vec::new()),
        group: edit.group.index(),
    }
}

/// Whether two edits differ in nothing but which rows they write and read.
fn are_alike(a: &Edit, b: &Edit) -> bool {
    let alike = match (&a.op, &b.op) {
        (Op::Replace(_), Op::Replace(_)) | (Op::Zero, Op::Zero) => true,
        (Op::Add { coef, norm_match, .. }, Op::Add { coef: other, norm_match: other_match, .. }) => {
            coef.to_bits() == other.to_bits() && norm_match == other_match
        }
        (Op::Scale(factor), Op::Scale(other)) => factor.to_bits() == other.to_bits(),
        (Op::Project { basis, .. }, Op::Project { basis: other, .. }) => Arc::ptr_eq(basis, other),
        _ => false,
    };
    let kind = |edit: &Edit| edit.op.source().map(std::mem::discriminant);
    alike
        && kind(a) == kind(b)
        && a.columns == b.columns
        && a.group == b.group
        && a.instead.is_some() == b.instead.is_some()
}
