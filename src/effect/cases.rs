//! One case of many: whether it counts, and its effects by token class.

use std::ops::Range;

use super::derived::Strength;
use super::lints::unexpected;
use super::measure::value;
use super::nulls::undefined_cells;
use super::stats::{Estimate, difference, estimate, finite, fraction};
use super::trace::{baselines, effect, reference_top1};
use crate::lower::classes::class_of;
use crate::lower::layout::{CellKey, Grid, TraceLayout};
use crate::plan::{RunId, Score};
use crate::spec::cases::{Filters, TARGET};
use crate::spec::metric::MetricKind;
use crate::spec::select::TokenClass;
use crate::spec::trace::Direction;

/// Number of token classes.
pub const CLASSES: usize = TokenClass::ALL.len();

/// Why a case doesn't count.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Dropped {
    /// The filter: `expect_top1`, `min_clean_prob` or `min_total_effect`.
    pub filter: &'static str,
    /// What was seen, with numbers.
    pub detail: String,
}

/// Metrics of a case's unpatched runs, in the order of its metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseBaselines {
    /// Clean run.
    pub clean: Vec<Option<f64>>,
    /// Corrupted run, over samples.
    pub corrupted: Vec<Estimate>,
    /// Clean minus corrupted, over samples.
    pub total_effect: Vec<Estimate>,
    /// The clean run's most probable token.
    pub top1: Option<u32>,
}

/// A case's effects of one arm.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseArm {
    /// Layers; 1 at sites without.
    pub layers: usize,
    /// How many positions each class has, `[classes]`.
    pub positions: [usize; CLASSES],
    /// Of each metric the mean effect over a class's positions, `[classes, layers]`; null where there is no position, and
    /// where a number isn't finite.
    pub effects: Vec<Vec<Option<f64>>>,
    /// Standard errors over samples of these, `[classes, layers]`; null for a single sample.
    pub errors: Vec<Vec<Option<f64>>>,
    /// Cells whose answer is the source's by construction, `[classes, layers]`; here and below without those that have no
    /// number.
    pub trivial: Vec<usize>,
    /// Cells that can't change the answer, `[classes, layers]`.
    pub exact_null: Vec<usize>,
    /// Of each metric the cell with a class, trivial ones apart, that has the largest effect towards the source's value.
    pub argmax: Vec<Option<Peak>>,
}

/// Where a case's effect is largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// The cell.
    pub cell: CellKey,
    /// Its position's class.
    pub class: TokenClass,
    /// Its mean effect over samples.
    pub effect: f64,
    /// The same as a share of the case's total effect.
    pub recovery: Option<f64>,
}

/// What is kept of a case's trace.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseEffects {
    /// Its unpatched runs.
    pub baselines: CaseBaselines,
    /// Each arm's effects.
    pub arms: Vec<CaseArm>,
}

/// The unpatched runs of a case.
pub fn of_baselines(layout: &TraceLayout, scores: &[Score]) -> CaseBaselines {
    let all: Vec<_> =
        layout.common.measures.iter().map(|measure| baselines(layout, measure, scores)).collect();
    CaseBaselines {
        clean: all.iter().map(|b| b.clean).collect(),
        corrupted: all.iter().map(|b| b.corrupted_mean).collect(),
        total_effect: all.iter().map(|b| b.total_effect).collect(),
        top1: reference_top1(layout, scores),
    }
}

/// Every filter that a case fails; it counts if there are none. The metrics must include the probability of the target.
/// `text`: a token's text.
pub fn judge(
    layout: &TraceLayout,
    scores: &[Score],
    filters: &Filters,
    text: &dyn Fn(u32) -> String,
) -> Vec<Dropped> {
    let mut failed = Vec::new();
    if let Some((_, top1)) = unexpected(layout, scores).filter(|_| filters.expect_top1) {
        failed.push(Dropped { filter: "expect_top1", detail: answer(top1, text) });
    }
    let prob = |measure: &&crate::lower::measure::Measure| {
        (measure.metric.kind, measure.metric.of.as_str()) == (MetricKind::Prob, TARGET)
    };
    let prob = layout.common.measures.iter().find(prob);
    let clean = prob.and_then(|prob| value(prob, &scores[layout.clean], None));
    let total = prob.and_then(|prob| baselines(layout, prob, scores).total_effect.mean);
    let least = [
        ("min_clean_prob", filters.min_clean_prob, clean, "the target's clean probability"),
        ("min_total_effect", filters.min_total_effect, total, "the total effect on the target's probability"),
    ];
    for (filter, least, found, what) in least {
        let Some(least) = least.filter(|least| found.is_none_or(|found| found < *least)) else { continue };
        let found = found.map_or_else(|| "not finite".to_owned(), |found| format!("{found:.4e}"));
        failed.push(Dropped { filter, detail: format!("{what} is {found}, less than {least}") });
    }
    failed
}

/// What the clean run answers, for a filter by it.
pub(super) fn answer(top1: Option<u32>, text: &dyn Fn(u32) -> String) -> String {
    match top1 {
        Some(top1) => format!("the clean run's most probable token is {:?}", text(top1)),
        None => "the clean run has no most probable token, for its logits are NaN or infinite".to_owned(),
    }
}

/// A case's effects by token class. `subject` and `len`: the range of its subject and its number of tokens; `resolved`: for
/// each readout the run whose row it really is.
pub fn reduce(
    layout: &TraceLayout,
    subject: &Range<u32>,
    len: u32,
    resolved: &[RunId],
    scores: &[Score],
) -> CaseEffects {
    let parents = layout.parents();
    let class = |position| class_of(position, subject.clone(), len);
    let arms = layout.arms.iter().map(|(_, grid)| {
        let nulls = grid.exact_nulls(resolved, &parents);
        arm(layout, grid, &nulls, &class, scores)
    });
    CaseEffects { arms: arms.collect(), baselines: of_baselines(layout, scores) }
}

fn arm(
    layout: &TraceLayout,
    grid: &Grid,
    nulls: &[bool],
    class: &impl Fn(u32) -> Option<TokenClass>,
    scores: &[Score],
) -> CaseArm {
    let positions = &grid.axes.last().expect("BUG: arms of cases have positions").values;
    let layers = grid.cells() / positions.len();
    let classes: Vec<Option<TokenClass>> = positions.iter().map(|position| class(*position)).collect();
    let mut count = [0; CLASSES];
    for class in classes.iter().flatten() {
        count[*class as usize] += 1;
    }
    let sums = |of: &dyn Fn(usize) -> Option<f64>| by_class(&classes, layers, of);
    let counts = |of: &dyn Fn(usize) -> bool| -> Vec<usize> {
        let counted = sums(&|cell| Some(f64::from(u8::from(of(cell)))));
        counted.iter().map(|n| n.unwrap_or(0.0) as usize).collect()
    };
    let (mut effects, mut errors, mut argmax) = (Vec::new(), Vec::new(), Vec::new());
    for measure in &layout.common.measures {
        let found = effect(layout, grid, measure, scores);
        let total = baselines(layout, measure, scores).total_effect.mean;
        let whole = match layout.spec.direction {
            Direction::Denoising => total,
            Direction::Noising => difference(Some(0.0), total),
        };
        let sums = sums(&|cell| found.effects[cell].mean);
        let mean = |(i, sum): (usize, Option<f64>)| match count[i / layers] {
            0 => None,
            n => finite(sum? / n as f64),
        };
        effects.push(sums.into_iter().enumerate().map(mean).collect());
        // A class's positions share their samples: each sample is averaged before samples are compared.
        let by_sample: Vec<Vec<Option<f64>>> = (0..grid.samples)
            .map(|sample| {
                let sums = by_class(&classes, layers, &|cell| found.paired[cell * grid.samples + sample]);
                sums.into_iter().enumerate().map(mean).collect()
            })
            .collect();
        let error = |cell: usize| estimate(by_sample.iter().map(|means| means[cell])).se;
        errors.push((0..CLASSES * layers).map(error).collect());
        // The first of equals, as in a trace. Positions without a class are no cells here.
        let sign = if found.by == Strength::Decrease { -1.0 } else { 1.0 };
        let cells = found.effects.iter().enumerate().filter(|(cell, _)| grid.trivial[*cell].is_none());
        let peaks = cells.filter_map(|(cell, estimate)| {
            let (key, effect) = (grid.key(cell), estimate.mean?);
            let class = class(key.position?)?;
            Some(Peak { cell: key, class, effect, recovery: fraction(Some(effect), whole) })
        });
        argmax.push(
            peaks.reduce(|best, next| if sign * next.effect > sign * best.effect { next } else { best }),
        );
    }
    // What is known of a cell beforehand holds of no number if it has none.
    let undefined = undefined_cells(grid, scores, &layout.parents());
    let trivial = counts(&|cell| !undefined[cell] && grid.trivial[cell].is_some());
    let exact_null = counts(&|cell| !undefined[cell] && nulls[cell]);
    CaseArm { layers, positions: count, effects, errors, trivial, exact_null, argmax }
}

/// Sums over the positions of each class, `[classes, layers]`, of a number of each cell, `[layers, positions]`.
fn by_class(
    classes: &[Option<TokenClass>],
    layers: usize,
    of: &dyn Fn(usize) -> Option<f64>,
) -> Vec<Option<f64>> {
    let mut sums = vec![Some(0.0); CLASSES * layers];
    for layer in 0..layers {
        for (i, class) in classes.iter().enumerate() {
            let Some(class) = class else { continue };
            let sum = &mut sums[*class as usize * layers + layer];
            *sum = sum.zip(of(layer * classes.len() + i)).map(|(sum, x)| sum + x);
        }
    }
    sums
}
