//! Spans of vectors, as orthonormal bases.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::Facts;
use super::place::Place;
use super::stored_source::{self, Given, Wanted};
use crate::spec::intervention::{AlongSpec, Basis};
use crate::spec::problem::{Problems, code};
use crate::spec::select::{Layers, Positions};

/// Below this share of its length, what is left of a vector beside the others counts as nothing.
const INDEPENDENT: f64 = 1e-6;

/// Rows by layer of the set and first column written.
type ByPlace = HashMap<(usize, usize), Arc<[f32]>>;

/// Vectors as a request names them.
pub(super) struct Vectors<'v> {
    /// The field that they are in.
    field: &'static str,
    /// Whether there is exactly one.
    is_one: bool,
    from: From<'v>,
}

enum From<'v> {
    Given(Vec<&'v [f32]>),
    Stored { activation: &'v str, layer: Option<u32>, positions: Option<&'v Positions> },
}

impl<'v> Vectors<'v> {
    /// Those that span a subspace.
    pub(super) fn of_basis(basis: &'v Basis) -> Self {
        let from = match basis {
            Basis::Vectors(vectors) => From::Given(vectors.iter().map(Vec::as_slice).collect()),
            Basis::Stored { activation, layer, positions } => {
                From::Stored { activation, layer: *layer, positions: positions.as_ref() }
            }
        };
        Self { field: "basis", is_one: false, from }
    }

    /// A direction.
    pub(super) fn of_direction(direction: &'v AlongSpec) -> Self {
        let from = match direction {
            AlongSpec::Vector(vector) => From::Given(vec![vector]),
            AlongSpec::Stored { activation, layer, positions } => {
                From::Stored { activation, layer: *layer, positions: positions.as_ref() }
            }
        };
        Self { field: "along", is_one: true, from }
    }
}

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
        vectors: &Vectors<'_>,
        place: &Place<'_>,
        facts: &dyn Facts,
        out: &mut Problems,
    ) -> Option<Self> {
        let (config, at) = (facts.config(), format!("{}/{}", place.at, vectors.field));
        let width = place.vector_width(config);
        let (activation, layer, from) = match &vectors.from {
            From::Given(given) => {
                let at = |i: usize| if vectors.is_one { at.clone() } else { format!("{at}/{i}") };
                return orthonormal(given, width, at, out).map(Self::One);
            }
            From::Stored { activation, layer, positions } => {
                (*activation, layer.map(Layers::One), *positions)
            }
        };
        let written = place.layers_written(config);
        let wanted = Wanted {
            at: &at,
            site: place.site,
            layers: &written,
            positions: None,
            activation,
            layer: layer.as_ref(),
            from,
        };
        let given = Given::find(&wanted, facts, out)?;
        let at_vectors = &at;
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
                stored_source::refuse(&error, at_vectors, out);
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
            if vectors.is_one && rows.len() != whole {
                let detail = format!("{} rows where one direction is needed", rows.len() / whole);
                let fix = "name one of its positions as `positions`";
                out.push(format!("{at_vectors}/positions"), code::LENGTH_MISMATCH, detail, fix);
                return None;
            }
            for start in &starts {
                let vectors: Vec<&[f32]> =
                    rows.chunks_exact(whole).map(|row| &row[*start..start + width]).collect();
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
    vectors: &[&[f32]],
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
            let (detail, fix) = match i {
                0 => ("the vector is zero, and no direction".to_owned(), "give a vector with a length"),
                _ => (
                    format!("vector {i} adds nothing to the span of those before it"),
                    "leave the vector out",
                ),
            };
            out.push(at(i), code::DUPLICATE, detail, fix);
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
        let basis = orthonormal(&[&[2.0, 0.0, 0.0], &[5.0, 0.0, -3.0]], 3, pointer, &mut out).unwrap();
        assert_eq!(&basis[..], &[1.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
        assert!(out.is_empty());
    }

    #[test]
    fn dependent_empty_and_short_vectors_are_refused_by_place() {
        for (vectors, at) in [
            (&[&[1.0_f32, 1.0][..], &[2.0, 2.0]][..], "/basis/1"),
            (&[&[0.0, 0.0]], "/basis/0"),
            (&[&[1.0]], "/basis/0"),
        ] {
            let mut out = Problems::default();
            assert!(orthonormal(vectors, 2, pointer, &mut out).is_none());
            assert_eq!(out.0[0].pointer, at);
        }
    }
}
