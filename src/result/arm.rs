//! The cells of an arm in a response: what patches and traces say of them alike.

use super::common::{ControlEffects, Masks, NdArray, Nulls};
use crate::effect::arm::{ArmEffect, control, said};
use crate::effect::derived::{Cells, Derived};
use crate::effect::lints;
use crate::effect::nulls::{Null, lost_cells, of_cells, of_effect, of_value, undefined_cells};
use crate::lower::facts::Words;
use crate::lower::layout::{ArmLayout, Common, Grid};
use crate::lower::lint::Lints;
use crate::plan::{RunId, Score};
use crate::spec::derive::Derive;
use crate::spec::named::Named;
use crate::spec::patch::Control;
use crate::spec::read::escape;

/// What the cells of an arm gave.
pub(super) struct ArmCells {
    /// Lengths of its axes.
    pub(super) shape: Vec<usize>,
    /// Cells whose effect is exactly 0.
    pub(super) nulls: Vec<bool>,
    /// Cells known beforehand, as far as they have numbers.
    pub(super) masks: Masks,
    /// Every metric.
    pub(super) metrics: Named<MetricCells>,
    /// Quantities derived from the cells.
    pub(super) derived: Derived,
    /// Effects of controls other than self-patch, by control and metric.
    pub(super) controls: Named<Named<ControlEffects>>,
    /// Why numbers of all these but the metrics are null.
    pub(super) reasons: Nulls,
}

/// What they gave in one metric.
pub(super) struct MetricCells {
    /// The numbers.
    pub(super) effect: ArmEffect,
    /// Why each cell has no value, if it has none.
    pub(super) no_value: Vec<Option<Null>>,
    /// Why each has no effect.
    pub(super) no_effect: Vec<Option<Null>>,
}

impl ArmCells {
    /// Of an arm that the response has at `at`. `wanted`: what is derived; `resolved`: for each readout the run whose row it
    /// really is.
    pub(super) fn new(
        at: &str,
        (common, arm): (&Common, &ArmLayout),
        wanted: &[Derive],
        (scores, resolved): (&[Score], &[RunId]),
        words: &dyn Words,
    ) -> Self {
        let grid = &arm.grid;
        let shape = grid.shape();
        let nulls = grid.exact_nulls(resolved, &arm.base);
        let masks = masks(grid, &shape, &nulls, scores, &arm.base);
        let mut reasons = Nulls::default();
        reasons.masks(at, &masks);
        let trivial: Vec<bool> = grid.trivial.iter().map(Option::is_some).collect();
        let text = |id| words.text(id);
        let mut derived = Derived::new(wanted, &grid.axes, &trivial, || {
            (0..grid.cells()).map(|cell| said(arm, scores, cell, &text)).collect()
        });
        let top1 = scores[arm.answer_of(0)].top1();
        let others = || grid.controls.iter().filter(|(kind, _)| *kind != Control::SelfPatch);
        let mut controls: Named<Named<ControlEffects>> =
            others().map(|(kind, _)| (kind.name().to_owned(), Named::default())).collect();
        let mut metrics = Named::default();
        for measure in &common.measures {
            let key = measure.metric.to_string();
            let compared = arm.base.iter().find_map(|base| of_value(measure, &scores[*base], top1));
            let no_value = of_cells(measure, scores, &grid.readouts, grid.samples, top1);
            let no_effect = no_value.iter().map(|own| of_effect(*own, compared)).collect();
            let effect = ArmEffect::new(arm, measure, scores);
            let cells = Cells {
                axes: &grid.axes,
                trivial: &trivial,
                samples: grid.samples,
                effects: &effect.paired,
                normalised: &effect.share,
                undefined: effect.undefined.as_deref(),
                by: effect.by,
            };
            derived.add(&key, &cells);
            for ((kind, readouts), (_, of_kind)) in others().zip(&mut controls.0) {
                let effects = ControlEffects::new(&shape, control(arm, *kind, measure, scores));
                let own = of_cells(measure, scores, readouts, grid.samples, top1);
                let own: Vec<_> = own.into_iter().map(|own| of_effect(own, compared)).collect();
                reasons.control(&format!("{at}/controls/{}/{}", kind.name(), escape(&key)), &effects, &own);
                of_kind.0.push((key.clone(), effects));
            }
            metrics.0.push((key, MetricCells { effect, no_value, no_effect }));
        }
        reasons.strongest(&format!("{at}/derived/argmax"), derived.without_strongest());
        Self { shape, nulls, masks, metrics, derived, controls, reasons }
    }

    /// Numbers of its cells.
    pub(super) fn array<T>(&self, data: Vec<T>) -> NdArray<T> {
        NdArray::new(&self.shape, data)
    }

    /// Remarks on its effects: those that are rounding, and controls that move a metric as far. `at`: where the request has
    /// the arm, and where its controls.
    pub(super) fn lint(&self, at: [&str; 2], floors: &Named<Option<f64>>, lints: &mut Lints) {
        for (key, cells) in self.metrics.iter() {
            let effects: Vec<Option<f64>> = cells.effect.effects.iter().map(|effect| effect.mean).collect();
            if let Some(Some(floor)) = floors.get(key) {
                lints::below_noise_floor(at[0], key, &effects, &self.nulls, *floor, lints);
            }
            for (kind, of_kind) in self.controls.iter() {
                let Some(control) = of_kind.get(key) else { continue };
                let unknown = (0..effects.len())
                    .filter(|cell| !self.nulls[*cell] && self.masks.trivial.data[*cell] == Some(false));
                let pairs = unknown.map(|cell| (effects[cell], control.effects.data[cell]));
                lints::control_as_large(at[1], key, kind, pairs, lints);
            }
        }
    }
}

/// Masks of a grid. `nulls`: its exact nulls; `baselines`: the unpatched readout of each sample.
fn masks(grid: &Grid, shape: &[usize], nulls: &[bool], scores: &[Score], baselines: &[usize]) -> Masks {
    let undefined = undefined_cells(grid, scores, baselines);
    let defined = |cells: &mut dyn Iterator<Item = bool>| {
        let cells = cells.zip(&undefined).map(|(cell, undefined)| (!undefined).then_some(cell));
        NdArray::new(shape, cells.collect())
    };
    Masks {
        exact_null: defined(&mut nulls.iter().copied()),
        trivial: defined(&mut grid.trivial.iter().map(Option::is_some)),
        lost: lost_cells(grid, scores),
    }
}
