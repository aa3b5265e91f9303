//! A part of a set, or what it comes down to: norms, means, cosines. One layer is in memory at a time.

use super::file::{ActivationSet, Reader};
use super::{Selection, StoreError};

/// What is made of the numbers read.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'s> {
    /// Nothing: `[layers, positions, width]`.
    Values,
    /// Euclidean length of each row: `[layers, positions]`.
    Norm,
    /// Mean over the positions: `[layers, width]`.
    Mean,
    /// Cosine of the angle between each row and that of a set of the same shape: `[layers, positions]`; NaN where one
    /// of them is zero.
    Cosine(&'s ActivationSet),
}

/// Numbers with their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Names of the axes.
    pub axes: Vec<&'static str>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// Row-major. Sums are made in f64.
    pub values: Vec<f32>,
}

/// Reads a selection.
///
/// # Panics
/// On a bug only.
pub fn read(
    set: &ActivationSet,
    selection: &Selection,
    reading: &Reading<'_>,
) -> Result<Numbers, StoreError> {
    let mut reader = set.open()?;
    let mut other = match reading {
        Reading::Cosine(other) => Some(other.open()?),
        _ => None,
    };
    let (layers, positions, width) = (selection.layers.len(), selection.positions.len(), selection.width());
    let (axes, shape) = match reading {
        Reading::Values => (vec!["layer", "position", "dim"], vec![layers, positions, width]),
        Reading::Mean => (vec!["layer", "dim"], vec![layers, width]),
        Reading::Norm | Reading::Cosine(_) => (vec!["layer", "position"], vec![layers, positions]),
    };
    let mut values = Vec::with_capacity(shape.iter().product());
    for slot in &selection.layers {
        let rows = chosen(&mut reader, *slot, selection)?;
        let rows = rows.chunks_exact(width);
        match reading {
            Reading::Values => values.extend(rows.flatten()),
            Reading::Norm => values.extend(rows.map(|row| dot(row, row).sqrt() as f32)),
            Reading::Mean => {
                let mut sum = vec![0.0_f64; width];
                for row in rows {
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
                values.extend(sum.iter().map(|sum| (sum / positions as f64) as f32));
            }
            Reading::Cosine(_) => {
                let other = other.as_mut().expect("BUG: opened above");
                let others = chosen(other, *slot, selection)?;
                let pairs = rows.zip(others.chunks_exact(width));
                values.extend(pairs.map(|(a, b)| (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32));
            }
        }
    }
    Ok(Numbers { axes, shape, values })
}

/// Rows of one layer, `[positions, width]` of the selection.
fn chosen(reader: &mut Reader, slot: usize, selection: &Selection) -> Result<Vec<f32>, StoreError> {
    let width = reader.meta().shape[2];
    let rows = reader.layer(slot)?;
    let mut out = Vec::with_capacity(selection.positions.len() * selection.width());
    for position in &selection.positions {
        let row = &rows[position * width..(position + 1) * width];
        for columns in &selection.columns {
            out.extend_from_slice(&row[columns.clone()]);
        }
    }
    Ok(out)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
