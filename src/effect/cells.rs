//! What a sweep found, cell by cell and case by case: the one table from which averages, files and pictures are made.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::stats::Estimate;
use crate::spec::sweep::Key;

/// Everything that a sweep's averages are made from. Metrics are in the order of [`Observed::metrics`] throughout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Metrics, as they were asked for (`prob:target`).
    pub metrics: Vec<String>,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Every case, kept or dropped.
    pub cases: Vec<CaseHead>,
    /// The cells of kept cases, case by case, arm by arm, in row-major order of the arm's axes.
    pub cells: Cells,
    /// What these gave in each sample, of cases that are averaged alone.
    pub sampled: Vec<Sampled>,
}

/// The effects of a case's cells in each sample: what a case that is averaged alone has its errors from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Index of the case.
    pub case: u32,
    /// Of each cell, in the order of the case's cells, `[metrics, samples]`.
    pub effects: Vec<Vec<Option<f64>>>,
}

/// How a case enters averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not at all: a filter dropped it.
    Dropped,
    /// As one of several.
    OneOfSeveral,
    /// Alone: no other case counts, or none of its group where groups are told apart.
    Alone,
}

/// How each case enters averages, of those that count.
pub fn standings(cases: &[CaseHead], by: &[Key]) -> Vec<Standing> {
    let counted = || cases.iter().filter(|case| case.kept);
    let mut of_group = HashMap::<&str, usize>::new();
    for group in counted().filter_map(|case| case.group.as_deref()) {
        *of_group.entry(group).or_default() += 1;
    }
    let (only_one, groups) = (counted().count() == 1, by.contains(&Key::Group));
    let only_of_group =
        |case: &CaseHead| groups && case.group.as_deref().and_then(|group| of_group.get(group)) == Some(&1);
    let standing = |case: &CaseHead| match case.kept {
        false => Standing::Dropped,
        true if only_one || only_of_group(case) => Standing::Alone,
        true => Standing::OneOfSeveral,
    };
    cases.iter().map(standing).collect()
}

/// One arm of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArmHead {
    /// Its name.
    pub name: String,
    /// Names of its axes, outermost first: of `layer`, `position`, `head`, `dim`.
    pub axes: Vec<String>,
    /// Sites written.
    pub sites: Vec<String>,
    /// The run that is patched.
    pub base: String,
    /// The run whose metrics its cells could at most reach: total effects are this one's minus the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// One case of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaseHead {
    /// Its name.
    pub id: String,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it counts.
    pub kept: bool,
    /// The filters that it fails; empty for those that count.
    #[serde(default)]
    #[schema(required = true)]
    pub dropped: Vec<DroppedBy>,
    /// Whether the clean run's most probable token begins a member of the target; null without one.
    #[serde(default)]
    pub answers: Option<bool>,
    /// Token ids of each of its runs.
    pub runs: Vec<CaseRun>,
    /// The token range of its subject, half-open, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<[u32; 2]>,
    /// Each arm's total effect by metric, `[arms][metrics]`: reference minus base, over samples. Empty estimates where an
    /// arm has no reference.
    pub total_effect: Vec<Vec<Estimate>>,
}

/// An unpatched run of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaseRun {
    /// Its name.
    pub name: String,
    /// Its token ids; of a corrupted run of several samples those of the first.
    pub tokens: Vec<u32>,
    /// Its most probable next token; null where the logits are not finite.
    pub top1: Option<String>,
    /// How many of its samples have logits that are NaN or infinite; left out where none has.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    pub not_finite: u32,
    /// Metrics, over samples.
    pub values: Vec<Estimate>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A filter that a case failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedBy {
    /// The filter: `expect_top1`, `min_clean_prob` or `min_total_effect`.
    pub filter: String,
    /// What was seen, with numbers.
    pub detail: String,
}

/// Cells, column by column; all columns are equally long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cells {
    /// Index of the case.
    pub case: Vec<u32>,
    /// Index of the arm.
    pub arm: Vec<u32>,
    /// Layer, if the arm has that axis.
    pub layer: Vec<Option<u32>>,
    /// Position, if the arm has that axis.
    pub position: Vec<Option<u32>>,
    /// Class of that position around the case's subject, if it has one: an index into
    /// [`crate::spec::select::TokenClass::ALL`].
    pub token_class: Vec<Option<u8>>,
    /// Head, if the arm has that axis.
    pub head: Vec<Option<u32>>,
    /// Column, if the arm has that axis.
    pub dim: Vec<Option<u32>>,
    /// The answer is the source's by construction; null where the cell, or its base, is not finite.
    pub trivial: Vec<Option<bool>>,
    /// The edit can't reach the readout: the effect is exactly 0; null as above.
    pub exact_null: Vec<Option<bool>>,
    /// Numbers of each metric.
    pub metrics: Vec<MetricColumns>,
    /// Layer read, if the arm has that axis.
    pub source_layer: Vec<Option<u32>>,
}

/// The numbers of one metric, one of each cell. Null where a number isn't finite or could not be computed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricColumns {
    /// Of the patched run, mean over samples.
    pub value: Vec<Option<f64>>,
    /// The same minus the base's, paired by sample (indirect effect, IE).
    pub effect: Vec<Option<f64>>,
    /// Standard error of the effect over samples; null for a single sample.
    pub effect_se: Vec<Option<f64>>,
}

impl CaseHead {
    /// Whether an unpatched run of it is not finite.
    pub fn is_not_finite(&self) -> bool {
        self.runs.iter().any(|run| run.not_finite > 0)
    }

    /// Keeps the first `metrics` only: those asked for.
    pub fn keep(&mut self, metrics: usize) {
        self.runs.iter_mut().for_each(|run| run.values.truncate(metrics));
        self.total_effect.iter_mut().for_each(|totals| totals.truncate(metrics));
    }
}

impl Cells {
    /// How many.
    pub fn len(&self) -> usize {
        self.case.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.case.is_empty()
    }
}
