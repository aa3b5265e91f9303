//! Sign flips of whole cases: what is expected of many averages if nothing is there.
//!
//! If an intervention does nothing, a case's effects are as likely as their negatives (all of them at once: what the
//! averages have in common stays). So every pattern of flipped cases is as likely as the one observed, and a p-value is the
//! share of patterns in which the largest of all statistics is at least the one in question (single-step max-statistic,
//! Westfall and Young 1993). That holds for any number of cases; with few all patterns are counted, with many some are
//! drawn. In 4,000 sweeps of ten averages without any effect, the smallest p-value was at most 5 % in 3.6 % with 6 cases
//! (where p-values are multiples of 1/32, and 3.1 % is exact), in 4.3 % with 8, in 5.0 % with 12; with 5 cases it can't be.
//!
//! The statistic is |sum| / sqrt(sum of squares), which no flip changes in size but in the sum: it orders averages of the
//! same cases as |t| does, and, other than |t|, it has an end, the root of the number of cases, so that averages of few cases
//! don't hide all others.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lower::noise::{philox4x32, stream};
use crate::spec::statistics::Bootstrap;

/// So many patterns are counted rather than drawn.
const COUNTED: u64 = 4096;
/// Statistics nearer than this are one: of patterns that are equal, sums differ by rounding.
const SAME: f64 = 1e-9;

/// How the p-values of a sweep were made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignFlips {
    /// Cases that are flipped.
    pub cases: usize,
    /// Patterns of flips, the one observed among them. Flipping every case changes no |mean|: such pairs count once.
    pub patterns: u64,
    /// Whether these are all there are; else they were drawn, by the seed of the intervals.
    pub exact: bool,
    /// The smallest p-value that so many patterns can give.
    pub smallest_p: f64,
}

/// Patterns of flips of some cases.
#[derive(Debug, Clone, Copy)]
pub struct Flips {
    how: SignFlips,
    seed: u64,
}

/// Effects, `[cases, averages]`; 0 where a case has no part in an average.
#[derive(Debug)]
pub struct Effects<'e> {
    /// The numbers.
    pub values: &'e [f64],
    /// Averages.
    pub width: usize,
}

impl Flips {
    /// All patterns of few cases, or as many drawn ones as there are drawn sets for intervals.
    pub fn new(cases: usize, bootstrap: &Bootstrap) -> Self {
        let drawn = u64::from(bootstrap.resamples) + 1;
        let all =
            u32::try_from(cases.max(1) - 1).ok().and_then(|n| 1_u64.checked_shl(n)).filter(|all| *all > 0);
        let exact = all.filter(|all| *all <= COUNTED.max(drawn));
        let patterns = exact.unwrap_or(drawn);
        let smallest_p = 1.0 / patterns as f64;
        let how = SignFlips { cases, patterns, exact: exact.is_some(), smallest_p };
        Self { how, seed: bootstrap.seed }
    }

    /// What they are.
    pub fn how(&self) -> SignFlips {
        self.how
    }

    /// The sign of each case in a pattern. The first is the observed one.
    fn signs(&self, pattern: u64) -> Vec<f64> {
        let sign = |flipped: bool| if flipped { -1.0 } else { 1.0 };
        if pattern == 0 || self.how.exact {
            // The last case is never flipped: that would be the pattern in which all others are.
            return (0..self.how.cases).map(|case| sign(case < 64 && pattern >> case & 1 == 1)).collect();
        }
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let words = (0..).flat_map(|block| philox4x32([block, pattern as u32, 0, stream::FLIPS], key));
        let bits = words.flat_map(|word: u32| (0..32).map(move |bit| word >> bit & 1 == 1));
        bits.take(self.how.cases).map(sign).collect()
    }

    /// The probability of each average, if nothing is there, that the largest statistic of all is at least its own; `None`
    /// where no case has an effect.
    pub fn p_values(&self, effects: &Effects<'_>) -> Vec<Option<f64>> {
        let width = effects.width;
        let mut norms = vec![0.0; width];
        for row in effects.values.chunks_exact(width.max(1)) {
            norms.iter_mut().zip(row).for_each(|(norm, x)| *norm += x * x);
        }
        for norm in &mut norms {
            *norm = norm.sqrt();
        }
        // Patterns are independent and whole numbers are counted: how they are shared out changes nothing.
        let patterns: Vec<u64> = (0..self.how.patterns).collect();
        let maxima = patterns.par_chunks(64).map(|patterns| {
            let mut sums = vec![0.0; width];
            let of = |pattern: &u64| {
                add(&mut sums, &self.signs(*pattern), effects);
                statistics(&sums, &norms).fold(0.0, f64::max)
            };
            patterns.iter().map(of).collect::<Vec<f64>>()
        });
        let mut maxima: Vec<f64> = maxima.flatten().collect();
        maxima.sort_unstable_by(f64::total_cmp);
        let mut observed = vec![0.0; width];
        add(&mut observed, &self.signs(0), effects);
        let p = |(statistic, norm): (f64, &f64)| {
            let least = statistic * (1.0 - SAME);
            let as_large = maxima.len() - maxima.partition_point(|max| *max < least);
            (*norm > 0.0).then(|| as_large as f64 / maxima.len() as f64)
        };
        statistics(&observed, &norms).zip(&norms).map(p).collect()
    }
}

/// Sums over cases with these signs.
fn add(sums: &mut [f64], signs: &[f64], effects: &Effects<'_>) {
    sums.fill(0.0);
    for (sign, row) in signs.iter().zip(effects.values.chunks_exact(effects.width.max(1))) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += sign * x);
    }
}

fn statistics<'s>(sums: &'s [f64], norms: &'s [f64]) -> impl Iterator<Item = f64> + 's {
    sums.iter().zip(norms).map(|(sum, norm)| if *norm > 0.0 { (sum / norm).abs() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::noise::{NoiseKey, philox_row};

    fn flips(cases: usize, resamples: u32, seed: u64) -> Flips {
        Flips::new(cases, &Bootstrap::new(resamples, seed, 0.95))
    }

    #[test]
    fn few_cases_have_all_their_patterns_and_many_some() {
        let of = |cases| {
            let how = flips(cases, 2000, 1).how();
            (how.patterns, how.exact)
        };
        assert_eq!([of(2), of(6), of(13)], [(2, true), (32, true), (4096, true)]);
        assert_eq!([of(14), of(70), of(100_000)], [(2001, false); 3]);
        assert_eq!(flips(14, 10_000, 1).how().patterns, 8192);
        let six = SignFlips { cases: 6, patterns: 32, exact: true, smallest_p: 0.031_25 };
        assert_eq!(flips(6, 2000, 1).how(), six);
    }

    // For each average by hand: how many of all patterns have a sum as large.
    #[test]
    fn p_values_of_one_average_are_counted() {
        let p = |values: &[f64]| flips(values.len(), 2000, 1).p_values(&Effects { values, width: 1 })[0];
        assert_eq!(p(&[1.0, 1.0, 1.0, 1.0]), Some(1.0 / 8.0));
        assert_eq!(p(&[1.0, 2.0, 4.0, 1.0]), Some(1.0 / 8.0));
        // Of eight patterns one sums to 4, four to 2, three to 0.
        assert_eq!(p(&[1.0, 1.0, -1.0, 1.0]), Some(5.0 / 8.0));
        assert_eq!(p(&[0.3, 0.0, 0.0, 0.0]), Some(1.0));
        assert_eq!(p(&[0.0; 4]), None);
        assert_eq!(p(&[0.1, 0.2]), Some(0.5));
    }

    #[test]
    fn drawn_patterns_agree_with_all_of_them_within_monte_carlo_error() {
        let (cases, width) = (13, 40);
        let noise =
            philox_row(NoiseKey { seed: 3, sample: 0, position: 0, stream: stream::GAUSSIAN }, cases * width);
        let values: Vec<f64> = noise.iter().enumerate().map(|(i, x)| x + 0.05 * (i % width) as f64).collect();
        let effects = Effects { values: &values, width };
        let exact = flips(cases, 2000, 1).p_values(&effects);
        let drawn = Flips {
            how: SignFlips { cases, patterns: 20_001, exact: false, smallest_p: 1.0 / 20_001.0 },
            seed: 9,
        };
        for (exact, drawn) in exact.iter().zip(drawn.p_values(&effects)) {
            let (exact, drawn) = (exact.unwrap(), drawn.unwrap());
            let error = (exact * (1.0 - exact) / 20_000.0).sqrt() + 1e-4;
            assert!((exact - drawn).abs() < 4.0 * error, "{exact} {drawn}");
        }
    }
}
