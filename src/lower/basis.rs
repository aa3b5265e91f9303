//! Spans of vectors, as orthonormal bases.

use std::sync::Arc;

use crate::spec::problem::{Problems, code};

/// Below this share of its length, what is left of a vector beside the others counts as nothing.
const INDEPENDENT: f64 = 1e-6;

/// An orthonormal basis, `[n, width]`, of the span of `vectors`: Gram and Schmidt, twice over, in f64.
pub(super) fn orthonormal(
    vectors: &[Vec<f32>],
    width: usize,
    at: &str,
    out: &mut Problems,
) -> Option<Arc<[f32]>> {
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(vectors.len());
    for (i, vector) in vectors.iter().enumerate() {
        let at = format!("{at}/{i}");
        if vector.len() != width {
            let detail = format!("{} numbers where {width} are written", vector.len());
            out.push(at, code::LENGTH_MISMATCH, detail, format!("give {width} numbers"));
            return None;
        }
        let vector: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
        let mut rest = vector.clone();
        for _ in 0..2 {
            for other in &basis {
                let along = dot(&rest, other);
                rest.iter_mut().zip(other).for_each(|(x, b)| *x -= along * b);
            }
        }
        let left = dot(&rest, &rest).sqrt();
        if left <= INDEPENDENT * dot(&vector, &vector).sqrt() {
            let detail = "adds nothing to the span of those before it";
            out.push(at, code::DUPLICATE, detail, "leave the vector out");
            return None;
        }
        basis.push(rest.into_iter().map(|x| x / left).collect());
    }
    Some(basis.into_iter().flatten().map(|x| x as f32).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_spans_its_vectors_and_is_orthonormal() {
        let mut out = Problems::default();
        let basis = orthonormal(&[vec![2.0, 0.0, 0.0], vec![5.0, 0.0, -3.0]], 3, "/basis", &mut out).unwrap();
        assert_eq!(&basis[..], &[1.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
        assert!(out.is_empty());
    }

    #[test]
    fn dependent_empty_and_short_vectors_are_refused_by_place() {
        for (vectors, at) in [
            (vec![vec![1.0, 1.0], vec![2.0, 2.0]], "/basis/1"),
            (vec![vec![0.0, 0.0]], "/basis/0"),
            (vec![vec![1.0]], "/basis/0"),
        ] {
            let mut out = Problems::default();
            assert!(orthonormal(&vectors, 2, "/basis", &mut out).is_none());
            assert_eq!(out.0[0].pointer, at);
        }
    }
}
