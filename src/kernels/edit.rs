//! What an edit makes of a row: the definition, on rows in host memory. Devices with code of their own for the plain operations
//! are held to it, and take it as it is where columns depend on one another.

use crate::plan::batch::{EditRows, RowOp};

/// The new rows of an edit, `[rows, width]`, before they are rounded to the compute dtype. `old`: the rows as they are in the
/// columns edited; `source`: their source values, empty where the operation has none.
pub fn edited(edit: &EditRows, old: &[f32], source: &[f32]) -> Vec<f32> {
    let width = old.len() / edit.rows.len();
    let mut new = vec![0.0; old.len()];
    for (i, (old, new)) in old.chunks_exact(width).zip(new.chunks_exact_mut(width)).enumerate() {
        edited_row(edit, i, old, source.get(i * width..(i + 1) * width).unwrap_or_default(), new);
    }
    new
}

/// The `i`-th of [`edited`]'s rows, into `new`.
pub fn edited_row(edit: &EditRows, i: usize, old: &[f32], source: &[f32], new: &mut [f32]) {
    apply(&edit.op, old, source, new);
    if let Some(directions) = &edit.instead {
        let far = distance(old, new).sqrt();
        let direction = &directions[i * old.len()..][..old.len()];
        for ((new, old), d) in new.iter_mut().zip(old).zip(direction) {
            *new = (f64::from(*old) + far * f64::from(*d)) as f32;
        }
    }
}

fn apply(op: &RowOp, old: &[f32], source: &[f32], new: &mut [f32]) {
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

/// Sum of squared differences.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
