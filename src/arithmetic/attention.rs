//! Attention of packed rows, each over its own keys: as a whole, or in thirds that give the same bits.

use crate::lanes::{LANES, dot, exp, max, sum_lanes, vectorized};
use crate::matrix::Matrix;

/// Width and constants of a rank's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads, `h`.
    pub query: usize,
    /// Key/value heads, `k`; divides `query`.
    pub key_value: usize,
    /// Dimension of one head, `e`.
    pub dim: usize,
}

/// Which rows each of some consecutive rows attends to.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// Rows of keys and values that are seen; rows of one run share a list.
    pub rows: &'a [u32],
    /// Start of each row's list in `rows`.
    pub start: &'a [u32],
    /// Position of each row, one less than the length of its list.
    pub positions: &'a [u32],
}

impl<'a> Keys<'a> {
    /// Those of the rows from `first` on.
    #[must_use]
    pub fn from(self, first: usize) -> Keys<'a> {
        Keys { rows: self.rows, start: &self.start[first..], positions: &self.positions[first..] }
    }

    #[inline(always)]
    fn of(self, row: usize) -> &'a [u32] {
        &self.rows[self.start[row] as usize..][..=self.positions[row] as usize]
    }
}

/// `out [rows, h*e]`: attention of some rows of `q`, which begin at `first`.
pub fn attend(
    heads: Heads,
    q: &Matrix,
    first: usize,
    k: &Matrix,
    v: &Matrix,
    keys: Keys<'_>,
    out: &mut [f32],
) {
    vectorized(
        #[inline(always)]
        || {
            let mut scores = Scores::default();
            for (i, out) in out.chunks_exact_mut(q.columns()).enumerate() {
                row(heads, q.row(first + i), k, v, keys.of(i), &mut scores, out);
            }
        },
    );
}

/// The first third: scaled scores, `out [rows, h*stride]`, zero where a row has no key.
pub fn scores(
    heads: Heads,
    q: &Matrix,
    first: usize,
    k: &Matrix,
    keys: Keys<'_>,
    stride: usize,
    out: &mut [f32],
) {
    vectorized(
        #[inline(always)]
        || {
            for (i, out) in out.chunks_exact_mut(heads.query * stride).enumerate() {
                let keys = keys.of(i);
                for (head, out) in out.chunks_exact_mut(stride).enumerate() {
                    let (live, rest) = out.split_at_mut(keys.len());
                    head_scores(heads, head, q.row(first + i), k, keys, live);
                    rest.fill(0.0);
                }
            }
        },
    );
}

/// The second third: softmax of each head's scores over the row's keys, in place.
pub fn softmax(heads: Heads, positions: &[u32], stride: usize, scores: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (row, position) in scores.chunks_exact_mut(heads.query * stride).zip(positions) {
                for head in row.chunks_exact_mut(stride) {
                    normalise(&mut head[..=*position as usize]);
                }
            }
        },
    );
}

/// The last third: values weighed by the rows `first..` of the pattern, `out [rows, h*e]`.
pub fn weigh(heads: Heads, pattern: &Matrix, first: usize, v: &Matrix, keys: Keys<'_>, out: &mut [f32]) {
    let stride = pattern.columns() / heads.query;
    vectorized(
        #[inline(always)]
        || {
            for (i, out) in out.chunks_exact_mut(heads.query * heads.dim).enumerate() {
                let (keys, pattern) = (keys.of(i), pattern.row(first + i));
                for (head, out) in out.chunks_exact_mut(heads.dim).enumerate() {
                    head_weigh(heads, head, &pattern[head * stride..][..keys.len()], v, keys, out);
                }
            }
        },
    );
}

/// Room for the scores of one head, kept from row to row.
#[derive(Default)]
struct Scores(Vec<f32>);

/// `out [h*e] = softmax(q k^T / sqrt(e)) v` for each head of one row, over the key rows given.
///
/// The sums run over the row's own keys in the order of their positions: no padding, and nothing of the batch's shape
/// enters, so the same row gives the same bits wherever it is computed, as a whole or in thirds.
#[inline(always)]
fn row(heads: Heads, q: &[f32], k: &Matrix, v: &Matrix, keys: &[u32], scores: &mut Scores, out: &mut [f32]) {
    scores.0.clear();
    scores.0.resize(keys.len(), 0.0);
    for (head, out) in out.chunks_exact_mut(heads.dim).enumerate() {
        head_scores(heads, head, q, k, keys, &mut scores.0);
        normalise(&mut scores.0);
        head_weigh(heads, head, &scores.0, v, keys, out);
    }
}

/// Scaled scores of one head of a row with its keys.
#[inline(always)]
fn head_scores(heads: Heads, head: usize, q: &[f32], k: &Matrix, keys: &[u32], out: &mut [f32]) {
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
fn head_weigh(heads: Heads, head: usize, pattern: &[f32], v: &Matrix, keys: &[u32], out: &mut [f32]) {
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
fn normalise(scores: &mut [f32]) {
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
