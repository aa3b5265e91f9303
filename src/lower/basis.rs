//! Spans of vectors, as orthonormal bases.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::Facts;
use super::place::Place;
use super::stored_source::{self, Given, Wanted};
use crate::spec::intervention::Basis;
use crate::spec::problem::{Problems, code};
use crate::spec::select::Layers;

/// Below this share of its length, what is left of a vector beside the others counts as nothing.
const INDEPENDENT: f64 = 1e-6;

/// Rows by layer of the set and first column written.
type ByPlace = HashMap<(usize, usize), Arc<[f32]>>;

/// The bases of an intervention's spans.
#[derive(Debug, Clone)]
pub(super) enum BasisPlan {
    /// The same for every layer and head, `[n, columns]`.
    One(Arc<[f32]>),
    /// Of stored activations: by layer of the set and first column written.
    Stored(Given, Arc<ByPlace>),
}

impl BasisPlan {
    /// Resolves the vectors of an intervention.
    pub(super) fn new(
        basis: &Basis,
        place: &Place<'_>,
        facts: &dyn Facts,
        out: &mut Problems,
    ) -> Option<Self> {
        let (config, at) = (facts.config(), format!("{}/basis", place.at));
        let width = place.vector_width(config);
        let (activation, layer, from) = match basis {
            Basis::Vectors(vectors) => {
                return orthonormal(vectors, width, |i| format!("{at}/{i}"), out).map(Self::One);
            }
            Basis::Stored { activation, layer, positions } => (activation, layer.map(Layers::One), positions),
        };
        let written = place.layers_written(config);
        let wanted = Wanted {
            at: &at,
            site: place.site,
            layers: &written,
            positions: None,
            activation,
            layer: layer.as_ref(),
            from: from.as_ref(),
        };
        let given = Given::find(&wanted, facts, out)?;
        let at = format!("{at}/activation");
        let limit = facts.limits().noise_elements;
        if given.numbers() > limit {
            let detail = format!("up to {} numbers of vectors, the limit is {limit}", given.numbers());
            out.push(at, code::LIMIT, detail, "name fewer positions, or write fewer layers");
            return None;
        }
        let layers = match given.vectors() {
            Ok(layers) => layers,
            Err(error) => {
                stored_source::refuse(&error, &format!("{}/basis", place.at), out);
                return None;
            }
        };
        // Each head has the columns that are its own.
        let whole = config.site_width(place.site, place.keys);
        let starts: Vec<usize> = match place.heads {
            Some(heads) => heads.iter().map(|head| *head as usize * width).collect(),
            None => vec![0],
        };
        let mut bases = HashMap::new();
        for (slot, rows) in layers {
            for start in &starts {
                let vectors: Vec<Vec<f32>> =
                    rows.chunks_exact(whole).map(|row| row[*start..start + width].to_vec()).collect();
                bases.insert((slot, *start), orthonormal(&vectors, width, |_| at.clone(), out)?);
            }
        }
        Some(Self::Stored(given, Arc::new(bases)))
    }

    /// The basis at a layer written, of the columns from `start`.
    pub(super) fn at(&self, layer: u32, start: usize) -> Arc<[f32]> {
        match self {
            Self::One(basis) => Arc::clone(basis),
            Self::Stored(given, bases) => Arc::clone(&bases[&(given.slot(layer), start)]),
        }
    }
}

/// An orthonormal basis, `[n, width]`, of the span of `vectors`: Gram and Schmidt, twice over, in f64. `at` points to one of
/// them.
fn orthonormal(
    vectors: &[Vec<f32>],
    width: usize,
    at: impl Fn(usize) -> String,
    out: &mut Problems,
) -> Option<Arc<[f32]>> {
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(vectors.len());
    for (i, vector) in vectors.iter().enumerate() {
        if vector.len() != width {
            let detail = format!("{} numbers where {width} are written", vector.len());
            out.push(at(i), code::LENGTH_MISMATCH, detail, format!("give {width} numbers"));
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
            let detail = format!("vector {i} adds nothing to the span of those before it");
            out.push(at(i), code::DUPLICATE, detail, "leave the vector out");
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

    fn pointer(i: usize) -> String {
        format!("/basis/{i}")
    }

    #[test]
    fn a_basis_spans_its_vectors_and_is_orthonormal() {
        let mut out = Problems::default();
        let basis = orthonormal(&[vec![2.0, 0.0, 0.0], vec![5.0, 0.0, -3.0]], 3, pointer, &mut out).unwrap();
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
            assert!(orthonormal(&vectors, 2, pointer, &mut out).is_none());
            assert_eq!(out.0[0].pointer, at);
        }
    }
}
