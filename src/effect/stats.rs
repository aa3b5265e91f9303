//! Means and standard errors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A mean over samples.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Mean; null if a sample isn't finite.
    pub mean: Option<f64>,
    /// Standard error of the mean; null for fewer than two samples.
    pub se: Option<f64>,
}

/// The number if it is finite.
pub fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

/// Mean and standard error (n - 1) of samples.
pub fn estimate(samples: impl IntoIterator<Item = Option<f64>>) -> Estimate {
    let Some(samples) = samples.into_iter().collect::<Option<Vec<f64>>>() else { return Estimate::default() };
    // Equal samples have that mean and no error at all, not what rounding makes of it: nothing is divided by dust.
    if let [first, rest @ ..] = &samples[..]
        && first.is_finite()
        && rest.iter().all(|x| x.to_bits() == first.to_bits())
    {
        return Estimate { mean: Some(*first), se: (!rest.is_empty()).then_some(0.0) };
    }
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
    let se = if samples.len() > 1 { finite((squares / (n - 1.0) / n).sqrt()) } else { None };
    Estimate { mean: finite(mean), se }
}

/// `a - b` where both are known.
pub fn difference(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    finite(a? - b?)
}

/// `part / whole`, unless the whole is below [`super::MIN_TOTAL_EFFECT`]. Never clamped.
pub fn fraction(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    let whole = whole.filter(|whole| whole.abs() >= super::MIN_TOTAL_EFFECT)?;
    finite(part? / whole)
}
