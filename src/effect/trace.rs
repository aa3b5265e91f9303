//! Effects of a causal trace.
//!
//! Denoising: effect = patched - corrupted, paired by sample. Noising: effect = patched - clean. The total effect is
//! clean - corrupted, and recovery the mean effect over the mean of what the whole patch would do: the total
//! effect, or its negative.

use super::derived::{Said, Strength};
use super::measure::{value, values};
use super::patch::{largest, undefined};
use super::stats::{Estimate, difference, estimate, fraction};
use crate::lower::layout::{CellKey, Grid, TraceLayout};
use crate::lower::measure::Measure;
use crate::plan::Score;
use crate::spec::patch::Control;
use crate::spec::trace::Direction;

/// One metric's baselines.
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

/// One metric over the cells of an arm.
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
    /// Share of the total effect.
    pub recovery: Vec<Option<f64>>,
    /// Why `recovery` is null everywhere, if it is.
    pub undefined: Option<String>,
    /// The cell, trivial ones apart, that moves the metric furthest towards the source's value.
    pub argmax: Option<(CellKey, f64)>,
    /// Which effect is nearest to what the whole patch would do.
    pub by: Strength,
}

/// Most probable token of the clean run, which `top1_flip` compares with.
pub fn reference_top1(layout: &TraceLayout, scores: &[Score]) -> Option<u32> {
    scores[layout.clean].top1()
}

/// Baselines of one metric.
pub fn baselines(layout: &TraceLayout, measure: &Measure, scores: &[Score]) -> Baselines {
    let top1 = reference_top1(layout, scores);
    let clean = value(measure, &scores[layout.clean], top1);
    let corrupted = values(measure, scores, &layout.corrupted, top1);
    let total_effect = estimate(corrupted.iter().map(|c| difference(clean, *c)));
    Baselines { clean, corrupted_mean: estimate(corrupted.iter().copied()), corrupted, total_effect }
}

/// What a cell of each sample is compared with: its unpatched run.
fn parents(layout: &TraceLayout, baselines: &Baselines) -> Vec<Option<f64>> {
    match layout.spec.direction {
        Direction::Denoising => baselines.corrupted.clone(),
        Direction::Noising => vec![baselines.clean; baselines.corrupted.len()],
    }
}

/// Effects of one metric on one arm.
pub fn effect(layout: &TraceLayout, grid: &Grid, measure: &Measure, scores: &[Score]) -> ArmEffect {
    let top1 = reference_top1(layout, scores);
    let baselines = baselines(layout, measure, scores);
    let parents = parents(layout, &baselines);
    let samples = values(measure, scores, &grid.readouts, top1);
    let cells = || samples.chunks(grid.samples);
    let paired: Vec<Option<f64>> =
        cells().flat_map(|cell| cell.iter().zip(&parents).map(|(v, p)| difference(*v, *p))).collect();
    let effects: Vec<Estimate> =
        paired.chunks(grid.samples).map(|cell| estimate(cell.iter().copied())).collect();
    let whole = match layout.spec.direction {
        Direction::Denoising => baselines.total_effect.mean,
        Direction::Noising => baselines.total_effect.mean.map(|x| -x),
    };
    let recovery = effects.iter().map(|e| fraction(e.mean, whole)).collect();
    let (sign, by) = match whole {
        Some(whole) if whole < 0.0 => (-1.0, Strength::Decrease),
        _ => (1.0, Strength::Increase),
    };
    let best = effects
        .iter()
        .enumerate()
        .filter(|(cell, _)| grid.trivial[*cell].is_none())
        .filter_map(|(cell, effect)| Some((cell, effect.mean?)))
        // The first of equals, so that the answer doesn't depend on the iteration.
        .reduce(|best, next| if sign * next.1 > sign * best.1 { next } else { best });
    ArmEffect {
        values: cells().map(|cell| estimate(cell.iter().copied())).collect(),
        argmax: best.map(|(cell, effect)| (grid.key(cell), effect)),
        undefined: undefined(whole, "clean and corrupted run"),
        samples,
        paired,
        by,
        effects,
        recovery,
    }
}

/// What the model says in each cell.
pub fn said(layout: &TraceLayout, grid: &Grid, scores: &[Score], text: &dyn Fn(u32) -> String) -> Vec<Said> {
    let (parents, goals) = (layout.parents(), layout.goals());
    let of = |cell| Said::of(grid.cell(cell), &parents, &goals, |i| scores[i].top1(), text);
    (0..grid.cells()).map(of).collect()
}

/// Largest absolute effect of the self-patch control over all arms and metrics; `None` without the control.
pub fn self_patch(layout: &TraceLayout, scores: &[Score]) -> Option<f64> {
    let top1 = reference_top1(layout, scores);
    let of = |measure: &Measure| {
        let parents = parents(layout, &baselines(layout, measure, scores));
        let controls = layout.arms.iter().flat_map(|(_, grid)| grid.control(Control::SelfPatch));
        let effects = controls.enumerate().map(|(i, readout)| {
            difference(value(measure, &scores[*readout], top1), parents[i % parents.len()])
        });
        largest(effects)
    };
    layout.common.measures.iter().filter_map(of).reduce(f64::max)
}

/// Mean effects of a control of an arm on one metric, one per cell.
pub fn control(
    layout: &TraceLayout,
    grid: &Grid,
    kind: Control,
    measure: &Measure,
    scores: &[Score],
) -> Vec<Option<f64>> {
    let top1 = reference_top1(layout, scores);
    let parents = parents(layout, &baselines(layout, measure, scores));
    let values = values(measure, scores, grid.control(kind), top1);
    let cells = values.chunks(grid.samples);
    cells.map(|cell| estimate(cell.iter().zip(&parents).map(|(v, p)| difference(*v, *p))).mean).collect()
}
