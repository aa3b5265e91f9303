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
/// enters, so the same row gives the same bits wherever it is computed.
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
    let (e, width) = (heads.dim, k.columns());
    let (k, v) = (k.data(), v.data());
    let scale = 1.0 / (e as f32).sqrt();
    let group = heads.query / heads.key_value;
    scores.0.clear();
    scores.0.resize(keys.len().next_multiple_of(LANES), 0.0);
    for (head, out) in out.chunks_exact_mut(e).enumerate() {
        let q = &q[head * e..][..e];
        let offset = head / group * e;
        let live = &mut scores.0[..keys.len()];
        for (score, &key) in live.iter_mut().zip(keys) {
            *score = dot(q, &k[key as usize * width + offset..][..e]) * scale;
        }
        let top = max(live);
        let total = softmax_numerators(&mut scores.0, keys.len(), top);
        let inverse = 1.0 / total;
        let mut chunks = out.chunks_exact_mut(LANES);
        let mut column = offset;
        for out in &mut chunks {
            let mut sum = [0.0; LANES];
            for (&p, &key) in scores.0.iter().zip(keys) {
                let v = &v[key as usize * width + column..][..LANES];
                for i in 0..LANES {
                    sum[i] = p.mul_add(v[i], sum[i]);
                }
            }
            for (out, sum) in out.iter_mut().zip(sum) {
                *out = sum * inverse;
            }
            column += LANES;
        }
        for (i, out) in chunks.into_remainder().iter_mut().enumerate() {
            let mut sum = 0.0;
            for (&p, &key) in scores.0.iter().zip(keys) {
                sum = p.mul_add(v[key as usize * width + column + i], sum);
            }
            *out = sum * inverse;
        }
    }
}

/// Turns scores into `exp(score - top)` and returns their sum. Scores past `live` become zero.
#[inline(always)]
fn softmax_numerators(scores: &mut [f32], live: usize, top: f32) -> f32 {
    let mut sum = [0.0; LANES];
    for (chunk, scores) in scores.chunks_exact_mut(LANES).enumerate() {
        for (i, score) in scores.iter_mut().enumerate() {
            let e = exp(*score - top);
            *score = if chunk * LANES + i < live { e } else { 0.0 };
            sum[i] += *score;
        }
    }
    sum_lanes(sum)
}
