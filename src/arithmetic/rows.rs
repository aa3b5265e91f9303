//! Operations on packed rows, one row at a time: `[rows, columns]` slices in row-major order.

use half::{bf16, f16};

use crate::Dtype;
use crate::lanes::{exp, norm_factor, sum_of_squares, vectorized};

/// Rounds numbers to what the dtype can hold.
pub fn round(dtype: Dtype, values: &mut [f32]) {
    rounded(dtype, values);
}

/// [`round`], inlined.
#[inline(always)]
pub(crate) fn rounded(dtype: Dtype, values: &mut [f32]) {
    match dtype {
        Dtype::F32 => {}
        Dtype::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        Dtype::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
    }
}

/// RMS norm over each row of `weight.len()` columns: `out = x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let columns = weight.len();
    vectorized(
        #[inline(always)]
        || {
            for (out, x) in out.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                let scale = norm_factor(sum_of_squares(x), columns, eps);
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * w;
                }
            }
        },
    );
}

/// [`rms_norm`] in place. With a weight of one head's width, the norm of each head's slice of a row.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let columns = weight.len();
    vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(columns) {
                let scale = norm_factor(sum_of_squares(x), columns, eps);
                for (x, w) in x.iter_mut().zip(weight) {
                    *x = *x * scale * w;
                }
            }
        },
    );
}

/// Rotates each head of each row by its row's position. `cos`, `sin`: `[positions, half]`, a head being `2 * half` wide.
pub fn rotate(x: &mut [f32], columns: usize, positions: &[u32], half: usize, cos: &[f32], sin: &[f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (row, &position) in x.chunks_exact_mut(columns).zip(positions) {
                let cos = &cos[position as usize * half..][..half];
                let sin = &sin[position as usize * half..][..half];
                for head in row.chunks_exact_mut(2 * half) {
                    let (a, b) = head.split_at_mut(half);
                    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            }
        },
    );
}

/// `x += y`
pub fn add(x: &mut [f32], y: &[f32]) {
    vectorized(
        #[inline(always)]
        || x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
    );
}

/// `silu(gate) * up` for each pair, into `out`.
#[inline(always)]
pub(crate) fn gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + exp(-g)) * u;
    }
}
