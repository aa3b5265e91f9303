//! From final rows to what this rank knows of their scores: unembedding a block of rows at a time, then statistics over the
//! rank's vocabulary.

use std::ops::Range;

use rayon::prelude::*;

use super::Dtype;
use super::gemm::{PackedWeight, linear};
use super::lanes::{LANES, exp, max, vectorized};
use super::matrix::Matrix;
use crate::comm::Collective;
use crate::kernels::{KlPart, Partial};
use crate::plan::batch::ReadoutBatch;

/// Rows whose logits are held at once.
const BLOCK: usize = 48;

/// A reference distribution for KL divergences, over this rank's vocabulary.
struct Reference {
    logits: Vec<f32>,
    /// `exp(logit - largest)`
    weights: Vec<f32>,
    largest: f32,
    /// Sum of the weights.
    mass: f64,
}

/// What is looked for in every row.
struct Search<'a> {
    readout: &'a ReadoutBatch,
    references: &'a [Reference],
    /// First token of this rank's vocabulary.
    first: u32,
}

/// Partial scores of the rows `x [n, hidden]`, which are the batch's readout rows after the final norm.
pub(super) fn score(
    x: &Matrix,
    unembed: &PackedWeight,
    own: &Range<u32>,
    readout: &ReadoutBatch,
    pool: &rayon::ThreadPool,
    ranks: &dyn Collective<[f32]>,
) -> Vec<Partial> {
    let unembed_rows = |rows: &[f32]| pool.install(|| logits(rows, x.columns(), unembed));
    let references: Vec<Reference> = readout
        .kl_refs
        .iter()
        .map(|&r| {
            let logits = unembed_rows(x.row(r as usize));
            vectorized(
                #[inline(always)]
                || Reference::new(logits),
            )
        })
        .collect();
    let search = Search { readout, references: &references, first: own.start };
    let mut partials = Vec::with_capacity(x.rows());
    for rows in x.data().chunks(BLOCK * x.columns()) {
        let logits = unembed_rows(rows);
        let rows = || logits.par_chunks_exact(unembed.outputs());
        let target =
            |row: &[f32], t: u32| t.checked_sub(own.start).and_then(|t| row.get(t as usize)).copied();
        let mut targets: Vec<f32> = logits
            .chunks_exact(unembed.outputs())
            .flat_map(|row| readout.targets.iter().map(move |t| target(row, *t).unwrap_or(0.0)))
            .collect();
        ranks.all_reduce(&mut targets);
        let n = readout.targets.len();
        let partial = |(i, row): (usize, &[f32])| {
            vectorized(
                #[inline(always)]
                || search.of_row(row, targets[i * n..(i + 1) * n].to_vec()),
            )
        };
        pool.install(|| partials.par_extend(rows().enumerate().map(partial)));
    }
    partials
}

/// Logits of rows of this width.
pub(super) fn logits(rows: &[f32], columns: usize, unembed: &PackedWeight) -> Vec<f32> {
    let mut logits = vec![0.0; rows.len() / columns * unembed.outputs()];
    linear(rows, unembed, None, Dtype::F32, &mut logits);
    logits
}

impl Search<'_> {
    /// `targets`: the logits of the target tokens.
    #[inline(always)]
    fn of_row(&self, logits: &[f32], targets: Vec<f32>) -> Partial {
        let Search { readout, references, first } = self;
        let largest = max(logits);
        let (mass, expected) =
            if readout.entropy { moments(logits, largest) } else { (mass(logits, largest), 0.0) };
        let before = readout.targets.iter().zip(&targets);
        let before = before.map(|(token, logit)| before_target(logits, *first, *token, *logit)).collect();
        let kl = references
            .iter()
            .map(|r| KlPart { largest: r.largest, mass: r.mass, gap: gap(r, logits) })
            .collect();
        let top = top(logits, *first, readout.topk as usize);
        Partial { largest, mass, expected, logits: targets, before, top, kl }
    }
}

impl Reference {
    #[inline(always)]
    fn new(logits: Vec<f32>) -> Reference {
        let largest = max(&logits);
        let weights: Vec<f32> = logits.iter().map(|l| exp(l - largest)).collect();
        let mut mass = [0.0f64; LANES];
        weights.iter().enumerate().for_each(|(i, w)| mass[i % LANES] += f64::from(*w));
        Reference { logits, weights, largest, mass: mass.iter().sum() }
    }
}

/// Sum of exponentials and of exponentials times exponents.
#[inline(always)]
fn moments(logits: &[f32], largest: f32) -> (f64, f64) {
    let (mut mass, mut expected) = ([0.0f64; LANES], [0.0f64; LANES]);
    for (i, l) in logits.iter().enumerate() {
        let p = f64::from(exp(l - largest));
        mass[i % LANES] += p;
        expected[i % LANES] += p * f64::from(l - largest);
    }
    (mass.iter().sum(), expected.iter().sum())
}

/// Sum of exponentials, accumulated in f64: the bits of [`moments`].
#[inline(always)]
fn mass(logits: &[f32], largest: f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for logits in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(exp(logits[i] - largest));
        }
    }
    for (lane, l) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(l - largest));
    }
    lanes.iter().sum()
}

/// The reference's weighed differences of logits.
#[inline(always)]
fn gap(reference: &Reference, logits: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let rows = reference.weights.iter().zip(&reference.logits).zip(logits);
    for (i, ((w, r), l)) in rows.enumerate() {
        lanes[i % LANES] += f64::from(*w) * (f64::from(*r) - f64::from(*l));
    }
    lanes.iter().sum()
}

/// The number of own tokens that are more probable than a target; of equal ones, those with the lower id come first.
#[inline(always)]
fn before_target(logits: &[f32], first: u32, token: u32, logit: f32) -> u32 {
    let (lower, higher) = logits.split_at((token.saturating_sub(first) as usize).min(logits.len()));
    let before = lower.iter().map(|&l| u32::from(l >= logit)).sum::<u32>();
    // The target itself is among these, and not larger than itself.
    before + higher.iter().map(|&l| u32::from(l > logit)).sum::<u32>()
}

/// The `k` most probable tokens, best first; of equal ones the lower id comes first. `first`: the id of the first logit.
#[inline(always)]
fn top(logits: &[f32], first: u32, k: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in (first..).zip(logits) {
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
    use crate::comm::Single;
    use crate::kernels::merge;
    use crate::plan::Score;

    /// Scores of a row whose logits are divided over ranks, `cut` being the last one's first token.
    fn score_parts(logits: &[f32], cut: usize, targets: &[u32], topk: u32) -> Score {
        let readout =
            ReadoutBatch { rows: vec![0], targets: targets.to_vec(), topk, kl_refs: vec![], entropy: true };
        let of_targets = || targets.iter().map(|t| logits[*t as usize]).collect();
        let part = |first: usize, logits: &[f32]| {
            let search = Search { readout: &readout, references: &[], first: first as u32 };
            vec![search.of_row(logits, of_targets())]
        };
        let whole = [part(0, logits)];
        let parts = [part(0, &logits[..cut]), part(cut, &logits[cut..])];
        merge(&readout, if cut == 0 { &whole } else { &parts }).remove(0)
    }

    fn score_row(logits: &[f32], targets: &[u32], topk: u32) -> Score {
        let whole = score_parts(logits, 0, targets, topk);
        for cut in 1..logits.len() {
            let parts = score_parts(logits, cut, targets, topk);
            assert_eq!((&parts.ranks, &parts.top, &parts.logits), (&whole.ranks, &whole.top, &whole.logits));
            assert!((parts.log_sum_exp - whole.log_sum_exp).abs() < 1e-7);
            assert!((parts.entropy.unwrap() - whole.entropy.unwrap()).abs() < 1e-7);
        }
        whole
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
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let scores = merge(&readout, &[score(&x, &unembed, &(0..100), &readout, &pool, &Single)]);
        assert_eq!(scores[1].kl, [0.0]);
        let log_p = |s: &Score, i: usize| f64::from(s.logits[i]) - s.log_sum_exp;
        let expected: f64 = (0..100)
            .map(|i| log_p(&scores[1], i).exp() * (log_p(&scores[1], i) - log_p(&scores[0], i)))
            .sum();
        assert!((scores[0].kl[0] - expected).abs() < 1e-6, "{} {expected}", scores[0].kl[0]);
    }
}
