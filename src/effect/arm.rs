//! Cells of an arm against the run that is patched: what patches, traces and sweeps have in common. An effect is the value of
//! a cell minus that of its unpatched run, paired by sample.

use super::derived::{Said, Strength};
use super::measure::{value, values};
use super::stats::{Estimate, difference, estimate, fraction};
use crate::lower::layout::{ArmLayout, CaseLayout, CellKey};
use crate::lower::measure::Measure;
use crate::plan::Score;
use crate::spec::patch::Control;

/// Scores by their places in a plan; of a part of it some are missing.
pub trait Readouts {
    /// A readout's score, if it was computed.
    fn score(&self, readout: usize) -> Option<&Score>;

    /// Its most probable token.
    fn top1(&self, readout: usize) -> Option<u32> {
        self.score(readout)?.top1()
    }

    /// Its value in a metric; `top1`: the token that `top1_flip` compares with.
    fn value(&self, measure: &Measure, readout: usize, top1: Option<u32>) -> Option<f64> {
        value(measure, self.score(readout)?, top1)
    }
}

impl Readouts for [Score] {
    fn score(&self, readout: usize) -> Option<&Score> {
        self.get(readout)
    }
}

/// One metric of some readouts of an arm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Paired {
    /// Values.
    pub values: Vec<Option<f64>>,
    /// Values minus those of the unpatched run.
    pub effects: Vec<Option<f64>>,
}

/// A metric of readouts of cells, `[cells, samples]`.
pub fn paired<R: Readouts + ?Sized>(
    arm: &ArmLayout,
    measure: &Measure,
    scores: &R,
    readouts: &[usize],
) -> Paired {
    let of = |(i, readout): (usize, &usize)| {
        let sample = i % arm.grid.samples;
        let top1 = scores.top1(arm.answer_of(sample));
        let value = scores.value(measure, *readout, top1);
        (value, difference(value, scores.value(measure, arm.base_of(sample), top1)))
    };
    let (values, effects) = readouts.iter().enumerate().map(of).unzip();
    Paired { values, effects }
}

/// What the whole patch would do: reference minus base (or what else counts as 0) over samples. A run without samples is the
/// same in each.
pub fn total_effect<R: Readouts + ?Sized>(arm: &ArmLayout, measure: &Measure, scores: &R) -> Estimate {
    let Some(reference) = &arm.reference else { return Estimate::default() };
    let samples = reference.len().max(arm.base.len());
    estimate((0..samples).map(|sample| {
        let top1 = scores.top1(arm.answer_of(sample));
        let of = |readout| scores.value(measure, readout, top1);
        difference(of(reference[sample % reference.len()]), of(arm.zero.unwrap_or(arm.base_of(sample))))
    }))
}

/// Means over the samples of each cell.
pub fn means(arm: &ArmLayout, numbers: &[Option<f64>]) -> Vec<Estimate> {
    numbers.chunks(arm.grid.samples).map(|cell| estimate(cell.iter().copied())).collect()
}

/// One metric over the cells of an arm: of a patch, or of a trace. Denoising: effect = patched - corrupted, paired by sample;
/// noising: patched - clean.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmEffect {
    /// Value of each cell and sample, `[cells, samples]`.
    pub samples: Vec<Option<f64>>,
    /// Effect of each cell and sample, `[cells, samples]`.
    pub paired: Vec<Option<f64>>,
    /// Mean value of each cell.
    pub values: Vec<Estimate>,
    /// Mean effect of each cell.
    pub effects: Vec<Estimate>,
    /// What each cell is worth on the scale from the run that counts as 0 to the one that counts as 1: where the patched run
    /// is 0, the share of the total effect. Empty without a run that counts as 1.
    pub share: Vec<Option<f64>>,
    /// Why `share` is null everywhere, if it is.
    pub undefined: Option<String>,
    /// Which effect is nearest to what the whole patch would do.
    pub by: Strength,
    /// The cell, trivial ones apart, that moves the metric furthest that way.
    pub argmax: Option<(CellKey, f64)>,
}

impl ArmEffect {
    /// Effects of one metric on one arm.
    pub fn new(arm: &ArmLayout, measure: &Measure, scores: &[Score]) -> Self {
        let grid = &arm.grid;
        let found = paired(arm, measure, scores, &grid.readouts);
        let (values, effects) = (means(arm, &found.values), means(arm, &found.effects));
        let whole = total_effect(arm, measure, scores).mean;
        let by = Strength::towards(whole);
        let cells = effects.iter().enumerate().filter(|(cell, _)| grid.trivial[*cell].is_none());
        let best = cells
            .filter_map(|(cell, effect)| Some((cell, effect.mean?)))
            // The first of equals, so that the answer doesn't depend on the iteration.
            .reduce(|best, next| if by.of(next.1) > by.of(best.1) { next } else { best });
        let (mut share, mut none) = (Vec::new(), None);
        if arm.reference.is_some() {
            none = undefined(whole);
            let above = match arm.zero {
                Some(zero) => {
                    let zero = scores.value(measure, zero, scores.top1(arm.answer_of(0)));
                    values.iter().map(|value| difference(value.mean, zero)).collect()
                }
                None => effects.iter().map(|effect| effect.mean).collect::<Vec<_>>(),
            };
            share = above.into_iter().map(|above| fraction(above, whole)).collect();
        }
        Self {
            argmax: best.map(|(cell, effect)| (grid.key(cell), effect)),
            samples: found.values,
            paired: found.effects,
            values,
            effects,
            share,
            undefined: none,
            by,
        }
    }
}

/// Why nothing can be divided by what the whole patch would do.
pub(super) fn undefined(whole: Option<f64>) -> Option<String> {
    match whole {
        None => Some("the difference of reference and base is not finite".to_owned()),
        Some(x) if x.abs() < super::MIN_TOTAL_EFFECT => Some(format!(
            "the difference of reference and base, {x:e}, is below {:e}",
            super::MIN_TOTAL_EFFECT
        )),
        Some(_) => None,
    }
}

/// One metric of the unpatched runs of a case that has a corrupted one.
#[derive(Debug, Clone, PartialEq)]
pub struct Baselines {
    /// Clean run.
    pub clean: Option<f64>,
    /// Corrupted run of each sample.
    pub corrupted: Vec<Option<f64>>,
    /// Mean over samples.
    pub corrupted_mean: Estimate,
    /// Clean minus corrupted.
    pub total_effect: Estimate,
}

impl Baselines {
    /// Of one metric.
    pub fn new(case: &CaseLayout, measure: &Measure, scores: &[Score]) -> Self {
        let top1 = scores.top1(case.clean);
        let clean = scores.value(measure, case.clean, top1);
        let corrupted = values(measure, scores, &case.corrupted, top1);
        let total_effect = estimate(corrupted.iter().map(|c| difference(clean, *c)));
        Self { clean, corrupted_mean: estimate(corrupted.iter().copied()), corrupted, total_effect }
    }
}

/// What the model says in a cell. `text` gives a token's text.
pub fn said<R: Readouts + ?Sized>(
    arm: &ArmLayout,
    scores: &R,
    cell: usize,
    text: &dyn Fn(u32) -> String,
) -> Said {
    let goals = arm.reference.as_deref().unwrap_or_default();
    Said::of(arm.grid.cell(cell), &arm.base, goals, |readout| scores.top1(readout), text)
}

/// Mean effects of a control on one metric, one per cell.
pub fn control(arm: &ArmLayout, kind: Control, measure: &Measure, scores: &[Score]) -> Vec<Option<f64>> {
    let found = paired(arm, measure, scores, arm.grid.control(kind));
    means(arm, &found.effects).into_iter().map(|effect| effect.mean).collect()
}

/// Largest absolute effect of the self-patch control over arms and metrics; `None` without the control. Infinite if one of
/// them isn't known, so that a broken control can't look clean.
pub fn self_patch<'a>(
    arms: impl IntoIterator<Item = &'a ArmLayout>,
    measures: &[Measure],
    scores: &[Score],
) -> Option<f64> {
    let of = |arm: &'a ArmLayout| {
        let of = move |measure| paired(arm, measure, scores, arm.grid.control(Control::SelfPatch)).effects;
        measures.iter().flat_map(of)
    };
    arms.into_iter().flat_map(of).map(|effect| effect.map_or(f64::INFINITY, f64::abs)).reduce(f64::max)
}
