//! Tables of the edits at one moment: those alike are written as one.

use std::sync::Arc;

use super::batch::{EditRows, RowOp, Values};
use super::cone::Stage;
use super::schedule::Applied;
use super::tables::Rows;
use super::{Edit, EditGroup, Op, RunId, Source};

/// A row that an edit writes, in the plan's own terms: the same however the plan is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EditedRow {
    /// The run that its change is booked to.
    pub run: RunId,
    /// Which receipt it counts in.
    pub group: EditGroup,
    /// Which of the run's writes it is, in the order in which they apply.
    pub write: Write,
}

/// A write to one row of a run: the moment, the place among the run's edits at that moment, the place among the edit's
/// positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Write(Stage, u32, u32);

/// Edits alike, and their table.
struct Alike<'a> {
    first: &'a Edit,
    table: EditRows,
    rows: Vec<EditedRow>,
}

/// Tables of the edits of runs of one depth, and the rows of each. The n-th edits of all runs come before the (n+1)-th.
pub(super) fn edit_tables(
    rows: &Rows<'_>,
    edits: &[Applied<'_>],
    stage: Stage,
) -> Vec<(EditRows, Vec<EditedRow>)> {
    let members = &rows.live.members;
    let mut tables = TablesOf::default();
    let mut found = Found::default();
    for Applied { run, ordinal, edit, which } in edits {
        found.clear();
        for &i in which {
            let slot = members.slot(*run, edit.positions[i]);
            // A row may still be there though nothing reads it any more. That depends on the company in its chunk, and what
            // is written must not; nor need its source be there.
            if rows.live.until[slot] < Some(stage) {
                continue;
            }
            let source =
                edit.op.run_read().map(|(run, positions)| members.standing(run, positions[i], stage));
            found.which.push(i);
            found.rows.push(rows.row(slot));
            found.sources.extend(source.map(|slot| rows.row(slot)));
        }
        if !found.which.is_empty() {
            tables.add(members.runs[*run].0, stage, *ordinal, edit, &found);
        }
    }
    tables.finish()
}

/// Tables of edits of one moment, in the making.
#[derive(Default)]
pub(super) struct TablesOf<'a>(Vec<Vec<Alike<'a>>>);

impl<'a> TablesOf<'a> {
    /// Adds what is there of a run's edit, the `ordinal`-th of its edits at this moment.
    pub(super) fn add(&mut self, run: u32, stage: Stage, ordinal: usize, edit: &'a Edit, found: &Found) {
        if self.0.len() <= ordinal {
            self.0.resize_with(ordinal + 1, Vec::new);
        }
        let tables = &mut self.0[ordinal];
        let alike = tables.iter().position(|alike| are_alike(alike.first, edit)).unwrap_or_else(|| {
            tables.push(Alike { first: edit, table: empty(edit), rows: Vec::new() });
            tables.len() - 1
        });
        append(&mut tables[alike].table, edit, found);
        let written = found.which.iter().map(|i| EditedRow {
            run: RunId(run),
            group: edit.group,
            write: Write(stage, ordinal as u32, *i as u32),
        });
        tables[alike].rows.extend(written);
    }

    /// The tables in the order in which they apply, and the rows of each.
    pub(super) fn finish(self) -> Vec<(EditRows, Vec<EditedRow>)> {
        self.0.into_iter().flatten().map(|alike| (alike.table, alike.rows)).collect()
    }
}

/// What is there of one edit.
#[derive(Default)]
pub(super) struct Found {
    /// Indices into the edit's positions.
    pub(super) which: Vec<usize>,
    /// Rows written.
    pub(super) rows: Vec<u32>,
    /// Rows read, where a run is.
    pub(super) sources: Vec<u32>,
}

impl Found {
    fn clear(&mut self) {
        self.which.clear();
        self.rows.clear();
        self.sources.clear();
    }
}

fn append(table: &mut EditRows, edit: &Edit, found: &Found) {
    let n = edit.positions.len();
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
        Op::Along { direction, change } => RowOp::Along { direction: Arc::clone(direction), change: *change },
        Op::Zero => RowOp::Zero,
        Op::Cut => RowOp::Cut,
        Op::Project { basis, source } => {
            RowOp::Project { basis: Arc::clone(basis), values: source.as_ref().map(values) }
        }
    };
    EditRows {
        rows: Vec::new(),
        first: 0,
        columns: edit.columns.clone(),
        op,
        instead: edit.instead.as_ref().map(|_| Vec::new()),
        through: edit.through,
    }
}

/// Whether two edits differ in nothing but which rows they write and read, and what these count as.
fn are_alike(a: &Edit, b: &Edit) -> bool {
    let alike = match (&a.op, &b.op) {
        (Op::Replace(_), Op::Replace(_)) | (Op::Zero, Op::Zero) | (Op::Cut, Op::Cut) => true,
        (Op::Add { coef, norm_match, .. }, Op::Add { coef: other, norm_match: other_match, .. }) => {
            coef.to_bits() == other.to_bits() && norm_match == other_match
        }
        (Op::Scale(factor), Op::Scale(other)) => factor.to_bits() == other.to_bits(),
        (Op::Along { direction, change }, Op::Along { direction: other, change: other_change }) => {
            Arc::ptr_eq(direction, other) && change.bits() == other_change.bits()
        }
        (Op::Project { basis, .. }, Op::Project { basis: other, .. }) => Arc::ptr_eq(basis, other),
        _ => false,
    };
    let kind = |edit: &Edit| edit.op.source().map(std::mem::discriminant);
    alike
        && kind(a) == kind(b)
        && a.columns == b.columns
        && a.through == b.through
        && a.instead.is_some() == b.instead.is_some()
}
