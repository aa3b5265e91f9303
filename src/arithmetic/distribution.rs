//! Scans of a row of logits: what a part of the vocabulary says of a distribution.

use crate::lanes::{LANES, exp, finite_max, vectorized};

/// A reference distribution for KL divergences, over this rank's vocabulary.
#[derive(Debug)]
pub struct Reference {
    logits: Vec<f32>,
    /// `exp(logit - largest)`
    weights: Vec<f32>,
    /// The largest logit; NaN if one is not finite.
    pub largest: f32,
    /// Sum of the weights.
    pub mass: f64,
}

/// What a scan looks for.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The id of the first logit of every row.
    pub first: u32,
    /// Tokens whose place among the others is asked for.
    pub targets: &'a [u32],
    /// How many of the most probable tokens.
    pub topk: usize,
    /// Whether expected logits are asked for, as the entropy needs them.
    pub expected: bool,
    /// Distributions that rows are compared with.
    pub references: &'a [Reference],
}

/// What a scan found. Of a row that is not finite nothing else is looked for: it is no distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Largest logit, `m`; NaN if one is not finite.
    pub largest: f32,
    /// Sum of `exp(l - m)` over the logits `l`.
    pub mass: f64,
    /// Sum of `exp(l - m) (l - m)`; 0 where it is not asked for.
    pub expected: f64,
    /// For each target, how many tokens come before it: of larger logit, or of an equal one and lower id.
    pub before: Vec<u32>,
    /// The most probable tokens with their logits, best first, of equal ones the lower id first.
    pub top: Vec<(u32, f32)>,
    /// For each reference the sum of `exp(r - M) (r - l)` over its logits `r` with the largest `M`.
    pub gaps: Vec<f64>,
}

impl Search<'_> {
    /// Scans a row. `targets`: the logits of the target tokens, whoever owns them.
    pub fn scan(&self, logits: &[f32], targets: &[f32]) -> Found {
        vectorized(
            #[inline(always)]
            || {
                let largest = finite_max(logits);
                if largest.is_nan() {
                    return Found::not_finite();
                }
                let (mass, expected) =
                    if self.expected { moments(logits, largest) } else { (mass(logits, largest), 0.0) };
                let before = self.targets.iter().zip(targets);
                let before = before.map(|(token, logit)| before_target(logits, self.first, *token, *logit));
                Found {
                    largest,
                    mass,
                    expected,
                    before: before.collect(),
                    top: top(logits, self.first, self.topk),
                    gaps: self.references.iter().map(|r| gap(r, logits)).collect(),
                }
            },
        )
    }
}

impl Found {
    fn not_finite() -> Found {
        let (before, top, gaps) = (Vec::new(), Vec::new(), Vec::new());
        Found { largest: f32::NAN, mass: f64::NAN, expected: f64::NAN, before, top, gaps }
    }
}

impl Reference {
    /// From its logits.
    pub fn new(logits: Vec<f32>) -> Reference {
        vectorized(
            #[inline(always)]
            || Reference::of(logits),
        )
    }

    /// Its logit of the token in this place.
    pub fn logit(&self, place: usize) -> f32 {
        self.logits[place]
    }

    #[inline(always)]
    fn of(logits: Vec<f32>) -> Reference {
        let largest = finite_max(&logits);
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
        // Logits may lie further apart than f32 reaches, and 0 times infinity is no number.
        expected[i % LANES] += if p > 0.0 { p * f64::from(l - largest) } else { 0.0 };
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
