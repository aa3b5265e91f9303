//! Response of `POST /v1/patch`.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::arm::ArmCells;
use super::common::{
    Controls, Envelope, Masks, NdArray, NullReason, Nulls, Provenance, Receipts, RunTokens, TopToken,
    join_lints, metrics, noise_floors, run_tokens, target_sets, top_tokens,
};
use super::respond::{Computed, Live, Respond};
use crate::effect::arm::self_patch;
use crate::effect::derived::Derived;
use crate::effect::lints;
use crate::effect::nulls::of_value;
use crate::lower::facts::Facts;
use crate::lower::layout::{Axis, PatchLayout};
use crate::lower::lint::Lint;
use crate::lower::measure::TargetToken;
use crate::plan::EditGroup;
use crate::plan::output::Usage;
use crate::spec::named::Named;
use crate::spec::patch::PatchSpec;
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

impl Respond for PatchLayout {
    type Response = PatchResponse;

    /// What cells are compared with.
    fn required(&self) -> Option<Vec<usize>> {
        Some(self.case.unpatched())
    }

    fn live(&self) -> Live<'_> {
        Live { arms: vec![("patch", json!({}), self.arm())], ..Live::default() }
    }

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<PatchResponse, Problems> {
        let (layout, Computed { output, resolved, .. }, words) = (self, computed, facts.words());
        let (common, arm, scores) = (&layout.case.common, layout.arm(), &output.scores);
        let (grid, base) = (&arm.grid, arm.base_of(0));
        let shown = layout.spec.experiment.read.topk;
        let top1 = scores[base].top1();
        let mut reasons = Nulls::default();
        reasons.runs(common, scores);
        let results = (&scores[..], &resolved[..]);
        let cells = ArmCells::new("", (common, arm), &layout.spec.derive, results, words);
        let (mut values, mut differences, mut normalised) =
            (Named::default(), Named::default(), Named::default());
        for (measure, (key, own)) in common.measures.iter().zip(cells.metrics.iter()) {
            let at = escape(key);
            for (name, (_, readout)) in common.runs.iter() {
                let null = of_value(measure, &scores[*readout], top1);
                reasons.one(format!("/baselines/{}/{at}", escape(name)), null);
            }
            reasons.array(&format!("/values/{at}"), &cells.shape, &own.no_value);
            reasons.array(&format!("/effects/{at}"), &cells.shape, &own.no_effect);
            if arm.reference.is_some() {
                match &own.effect.undefined {
                    Some(reason) => reasons.add(format!("/normalised/{at}"), reason),
                    None => reasons.array(&format!("/normalised/{at}"), &cells.shape, &own.no_value),
                }
                normalised.0.push((key.to_owned(), cells.array(own.effect.share.clone())));
            }
            // A base has no samples: a cell is one number.
            differences.0.push((key.to_owned(), cells.array(own.effect.paired.clone())));
            values.0.push((key.to_owned(), cells.array(own.effect.samples.clone())));
        }
        let mut found = lints::patch(layout, scores, &cells.nulls, output.receipt(EditGroup::Patch));
        let noise_floor = noise_floors(common, scores);
        cells.lint(["/interventions", "/controls"], &noise_floor, &mut found);
        let missing: Vec<_> = grid.readouts.iter().map(|i| scores[*i].missing).collect();
        let predictions = grid.readouts.iter().map(|i| top_tokens(&scores[*i], shown, words)).collect();
        let topk = cells.array(predictions);
        let ArmCells { shape, masks, derived, controls: others, reasons: of_cells, .. } = cells;
        reasons.array("/topk", &shape, &missing);
        reasons.0.extend(of_cells.0);
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
            topk,
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
}
