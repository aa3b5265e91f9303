//! Scores of readouts whose vocabulary is divided over ranks: what each rank knows, and how it is put together.

use std::ops::Range;

use crate::plan::Score;
use crate::plan::batch::{AskedRows, ReadoutBatch};
use crate::plan::output::Missing;

/// What one rank knows of a row's distribution over its own part of the vocabulary.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Partial {
    /// Largest logit, `m`; NaN if any of them is not finite, and then nothing else is looked at.
    pub largest: f32,
    /// Sum of `exp(l - m)` over the logits `l`.
    pub mass: f64,
    /// Sum of `exp(l - m) (l - m)`; 0 where no entropy is asked for.
    pub expected: f64,
    /// Logit of each target, whoever owns it.
    pub logits: Vec<f32>,
    /// Own tokens that come before each target: of larger logit, or of an equal one and lower id.
    pub before: Vec<u32>,
    /// Own most probable tokens, best first, of equal ones the lower id first.
    pub top: Vec<(u32, f32)>,
    /// One for each reference of the readout.
    pub kl: Vec<KlPart>,
}

/// A rank's part of the divergence of a row from a reference row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KlPart {
    /// The reference's largest logit, `M`.
    pub largest: f32,
    /// Sum of `exp(r - M)` over the reference's logits `r`.
    pub mass: f64,
    /// Sum of `exp(r - M) (r - l)`, `l` being the row's logits.
    pub gap: f64,
    /// The reference's logit of the first of [`Partial::top`].
    pub of_top: f32,
}

/// Scores of a readout's rows from what each rank knows of them, `ranks [rank][row]`.
///
/// Here it is decided, once for every device and number of ranks, whether a row has a score at all: a single logit that is NaN
/// or infinite leaves no distribution, and comparisons with it would still give ranks, top tokens and effects of them.
pub fn merge(readout: &ReadoutBatch, ranks: &[Vec<Partial>]) -> Vec<Score> {
    let row = |i: usize| ranks.iter().map(|rows| &rows[i]).collect::<Vec<_>>();
    let log_sum_exps: Vec<f64> = (0..readout.rows.len()).map(|i| log_sum_exp(&row(i))).collect();
    let score = |i: usize, first: usize, asked: &AskedRows| {
        if !log_sum_exps[i].is_finite() {
            return Score { missing: Some(Missing::NotFinite), ..Score::default() };
        }
        let parts = row(i);
        let reference = |(n, r): (usize, &u32)| {
            divergence(&parts, n) + (log_sum_exps[i] - log_sum_exps[first + *r as usize])
        };
        Score {
            log_sum_exp: log_sum_exps[i],
            logits: parts[0].logits.clone(),
            ranks: (0..asked.targets.len())
                .map(|t| 1 + parts.iter().map(|p| p.before[t]).sum::<u32>())
                .collect(),
            top: top(&parts, asked.topk as usize),
            kl: asked.kl_refs.iter().enumerate().map(reference).collect(),
            top_under: top_under(&parts, asked.kl_refs.len()),
            entropy: asked.entropy.then(|| entropy(&parts, log_sum_exps[i])),
            ..Score::default()
        }
    };
    let of = |(rows, asked): (Range<usize>, _)| {
        let first = rows.start;
        rows.map(move |i| (i, first, asked))
    };
    readout.stretches().flat_map(of).map(|(i, first, asked)| score(i, first, asked)).collect()
}

/// The largest of the ranks' largest logits; NaN if there is one.
fn largest(logits: impl Iterator<Item = f32>) -> f64 {
    f64::from(logits.fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a }))
}

fn log_sum_exp(parts: &[&Partial]) -> f64 {
    let top = largest(parts.iter().map(|p| p.largest));
    let mass: f64 = parts.iter().map(|p| p.mass * (f64::from(p.largest) - top).exp()).sum();
    top + mass.ln()
}

/// Entropy in nats: the log of the partition function less the expected logit.
fn entropy(parts: &[&Partial], log_sum_exp: f64) -> f64 {
    let top = largest(parts.iter().map(|p| p.largest));
    let (mut mass, mut expected) = (0.0, 0.0);
    for part in parts {
        let below = f64::from(part.largest) - top;
        mass += part.mass * below.exp();
        expected += (part.expected + part.mass * below) * below.exp();
    }
    // The mass of the same f32 exponentials, so that a point mass has exactly no entropy.
    (log_sum_exp - top - expected / mass).max(0.0)
}

/// The expectation under the `n`-th reference of the difference of logits. Its exponentials are f32: dividing by their sum keeps
/// a distribution's divergence from itself at exactly zero.
fn divergence(parts: &[&Partial], n: usize) -> f64 {
    let top = largest(parts.iter().map(|p| p.kl[n].largest));
    let scaled = |p: &Partial, x: f64| x * (f64::from(p.kl[n].largest) - top).exp();
    let gap: f64 = parts.iter().map(|p| scaled(p, p.kl[n].gap)).sum();
    let mass: f64 = parts.iter().map(|p| scaled(p, p.kl[n].mass)).sum();
    gap / mass
}

/// Logits, under each of so many references, of the most probable token: the rank that owns it knows them.
fn top_under(parts: &[&Partial], references: usize) -> Vec<f32> {
    let best = |p: &&&Partial| p.top.first().map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
    // Of equal ones the lower id, which is the lower rank's.
    let owner = parts.iter().reduce(|a, b| if best(&b) > best(&a) { b } else { a });
    owner.map_or_else(Vec::new, |p| p.kl[..references].iter().map(|part| part.of_top).collect())
}

/// The `k` best of all ranks' best; a lower rank's ids are lower, and the sort keeps the order of equals.
fn top(parts: &[&Partial], k: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = parts.iter().flat_map(|p| &p.top).copied().collect();
    if parts.len() > 1 {
        all.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
        all.truncate(k);
    }
    all
}
