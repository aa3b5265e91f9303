//! Effects of patching a base.

use super::arm::{Paired, paired};
use super::derived::Strength;
use super::measure::value;
use super::stats::{difference, fraction};
use crate::lower::layout::PatchLayout;
use crate::lower::measure::Measure;
use crate::plan::Score;

/// One metric over the cells of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchEffect {
    /// Value of each cell.
    pub values: Vec<Option<f64>>,
    /// Value minus the base's.
    pub effects: Vec<Option<f64>>,
    /// `(value - zero) / (one - zero)`; `None` without a normalisation.
    pub normalised: Option<Vec<Option<f64>>>,
    /// Why `normalised` is null everywhere, if it is.
    pub undefined: Option<String>,
    /// Which effect is nearest to what replacing the whole run would do.
    pub by: Strength,
}

/// Effects of one metric.
pub fn effect(layout: &PatchLayout, measure: &Measure, scores: &[Score]) -> PatchEffect {
    let top1 = scores[layout.arm.base_of(0)].top1();
    let at = |readout: usize| value(measure, &scores[readout], top1);
    let Paired { values, effects } = paired(&layout.arm, measure, scores, &layout.arm.grid.readouts);
    let span = layout.normalise.map(|(zero, one)| (at(zero), difference(at(one), at(zero))));
    let normalised =
        span.map(|(zero, span)| values.iter().map(|v| fraction(difference(*v, zero), span)).collect());
    let undefined = span.and_then(|(_, span)| undefined(span, "the baselines"));
    let by = Strength::towards(span.and_then(|(_, span)| span));
    PatchEffect { values, effects, normalised, undefined, by }
}

/// Why nothing can be divided by `whole`.
pub(super) fn undefined(whole: Option<f64>, of: &str) -> Option<String> {
    match whole {
        None => Some(format!("the difference of {of} is not finite")),
        Some(x) if x.abs() < super::MIN_TOTAL_EFFECT => {
            Some(format!("the difference of {of}, {x:e}, is below {:e}", super::MIN_TOTAL_EFFECT))
        }
        Some(_) => None,
    }
}
