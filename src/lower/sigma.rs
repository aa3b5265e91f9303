//! The size of noise.

use super::facts::Facts;
use super::layout::SigmaUsed;
use crate::spec::corruption::{Sigma, SigmaOf};
use crate::spec::problem::{Problems, code};

/// The standard deviation that a specification means for the tokens `ids`, if noise of it fits `f32`.
pub(super) fn sigma(
    spec: Sigma,
    ids: &[u32],
    at: &str,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<SigmaUsed> {
    pooled_sigma(spec, &[ids], at, facts, out)
}

/// The same for the tokens of several subjects together.
pub(super) fn pooled_sigma(
    spec: Sigma,
    subjects: &[&[u32]],
    at: &str,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<SigmaUsed> {
    let relative = |k: f64, of, reference: f64| SigmaUsed {
        abs: k * reference,
        k: Some(k),
        of: Some(of),
        reference: Some(reference),
    };
    let sigma = match spec {
        Sigma::Absolute { abs } => SigmaUsed { abs, k: None, of: None, reference: None },
        Sigma::Relative { k, of: of @ SigmaOf::Vocab } => relative(k, of, facts.vocab_sigma()),
        Sigma::Relative { k, of: of @ SigmaOf::Subjects } => relative(k, of, deviation(subjects, facts)),
    };
    // A draw is never a hundred deviations away.
    let drawn = (100.0 * sigma.abs) as f32;
    if sigma.abs as f32 > 0.0 && drawn.is_finite() {
        return Some(sigma);
    }
    let detail = format!("a standard deviation of {}", sigma.abs);
    out.push(at, code::OUT_OF_RANGE, detail, "choose another k, or write {\"abs\": 0.1}");
    None
}

/// Standard deviation over all numbers of the subjects' embeddings, with n - 1 as in ROME's `collect_embedding_std`.
fn deviation(subjects: &[&[u32]], facts: &dyn Facts) -> f64 {
    // Looked up twice rather than held all at once.
    let numbers = || subjects.iter().flat_map(|ids| facts.embedding(ids)).map(f64::from);
    let n = numbers().count() as f64;
    let mean = numbers().sum::<f64>() / n;
    let squares: f64 = numbers().map(|x| (x - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}
