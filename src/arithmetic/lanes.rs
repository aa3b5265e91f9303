//! Elementwise arithmetic that the compiler can vectorise, with reductions in 16 fixed lanes so that the order of a sum
//! does not depend on the machine's vector width.

use std::sync::LazyLock;

/// The best instruction set of this machine.
pub(crate) static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Lanes of a reduction.
pub(crate) const LANES: usize = 16;

/// Runs `f` compiled for the machine's instruction set. Only what is inlined into `f` is: mark the closure, and what it
/// calls, `#[inline(always)]`, or the arithmetic silently falls back to library calls.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// Sum of the lanes, pairwise.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds `term(i)` for every index of a slice pair, lane by lane.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = a.mul_add(*b, *lane);
    }
    sum_lanes(lanes)
}

/// Sum of squares of a row.
#[inline(always)]
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    dot(x, x)
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += x);
    sum_lanes(lanes)
}

/// Sum of squared differences of a row from a number.
#[inline(always)]
pub(crate) fn squared_distance(x: &[f32], from: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = (x[i] - from).mul_add(x[i] - from, lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = (x - from).mul_add(x - from, *lane);
    }
    sum_lanes(lanes)
}

/// Largest number of a row; NaN if there is one.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] || x[i].is_nan() { x[i] } else { lanes[i] };
        }
    }
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
}

/// Largest number of a row; NaN if one is not finite, be it minus infinity.
#[inline(always)]
pub(crate) fn finite_max(x: &[f32]) -> f32 {
    let (mut largest, mut zero) = ([f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for i in 0..LANES {
            largest[i] = if x[i] > largest[i] { x[i] } else { largest[i] };
            // A finite number times 0 is 0, and any other is NaN, which no sum gets rid of.
            zero[i] += x[i] * 0.0;
        }
    }
    for (i, x) in rest.iter().enumerate() {
        largest[i] = if *x > largest[i] { *x } else { largest[i] };
        zero[i] += x * 0.0;
    }
    if sum_lanes(zero).is_nan() {
        f32::NAN
    } else {
        largest.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}

/// A norm's factor for a row of this sum of squares: `1 / sqrt(mean + eps)`.
///
/// NaN where the squares add up to more than f32 holds (at numbers of about 1e18): the factor would be 0, and the row zeros that
/// nothing tells from a result. One comparison a row finds it, since a sum that overflowed stays infinite, and rows that did
/// not overflow keep their bits.
#[inline(always)]
pub(crate) fn norm_factor(squares: f32, columns: usize, eps: f32) -> f32 {
    if squares < f32::INFINITY { 1.0 / (squares / columns as f32 + eps).sqrt() } else { f32::NAN }
}

/// `e^x` without branches, to within 2 units in the last place; 0 below -87.3, NaN stays NaN.
///
/// Range reduction by `ln 2` in two parts and a degree-6 polynomial (Cephes' `expf`).
#[inline(always)]
#[expect(clippy::many_single_char_names, reason = "as in the literature")]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let clamped = if x > 88.0 { 88.0 } else { x };
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let p = 1.987_569_2e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let e = p.mul_add(r * r, r) + 1.0;
    // 2^n by its exponent bits; the low bits of `shifted` hold n in two's complement.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { e * scale }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact by design")]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_the_true_value() {
        let mut worst = 0.0_f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let truth = f64::from(x).exp();
            let error = (f64::from(vectorized(
                #[inline(always)]
                || exp(x),
            )) - truth)
                .abs();
            let ulp = f64::from(f32::from_bits((truth as f32).to_bits() + 1)) - f64::from(truth as f32);
            worst = worst.max(error / ulp);
        }
        assert!(worst < 2.0, "{worst} ulp");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn max_and_dot_treat_the_rest_of_a_row_like_the_whole_lanes() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            let expected = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), expected);
            let squares: f32 = x.iter().map(|x| x * x).sum();
            assert_eq!(sum_of_squares(&x), squares); // small integers: exact in any order
        }
        assert!(max(&[1.0, f32::NAN, 2.0]).is_nan());
    }

    #[test]
    fn a_number_that_is_not_finite_is_seen_wherever_it_stands() {
        for n in [1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            assert_eq!(finite_max(&row), max(&row));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in 0..n {
                    let mut row = row.clone();
                    row[at] = bad;
                    assert!(finite_max(&row).is_nan(), "{bad} at {at} of {n}");
                }
            }
        }
        assert_eq!(finite_max(&[f32::MIN, f32::MAX, -f32::MIN_POSITIVE]), f32::MAX);
    }

    #[test]
    fn a_norm_whose_squares_overflow_has_no_factor() {
        assert_eq!(norm_factor(8.0, 2, 0.0), 0.5);
        assert_eq!(norm_factor(0.0, 4, 1e-6), 1.0 / 1e-6_f32.sqrt());
        assert!(norm_factor(f32::MAX, 2, 1e-6) > 0.0);
        for x in [1e20, f32::INFINITY, f32::NAN] {
            assert!(norm_factor(sum_of_squares(&[x, 1.0]), 2, 1e-6).is_nan(), "{x}");
        }
    }
}
