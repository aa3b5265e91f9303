//! Averages over the cases of a sweep, with intervals by a bootstrap over cases and by Student's t.
//!
//! Within a case, cells that agree on what they are averaged by are one number, their mean. Across cases each case that
//! has such cells counts once, so a case's cells stay together: cases are what is drawn (a cluster bootstrap). [`averages`]
//! gives everything, [`running()`] what can be told at once while a sweep goes on.
//!
//! Nothing is left out because of its number: where a case's isn't finite, the averages that it belongs to are null. The
//! same cases give the same bits in any order and on any number of threads: cases are drawn, and added up, by name.

mod compute;
mod peaks;
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
use super::cells::{Cells, Observed, Sampled};
use super::flips::SignFlips;
use crate::spec::statistics::{Bootstrap, Stat};
use crate::spec::sweep::Order;

/// Groups are compared each with each up to this many; of more, each with the first.
pub const EACH_WITH_EACH: usize = 8;

/// So many of the strongest averages are looked at for whether one case makes them, if no others are asked for.
const STRONGEST: u32 = 10;

/// Averages of what a sweep observed, as [`How`] says.
///
/// Intervals are percentile bootstraps over cases (Efron 1979) and, beside them, Student's t; `recovery` is AIE / ATE of the
/// same cases, drawn together.
/// A cell whose position has no token class belongs to no average by token class; an axis that an arm doesn't have is null
/// in the places of its averages. The strongest averages are those of all groups together.
pub fn averages(observed: &Observed, how: &How) -> Averages {
    averaged(observed, how).0
}

/// Averages, and which of the strongest are one case's doing.
pub fn averaged(observed: &Observed, how: &How) -> (Averages, Vec<Dominated>) {
    let mut averaging = Averaging::new(observed, how);
    averaging.add(observed, &observed.cells, &observed.sampled);
    averaging.finish(observed).averages()
}

/// Averages of cells that come in pieces, which need not be held once they are added.
#[derive(Debug)]
pub struct Averaging {
    how: How,
    cells: table::Filling,
    peaks: peaks::Peaks,
}

impl Averaging {
    /// Of these cases; their cells are those that are added.
    pub fn new(observed: &Observed, how: &How) -> Self {
        let (cells, peaks) = (table::Filling::new(observed, &how.by), peaks::Peaks::new(observed, &how.by));
        Self { how: how.clone(), cells, peaks }
    }

    /// Adds cells of the same cases, and what those of cases that are averaged alone gave in each sample.
    pub fn add(&mut self, observed: &Observed, cells: &Cells, sampled: &[Sampled]) {
        self.cells.add(cells, sampled);
        self.peaks.add(observed, cells);
    }

    /// All cells are added.
    pub fn finish(self, observed: &Observed) -> Averaged<'_> {
        Averaged { how: self.how, table: self.cells.finish(observed), peaks: self.peaks }
    }
}

/// One number for each place, case and metric, from which averages are made.
#[derive(Debug)]
pub struct Averaged<'o> {
    how: How,
    table: table::Table<'o>,
    peaks: peaks::Peaks,
}

impl<'o> Averaged<'o> {
    /// What they are of.
    pub fn observed(&self) -> &'o Observed {
        self.table.observed
    }

    /// The averages, and which of the strongest are one case's doing.
    pub fn averages(&self) -> (Averages, Vec<Dominated>) {
        let (how, table, observed) = (&self.how, &self.table, self.table.observed);
        let pools = compute::Pools::new(observed, table, how);
        let kept = observed.cases.iter().filter(|case| case.kept).count();
        let mut rows = pools.rows();
        self.peaks.count(observed, &mut rows);
        let (top, test) = how.topk.map(|k| top::strongest(table, how, k as usize)).unwrap_or_default();
        let averages = Averages {
            by: how.by.clone(),
            kept,
            dropped: observed.cases.len() - kept,
            totals: pools.totals(),
            rows,
            differences: pools.differences(how.compare_arms),
            top,
            test,
            peaks: self.peaks.list(table),
        };
        (averages, pools.dominated(how.topk.unwrap_or(STRONGEST) as usize))
    }

    /// What is averaged: the mean effect over each case's cells of a place.
    pub fn of_cases(&self) -> impl Iterator<Item = CaseMean> + '_ {
        let table = &self.table;
        table.places.iter().flat_map(move |place| {
            let entries = place.entries.iter().enumerate();
            entries.flat_map(move |(i, entry)| {
                (0..table.observed.metrics.len()).map(move |metric| CaseMean {
                    case: table.order[entry.rank as usize],
                    at: table.place(&place.key),
                    metric,
                    effect: place.effect(i, metric),
                })
            })
        })
    }
}

/// The mean effect over a case's cells of one place.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseMean {
    /// Index of the case.
    pub case: u32,
    /// Where.
    pub at: Place,
    /// Index of the metric.
    pub metric: usize,
    /// Null where a cell's isn't finite.
    pub effect: Option<f64>,
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
    /// Averages beside the mean.
    pub stats: Vec<Stat>,
    /// How many of the strongest averages are listed, if any.
    pub topk: Option<u32>,
    /// What these are ordered by.
    pub order: Order,
    /// Whether arms are compared, case by case.
    pub compare_arms: bool,
}

impl How {
    const fn bootstrap(&self) -> Bootstrap {
        Bootstrap::new(self.resamples, self.seed, self.level)
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
    /// How the p-values of these were made, and the smallest there can be; null without them, and for fewer than two cases.
    #[serde(default)]
    pub test: Option<SignFlips>,
    /// Where each case's effect is largest, by arm and metric; left out of cases without an effect.
    #[serde(default)]
    #[schema(required = false)]
    pub peaks: Vec<Peak>,
}

/// The cell, trivial ones apart, with a case's largest effect towards the reference's value (in size, without a reference).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectPeak)]
pub struct Peak {
    /// Name of the case.
    pub case: String,
    /// Where.
    #[serde(flatten)]
    pub at: Place,
    /// Metric.
    pub metric: String,
    /// Its mean effect over samples.
    pub effect: f64,
    /// That effect as a share of the case's total effect.
    pub recovery: Option<f64>,
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
    /// Cases whose largest effect lies here (Hase et al. 2023: averages hide where each prompt's effect lies).
    #[serde(default)]
    #[schema(required = false)]
    pub peaks: usize,
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

/// One of the strongest averages of a metric over all cases, by the size of its mean effect, or by |t| if asked for. Averages
/// whose cells are all trivial are none of them.
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
    /// Its standard error; null for fewer than two cases.
    #[serde(default)]
    pub se: Option<f64>,
    /// Cases.
    #[serde(default)]
    pub n: usize,
    /// Mean over standard error; null for fewer than two cases, and where all have the same effect.
    pub t: Option<f64>,
    /// Probability, if no average had an effect, that the clearest of all is at least as clear as this one: by flipping the
    /// signs of whole cases (see `test` beside this list), with the maximum of all averages of the metric, so that the choice
    /// among them is allowed for (Westfall and Young 1993). Null for fewer than two cases, and where no case has an effect.
    pub p_max_t: Option<f64>,
    /// Share of drawn sets of cases in which it is among the top k of its metric; null for fewer than two cases.
    pub stability: Option<f64>,
}

/// Some of the strongest averages that are one case's doing: it makes more than half of the sum of their cases' sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Dominated {
    /// The metric.
    pub metric: String,
    /// The group, if it is about the averages of one.
    pub group: Option<String>,
    /// The case.
    pub case: String,
    /// How many of the strongest averages, and of how many.
    pub averages: [usize; 2],
    /// The strongest of them.
    pub first: Place,
    /// Its mean.
    pub mean: f64,
    /// The mean of its other cases.
    pub without: f64,
}

impl How {
    /// As a request asks for it.
    pub fn of(spec: &crate::spec::sweep::Averaging) -> Self {
        Self {
            by: spec.by.clone(),
            resamples: spec.ci.resamples,
            seed: spec.ci.seed,
            level: spec.ci.level,
            stats: spec.stats.clone(),
            topk: spec.topk.map(|top| top.k),
            order: spec.topk.map_or_else(Order::default, |top| top.order),
            compare_arms: spec.compare.contains(&Key::Arm),
        }
    }
}
