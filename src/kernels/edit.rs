//! What an edit makes of a row: the definition, on rows in host memory. Devices with code of their own for the plain operations
//! are held to it, and take it as it is where columns depend on one another.

use super::RowChange;
use crate::plan::batch::{EditRows, RowOp};
use crate::plan::output::larger;

/// The new rows of an edit, `[rows, width]`, before they are rounded to the compute dtype. `old`: the rows as they are in the
/// columns edited; `source`: their source values, empty where the operation has none. With it, of each row what
/// [`edited_row`] says.
pub fn edited(edit: &EditRows, old: &[f32], source: &[f32]) -> (Vec<f32>, Vec<bool>) {
    let width = old.len() / edit.rows.len();
    let mut new = vec![0.0; old.len()];
    let rows = old.chunks_exact(width).zip(new.chunks_exact_mut(width)).enumerate();
    let source = |i: usize| source.get(i * width..(i + 1) * width).unwrap_or_default();
    let cancelled = rows.map(|(i, (old, new))| edited_row(edit, i, old, source(i), new)).collect();
    (new, cancelled)
}

/// The `i`-th of [`edited`]'s rows, into `new`. Whether the row was to keep its norm and could not, since what was added
/// cancelled it: it is zero then.
pub fn edited_row(edit: &EditRows, i: usize, old: &[f32], source: &[f32], new: &mut [f32]) -> bool {
    apply(&edit.op, old, source, new);
    if let Some(directions) = &edit.instead {
        let far = distance(old, new).sqrt();
        let direction = &directions[i * old.len()..][..old.len()];
        for ((new, old), d) in new.iter_mut().zip(old).zip(direction) {
            *new = (f64::from(*old) + far * f64::from(*d)) as f32;
        }
        return false;
    }
    let keeps_norm = matches!(edit.op, RowOp::Add { norm_match: true, .. });
    keeps_norm && new.iter().all(|x| *x == 0.0) && old.iter().any(|x| *x != 0.0)
}

fn apply(op: &RowOp, old: &[f32], source: &[f32], new: &mut [f32]) {
    match op {
        RowOp::Replace(_) => new.copy_from_slice(source),
        RowOp::Add { coef, norm_match, .. } => {
            for ((new, old), source) in new.iter_mut().zip(old).zip(source) {
                *new = old + coef * source;
            }
            let norm = norm(new);
            // A row of zeros cannot be rescaled to a norm, which is told, and one that was not moved keeps its bits.
            if *norm_match && norm > 0.0 && new != old {
                let factor = self::norm(old) / norm;
                for new in new {
                    *new = (f64::from(*new) * factor) as f32;
                }
            }
        }
        // An edge of attention that is cut stays cut, whatever the factor.
        RowOp::Scale(factor) => {
            for (new, old) in new.iter_mut().zip(old) {
                *new = if *old == f32::NEG_INFINITY { *old } else { old * factor };
            }
        }
        RowOp::Along { direction, change } => {
            let along = direction.iter().zip(old).map(|(d, o)| f64::from(*d) * f64::from(*o));
            let far = change.moves(along.sum());
            for ((new, old), d) in new.iter_mut().zip(old).zip(direction.iter()) {
                *new = (f64::from(*old) + far * f64::from(*d)) as f32;
            }
            // Not even the sign of a zero changes.
            if far == 0.0 {
                new.copy_from_slice(old);
            }
        }
        RowOp::Zero => new.fill(0.0),
        RowOp::Cut => new.fill(f32::NEG_INFINITY),
        RowOp::Project { basis, values } => {
            let rows = || basis.chunks_exact(old.len());
            // How far each direction of the basis is off.
            let off = |b: &[f32]| -> f64 {
                let source = |i: usize| if values.is_some() { f64::from(source[i]) } else { 0.0 };
                b.iter()
                    .zip(old)
                    .enumerate()
                    .map(|(i, (b, o))| f64::from(*b) * (source(i) - f64::from(*o)))
                    .sum()
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

/// What became of a row.
#[expect(clippy::float_cmp, reason = "what has not changed has the same bits")]
pub fn change(old: &[f32], new: &[f32], cancelled: bool) -> RowChange {
    let moved = |(old, new): (&f32, &f32)| if old == new { 0.0 } else { (new - old).abs() };
    let largest = old.iter().zip(new).map(moved).fold(0.0, larger);
    let before = old.iter().map(|x| f64::from(*x).powi(2)).sum();
    RowChange { squared: distance(old, new), before, largest, cancelled }
}

/// Sum of squared differences. Equal numbers do not differ, infinite ones either.
#[expect(clippy::float_cmp, reason = "what has not changed has the same bits")]
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let moved = |(a, b): (&f32, &f32)| if a == b { 0.0 } else { f64::from(*a) - f64::from(*b) };
    a.iter().zip(b).map(|both| moved(both).powi(2)).sum()
}
