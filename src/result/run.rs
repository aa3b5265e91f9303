//! Response of `POST /v1/run`.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{
    Envelope, NdArray, NullReason, Nulls, Provenance, RunTokens, join_lints, metrics, run_tokens, target_sets,
};
use super::inside::{self, AttentionResult, AttributionResult, LensResult};
use super::respond::{Computed, Kept, Respond};
use crate::effect::lints;
use crate::effect::nulls::of_value;
use crate::effect::stats::finite;
use crate::lower::facts::Facts;
use crate::lower::layout::{CaptureKey, RunLayout};
use crate::lower::lint::{Lint, Lints};
use crate::lower::measure::TargetToken;
use crate::plan::output::{PlanOutput, Usage};
use crate::spec::dtype::Dtype;
use crate::spec::named::Named;
use crate::spec::problem::Problems;
use crate::spec::read::escape;
use crate::spec::run::RunSpec;
use crate::spec::site::Site;

/// What clean runs gave.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: RunSpec,
    /// Target sets as they were understood.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<TargetToken>>)]
    pub targets: Named<Vec<TargetToken>>,
    /// What each run gave.
    #[schema(value_type = std::collections::BTreeMap<String, RunResult>)]
    pub runs: Named<RunResult>,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// What one run gave.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunResult {
    /// Tokens and predictions.
    #[serde(flatten)]
    pub tokens: RunTokens,
    /// Metrics as requested.
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub metrics: Named<Option<f64>>,
    /// Activations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<CaptureResult>,
    /// The logit lens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_lens: Option<LensResult>,
    /// Attention patterns, one per entry of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<AttentionResult>,
    /// Direct logit attribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<AttributionResult>,
}

/// Activations of one run at one site.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CaptureResult {
    /// Site.
    pub site: Site,
    /// Layers; null at `embed`, which has none.
    pub layers: Option<Vec<u32>>,
    /// Positions.
    pub positions: Vec<u32>,
    /// Names of the axes of `values`.
    pub axes: Vec<&'static str>,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Number format.
    pub dtype: &'static str,
    /// The numbers, nested as `shape`; null where not finite, such as the `scores` of edges that a knockout cuts, which
    /// are minus infinity (`nulls` counts them). Absent where they are kept by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub values: Option<NdArray<Option<f32>>>,
    /// Where they are kept.
    #[serde(flatten)]
    pub kept: Option<Kept>,
}

impl Respond for RunLayout {
    type Response = RunResponse;

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<RunResponse, Problems> {
        let (layout, output) = (self, &computed.output);
        let (common, words, config) = (&layout.common, facts.words(), facts.config());
        let read = &layout.spec.experiment.read;
        let scores = &output.scores;
        let tokens = run_tokens(common, scores, layout.spec.experiment.read.topk, words);
        let mut nulls = Nulls::default();
        nulls.runs(common, scores);
        let runs = tokens.0.into_iter().enumerate().map(|(i, (name, tokens))| {
            let readout = common.runs.0[i].1.1;
            let at = format!("/runs/{}", escape(&name));
            for measure in &common.measures {
                let null = of_value(measure, &scores[readout], None);
                nulls.one(format!("{at}/metrics/{}", escape(&measure.metric.to_string())), null);
            }
            let captures = layout.captures.iter().filter(|key| key.run == i).enumerate();
            let captures = captures.map(|(n, key)| {
                let found = capture(key, output);
                let at = format!("{at}/captures/{n}/values");
                let numbers = found.values.as_ref().map(|values| &values.data[..]).unwrap_or_default();
                nulls.numbers_and_cuts(&at, numbers, cuts(key, output));
                found
            });
            let captures = captures.collect();
            let shown = read.logit_lens.as_ref().map_or(0, |lens| lens.topk);
            let lens = layout.lenses.iter().find(|key| key.run == i);
            let attribution =
                layout.attribution.iter().find(|key| key.run == i).zip(read.attribution.as_ref());
            let result = RunResult {
                tokens,
                metrics: metrics(&common.measures, &scores[readout], None),
                captures,
                logit_lens: lens.map(|key| {
                    let at = format!("{at}/logit_lens");
                    inside::lens(key, common, scores, shown, words, (&at, &mut nulls))
                }),
                attention: layout
                    .attention
                    .iter()
                    .filter(|key| key.run == i)
                    .enumerate()
                    .map(|(n, key)| {
                        inside::attention(key, &output.captures, (&format!("{at}/attention/{n}"), &mut nulls))
                    })
                    .collect(),
                attribution: attribution.map(|(key, spec)| {
                    let at = format!("{at}/attribution");
                    let layers = config.num_layers;
                    inside::attribution(key, &spec.target, &output.captures, layers, (&at, &mut nulls))
                }),
            };
            (name, result)
        });
        let runs: Named<RunResult> = runs.collect();
        let shared = runs.iter().filter_map(|(_, run)| run.attribution.as_ref());
        let unshared = shared.filter(|found| found.logit.is_none()).count();
        let mut found = lints::run(layout, scores, unshared, &|id| words.text(id));
        overflow(layout, output, &mut found);
        Ok(RunResponse {
            runs,
            nulls: nulls.0,
            id: envelope.id,
            model: envelope.model,
            request: layout.spec.clone(),
            targets: target_sets(common),
            lints: join_lints(common, found, &layout.spec.experiment)?,
            usage: output.usage,
            provenance: Provenance { plan_sha256: common.plan_sha256.clone(), ..envelope.provenance },
        })
    }

    fn captures(&self) -> &[CaptureKey] {
        &self.captures
    }

    fn kept(response: &mut RunResponse) -> Vec<Vec<&mut Option<Kept>>> {
        let runs = response.runs.0.iter_mut();
        runs.map(|(_, run)| run.captures.iter_mut().map(|capture| &mut capture.kept).collect()).collect()
    }
}

fn capture(key: &CaptureKey, output: &PlanOutput) -> CaptureResult {
    let depth = key.depth();
    let (mut axes, mut shape) = (Vec::new(), Vec::new());
    if key.layers.is_some() {
        axes.push("layer");
        shape.push(depth);
    }
    axes.extend(["position", "dim"]);
    shape.extend([key.positions.len(), key.width]);
    CaptureResult {
        site: key.site,
        layers: key.layers.clone(),
        positions: key.positions.clone(),
        axes,
        dtype: key.handle.unwrap_or(Dtype::F32).name(),
        values: key.handle.is_none().then(|| {
            let rows = captured(key, output).map(|x| finite(f64::from(*x)).map(|_| *x));
            NdArray::new(&shape, rows.collect())
        }),
        kept: None,
        shape,
    }
}

/// Scores that are minus infinity, which is what a knockout writes.
fn cuts(key: &CaptureKey, output: &PlanOutput) -> usize {
    match key.site {
        Site::Scores => captured(key, output).filter(|score| **score == f32::NEG_INFINITY).count(),
        _ => 0,
    }
}

/// Numbers of a capture, `[layers, positions, width]`.
pub fn captured<'o>(key: &CaptureKey, output: &'o PlanOutput) -> impl Iterator<Item = &'o f32> {
    output.captures[key.first..key.first + key.depth()].iter().flatten()
}

/// Remarks on numbers that the format in which they are stored has no place for.
fn overflow(layout: &RunLayout, output: &PlanOutput, lints: &mut Lints) {
    let half = layout.captures.iter().filter(|key| key.handle == Some(Dtype::F16));
    let over = |x: &&f32| x.is_finite() && half::f16::from_f32(**x).is_infinite();
    let lost: usize = half.map(|key| captured(key, output).filter(over).count()).sum();
    if lost > 0 {
        let detail =
            format!("{lost} numbers are beyond f16, which ends at 65504, and are stored as infinite");
        lints.warn("F16_OVERFLOW", "/read/capture", detail, "store them as bf16 or f32");
    }
}
