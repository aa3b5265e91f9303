//! Edits of packed rows: a few numbers beside the matrix products, so plain loops in f32 with sums in f64.

use mediant_arithmetic::rows::round;
use mediant_arithmetic::{Dtype, Matrix};

use crate::kernels::RowChange;
use crate::kernels::edit::{change, edited_row};
use crate::plan::batch::{EditRows, Values};

/// Applies an edit, see [`crate::kernels::Kernels::edit`].
pub(super) fn apply(x: &mut Matrix, edit: &EditRows, dtype: Dtype, log: &mut Vec<RowChange>) {
    let columns = edit.columns.clone().map_or(0..x.columns(), |c| c.start as usize..c.end as usize);
    let dtype = if x.is_full_precision() { Dtype::F32 } else { dtype };
    let width = columns.len();
    let (mut old, mut source, mut new) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
    for (i, &row) in edit.rows.iter().enumerate() {
        match edit.op.values() {
            Some(Values::Rows(rows)) => source.copy_from_slice(&x.row(rows[i] as usize)[columns.clone()]),
            Some(Values::Given(given)) => source.copy_from_slice(&given[i * width..][..width]),
            None => {}
        }
        let row = &mut x.row_mut(row as usize)[columns.clone()];
        old.copy_from_slice(row);
        let cancelled = edited_row(edit, i, &old, &source, &mut new);
        round(dtype, &mut new);
        row.copy_from_slice(&new);
        log.push(change(&old, &new, cancelled));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::Along;
    use crate::plan::batch::RowOp;

    fn changed(op: RowOp, instead: Option<Vec<f32>>) -> (Vec<f32>, RowChange) {
        let mut x = Matrix::from_rows(2, vec![3.0, 4.0, 1.0, -2.0]);
        let edit = EditRows { rows: vec![0], first: 0, columns: None, op, instead, through: None };
        let mut log = Vec::new();
        apply(&mut x, &edit, Dtype::F32, &mut log);
        (x.row(0).to_vec(), log[0])
    }

    fn edited(op: RowOp, instead: Option<Vec<f32>>) -> (Vec<f32>, f64) {
        let (row, change) = changed(op, instead);
        (row, change.squared)
    }

    fn add(coef: f32, norm_match: bool) -> RowOp {
        RowOp::Add { values: Values::Rows(vec![1]), coef, norm_match }
    }

    #[test]
    fn changes_are_sums_of_squares() {
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
    fn a_row_that_should_keep_its_norm_and_is_cancelled_says_so() {
        let given = |numbers: [f32; 2], norm_match| RowOp::Add {
            values: Values::Given(numbers.to_vec()),
            coef: -1.0,
            norm_match,
        };
        let (row, change) = changed(given([3.0, 4.0], true), None);
        assert_eq!((row, change.cancelled), (vec![0.0, 0.0], true));
        assert!(!changed(given([3.0, 4.0], false), None).1.cancelled, "no norm was to be kept");
        assert!(!changed(given([3.0, 4.0], true), Some(vec![0.0, 1.0])).1.cancelled, "it moved another way");
        assert!(!changed(given([3.0, 3.0], true), None).1.cancelled);
        assert!(!changed(RowOp::Zero, None).1.cancelled);
    }

    #[test]
    fn a_change_that_is_not_finite_is_no_change_of_zero() {
        for (bad, finite) in [(f32::NAN, false), (f32::INFINITY, false), (1e30, true)] {
            let op = RowOp::Replace(Values::Given(vec![bad, 4.0]));
            assert_eq!(changed(op, None).1.largest.is_finite(), finite, "{bad}");
        }
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
    fn along_a_direction_only_that_part_changes_and_within_its_bounds_no_bit() {
        // The row is [3, 4], and 5 of it lies along the direction.
        let direction: Arc<[f32]> = Arc::from([0.6, 0.8]);
        let along = |change| changed(RowOp::Along { direction: Arc::clone(&direction), change }, None).0;
        let near = |row: Vec<f32>, x: f32, y: f32| (row[0] - x).abs() < 1e-6 && (row[1] - y).abs() < 1e-6;
        assert!(near(along(Along::Scale(2.0)), 6.0, 8.0));
        assert!(near(along(Along::Clamp(f32::NEG_INFINITY, 1.0)), 0.6, 0.8));
        assert!(near(along(Along::Clamp(10.0, f32::INFINITY)), 6.0, 8.0));
        for same in
            [Along::Scale(1.0), Along::Clamp(-9.0, 9.0), Along::Clamp(f32::NEG_INFINITY, f32::INFINITY)]
        {
            assert_eq!(along(same), [3.0, 4.0]);
        }
        let mut x = Matrix::from_rows(2, vec![-0.0, f32::INFINITY]);
        let bits = |x: &Matrix| x.row(0).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let before = bits(&x);
        for change in [Along::Scale(1.0), Along::Clamp(0.0, f32::INFINITY)] {
            let op = RowOp::Along { direction: Arc::clone(&direction), change };
            let edit = EditRows { rows: vec![0], first: 0, columns: None, op, instead: None, through: None };
            apply(&mut x, &edit, Dtype::F32, &mut Vec::new());
            assert_eq!(bits(&x), before, "{change:?}");
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these sums are exact")]
    fn the_log_has_the_row_as_it_was() {
        assert_eq!(changed(RowOp::Zero, None).1.before, 25.0);
        assert_eq!(changed(RowOp::Scale(3.0), None).1.before, 25.0);
    }

    #[test]
    fn another_direction_moves_as_far() {
        let (row, changed) = edited(RowOp::Zero, Some(vec![0.0, 1.0]));
        assert_eq!((row, changed), (vec![3.0, 9.0], 25.0));
    }
}
