//! Response of `POST /v1/trace`.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::arm::ArmCells;
use super::asked_cells::{self, CellTokens};
use super::common::Masks;
use super::common::{
    ControlEffects, Controls, Envelope, NdArray, NullReason, Nulls, Provenance, Receipts, RngUsed, RunTokens,
    join_lints, metrics, noise_floors, run_tokens, target_sets,
};
use super::respond::{Computed, Live, Respond};
use crate::effect::arm::{Baselines, self_patch};
use crate::effect::derived::Derived;
use crate::effect::lints;
use crate::effect::nulls::{of_cells, of_effect, of_value};
use crate::effect::stats::Estimate;
use crate::lower::facts::{Facts, Words};
use crate::lower::layout::{ArmLayout, Axis, CellKey, Replaced, SigmaUsed, TraceLayout};
use crate::lower::lint::Lint;
use crate::lower::measure::TargetToken;
use crate::plan::output::{PlanOutput, Usage};
use crate::plan::{EditGroup, Score};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::read::escape;
use crate::spec::select::Heads;
use crate::spec::site::Site;
use crate::spec::trace::{Direction, OnUnexpected, TraceSpec};
use crate::tokens::Token;

/// What a trace gave. Arrays follow the order of each arm's `axes`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TraceResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: TraceSpec,
    /// Target sets as they were understood.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<TargetToken>>)]
    pub targets: Named<Vec<TargetToken>>,
    /// Tokens and predictions of the uncorrupted runs.
    #[schema(value_type = std::collections::BTreeMap<String, RunTokens>)]
    pub runs: Named<RunTokens>,
    /// Tokens of the clean run.
    pub tokens: Vec<TraceToken>,
    /// Token range of the span `subject`, half-open.
    pub subject: Option<[u32; 2]>,
    /// Whether clean states were put into the corrupted run or the reverse.
    pub direction: Direction,
    /// Metrics of the clean and the corrupted run.
    pub baselines: TraceBaselines,
    /// Clean minus corrupted.
    #[schema(value_type = std::collections::BTreeMap<String, Estimate>)]
    pub total_effect: Named<Estimate>,
    /// The size of the noise; null where it is `multivariate`, and where other tokens took the clean run's place.
    pub sigma: Option<SigmaUsed>,
    /// Samples of the corrupted run.
    pub samples: usize,
    /// Prompts that took the clean one's place, one per sample; left out where there was noise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
    /// What each arm gave.
    #[schema(value_type = std::collections::BTreeMap<String, ArmResult>)]
    pub arms: Named<ArmResult>,
    /// What the model says with the cells that `cells` names, in its order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellTokens>,
    /// Total effects below this are divided by nothing: `recovery` is null.
    pub min_total_effect: f64,
    /// What was written.
    pub receipt: Receipts,
    /// Results of controls.
    pub controls: Controls,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Pictures asked for by `plot`, by format: SVG as text, PNG in base64. Filled in by the server.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub plots: Named<String>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// A token of the clean run.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TraceToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// Whether it differs in the corrupted run.
    pub corrupted: bool,
}

/// Baselines of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TraceBaselines {
    /// Metrics of the clean run.
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub clean: Named<Option<f64>>,
    /// Metrics of the corrupted run.
    #[schema(value_type = std::collections::BTreeMap<String, Sampled>)]
    pub corrupted: Named<Sampled>,
}

/// A value per sample.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Sampled {
    /// Mean and standard error.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Number of samples.
    pub n: usize,
    /// Every sample.
    pub samples: Vec<Option<f64>>,
}

/// What one arm gave.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ArmResult {
    /// Site restored.
    pub site: Site,
    /// Layers restored together.
    pub window: u32,
    /// Heads restored together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Axes.
    pub axes: Vec<Axis>,
    /// Metrics of the patched runs.
    #[schema(value_type = std::collections::BTreeMap<String, CellEstimates>)]
    pub values: Named<CellEstimates>,
    /// Patched minus unpatched (the corrupted run, or for noising the clean one), paired by sample.
    #[schema(value_type = std::collections::BTreeMap<String, CellEstimates>)]
    pub effects: Named<CellEstimates>,
    /// Mean effect over mean total effect (its negative for noising), never clamped; null where undefined.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub recovery: Named<NdArray<Option<f64>>>,
    /// Cells known beforehand.
    pub masks: Masks,
    /// The cell, trivial ones apart, that moves each metric furthest towards the source's value.
    #[schema(value_type = std::collections::BTreeMap<String, ArgMax>)]
    pub argmax: Named<Option<ArgMax>>,
    /// Quantities derived from the cells, as asked for by `derive`.
    #[serde(skip_serializing_if = "Derived::is_empty")]
    #[schema(required = false)]
    pub derived: Derived,
    /// Effects of controls other than self-patch, by control and metric.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, ControlEffects>>, required = false)]
    pub controls: Named<Named<ControlEffects>>,
}

/// Means over samples of every cell.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CellEstimates {
    /// Means.
    #[schema(value_type = serde_json::Value)]
    pub mean: NdArray<Option<f64>>,
    /// Standard errors; null for fewer than two samples.
    #[schema(value_type = serde_json::Value)]
    pub se: NdArray<Option<f64>>,
    /// Every sample, as the last axis; only with `keep.per_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub samples: Option<NdArray<Option<f64>>>,
}

/// Where an effect is largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ArgMax {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Its mean effect.
    pub effect: f64,
}

impl Respond for TraceLayout {
    type Response = TraceResponse;

    fn required(&self) -> Option<Vec<usize>> {
        Some(self.case.unpatched())
    }

    fn live(&self) -> Live<'_> {
        let tokens = &self.case.common.runs.0[self.case.clean_run].1.0.tokens;
        let tokens: Vec<_> = (0..).zip(tokens).map(|(p, token)| trace_token(self, p, token)).collect();
        let arms = self.case.arms.iter().map(|(name, arm)| {
            let spec = self.spec.arms.get(name).expect("BUG: grids are made from the arms");
            (name, json!({"site": spec.site, "window": spec.window, "heads": spec.heads}), arm)
        });
        let more = [
            ("tokens", json!(tokens)),
            ("subject", json!(self.case.subject.as_ref().map(|span| [span.start, span.end]))),
            ("direction", json!(self.spec.direction())),
            ("sigma", json!(self.case.sigma)),
            ("samples", json!(self.case.corrupted.len())),
        ];
        Live {
            arms: arms.collect(),
            corrupted: &self.case.corrupted,
            more: more.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        }
    }

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<TraceResponse, Problems> {
        let (layout, Computed { output, resolved, again }, words) = (self, computed, facts.words());
        let (common, scores, spec) = (&layout.case.common, &output.scores, &layout.spec);
        refuse_unexpected(layout, scores, words)?;
        let top1 = scores[layout.case.clean].top1();
        let mut reasons = Nulls::default();
        reasons.runs(common, scores);
        let (case, wanted) = (&layout.case, &spec.derive);
        let cells = case.arms.iter().map(|(name, own)| {
            let (at, results) = (format!("/arms/{}", escape(name)), (&scores[..], &resolved[..]));
            let found = ArmCells::new(&at, (common, own), wanted, results, words);
            (name.to_owned(), found)
        });
        let cells: Named<ArmCells> = cells.collect();
        let all_nulls: Vec<bool> = cells.iter().flat_map(|(_, arm)| arm.nulls.iter().copied()).collect();
        let (mut corrupted, mut total_effect) = (Named::default(), Named::default());
        for measure in &common.measures {
            let key = measure.metric.to_string();
            let b = Baselines::new(case, measure, scores);
            let at = escape(&key);
            let clean = of_value(measure, &scores[layout.case.clean], top1);
            let samples = of_cells(measure, scores, &layout.case.corrupted, 1, top1);
            let first = samples.iter().find_map(|null| *null);
            reasons.one(format!("/baselines/clean/{at}"), clean);
            reasons.array(&format!("/baselines/corrupted/{at}/samples"), &[samples.len()], &samples);
            reasons.estimates(&format!("/baselines/corrupted/{at}"), &[], samples.len(), &[first]);
            reasons.estimates(&format!("/total_effect/{at}"), &[], samples.len(), &[of_effect(clean, first)]);
            total_effect.0.push((key.clone(), b.total_effect));
            let n = b.corrupted.len();
            corrupted.0.push((key, Sampled { estimate: b.corrupted_mean, n, samples: b.corrupted }));
        }
        let mut found =
            lints::trace(layout, scores, &all_nulls, output.receipt(EditGroup::Patch), &|id| words.text(id));
        let noise_floor = noise_floors(common, scores);
        for (name, arm) in cells.iter() {
            let at = format!("/arms/{}", escape(name));
            arm.lint([&at, &at], &noise_floor, &mut found);
        }
        let cells = cells.0.into_iter().zip(case.arms.iter());
        let arms = cells.map(|((name, cells), (_, own))| {
            let arm = arm(layout, &name, own, cells, scores, &mut reasons);
            (name, arm)
        });
        let arms: Named<ArmResult> = arms.collect();
        let clean = &common.runs.0[layout.case.clean_run].1.0;
        let receipt = Receipts::of(output);
        let controls = Controls::of(
            self_patch(layout.case.arms.iter().map(|(_, arm)| arm), &common.measures, scores),
            Named::default(),
        );
        reasons.accounts(&receipt, controls.self_patch, &noise_floor);
        let rng = spec.corrupt.method.draws().map(|draws| RngUsed { algo: draws.rng, seed: draws.seed });
        let mut response = TraceResponse {
            id: envelope.id,
            model: envelope.model,
            request: spec.clone(),
            targets: target_sets(common),
            runs: run_tokens(common, scores, spec.experiment.read.topk, words),
            tokens: (0..).zip(&clean.tokens).map(|(p, token)| trace_token(layout, p, token)).collect(),
            subject: layout.case.subject.as_ref().map(|span| [span.start, span.end]),
            direction: spec.direction(),
            baselines: TraceBaselines {
                clean: metrics(&common.measures, &scores[layout.case.clean], top1),
                corrupted,
            },
            total_effect,
            sigma: layout.case.sigma,
            samples: layout.case.corrupted.len(),
            replaced: layout.case.replaced.clone(),
            arms,
            cells: Vec::new(),
            min_total_effect: crate::effect::MIN_TOTAL_EFFECT,
            receipt,
            controls,
            nulls: reasons.0,
            plots: Named::default(),
            lints: join_lints(common, found, &spec.experiment)?,
            usage: output.usage,
            provenance: Provenance {
                plan_sha256: common.plan_sha256.clone(),
                rng,
                noise_floor,
                ..envelope.provenance
            },
        };
        if let Some(again) = again {
            response.cells = asked_cells::tokens(self, output, again, words, &mut response.nulls);
        }
        Ok(response)
    }

    fn again(&self) -> Vec<usize> {
        asked_cells::readouts(self)
    }

    fn wanted_again(&self, output: &PlanOutput) -> Vec<u32> {
        asked_cells::wanted(self, &output.scores)
    }
}

fn trace_token(layout: &TraceLayout, position: u32, token: &Token) -> TraceToken {
    TraceToken { token: token.clone(), corrupted: layout.case.corrupted_positions.contains(&position) }
}

/// `on_unexpected: refuse`: an answer other than the expected one is an error.
fn refuse_unexpected(layout: &TraceLayout, scores: &[Score], words: &dyn Words) -> Result<(), Problems> {
    let refuse = layout.spec.on_unexpected == OnUnexpected::Refuse;
    let Some((name, top1)) = lints::unexpected(layout, scores).filter(|_| refuse) else { return Ok(()) };
    let mut problems = Problems::default();
    let detail = match top1 {
        Some(top1) => format!("the clean run's most probable token is {:?}, not {name}", words.text(top1)),
        None => "the clean run has no most probable token, for its logits are NaN or infinite".to_owned(),
    };
    let fix = "choose a prompt that the model answers as expected, or \"on_unexpected\": \"warn\"";
    problems.push("/expect_top1", code::UNEXPECTED_ANSWER, detail, fix);
    Err(problems)
}

fn arm(
    layout: &TraceLayout,
    name: &str,
    arm: &ArmLayout,
    cells: ArmCells,
    scores: &[Score],
    reasons: &mut Nulls,
) -> ArmResult {
    let (at, samples) = (format!("/arms/{}", escape(name)), arm.grid.samples);
    reasons.0.extend_from_slice(&cells.reasons.0);
    let top1 = scores[layout.case.clean].top1();
    let with_samples: Vec<usize> = cells.shape.iter().copied().chain([samples]).collect();
    let map = |estimates: &[Estimate]| CellEstimates {
        mean: cells.array(estimates.iter().map(|e| e.mean).collect()),
        se: cells.array(estimates.iter().map(|e| e.se).collect()),
        samples: None,
    };
    let spec = layout.spec.arms.get(name).expect("BUG: grids are made from the arms");
    let (mut values, mut effects, mut recovery, mut argmax) =
        (Named::default(), Named::default(), Named::default(), Named::default());
    for (measure, (key, own)) in layout.case.common.measures.iter().zip(cells.metrics.iter()) {
        let named = |array: &str| format!("{at}/{array}/{}", escape(key));
        reasons.estimates(&named("values"), &cells.shape, samples, &own.no_value);
        reasons.estimates(&named("effects"), &cells.shape, samples, &own.no_effect);
        if layout.spec.keep.per_sample {
            let each = of_cells(measure, scores, &arm.grid.readouts, 1, top1);
            reasons.array(&format!("{}/samples", named("values")), &with_samples, &each);
        }
        let effect = &own.effect;
        match &effect.undefined {
            Some(reason) => reasons.add(named("recovery"), reason),
            None => reasons.array(&named("recovery"), &cells.shape, &own.no_effect),
        }
        let mut of_values = map(&effect.values);
        let each = || NdArray::new(&with_samples, effect.samples.clone());
        of_values.samples = layout.spec.keep.per_sample.then(each);
        values.0.push((key.to_owned(), of_values));
        effects.0.push((key.to_owned(), map(&effect.effects)));
        recovery.0.push((key.to_owned(), cells.array(effect.share.clone())));
        argmax.0.push((key.to_owned(), effect.argmax.map(|(cell, effect)| ArgMax { cell, effect })));
    }
    let none = argmax.iter().filter(|(_, found)| found.is_none()).map(|(metric, _)| metric);
    reasons.strongest(&format!("{at}/argmax"), none);
    ArmResult {
        site: spec.site,
        window: spec.window,
        heads: spec.heads.clone(),
        axes: arm.grid.axes.clone(),
        values,
        effects,
        recovery,
        masks: cells.masks,
        argmax,
        derived: cells.derived,
        controls: cells.controls,
    }
}
