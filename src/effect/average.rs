//! Averages over the cases of a sweep, with intervals by a bootstrap over cases.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bootstrap::CaseEstimate;

pub use crate::spec::sweep::Key;

/// How averages are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct How {
    /// What cells are averaged by, `arm` first.
    pub by: Vec<Key>,
    /// Drawn sets of cases.
    pub resamples: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// Share of the drawn means inside an interval.
    pub level: f64,
    /// How many of the strongest averages are listed, if any.
    pub top_k: Option<u32>,
    /// Whether arms are compared, case by case.
    pub compare_arms: bool,
}

/// Averages of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Averages {
    /// What cells were averaged by.
    pub by: Vec<Key>,
    /// Cases that count.
    pub kept: usize,
    /// Cases that don't.
    pub dropped: usize,
    /// Total effects by arm, group (if told apart) and metric.
    pub totals: Vec<Total>,
    /// One for each combination of keys that occurs and each metric, in the order of the cells.
    pub rows: Vec<Average>,
    /// Differences of averages between groups, and between arms if asked for.
    pub differences: Vec<Difference>,
    /// The strongest averages, if asked for.
    pub top: Vec<Top>,
}

/// Where an average belongs; what it is not told apart by is null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// Arm.
    pub arm: String,
    /// Layer.
    pub layer: Option<u32>,
    /// Position.
    pub position: Option<u32>,
    /// Token class.
    pub token_class: Option<String>,
    /// Head.
    pub head: Option<u32>,
    /// Column.
    pub dim: Option<u32>,
    /// Group.
    pub group: Option<String>,
}

/// A mean total effect (ATE).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Total {
    /// Arm.
    pub arm: String,
    /// Group, if groups are told apart; null for all cases together.
    pub group: Option<String>,
    /// Metric.
    pub metric: String,
    /// Reference minus base.
    pub total_effect: CaseEstimate,
}

/// A mean indirect effect (AIE).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Average {
    /// Where.
    #[serde(flatten)]
    pub at: Place,
    /// Metric.
    pub metric: String,
    /// Patched minus base.
    pub effect: CaseEstimate,
    /// Mean effect over the mean total effect of the same cases (AIE / ATE), never clamped; null where that is too small.
    pub recovery: Option<f64>,
    /// Its interval.
    pub recovery_ci: Option<[f64; 2]>,
    /// Cells averaged.
    pub cells: usize,
    /// Of them, those whose answer is the source's by construction.
    pub trivial: usize,
    /// Of them, those that can't change the answer; they count as 0.
    pub exact_null: usize,
}

/// A difference of two averages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// `group` or `arm`.
    pub over: Key,
    /// What the second is subtracted from.
    pub a: String,
    /// What is subtracted.
    pub b: String,
    /// Where; null at `over`.
    #[serde(flatten)]
    pub at: Place,
    /// Metric.
    pub metric: String,
    /// `a` minus `b`: groups are drawn independently, arms together, case by case.
    pub difference: CaseEstimate,
}

/// One of the strongest averages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Top {
    /// From 1.
    pub rank: u32,
    /// Where.
    #[serde(flatten)]
    pub at: Place,
    /// Metric.
    pub metric: String,
    /// Mean effect over cases.
    pub mean: f64,
    /// Mean over standard error.
    pub t: Option<f64>,
    /// Probability, if no cell had an effect, that the largest |t| of all cells is at least this one's (single-step
    /// max-statistic, Westfall and Young 1993); null where no t is.
    pub p_max_t: Option<f64>,
    /// Share of drawn sets of cases in which it is among the top k.
    pub stability: Option<f64>,
}

/// TO BE REPLACED
pub fn averages(_: &super::cells::Observed, how: &How) -> Averages { Averages { by: how.by.clone(), ..Averages::default() } }
/// TO BE REPLACED
pub fn running(_: &super::cells::Observed, _: &How) -> serde_json::Value { serde_json::Value::Null }
impl How {
    /// As a request asks for it.
    pub fn of(spec: &crate::spec::sweep::Averaging) -> Self {
        Self {
            by: spec.by.clone(),
            resamples: spec.ci.resamples,
            seed: spec.ci.seed,
            level: spec.ci.level,
            top_k: spec.top_k.map(|top| top.k),
            compare_arms: spec.compare.contains(&Key::Arm),
        }
    }
}
