//! From final rows to scores: unembedding a block of rows at a time, then statistics over the vocabulary.

use rayon::prelude::*;

use super::Dtype;
use super::gemm::{PackedWeight, linear};
use super::lanes::{LANES, exp, max, vectorized};
use super::matrix::Matrix;
use crate::plan::Score;
use crate::plan::batch::ReadoutBatch;

/// Rows whose logits are held at once.
const BLOCK: usize = 48;

/// A reference distribution for KL divergences.
struct Reference {
    logits: Vec<f32>,
    probabilities: Vec<f32>,
    log_sum_exp: f64,
}

/// Scores of the rows `x [n, hidden]`, which are the batch's readout rows after the final norm.
pub(super) fn score(x: &Matrix, unembed: &PackedWeight, readout: &ReadoutBatch) -> Vec<Score> {
    let vocabulary = unembed.outputs();
    let unembed_rows = |rows: &[f32]| logits(rows, x.columns(), unembed);
    let references: Vec<Reference> = readout
        .kl_refs
        .iter()
        .map(|&r| {
            let logits = unembed_rows(x.row(r as usize));
            let (log_sum_exp, top) = vectorized(
                #[inline(always)]
                || log_sum_exp(&logits),
            );
            let shift = (log_sum_exp - f64::from(top)) as f32;
            let probabilities = vectorized(
                #[inline(always)]
                || logits.iter().map(|l| exp(l - top - shift)).collect(),
            );
            Reference { logits, probabilities, log_sum_exp }
        })
        .collect();
    let mut scores = Vec::with_capacity(x.rows());
    for rows in x.data().chunks(BLOCK * x.columns()) {
        let logits = unembed_rows(rows);
        scores.par_extend(logits.par_chunks_exact(vocabulary).map(|row| {
            vectorized(
                #[inline(always)]
                || of_row(row, readout, &references),
            )
        }));
    }
    scores
}

/// Logits of rows of this width.
pub(super) fn logits(rows: &[f32], columns: usize, unembed: &PackedWeight) -> Vec<f32> {
    let mut logits = vec![0.0; rows.len() / columns * unembed.outputs()];
    linear(rows, unembed, None, Dtype::F32, &mut logits);
    logits
}

#[inline(always)]
fn of_row(logits: &[f32], readout: &ReadoutBatch, references: &[Reference]) -> Score {
    let (log_sum_exp, largest) = log_sum_exp(logits);
    let entropy = readout.entropy.then(|| entropy(logits, log_sum_exp, largest));
    let targets: Vec<f32> = readout.targets.iter().map(|&t| logits[t as usize]).collect();
    let ranks = readout.targets.iter().map(|&t| rank(logits, t as usize)).collect();
    let kl = references.iter().map(|r| divergence(r, logits, log_sum_exp)).collect();
    Score {
        log_sum_exp,
        logits: targets,
        ranks,
        top: top(logits, readout.topk as usize),
        kl,
        entropy,
        ..Score::default()
    }
}

/// Entropy in nats: the log of the partition function less the expected logit.
#[inline(always)]
fn entropy(logits: &[f32], log_sum_exp: f64, largest: f32) -> f64 {
    let (mut mass, mut expected) = ([0.0f64; LANES], [0.0f64; LANES]);
    for (i, l) in logits.iter().enumerate() {
        let p = f64::from(exp(l - largest));
        mass[i % LANES] += p;
        expected[i % LANES] += p * f64::from(l - largest);
    }
    // The mass of the same f32 exponentials, so that a point mass has exactly no entropy.
    let expected = expected.iter().sum::<f64>() / mass.iter().sum::<f64>();
    (log_sum_exp - f64::from(largest) - expected).max(0.0)
}

/// Log of the sum of exponentials, accumulated in f64, and the largest logit.
#[inline(always)]
fn log_sum_exp(logits: &[f32]) -> (f64, f32) {
    let top = max(logits);
    let mut lanes = [0.0f64; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for logits in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(exp(logits[i] - top));
        }
    }
    for (lane, l) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(l - top));
    }
    (f64::from(top) + lanes.iter().sum::<f64>().ln(), top)
}

/// `KL(reference || row)` in nats: the expectation under the reference of the difference of log probabilities.
#[inline(always)]
fn divergence(reference: &Reference, logits: &[f32], log_sum_exp: f64) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let mut mass = [0.0f64; LANES];
    let rows = reference.probabilities.iter().zip(&reference.logits).zip(logits);
    for (i, ((p, r), l)) in rows.enumerate() {
        lanes[i % LANES] += f64::from(*p) * (f64::from(*r) - f64::from(*l));
        mass[i % LANES] += f64::from(*p);
    }
    // The probabilities are f32: dividing by their sum keeps a distribution's divergence from itself at exactly zero.
    let expected = lanes.iter().sum::<f64>() / mass.iter().sum::<f64>();
    expected + (log_sum_exp - reference.log_sum_exp)
}

/// 1 + the number of tokens that are more probable; of equal ones, those with the lower id come first.
#[inline(always)]
fn rank(logits: &[f32], target: usize) -> u32 {
    let own = logits[target];
    let before = logits[..target].iter().map(|&l| u32::from(l >= own)).sum::<u32>();
    let after = logits[target + 1..].iter().map(|&l| u32::from(l > own)).sum::<u32>();
    1 + before + after
}

/// The `k` most probable tokens, best first; of equal ones the lower id comes first.
#[inline(always)]
fn top(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > floor || best.len() < k {
            let place = best.partition_point(|(_, other)| *other >= logit);
            best.insert(place, (id, logit));
            best.truncate(k);
            if best.len() == k {
                floor = best[k - 1].1;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score_row(logits: &[f32], targets: &[u32], topk: u32) -> Score {
        let readout =
            ReadoutBatch { rows: vec![0], targets: targets.to_vec(), topk, kl_refs: vec![], entropy: true };
        of_row(logits, &readout, &[])
    }

    #[test]
    fn ranks_and_top_tokens_break_ties_by_token_id() {
        let score = score_row(&[1.0, 3.0, 3.0, -2.0, 3.0], &[0, 1, 2, 4, 3], 3);
        assert_eq!(score.ranks, [4, 1, 2, 3, 5]);
        assert_eq!(score.top, [(1, 3.0), (2, 3.0), (4, 3.0)]);
    }

    #[test]
    fn log_sum_exp_is_that_of_f64() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 40.0 - 12.0).collect();
        let expected = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert!((score_row(&logits, &[], 1).log_sum_exp - expected).abs() < 1e-7);
    }

    #[test]
    fn entropy_is_that_of_the_textbook() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let p = logits.iter().map(|l| f64::from(*l).exp() / z);
        let expected: f64 = p.map(|p| -p * p.ln()).sum();
        assert!((score_row(&logits, &[], 1).entropy.unwrap() - expected).abs() < 1e-6);
        assert!((score_row(&[1.0; 8], &[], 1).entropy.unwrap() - 8.0_f64.ln()).abs() < 1e-7);
        assert!(score_row(&[0.0, 200.0], &[], 1).entropy.unwrap() < 1e-12);
    }

    #[test]
    fn a_distribution_diverges_from_itself_by_exactly_zero_and_from_others_by_the_textbook_sum() {
        let weight: Vec<f32> = (0..100 * 8).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
        let unembed = PackedWeight::new(&weight, 100, 8, Dtype::F32);
        let x = Matrix::from_rows(8, (0..24).map(|i| ((i * 13) % 7) as f32 / 4.0).collect());
        let readout = ReadoutBatch {
            rows: vec![0, 1, 2],
            targets: (0..100).collect(),
            topk: 1,
            kl_refs: vec![1],
            entropy: true,
        };
        let scores = score(&x, &unembed, &readout);
        assert_eq!(scores[1].kl, [0.0]);
        let log_p = |s: &Score, i: usize| f64::from(s.logits[i]) - s.log_sum_exp;
        let expected: f64 = (0..100)
            .map(|i| log_p(&scores[1], i).exp() * (log_p(&scores[1], i) - log_p(&scores[0], i)))
            .sum();
        assert!((scores[0].kl[0] - expected).abs() < 1e-6, "{} {expected}", scores[0].kl[0]);
    }
}
