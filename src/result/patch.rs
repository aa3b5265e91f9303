//! Response of `POST /v1/patch`.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{
    ControlEffects, Controls, Envelope, NdArray, NullReason, Provenance, Receipts, RunTokens, TopToken,
    join_lints, lost_cells, metrics, noise_floors, run_tokens, target_sets, top_tokens,
};
use crate::effect::derived::{Cells, Derived};
use crate::effect::{lints, patch as effects};
use crate::lower::facts::Words;
use crate::lower::layout::{Axis, Grid, PatchLayout};
use crate::lower::lint::Lint;
use crate::lower::measure::{Measure, TargetToken};
use crate::plan::output::{PlanOutput, Usage};
use crate::plan::{EditGroup, RunId};
use crate::spec::named::Named;
use crate::spec::patch::{Control, PatchSpec};
use crate::spec::problem::Problems;
use crate::spec::read::escape;

/// What a patch gave. Arrays follow the order of `axes`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PatchResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: PatchSpec,
    /// Target sets as they were understood.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<TargetToken>>)]
    pub targets: Named<Vec<TargetToken>>,
    /// Tokens and predictions of the unpatched runs.
    #[schema(value_type = std::collections::BTreeMap<String, RunTokens>)]
    pub runs: Named<RunTokens>,
    /// Swept axes; none for one joint patch.
    pub axes: Vec<Axis>,
    /// Metrics of the unpatched runs.
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, Option<f64>>>)]
    pub baselines: Named<Named<Option<f64>>>,
    /// Metrics of the cells.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub values: Named<NdArray<Option<f64>>>,
    /// Metrics of the cells minus the base's.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub effects: Named<NdArray<Option<f64>>>,
    /// `(value - zero) / (one - zero)`, never clamped.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub normalised: Named<NdArray<Option<f64>>>,
    /// Most probable tokens of the cells.
    #[schema(value_type = serde_json::Value)]
    pub topk: NdArray<Vec<TopToken>>,
    /// Cells known beforehand.
    pub masks: Masks,
    /// Quantities derived from the cells, as asked for by `derive`.
    #[serde(skip_serializing_if = "Derived::is_empty")]
    #[schema(required = false)]
    pub derived: Derived,
    /// What was written.
    pub receipt: Receipts,
    /// Results of controls.
    pub controls: Controls,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// Cells known beforehand, in the order of the axes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Masks {
    /// The edit can't reach the readout: the effect is exactly 0.
    #[schema(value_type = serde_json::Value)]
    pub exact_null: NdArray<bool>,
    /// The answer is the source's by construction.
    #[schema(value_type = serde_json::Value)]
    pub trivial: NdArray<bool>,
}

/// Lengths of a grid's axes.
pub(super) fn shape(grid: &Grid) -> Vec<usize> {
    grid.axes.iter().map(|axis| axis.values.len()).collect()
}

/// Masks of a grid.
pub(super) fn masks(grid: &Grid, nulls: Vec<bool>) -> Masks {
    let shape = shape(grid);
    Masks {
        exact_null: NdArray::new(&shape, nulls),
        trivial: NdArray::new(&shape, grid.trivial.iter().map(Option::is_some).collect()),
    }
}

/// Puts a response together. `resolved`: for each readout the run whose row it really is.
pub fn respond(
    layout: &PatchLayout,
    resolved: &[RunId],
    output: &PlanOutput,
    words: &dyn Words,
    envelope: Envelope,
) -> Result<PatchResponse, Problems> {
    let (common, grid, scores) = (&layout.common, &layout.grid, &output.scores);
    let shape = shape(grid);
    let shown = layout.spec.experiment.read.topk;
    let top1 = effects::reference_top1(layout, scores);
    let (mut values, mut differences) = (Named::default(), Named::default());
    let (mut normalised, mut reasons) = (Named::default(), Vec::new());
    let trivial: Vec<bool> = grid.trivial.iter().map(Option::is_some).collect();
    let mut derived =
        Derived::new(&layout.spec.derive, &grid.axes, &trivial, || effects::flipped(layout, scores));
    for measure in &common.measures {
        let key = measure.metric.to_string();
        let effect = effects::effect(layout, measure, scores);
        let cells = Cells {
            axes: &grid.axes,
            trivial: &trivial,
            samples: 1,
            effects: &effect.effects,
            normalised: effect.normalised.as_deref().unwrap_or_default(),
            undefined: effect.undefined.as_deref(),
            by: effect.by,
        };
        derived.add(&key, &cells);
        if let Some(data) = effect.normalised {
            normalised.0.push((key.clone(), NdArray::new(&shape, data)));
        }
        if let Some(reason) = effect.undefined {
            reasons.push(NullReason { pointer: format!("/normalised/{}", escape(&key)), reason });
        }
        let arrays = ["values", "effects"].map(|array| format!("/{array}/{}", escape(&key)));
        lost_cells(grid, scores, &arrays, &mut reasons);
        differences.0.push((key.clone(), NdArray::new(&shape, effect.effects)));
        values.0.push((key, NdArray::new(&shape, effect.values)));
    }
    let nulls = grid.exact_nulls(resolved, &[layout.base]);
    let mut found = lints::patch(layout, scores, &nulls, output.receipt(EditGroup::Patch));
    let noise_floor = noise_floors(common, scores);
    for (metric, floor) in noise_floor.iter() {
        let effects = differences.get(metric).map(|effects| &effects.data[..]).unwrap_or_default();
        if let Some(floor) = floor {
            lints::below_noise_floor("/interventions", metric, effects, &nulls, *floor, &mut found);
        }
    }
    let others = grid.controls.iter().filter(|(kind, _)| *kind != Control::SelfPatch).map(|(kind, _)| {
        let of = |measure: &Measure| {
            let effects = effects::control(layout, *kind, measure, scores);
            (measure.metric.to_string(), ControlEffects::new(&shape, effects))
        };
        (kind.name().to_owned(), common.measures.iter().map(of).collect())
    });
    let others = others.collect();
    let predictions = grid.readouts.iter().map(|i| top_tokens(&scores[*i], shown, words)).collect();
    Ok(PatchResponse {
        id: envelope.id,
        model: envelope.model,
        request: layout.spec.clone(),
        targets: target_sets(common),
        runs: run_tokens(common, scores, shown, words),
        axes: grid.axes.clone(),
        baselines: common.runs.map(|_, (_, readout)| metrics(&common.measures, &scores[*readout], top1)),
        values,
        effects: differences,
        normalised,
        topk: NdArray::new(&shape, predictions),
        masks: masks(grid, nulls),
        derived,
        receipt: Receipts::of(output),
        controls: Controls::of(effects::self_patch(layout, scores), others),
        nulls: reasons,
        lints: join_lints(common, found, &layout.spec.experiment)?,
        usage: output.usage,
        provenance: Provenance {
            plan_sha256: common.plan_sha256.clone(),
            noise_floor,
            ..envelope.provenance
        },
    })
}
