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

/// The middle of ascending numbers; of an even count, the mean of the two in the middle.
pub fn median(ascending: &[f64]) -> Option<f64> {
    let n = ascending.len();
    let (low, high) = (ascending.get(n.checked_sub(1)? / 2)?, ascending.get(n / 2)?);
    finite(f64::midpoint(*low, *high))
}

/// The share of the numbers that a trimmed mean leaves out on each side.
pub const TRIMMED: f64 = 0.2;

/// The mean of ascending numbers without the lowest and the highest fifth (rounded down).
pub fn trimmed_mean(ascending: &[f64]) -> Option<f64> {
    let out = (TRIMMED * ascending.len() as f64) as usize;
    let kept = ascending.get(out..ascending.len() - out).filter(|kept| !kept.is_empty())?;
    finite(kept.iter().sum::<f64>() / kept.len() as f64)
}

/// The one of three or more numbers that is larger than all others together, by size.
pub fn dominating(numbers: &[f64]) -> Option<usize> {
    let (largest, size) = numbers.iter().map(|x| x.abs()).enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let all: f64 = numbers.iter().map(|x| x.abs()).sum();
    (numbers.len() > 2 && size > 0.5 * all).then_some(largest)
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
