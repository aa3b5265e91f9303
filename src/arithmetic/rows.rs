//! Operations on packed rows, one row at a time: `[rows, columns]` slices in row-major order.

use half::{bf16, f16};

use crate::Dtype;
use crate::lanes::{exp, norm_factor, squared_distance, sum, sum_of_squares, vectorized};

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

/// LayerNorm over each row of `weight.len()` columns: `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
///
/// The variance is that of the centred row, in a second pass: the difference of two large sums would lose its digits.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let columns = weight.len();
    vectorized(
        #[inline(always)]
        || {
            for (out, x) in out.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                let mean = sum(x) / columns as f32;
                let scale = norm_factor(squared_distance(x, mean), columns, eps);
                for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                    *out = ((x - mean) * scale).mul_add(*w, *b);
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

/// `x += y` for each row of `y.len()` columns.
pub fn add_to_each(x: &mut [f32], y: &[f32]) {
    vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(y.len()) {
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            }
        },
    );
}

/// GELU in place, by its approximation with tanh: `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`, which is
/// `x / (1 + e^-2u)`. Where that is less than 2e-37 it is 0.
pub fn gelu(x: &mut [f32]) {
    /// `2 * sqrt(2 / pi)`
    const DOUBLE: f32 = 1.595_769_2;
    vectorized(
        #[inline(always)]
        || {
            for x in x {
                let u = DOUBLE * (0.044_715 * *x * *x).mul_add(*x, *x);
                let y = *x / (1.0 + exp(-u));
                *x = if *x < -10.0 { 0.0 } else { y };
            }
        },
    );
}

/// `up = silu(gate) * up` for each pair.
pub fn gate_in_place(gate: &[f32], up: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || up.iter_mut().zip(gate).for_each(|(up, &g)| *up *= g / (1.0 + exp(-g))),
    );
}

/// `silu(gate) * up` for each pair, into `out`.
#[inline(always)]
pub(crate) fn gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + exp(-g)) * u;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_norm_centres_scales_and_shifts_as_in_f64_also_far_from_zero() {
        for (columns, offset) in [(5, 0.0), (64, 0.0), (768, 100.0), (1600, -3.0)] {
            let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
            let x: Vec<f32> = (0..2 * columns).map(|i| number(i) * 3.0 + offset).collect();
            let weight: Vec<f32> = (0..columns).map(|i| 1.0 + number(i + 7) / 4.0).collect();
            let bias: Vec<f32> = (0..columns).map(|i| number(i + 3) / 2.0).collect();
            let mut out = vec![f32::NAN; x.len()];
            layer_norm(&x, &weight, &bias, 1e-5, &mut out);
            for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact(columns)) {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / columns as f64;
                let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / columns as f64;
                for (i, out) in out.iter().enumerate() {
                    let centred = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                    let expected = centred * f64::from(weight[i]) + f64::from(bias[i]);
                    assert!(
                        (f64::from(*out) - expected).abs() < 2e-5,
                        "{columns}, {i}: {out}, not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_whose_variance_overflows_is_not_finite() {
        for large in [2e19, 3e38, f32::INFINITY, f32::NAN] {
            let (mut x, mut out) = (vec![1.0; 8], vec![0.0; 8]);
            x[3] = large;
            layer_norm(&x, &[1.0; 8], &[0.5; 8], 1e-5, &mut out);
            assert!(out.iter().all(|x| x.is_nan()), "{large}: {out:?}");
        }
    }

    #[test]
    fn gelu_is_the_formula_with_tanh_from_the_smallest_to_the_largest_numbers() {
        let formula = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        };
        let mut given: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 * 1e-3).collect();
        given.extend([1e-30, -1e-30, 100.0, -100.0, 1e20, -1e20, 3e38, -3e38]);
        let mut found = given.clone();
        gelu(&mut found);
        for (x, y) in given.iter().zip(&found) {
            let expected = formula(f64::from(*x));
            assert!(
                (f64::from(*y) - expected).abs() <= 1e-6 * expected.abs() + 1e-7,
                "{x}: {y}, not {expected}"
            );
        }
        let mut special = [f32::NAN, f32::INFINITY];
        gelu(&mut special);
        assert!(special[0].is_nan() && special[1] == f32::INFINITY);
    }
}
