//! Response of `POST /v1/trace` with `cases`: its parts. [`super::class_view`] makes them of what a sweep found.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{NdArray, NullReason, Provenance, Receipts};
use crate::effect::bootstrap::CaseEstimate;
use crate::effect::cells::DroppedBy;
use crate::effect::stats::Estimate;
use crate::lower::layout::{CellKey, SigmaUsed};
use crate::lower::lint::Lint;
use crate::lower::measure::TargetToken;
use crate::plan::output::Usage;
use crate::spec::cases::CasesSpec;
use crate::spec::named::Named;
use crate::spec::select::{Heads, TokenClass};
use crate::spec::site::Site;
use crate::spec::trace::Direction;

/// What traces of many prompts gave on average. Arrays are `[classes, layers]`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CasesResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request with every default.
    pub request: CasesSpec,
    /// Every case, kept or dropped.
    pub cases: Vec<CaseResult>,
    /// Cases that count.
    pub kept: usize,
    /// Cases that don't.
    pub dropped: usize,
    /// Whether clean states were put into the corrupted run or the reverse.
    pub direction: Direction,
    /// Token classes, the first axis.
    pub classes: Vec<TokenClass>,
    /// Mean total effect over cases (ATE): clean minus corrupted.
    #[schema(value_type = std::collections::BTreeMap<String, CaseEstimate>)]
    pub total_effect: Named<CaseEstimate>,
    /// The size of the noise, the same for every case; null where it has none.
    pub sigma: Option<SigmaUsed>,
    /// Samples of each case's corrupted run.
    pub samples: u64,
    /// What each arm gave.
    #[schema(value_type = std::collections::BTreeMap<String, ClassArm>)]
    pub arms: Named<ClassArm>,
    /// The same within each group, if asked for.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false, value_type = std::collections::BTreeMap<String, GroupResult>)]
    pub groups: Named<GroupResult>,
    /// The first group minus the second, where there are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<GroupDifference>,
    /// Total effects below this are divided by nothing: `recovery` is null.
    pub min_total_effect: f64,
    /// What was written, by the traces of all kept cases.
    pub receipt: Receipts,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Pictures asked for by `plot`, by format: SVG as text, PNG in base64. Filled in by the server.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub plots: Named<String>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost, that of dropped cases included.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CaseResult {
    /// Its name.
    pub id: String,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it counts.
    pub kept: bool,
    /// The filters that it fails; empty for those that count.
    pub dropped: Vec<DroppedBy>,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// The token range of its subject, half-open.
    pub subject: [u32; 2],
    /// Its target as it was understood.
    pub target: Vec<TargetToken>,
    /// The most probable token of its clean run; null where the logits are not finite.
    pub top1: Option<String>,
    /// Metrics of its clean run.
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub clean: Named<Option<f64>>,
    /// Metrics of its corrupted run, over samples.
    #[schema(value_type = std::collections::BTreeMap<String, Estimate>)]
    pub corrupted: Named<Estimate>,
    /// Clean minus corrupted, over samples.
    #[schema(value_type = std::collections::BTreeMap<String, Estimate>)]
    pub total_effect: Named<Estimate>,
    /// For each arm and metric the cell, trivial ones apart, with the largest effect towards the source's value; left
    /// out where there is none, as in dropped cases.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false,
             value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, CasePeak>>)]
    pub argmax: Named<Named<CasePeak>>,
    /// For each arm and metric the mean effect over each class's positions; only with `keep.per_case`.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false,
             value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, serde_json::Value>>)]
    pub effects: Named<Named<NdArray<Option<f64>>>>,
}

/// Where a case's effect is largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CasePeak {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Its position's class.
    pub class: TokenClass,
    /// Its mean effect over samples.
    pub effect: f64,
    /// That effect as a share of the case's total effect.
    pub recovery: Option<f64>,
}

/// What one arm gave on average.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassArm {
    /// Site restored.
    pub site: Site,
    /// Layers restored together.
    pub window: u32,
    /// Heads restored together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Layers, the second axis; null at sites without layers, whose arrays are `[classes, 1]`.
    pub layers: Option<Vec<u32>>,
    /// Mean effects.
    #[schema(value_type = std::collections::BTreeMap<String, ClassEstimates>)]
    pub effects: Named<ClassEstimates>,
    /// Mean effects over mean total effects of the same cases (AIE / ATE; for noising over its negative), never clamped.
    #[schema(value_type = std::collections::BTreeMap<String, ClassShares>)]
    pub recovery: Named<ClassShares>,
    /// How many of a class's cells have their source's answer by construction, over all cases; they count as they are.
    #[schema(value_type = serde_json::Value)]
    pub trivial: NdArray<usize>,
    /// How many can't change the answer; they count as 0.
    #[schema(value_type = serde_json::Value)]
    pub exact_null: NdArray<usize>,
    /// How many cells there are: positions of the class in all cases.
    #[schema(value_type = serde_json::Value)]
    pub cells: NdArray<usize>,
    /// How many cases have their largest effect in each class and layer (Hase et al. 2023: averages hide where each
    /// prompt's effect lies).
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub argmax_histogram: Named<NdArray<usize>>,
}

/// Means over cases, `[classes, layers]`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassEstimates {
    /// Means; null where no case has the class.
    #[schema(value_type = serde_json::Value)]
    pub mean: NdArray<Option<f64>>,
    /// Standard errors over cases; where there is one case (`n` is 1), over its samples; else null.
    #[schema(value_type = serde_json::Value)]
    pub se: NdArray<Option<f64>>,
    /// Lower ends of the confidence intervals by the percentile bootstrap over cases, which are too narrow with few of them.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
    /// Lower ends of intervals by Student's t, which hold for few cases, too.
    #[schema(value_type = serde_json::Value)]
    pub ci_t_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_t_high: NdArray<Option<f64>>,
    /// Medians over cases, if asked for by `stats`, with the ends of their intervals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClassRobust>)]
    pub median: Option<ClassRobust>,
    /// Means without the lowest and the highest fifth of the cases, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClassRobust>)]
    pub trimmed_mean: Option<ClassRobust>,
    /// Cases that have the class.
    #[schema(value_type = serde_json::Value)]
    pub n: NdArray<usize>,
}

/// Averages that one case doesn't decide, `[classes, layers]`, with intervals by the percentile bootstrap over cases.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassRobust {
    /// The averages.
    #[schema(value_type = serde_json::Value)]
    pub value: NdArray<Option<f64>>,
    /// Lower ends of the intervals.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
}

/// Shares of the total effect, `[classes, layers]`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassShares {
    /// Shares.
    #[schema(value_type = serde_json::Value)]
    pub value: NdArray<Option<f64>>,
    /// Lower ends of the confidence intervals.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
}

/// What the cases of one group gave.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupResult {
    /// Cases of the group that count.
    pub kept: usize,
    /// Cases that don't.
    pub dropped: usize,
    /// Mean total effect.
    #[schema(value_type = std::collections::BTreeMap<String, CaseEstimate>)]
    pub total_effect: Named<CaseEstimate>,
    /// What each arm gave.
    #[schema(value_type = std::collections::BTreeMap<String, ClassArm>)]
    pub arms: Named<ClassArm>,
}

/// Two groups compared. Intervals are of independent draws of both.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupDifference {
    /// The first group, and the second, which is subtracted.
    pub of: [String; 2],
    /// For each arm and metric the difference of mean effects; `n` counts the cases of both.
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, ClassEstimates>>)]
    pub effects: Named<Named<ClassEstimates>>,
}
