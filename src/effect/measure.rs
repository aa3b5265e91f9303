//! One metric of one score.

use super::stats::finite;
use crate::lower::measure::{Measure, Reads, TargetToken, Targets};
use crate::plan::Score;
use crate::spec::metric::MetricKind;

/// The metric's value. `reference_top1`: the token that `top1_flip` compares with.
pub fn value(measure: &Measure, score: &Score, reference_top1: Option<u32>) -> Option<f64> {
    match &measure.reads {
        Reads::Set(set) => {
            let logit = log_sum_exp(score, set);
            match measure.metric.kind {
                MetricKind::Prob => finite((logit - score.log_sum_exp).exp()),
                MetricKind::Logprob => finite(logit - score.log_sum_exp),
                MetricKind::Rank => set.iter().map(|i| score.ranks[*i]).min().map(f64::from),
                _ => finite(logit),
            }
        }
        Reads::Difference(a, b) => finite(log_sum_exp(score, a) - log_sum_exp(score, b)),
        Reads::Divergence(i) => finite(score.kl[*i]),
        Reads::Top1 => Some(f64::from(u8::from(reference_top1? != score.top.first()?.0))),
    }
}

/// Natural log of the probability of a target set.
pub fn logprob(targets: &Targets, set: &[TargetToken], score: &Score) -> Option<f64> {
    let slot = |token: &TargetToken| targets.union.iter().position(|id| *id == token.id);
    let slots: Vec<usize> = set.iter().map(slot).collect::<Option<_>>()?;
    finite(log_sum_exp(score, &slots) - score.log_sum_exp)
}

/// Log of the sum of exponentials of a set's logits: its logit.
fn log_sum_exp(score: &Score, set: &[usize]) -> f64 {
    let logits = set.iter().map(|i| f64::from(score.logits[*i]));
    // A set of one stays exact. `f64::max` would drop a NaN, which must be seen.
    let max =
        logits.clone().reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f64::NEG_INFINITY);
    if set.len() == 1 || !max.is_finite() {
        return max;
    }
    max + logits.map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// The metric's value at some readouts.
pub fn values(
    measure: &Measure,
    scores: &[Score],
    readouts: &[usize],
    reference_top1: Option<u32>,
) -> Vec<Option<f64>> {
    readouts.iter().map(|i| value(measure, &scores[*i], reference_top1)).collect()
}
