//! One metric of one score.

use super::stats::finite;
use crate::lower::measure::{Measure, Member, Reads, TargetToken, Targets};
use crate::plan::Score;
use crate::spec::metric::MetricKind;

/// The metric's value. `reference_top1`: the token that `top1_flip` compares with.
pub fn value(measure: &Measure, score: &Score, reference_top1: Option<u32>) -> Option<f64> {
    if score.missing.is_some() {
        return None;
    }
    let kind = measure.metric.kind;
    // By kind, so that a new one has to say what it is.
    match (kind, measure.reads(score)) {
        (MetricKind::Prob, Reads::Set(set)) => finite(logprob(score, set)?.exp()),
        (MetricKind::Logprob, Reads::Set(set)) => finite(logprob(score, set)?),
        (MetricKind::Logit, Reads::Set(set)) => finite(logit(score, &tokens(set)?)),
        (MetricKind::Rank, Reads::Set(set)) => best_rank(score, set).map(f64::from),
        (MetricKind::Top1, Reads::Set(set)) => Some(f64::from(u8::from(best_rank(score, set)? == 1))),
        (MetricKind::ProbDiff, Reads::Difference(a, b)) => {
            finite(logprob(score, a)?.exp() - logprob(score, b)?.exp())
        }
        // Of tokens alone the log-sum cancels, and is best left out.
        (MetricKind::LogitDiff, Reads::Difference(a, b)) => match (tokens(a), tokens(b)) {
            (Some(a), Some(b)) => finite(logit(score, &a) - logit(score, &b)),
            _ => finite(logprob(score, a)? - logprob(score, b)?),
        },
        (MetricKind::Kl, Reads::Divergence(i)) => finite(score.kl[*i]),
        (MetricKind::Top1Flip, Reads::Top1) => Some(f64::from(u8::from(reference_top1? != score.top1()?))),
        (MetricKind::DeltaNorm, Reads::Written) => finite(score.written.sqrt()),
        (
            MetricKind::Prob
            | MetricKind::Logprob
            | MetricKind::Logit
            | MetricKind::Rank
            | MetricKind::Top1
            | MetricKind::ProbDiff
            | MetricKind::LogitDiff
            | MetricKind::Kl
            | MetricKind::Top1Flip
            | MetricKind::DeltaNorm,
            reads,
        ) => unreachable!("BUG: {kind:?} does not read {reads:?}"),
    }
}

/// Natural log of the probability of a target set's first tokens.
pub fn first_logprob(targets: &Targets, name: &str, score: &Score) -> Option<f64> {
    let slot = |token: &TargetToken| targets.union.iter().position(|id| *id == token.id);
    let slots: Vec<usize> = targets.of(score.context).get(name)?.iter().map(slot).collect::<Option<_>>()?;
    if score.missing.is_some() {
        return None;
    }
    finite(logit(score, &slots) - score.log_sum_exp)
}

/// Target tokens of a set that holds nothing else.
fn tokens(set: &[Member]) -> Option<Vec<usize>> {
    let token = |member: &Member| match member {
        Member::Token(i) => Some(*i),
        Member::Sequence { .. } => None,
    };
    set.iter().map(token).collect()
}

/// The best rank of a set's tokens, 1 = most probable.
fn best_rank(score: &Score, set: &[Member]) -> Option<u32> {
    tokens(set)?.iter().map(|i| score.ranks[*i]).min()
}

/// A set's log-probability; `None` where its texts are not scored.
fn logprob(score: &Score, set: &[Member]) -> Option<f64> {
    if let Some(tokens) = tokens(set) {
        return Some(logit(score, &tokens) - score.log_sum_exp);
    }
    let member = |member: &Member| match *member {
        Member::Token(i) => Some(f64::from(score.logits[i]) - score.log_sum_exp),
        Member::Sequence { index, per } => Some(score.sequences.get(index)? / f64::from(per)),
    };
    Some(log_sum_exp(&set.iter().map(member).collect::<Option<Vec<_>>>()?))
}

/// A set's logit.
fn logit(score: &Score, tokens: &[usize]) -> f64 {
    log_sum_exp(&tokens.iter().map(|i| f64::from(score.logits[*i])).collect::<Vec<_>>())
}

/// Log of the sum of exponentials.
fn log_sum_exp(numbers: &[f64]) -> f64 {
    let numbers = numbers.iter().copied();
    // One number stays exact. `f64::max` would drop a NaN, which must be seen.
    let max =
        numbers.clone().reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f64::NEG_INFINITY);
    if numbers.len() == 1 || !max.is_finite() {
        return max;
    }
    max + numbers.map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// How far a metric's value differs between two readouts of one and the same run, computed in different rows of a batch:
/// what effects must stand out from. `None` where the plan has no twins.
pub fn noise_floor(measure: &Measure, scores: &[Score], twins: Option<(usize, usize)>) -> Option<f64> {
    let (a, b) = twins?;
    let (a, b) = (scores.get(a)?, scores.get(b)?);
    let top1 = a.top1();
    finite((value(measure, a, top1)? - value(measure, b, top1)?).abs())
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
