//! Edits of packed rows: a few numbers beside the matrix products, so plain loops in f32 with sums in f64.

use super::matrix::Matrix;
use super::{Dtype, round};
use crate::plan::batch::{EditRows, RowOp, Values};
use crate::plan::output::EditStats;

/// Applies an edit, see [`crate::kernels::Kernels::edit`].
pub(super) fn apply(x: &mut Matrix, edit: &EditRows, dtype: Dtype, changes: &mut [f64]) -> EditStats {
    let columns = edit.columns.clone().map_or(0..x.columns(), |c| c.start as usize..c.end as usize);
    let dtype = if x.is_full_precision() { Dtype::F32 } else { dtype };
    let width = columns.len();
    let mut written = EditStats::default();
    let (mut old, mut source, mut new) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
    for (i, &row) in edit.rows.iter().enumerate() {
        match edit.op.values() {
            Some(Values::Rows(rows)) => source.copy_from_slice(&x.row(rows[i] as usize)[columns.clone()]),
            Some(Values::Given(given)) => source.copy_from_slice(&given[i * width..][..width]),
            None => source.fill(0.0),
        }
        let row = &mut x.row_mut(row as usize)[columns.clone()];
        old.copy_from_slice(row);
        compute(&edit.op, &old, &source, &mut new);
        if let Some(directions) = &edit.instead {
            let far = distance(&old, &new).sqrt();
            let direction = &directions[i * width..][..width];
            for ((new, old), d) in new.iter_mut().zip(&old).zip(direction) {
                *new = (f64::from(*old) + far * f64::from(*d)) as f32;
            }
        }
        round(dtype, &mut new);
        row.copy_from_slice(&new);
        for (old, new) in old.iter().zip(&new) {
            written.max_abs_delta = written.max_abs_delta.max((new - old).abs());
        }
        changes[edit.runs[i] as usize] += distance(&old, &new);
        written.elements += width as u64;
        written.cells += 1;
    }
    written
}

fn compute(op: &RowOp, old: &[f32], source: &[f32], new: &mut [f32]) {
    match op {
        RowOp::Replace(_) => new.copy_from_slice(source),
        RowOp::Add { coef, norm_match, .. } => {
            for ((new, old), source) in new.iter_mut().zip(old).zip(source) {
                *new = old + coef * source;
            }
            let norm = norm(new);
            // Nothing can be rescaled to a norm, and a row that was not moved keeps its bits.
            if *norm_match && norm > 0.0 && new != old {
                let factor = self::norm(old) / norm;
                for new in new {
                    *new = (f64::from(*new) * factor) as f32;
                }
            }
        }
        RowOp::Scale(factor) => new.iter_mut().zip(old).for_each(|(new, old)| *new = old * factor),
        RowOp::Zero => new.fill(0.0),
        RowOp::Project { basis, .. } => {
            let rows = || basis.chunks_exact(old.len());
            // How far each direction of the basis is off.
            let off = |b: &[f32]| -> f64 {
                let terms = b.iter().zip(source).zip(old);
                terms.map(|((b, s), o)| f64::from(*b) * (f64::from(*s) - f64::from(*o))).sum()
            };
            let coefficients: Vec<f64> = rows().map(off).collect();
            for (i, (new, old)) in new.iter_mut().zip(old).enumerate() {
                let moved: f64 = rows().zip(&coefficients).map(|(b, c)| f64::from(b[i]) * c).sum();
                *new = (f64::from(*old) + moved) as f32;
            }
        }
    }
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Sum of squared differences.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact by design")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn edited(op: RowOp, instead: Option<Vec<f32>>) -> (Vec<f32>, f64) {
        let mut x = Matrix::from_rows(2, vec![3.0, 4.0, 1.0, -2.0]);
        let edit = EditRows { rows: vec![0], runs: vec![1], columns: None, op, instead, group: 0 };
        let mut changes = [0.0; 2];
        apply(&mut x, &edit, Dtype::F32, &mut changes);
        assert_eq!(changes[0], 0.0);
        (x.row(0).to_vec(), changes[1])
    }

    fn add(coef: f32, norm_match: bool) -> RowOp {
        RowOp::Add { values: Values::Rows(vec![1]), coef, norm_match }
    }

    #[test]
    fn changes_are_sums_of_squares_booked_to_the_run() {
        assert_eq!(edited(RowOp::Replace(Values::Rows(vec![1])), None), (vec![1.0, -2.0], 40.0));
        assert_eq!(edited(RowOp::Zero, None), (vec![0.0, 0.0], 25.0));
        assert_eq!(edited(RowOp::Scale(2.0), None), (vec![6.0, 8.0], 25.0));
        assert_eq!(edited(add(2.0, false), None), (vec![5.0, 0.0], 20.0));
    }

    #[test]
    fn norm_matching_keeps_the_norm_and_turns_the_row() {
        let (row, _) = edited(add(2.0, true), None);
        assert!((row[0] - 5.0).abs() < 1e-6 && row[1].abs() < 1e-6, "{row:?}");
        assert_eq!(edited(add(0.0, true), None), (vec![3.0, 4.0], 0.0));
    }

    #[test]
    fn projection_removes_the_span_or_swaps_what_lies_in_it() {
        let basis: Arc<[f32]> = Arc::from([1.0, 0.0]);
        let out = RowOp::Project { basis: Arc::clone(&basis), values: None };
        assert_eq!(edited(out, None), (vec![0.0, 4.0], 9.0));
        let swap = |row| RowOp::Project { basis: Arc::clone(&basis), values: Some(Values::Rows(vec![row])) };
        assert_eq!(edited(swap(1), None), (vec![1.0, 4.0], 4.0));
        assert_eq!(edited(swap(0), None), (vec![3.0, 4.0], 0.0));
    }

    #[test]
    fn another_direction_moves_as_far() {
        let (row, changed) = edited(RowOp::Zero, Some(vec![0.0, 1.0]));
        assert_eq!((row, changed), (vec![3.0, 9.0], 25.0));
    }
}
