//! Which cases count, and how effects are averaged over them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::declare::{declare, maybe, nothing, of_request, or};
use super::expected::Expected;
use super::problem::{Problems, code};
use super::read::Node;

declare! {
read
/// Which cases count. The others are dropped, and listed with the reason. Probabilities are those of the target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Filters {
    /// The target that the clean run must rank first, by default `target`; or `false` for none.
    #[schema(required = false)]
    pub expect_top1: Expected = or(Expected::default(), Expected::read),
    /// Least probability in the clean run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_clean_prob: Option<f64> = maybe(probability),
    /// Least total effect on the probability: clean minus corrupted, mean over samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_total_effect: Option<f64> = maybe(probability),
}
}

/// An average beside the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// Half of the cases are above it.
    Median,
    /// The mean without the lowest and the highest fifth of the cases.
    TrimmedMean,
}

impl Stat {
    /// Reads a list of statistics. Those that are always given may be named, too.
    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Self>> {
        let always = ["mean", "se", "ci95", "ci", "ci_t", "n"].map(|name| (name, None));
        let asked = [("median", Some(Self::Median)), ("trimmed_mean", Some(Self::TrimmedMean))];
        let choices = [&always[..], &asked].concat();
        let mut found: Vec<Self> = Vec::new();
        for stat in node.each(out, |n, out| n.choice(&choices, &[], out))?.into_iter().flatten() {
            if !found.contains(&stat) {
                found.push(stat);
            }
        }
        Some(found)
    }
}

declare! {
read
/// Percentile bootstrap over cases (Efron 1979): cases are drawn with replacement, and a case's tokens and samples stay
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Bootstrap {
    /// Drawn sets of cases.
    #[schema(required = false, minimum = 100, maximum = 10000)]
    pub resamples: u32 = or(2000, resamples),
    /// Seed of the draws.
    #[schema(required = false)]
    pub seed: u64 = or(1, |n, out| n.natural(0, out)),
    /// Share of the drawn means inside the interval.
    #[schema(required = false)]
    pub level: f64 = or(0.95, level),
    /// `bootstrap`, the only way.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<String>)]
    pub method: () = or((), |n, out| n.choice(&[("bootstrap", ())], &[], out)),
    /// `case`, what is drawn.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<String>)]
    pub unit: () = or((), |n, out| n.choice(&[("case", ())], &[], out)),
}
}

impl Bootstrap {
    /// So many drawn sets.
    pub const fn new(resamples: u32, seed: u64, level: f64) -> Self {
        Self { resamples, seed, level, method: (), unit: () }
    }
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self::new(2000, 1, 0.95)
    }
}

impl Filters {
    /// All cases count.
    pub const NONE: Self =
        Self { expect_top1: Expected::NOTHING, min_clean_prob: None, min_total_effect: None };
}

fn resamples(node: &Node<'_>, out: &mut Problems) -> Option<u32> {
    // Fewer draws say little of the ends of an interval, more nothing new.
    let (least, most) = (100, 10_000);
    let count = node.count(0, out)?;
    if !(least..=most).contains(&count) {
        let detail = format!("{count} is not from {least} to {most}");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "2000 are usual");
        return None;
    }
    Some(count)
}

fn level(node: &Node<'_>, out: &mut Problems) -> Option<f64> {
    let level = node.number(out)?;
    if !(0.5..1.0).contains(&level) {
        let detail = format!("{level} is not from 0.5 to below 1");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "0.95 is usual");
        return None;
    }
    Some(level)
}

fn probability(node: &Node<'_>, out: &mut Problems) -> Option<f64> {
    let x = node.number(out)?;
    let inside = (0.0..=1.0).contains(&x);
    if !inside {
        let detail = format!("{x} is no probability");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "write a number from 0 to 1");
    }
    inside.then_some(x)
}
