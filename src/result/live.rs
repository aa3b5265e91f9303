//! An answer while it is computed: what is known of it before, and its cells as they come.

use std::collections::HashMap;
use std::hash::BuildHasher;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::common::{Envelope, NdArray, target_sets};
use super::respond::{Live, Respond};
use crate::effect::arm::{Readouts, paired};
use crate::effect::stats::{Estimate, estimate};
use crate::lower::layout::ArmLayout;
use crate::lower::measure::{Measure, Reads};
use crate::plan::cost::Cost;
use crate::plan::{RunId, Score};
use crate::spec::named::Named;

/// Scores of a plan so far.
pub trait SoFar {
    /// How many readouts of each group there are.
    fn counts(&self, groups: &mut dyn Iterator<Item = &[usize]>) -> Vec<usize>;

    /// Those of some readouts that there are.
    fn scores(&self, readouts: &[usize]) -> HashMap<usize, Score>;
}

impl<S: BuildHasher> Readouts for HashMap<usize, Score, S> {
    fn score(&self, readout: usize) -> Option<&Score> {
        self.get(&readout)
    }
}

/// Event `start`: all that is known before anything is computed, in the places that it has in the answer. `resolved`: for each
/// readout the run whose row it really is.
pub fn start<L: Respond>(
    kind: &str,
    layout: &L,
    resolved: &[RunId],
    cost: &Cost,
    envelope: &Envelope,
) -> Value {
    let (common, Live { arms, more, .. }) = (layout.common(), layout.live());
    let masks = |arm: &ArmLayout| {
        let shape = arm.grid.shape();
        let trivial = arm.grid.trivial.iter().map(Option::is_some).collect();
        json!({
            "exact_null": NdArray::new(&shape, arm.grid.exact_nulls(resolved, &arm.base)),
            "trivial": NdArray::<bool>::new(&shape, trivial),
        })
    };
    let arms = arms.into_iter().map(|(name, mut facts, arm)| {
        facts["axes"] = json!(arm.grid.axes);
        facts["masks"] = masks(arm);
        (name.to_owned(), facts)
    });
    let runs = common.runs.map(|_, (run, _)| json!({"tokens": run.tokens, "spans": run.spans}));
    let mut start = json!({
        "id": envelope.id,
        "kind": kind,
        "model": envelope.model,
        "request": layout.request(),
        "targets": target_sets(common),
        "runs": runs,
        "metric": shown(&common.measures).map(|measure| measure.metric.to_string()),
        "arms": arms.collect::<Named<Value>>(),
        "cost": cost,
        "lints": common.lints.0,
    });
    if let Some(map) = start.as_object_mut() {
        map.extend(more);
    }
    start
}

/// The metric whose cells are told: the first that does not depend on what edits have written, which is known last.
fn shown(measures: &[Measure]) -> Option<&Measure> {
    measures.iter().find(|measure| !measure.reads.iter().any(|reads| matches!(reads, Reads::Written)))
}

/// What was told of an answer.
#[derive(Debug, Default)]
pub struct Told {
    /// By arm and cell, the samples that its mean is of.
    samples: Vec<Vec<usize>>,
    baselines: Value,
}

/// Means over samples, as they are told while there are more to come.
#[derive(Debug, Default, Serialize)]
struct Cells {
    /// The cells, counted in row-major order of the axes.
    at: Vec<usize>,
    values: Vec<Option<f32>>,
    effects: Vec<Option<f32>>,
    se: Vec<Option<f32>>,
    /// Samples so far.
    samples: Vec<usize>,
}

/// Event `cells`: those of which more is known than was told before, and the unpatched runs. `None`: nothing is new.
pub fn cells<L: Respond>(layout: &L, so_far: &dyn SoFar, told: &mut Told) -> Option<Value> {
    let (common, Live { arms, corrupted, .. }) = (layout.common(), layout.live());
    let measure = shown(&common.measures)?;
    told.samples.resize_with(arms.len(), Vec::new);
    let baselines = baselines(layout, measure, corrupted, so_far);
    let mut is_new = baselines != told.baselines;
    told.baselines.clone_from(&baselines);
    let arms = arms.into_iter().zip(&mut told.samples).filter_map(|((name, _, arm), told)| {
        let cells = more_of(arm, measure, so_far, told);
        (!cells.at.is_empty()).then(|| (name.to_owned(), cells))
    });
    let arms: Named<Cells> = arms.collect();
    is_new |= !arms.is_empty();
    is_new.then(|| json!({"metric": measure.metric.to_string(), "baselines": baselines, "arms": arms}))
}

/// The metric of the unpatched runs, as far as it is known.
fn baselines<L: Respond>(layout: &L, measure: &Measure, corrupted: &[usize], so_far: &dyn SoFar) -> Value {
    let runs = &layout.common().runs;
    let readouts: Vec<usize> =
        runs.iter().map(|(_, (_, readout))| *readout).chain(corrupted.iter().copied()).collect();
    let scores = so_far.scores(&readouts);
    let top1 = layout.live().arms.first().and_then(|(_, _, arm)| scores.top1(arm.answer_of(0)));
    let value = |readout: usize| scores.value(measure, readout, top1);
    let mut known = Map::new();
    for (name, (_, readout)) in runs.iter().filter(|(_, (_, readout))| scores.contains_key(readout)) {
        known.insert(name.to_owned(), json!(value(*readout)));
    }
    let noised: Vec<_> = corrupted.iter().filter(|readout| scores.contains_key(readout)).collect();
    let mean = (!noised.is_empty()).then(|| {
        let Estimate { mean, se } = estimate(noised.iter().map(|readout| value(**readout)));
        json!({"mean": mean, "se": se, "n": noised.len()})
    });
    json!({"runs": known, "corrupted": mean})
}

/// Cells of an arm that have more samples than were told.
fn more_of(arm: &ArmLayout, measure: &Measure, so_far: &dyn SoFar, told: &mut Vec<usize>) -> Cells {
    let grid = &arm.grid;
    told.resize(grid.cells(), 0);
    let counts = so_far.counts(&mut (0..grid.cells()).map(|cell| grid.cell(cell)));
    let changed: Vec<usize> = (0..counts.len()).filter(|cell| counts[*cell] > told[*cell]).collect();
    if changed.is_empty() {
        return Cells::default();
    }
    let own = changed.iter().flat_map(|cell| grid.cell(*cell));
    let readouts: Vec<usize> = own.chain(&arm.base).chain(&arm.answer).copied().collect();
    let scores = so_far.scores(&readouts);
    let single = |number: Option<f64>| number.map(|number| number as f32);
    let mut cells = Cells::default();
    for cell in changed {
        let found = paired(arm, measure, &scores, grid.cell(cell));
        let is_there = |(sample, readout): (usize, &usize)| {
            [*readout, arm.base_of(sample), arm.answer_of(sample)].iter().all(|at| scores.contains_key(at))
        };
        let there: Vec<bool> = grid.cell(cell).iter().enumerate().map(is_there).collect();
        let n = there.iter().filter(|there| **there).count();
        if n <= told[cell] {
            continue;
        }
        let of = |numbers: &[Option<f64>]| {
            estimate(numbers.iter().zip(&there).filter(|(_, there)| **there).map(|(number, _)| *number))
        };
        let effect = of(&found.effects);
        cells.at.push(cell);
        cells.values.push(single(of(&found.values).mean));
        cells.effects.push(single(effect.mean));
        cells.se.push(single(effect.se));
        cells.samples.push(n);
        told[cell] = n;
    }
    cells
}
