//! Effects of patching a base.

use super::derived::{Said, Strength};
use super::measure::{value, values};
use super::stats::{difference, fraction};
use crate::lower::layout::PatchLayout;
use crate::lower::measure::Measure;
use crate::plan::Score;
use crate::spec::patch::Control;

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

/// Most probable token of the base.
pub fn reference_top1(layout: &PatchLayout, scores: &[Score]) -> Option<u32> {
    scores[layout.base].top1()
}

/// Effects of one metric.
pub fn effect(layout: &PatchLayout, measure: &Measure, scores: &[Score]) -> PatchEffect {
    let top1 = reference_top1(layout, scores);
    let at = |readout: usize| value(measure, &scores[readout], top1);
    let base = at(layout.base);
    let values = values(measure, scores, &layout.grid.readouts, top1);
    let effects = values.iter().map(|v| difference(*v, base)).collect();
    let span = layout.normalise.map(|(zero, one)| (at(zero), difference(at(one), at(zero))));
    let normalised =
        span.map(|(zero, span)| values.iter().map(|v| fraction(difference(*v, zero), span)).collect());
    let undefined = span.and_then(|(_, span)| undefined(span, "the baselines"));
    let by = match span {
        None | Some((_, None)) => Strength::Magnitude,
        Some((_, Some(span))) if span < 0.0 => Strength::Decrease,
        Some(_) => Strength::Increase,
    };
    PatchEffect { values, effects, normalised, undefined, by }
}

/// What the model says in each cell.
pub fn said(layout: &PatchLayout, scores: &[Score], text: &dyn Fn(u32) -> String) -> Vec<Said> {
    let goal: Vec<usize> = layout.normalise.map(|(_, one)| one).into_iter().collect();
    let cells = layout.grid.readouts.iter();
    cells.map(|cell| Said::of(&[*cell], &[layout.base], &goal, |i| scores[i].top1(), text)).collect()
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

/// Largest absolute effect of the self-patch control over all metrics; `None` without the control.
pub fn self_patch(layout: &PatchLayout, scores: &[Score]) -> Option<f64> {
    let top1 = reference_top1(layout, scores);
    let of = |measure| {
        let base = value(measure, &scores[layout.base], top1);
        largest(
            values(measure, scores, layout.grid.control(Control::SelfPatch), top1)
                .into_iter()
                .map(|v| difference(v, base)),
        )
    };
    layout.common.measures.iter().filter_map(of).reduce(f64::max)
}

/// Effects of a control on one metric, one per cell.
pub fn control(layout: &PatchLayout, kind: Control, measure: &Measure, scores: &[Score]) -> Vec<Option<f64>> {
    let top1 = reference_top1(layout, scores);
    let base = value(measure, &scores[layout.base], top1);
    let values = values(measure, scores, layout.grid.control(kind), top1);
    values.into_iter().map(|v| difference(v, base)).collect()
}

/// Largest absolute value. Infinite if one of them isn't known, so that a broken control can't look clean.
pub(super) fn largest(effects: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    effects.map(|e| e.map_or(f64::INFINITY, f64::abs)).reduce(f64::max)
}
