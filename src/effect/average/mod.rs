//! Averages over the cases of a sweep, with intervals by a bootstrap over cases.
//!
//! Within a case, cells that agree on what they are averaged by are one number, their mean. Across cases each case that
//! has such cells counts once, so a case's cells stay together: cases are what is drawn (a cluster bootstrap). [`averages`]
//! gives everything, [`running()`] what can be told at once while a sweep goes on.
//!
//! Nothing is left out because of its number: where a case's isn't finite, the averages that it belongs to are null. The
//! same cases give the same bits in any order and on any number of threads: cases are drawn, and added up, by name.

mod compute;
mod running;
mod table;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
mod top;

pub use running::running;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bootstrap::CaseEstimate;
use super::cells::Observed;
use crate::spec::cases::Bootstrap;

/// Groups are compared each with each up to this many; of more, each with the first.
pub const EACH_WITH_EACH: usize = 8;

/// Averages of what a sweep observed, as [`How`] says.
///
/// Intervals are percentile bootstraps over cases (Efron 1979); `recovery` is AIE / ATE of the same cases, drawn together.
/// A cell whose position has no token class belongs to no average by token class; an axis that an arm doesn't have is null
/// in the places of its averages. The strongest averages are those of all groups together.
pub fn averages(observed: &Observed, how: &How) -> Averages {
    let table = table::Table::new(observed, &how.by);
    let pools = compute::Pools::new(observed, &table, how);
    let kept = observed.cases.iter().filter(|case| case.kept).count();
    Averages {
        by: how.by.clone(),
        kept,
        dropped: observed.cases.len() - kept,
        totals: pools.totals(),
        rows: pools.rows(),
        differences: pools.differences(how.compare_arms),
        top: how.top_k.map(|k| top::strongest(&table, how, k as usize)).unwrap_or_default(),
    }
}

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

impl How {
    const fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, seed: self.seed, level: self.level }
    }
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
    /// One for each combination of keys that occurs and each metric, in the order of arms and of their axes: over all cases,
    /// then, if groups are told apart, over each group's, in the order in which cases name them.
    pub rows: Vec<Average>,
    /// Differences of averages between groups, and between arms if asked for. Of up to eight groups each is compared with
    /// each, of more each with the first; arms where both have the place, in the same cases.
    pub differences: Vec<Difference>,
    /// The strongest averages, if asked for.
    pub top: Vec<Top>,
}

/// Where an average belongs; what it is not told apart by, and axes that its arm doesn't have, are null.
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
    /// Layer read.
    pub source_layer: Option<u32>,
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
    /// Where; null at `over` (an empty arm).
    #[serde(flatten)]
    pub at: Place,
    /// Metric.
    pub metric: String,
    /// `a` minus `b`: groups are drawn independently, arms together, case by case.
    pub difference: CaseEstimate,
}

/// One of the strongest averages of a metric over all cases. Averages whose cells are all trivial are none of them.
///
/// They are ordered by |t|. Before all go those with the same effect in every case, whose t has no end; after them those of
/// so few cases that more than one drawn set in a thousand would hold at most one of these, which aren't tested; then
/// those without t, by |mean|.
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
    /// Mean over standard error; null for fewer than two cases, and where all have the same effect.
    pub t: Option<f64>,
    /// Probability, if no cell had an effect, that the largest |t| of all cells is at least this one's (single-step
    /// max-statistic, Westfall and Young 1993; by a bootstrap of centred effects, whose standard errors are drawn too); null
    /// where no t is and for averages that aren't tested.
    pub p_max_t: Option<f64>,
    /// Share of drawn sets of cases in which it is among the top k of its metric; null for fewer than two cases.
    pub stability: Option<f64>,
}

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
