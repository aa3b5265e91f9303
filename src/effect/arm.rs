//! Cells of an arm against the run that is patched: what patches, traces and sweeps have in common. An effect is the value of
//! a cell minus that of its unpatched run, paired by sample.

use super::derived::Said;
use super::measure::value;
use super::stats::{Estimate, difference, estimate};
use crate::lower::layout::ArmLayout;
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

/// What the whole patch would do: reference minus base over samples. A run without samples is the same in each.
pub fn total_effect<R: Readouts + ?Sized>(arm: &ArmLayout, measure: &Measure, scores: &R) -> Estimate {
    let Some(reference) = &arm.reference else { return Estimate::default() };
    let samples = reference.len().max(arm.base.len());
    estimate((0..samples).map(|sample| {
        let top1 = scores.top1(arm.answer_of(sample));
        let of = |readout| scores.value(measure, readout, top1);
        difference(of(reference[sample % reference.len()]), of(arm.base_of(sample)))
    }))
}

/// Means over the samples of each cell.
pub fn means(arm: &ArmLayout, numbers: &[Option<f64>]) -> Vec<Estimate> {
    numbers.chunks(arm.grid.samples).map(|cell| estimate(cell.iter().copied())).collect()
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
