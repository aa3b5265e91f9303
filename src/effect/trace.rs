//! Effects of a causal trace.
//!
//! Denoising: effect = patched - corrupted, paired by sample. Noising: effect = patched - clean. The total effect is
//! clean - corrupted, and recovery the mean effect over the mean of what the whole patch would do: the total
//! effect, or its negative.

use super::arm::{means, paired, total_effect};
use super::derived::Strength;
use super::measure::{value, values};
use super::patch::undefined;
use super::stats::{Estimate, difference, estimate, fraction};
use crate::lower::layout::{ArmLayout, CellKey, TraceLayout};
use crate::lower::measure::Measure;
use crate::plan::Score;

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

/// Baselines of one metric.
pub fn baselines(layout: &TraceLayout, measure: &Measure, scores: &[Score]) -> Baselines {
    let top1 = scores[layout.case.clean].top1();
    let clean = value(measure, &scores[layout.case.clean], top1);
    let corrupted = values(measure, scores, &layout.case.corrupted, top1);
    let total_effect = estimate(corrupted.iter().map(|c| difference(clean, *c)));
    Baselines { clean, corrupted_mean: estimate(corrupted.iter().copied()), corrupted, total_effect }
}

/// Effects of one metric on one arm.
pub fn effect(arm: &ArmLayout, measure: &Measure, scores: &[Score]) -> ArmEffect {
    let grid = &arm.grid;
    let found = paired(arm, measure, scores, &grid.readouts);
    let effects = means(arm, &found.effects);
    let whole = total_effect(arm, measure, scores).mean;
    let by = match whole {
        Some(whole) if whole < 0.0 => Strength::Decrease,
        _ => Strength::Increase,
    };
    let best = effects
        .iter()
        .enumerate()
        .filter(|(cell, _)| grid.trivial[*cell].is_none())
        .filter_map(|(cell, effect)| Some((cell, effect.mean?)))
        // The first of equals, so that the answer doesn't depend on the iteration.
        .reduce(|best, next| if by.of(next.1) > by.of(best.1) { next } else { best });
    ArmEffect {
        values: means(arm, &found.values),
        recovery: effects.iter().map(|e| fraction(e.mean, whole)).collect(),
        argmax: best.map(|(cell, effect)| (grid.key(cell), effect)),
        undefined: undefined(whole, "clean and corrupted run"),
        samples: found.values,
        paired: found.effects,
        by,
        effects,
    }
}
