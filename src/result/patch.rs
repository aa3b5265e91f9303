//! Response of `POST /v1/patch`.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::common::{
    ControlEffects, Controls, Envelope, Masks, NdArray, NullReason, Nulls, Provenance, Receipts, RunTokens,
    TopToken, join_lints, metrics, noise_floors, run_tokens, target_sets, top_tokens,
};
use super::live::Live;
use super::respond::{Computed, Respond};
use crate::effect::arm::{control, said, self_patch};
use crate::effect::derived::{Cells, Derived};
use crate::effect::nulls::{Null, lost_cells, of_cells, of_effect, of_value, undefined_cells};
use crate::effect::{lints, patch as effects};
use crate::lower::facts::{Facts, Words};
use crate::lower::layout::{Axis, Grid, PatchLayout};
use crate::lower::lint::Lint;
use crate::lower::measure::{Measure, TargetToken};
use crate::plan::output::{PlanOutput, Usage};
use crate::plan::{EditGroup, RunId, Score};
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
    /// Most probable tokens of the cells; null where the logits are not finite.
    #[schema(value_type = serde_json::Value)]
    pub topk: NdArray<Option<Vec<TopToken>>>,
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

/// Lengths of a grid's axes.
pub(super) fn shape(grid: &Grid) -> Vec<usize> {
    grid.axes.iter().map(|axis| axis.values.len()).collect()
}

/// Masks of a grid. `nulls`: its exact nulls; `baselines`: the unpatched readout of each sample.
pub(super) fn masks(grid: &Grid, nulls: &[bool], scores: &[Score], baselines: &[usize]) -> Masks {
    let shape = shape(grid);
    let undefined = undefined_cells(grid, scores, baselines);
    let defined = |cells: &mut dyn Iterator<Item = bool>| {
        let cells = cells.zip(&undefined).map(|(cell, undefined)| (!undefined).then_some(cell));
        NdArray::new(&shape, cells.collect())
    };
    Masks {
        exact_null: defined(&mut nulls.iter().copied()),
        trivial: defined(&mut grid.trivial.iter().map(Option::is_some)),
        lost: lost_cells(grid, scores),
    }
}

impl Respond for PatchLayout {
    const NAME: &'static str = "patch";
    type Response = PatchResponse;

    /// What cells are compared with.
    fn required(&self) -> Option<Vec<usize>> {
        let ends = self.normalise.into_iter().flat_map(|(zero, one)| [zero, one]);
        let runs = self.common.runs.iter().map(|(_, (_, readout))| *readout);
        Some(runs.chain(self.arm.base.clone()).chain(ends).collect())
    }

    fn live(&self) -> Live<'_> {
        Live { arms: vec![("patch", json!({}), &self.arm)], ..Live::default() }
    }

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<PatchResponse, Problems> {
        respond(self, &computed.resolved, &computed.output, facts.words(), envelope)
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
    let (common, arm, scores) = (&layout.common, &layout.arm, &output.scores);
    let (grid, base) = (&arm.grid, arm.base_of(0));
    let shape = shape(grid);
    let shown = layout.spec.experiment.read.topk;
    let top1 = scores[base].top1();
    let (mut values, mut differences) = (Named::default(), Named::default());
    let (mut normalised, mut reasons) = (Named::default(), Nulls::default());
    reasons.runs(common, scores);
    let trivial: Vec<bool> = grid.trivial.iter().map(Option::is_some).collect();
    let text = |id| words.text(id);
    let mut derived = Derived::new(&layout.spec.derive, &grid.axes, &trivial, || {
        (0..grid.cells()).map(|cell| said(arm, &scores[..], cell, &text)).collect()
    });
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
        let at = escape(&key);
        for (name, (_, readout)) in common.runs.iter() {
            let null = of_value(measure, &scores[*readout], top1);
            reasons.one(format!("/baselines/{}/{at}", escape(name)), null);
        }
        let compared = of_value(measure, &scores[base], top1);
        let own = of_cells(measure, scores, &grid.readouts, 1, top1);
        let compared: Vec<Option<Null>> = own.iter().map(|own| of_effect(*own, compared)).collect();
        reasons.array(&format!("/values/{at}"), &shape, &own);
        reasons.array(&format!("/effects/{at}"), &shape, &compared);
        if let Some(data) = effect.normalised {
            match &effect.undefined {
                Some(reason) => reasons.add(format!("/normalised/{at}"), reason),
                None => reasons.array(&format!("/normalised/{at}"), &shape, &own),
            }
            normalised.0.push((key.clone(), NdArray::new(&shape, data)));
        }
        differences.0.push((key.clone(), NdArray::new(&shape, effect.effects)));
        values.0.push((key, NdArray::new(&shape, effect.values)));
    }
    let nulls = grid.exact_nulls(resolved, &[base]);
    let mut found = lints::patch(layout, scores, &nulls, output.receipt(EditGroup::Patch));
    let noise_floor = noise_floors(common, scores);
    for (metric, floor) in noise_floor.iter() {
        let effects = differences.get(metric).map(|effects| &effects.data[..]).unwrap_or_default();
        if let Some(floor) = floor {
            lints::below_noise_floor("/interventions", metric, effects, &nulls, *floor, &mut found);
        }
    }
    let unknown = |cell: &usize| !nulls[*cell] && !trivial[*cell];
    for (kind, _) in grid.controls.iter().filter(|(kind, _)| *kind != Control::SelfPatch) {
        for measure in &common.measures {
            let key = measure.metric.to_string();
            let own = differences.get(&key).map(|effects| &effects.data[..]).unwrap_or_default();
            let control = control(arm, *kind, measure, scores);
            let pairs = (0..own.len()).filter(unknown).map(|cell| (own[cell], control[cell]));
            lints::control_as_large("/controls", &key, kind.name(), pairs, &mut found);
        }
    }
    let others = grid.controls.iter().filter(|(kind, _)| *kind != Control::SelfPatch).map(|(kind, _)| {
        let of = |measure: &Measure| {
            let effects = control(arm, *kind, measure, scores);
            (measure.metric.to_string(), ControlEffects::new(&shape, effects))
        };
        (kind.name().to_owned(), common.measures.iter().map(of).collect())
    });
    let others: Named<Named<ControlEffects>> = others.collect();
    for (kind, readouts) in grid.controls.iter().filter(|(kind, _)| *kind != Control::SelfPatch) {
        for measure in &common.measures {
            let key = measure.metric.to_string();
            let Some(effects) = others.get(kind.name()).and_then(|of_kind| of_kind.get(&key)) else {
                continue;
            };
            let compared = of_value(measure, &scores[base], top1);
            let own = of_cells(measure, scores, readouts, 1, top1);
            let own: Vec<Option<Null>> = own.into_iter().map(|own| of_effect(own, compared)).collect();
            reasons.control(&format!("/controls/{}/{}", kind.name(), escape(&key)), effects, &own);
        }
    }
    let missing: Vec<_> = grid.readouts.iter().map(|i| scores[*i].missing).collect();
    reasons.array("/topk", &shape, &missing);
    let predictions = grid.readouts.iter().map(|i| top_tokens(&scores[*i], shown, words)).collect();
    let masks = masks(grid, &nulls, scores, &[base]);
    reasons.masks("", &masks);
    reasons.strongest("/derived/argmax", derived.without_strongest());
    let (receipt, controls) =
        (Receipts::of(output), Controls::of(self_patch([arm], &common.measures, scores), others));
    reasons.accounts(&receipt, controls.self_patch, &noise_floor);
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
        masks,
        derived,
        receipt,
        controls,
        nulls: reasons.0,
        lints: join_lints(common, found, &layout.spec.experiment)?,
        usage: output.usage,
        provenance: Provenance {
            plan_sha256: common.plan_sha256.clone(),
            noise_floor,
            ..envelope.provenance
        },
    })
}
