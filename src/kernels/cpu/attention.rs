//! Attention of one row over its own keys.

use super::lanes::{LANES, dot, exp, max, sum_lanes};
use super::matrix::Matrix;
use crate::kernels::Heads;

/// Room for the scores of one head, kept from row to row.
#[derive(Default)]
pub(super) struct Scores(Vec<f32>);

/// `out [h*e] = softmax(q k^T / sqrt(e)) v` for each head of one row, over the key rows given.
///
/// The sums run over the row's own keys in the order of their positions: no padding, and nothing of the batch's shape
/// enters, so the same row gives the same bits wherever it is computed, as a whole or in thirds.
#[inline(always)]
pub(super) fn row(
    heads: Heads,
    q: &[f32],
    k: &Matrix,
    v: &Matrix,
    keys: &[u32],
    scores: &mut Scores,
    out: &mut [f32],
) {
    scores.0.clear();
    scores.0.resize(keys.len(), 0.0);
    for (head, out) in out.chunks_exact_mut(heads.dim).enumerate() {
        head_scores(heads, head, q, k, keys, &mut scores.0);
        softmax(&mut scores.0);
        weigh(heads, head, &scores.0, v, keys, out);
    }
}

/// Scaled scores of one head of a row with its keys.
#[inline(always)]
pub(super) fn head_scores(heads: Heads, head: usize, q: &[f32], k: &Matrix, keys: &[u32], out: &mut [f32]) {
    let (e, width, k) = (heads.dim, k.columns(), k.data());
    let scale = 1.0 / (e as f32).sqrt();
    let offset = head / (heads.query / heads.key_value) * e;
    let q = &q[head * e..][..e];
    for (score, &key) in out.iter_mut().zip(keys) {
        *score = dot(q, &k[key as usize * width + offset..][..e]) * scale;
    }
}

/// Values weighed by one head's pattern.
#[inline(always)]
pub(super) fn weigh(heads: Heads, head: usize, pattern: &[f32], v: &Matrix, keys: &[u32], out: &mut [f32]) {
    let (e, width, v) = (heads.dim, v.columns(), v.data());
    let mut column = head / (heads.query / heads.key_value) * e;
    let mut chunks = out.chunks_exact_mut(LANES);
    for out in &mut chunks {
        let mut sum = [0.0; LANES];
        for (&p, &key) in pattern.iter().zip(keys) {
            let v = &v[key as usize * width + column..][..LANES];
            for i in 0..LANES {
                sum[i] = p.mul_add(v[i], sum[i]);
            }
        }
        out.copy_from_slice(&sum);
        column += LANES;
    }
    for (i, out) in chunks.into_remainder().iter_mut().enumerate() {
        let mut sum = 0.0;
        for (&p, &key) in pattern.iter().zip(keys) {
            sum = p.mul_add(v[key as usize * width + column + i], sum);
        }
        *out = sum;
    }
}

/// Softmax in place. The sum runs in lanes, as if the row were padded with zeros to whole lanes.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let top = max(scores);
    let mut sum = [0.0; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for scores in &mut chunks {
        for i in 0..LANES {
            scores[i] = exp(scores[i] - top);
            sum[i] += scores[i];
        }
    }
    for (score, sum) in chunks.into_remainder().iter_mut().zip(&mut sum) {
        *score = exp(*score - top);
        *sum += *score;
    }
    let inverse = 1.0 / sum_lanes(sum);
    for score in scores {
        *score *= inverse;
    }
}
