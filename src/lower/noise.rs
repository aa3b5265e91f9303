//! Random numbers: `NumPy`'s legacy stream bit for bit, and a counter-based one.

use std::f64::consts::PI;

use rand_mt::Mt;

/// `NumPy`'s `RandomState(seed).randn(n)`: MT19937, 53-bit doubles, Marsaglia's polar method with the second value
/// of each pair kept for the next call (`legacy_gauss`).
pub fn numpy_legacy(seed: u32, n: usize) -> Vec<f64> {
    legacy_gauss(Mt::new(seed), n)
}

/// `RandomState(seeds).randn(n)` of a list of seeds.
pub fn numpy_legacy_of(seeds: &[u32], n: usize) -> Vec<f64> {
    legacy_gauss(Mt::new_with_key(seeds.iter().copied()), n)
}

fn legacy_gauss(mut generator: Mt, n: usize) -> Vec<f64> {
    let mut kept = None;
    (0..n)
        .map(|_| {
            kept.take().unwrap_or_else(|| {
                let (first, second) = polar_pair(&mut generator);
                kept = Some(second);
                first
            })
        })
        .collect()
}

/// `NumPy`'s `RandomState(seed).uniform(-1, 1, n)`.
pub fn numpy_legacy_uniform(seed: u32, n: usize) -> Vec<f64> {
    let mut generator = Mt::new(seed);
    (0..n).map(|_| 2.0 * double53(&mut generator) - 1.0).collect()
}

fn polar_pair(generator: &mut Mt) -> (f64, f64) {
    loop {
        let x1 = 2.0 * double53(generator) - 1.0;
        let x2 = 2.0 * double53(generator) - 1.0;
        let r2 = x1 * x1 + x2 * x2;
        if r2 < 1.0 && r2 != 0.0 {
            let f = (-2.0 * r2.ln() / r2).sqrt();
            // NumPy keeps f*x1 for the next call and returns f*x2.
            return (f * x2, f * x1);
        }
    }
}

/// A double in `[0, 1)` from two 32-bit words.
fn double53(generator: &mut Mt) -> f64 {
    let a = f64::from(generator.next_u32() >> 5);
    let b = f64::from(generator.next_u32() >> 6);
    (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
}

/// A place in the counter-based noise: what a row of it depends on, and nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseKey {
    /// The request's seed.
    pub seed: u64,
    /// What the noise is for, so that different uses are independent: see [`stream`]. Operation `noise` of patches
    /// counts its streams from 1, by site and layer.
    pub stream: u32,
    /// Sample.
    pub sample: u32,
    /// Position in the prompt.
    pub position: u32,
}

/// Streams of random numbers: [`NoiseKey::stream`]. Those beside the gaussian count from the end.
pub mod stream {
    /// Method `gaussian`, and the rows that `student_t` stretches.
    pub const GAUSSIAN: u32 = 0;
    /// Method `uniform`.
    pub const UNIFORM: u32 = u32::MAX;
    /// The chi-square draws of method `student_t`.
    pub const CHI_SQUARE: u32 = u32::MAX - 1;
    /// Method `multivariate`: one number per token of the vocabulary.
    pub const MULTIVARIATE: u32 = u32::MAX - 2;
    /// The run that op `resample` draws.
    pub const PICK: u32 = u32::MAX - 3;
    /// Positions and directions of random controls.
    pub const CONTROL: u32 = u32::MAX - 4;
    /// Cases drawn by a bootstrap.
    pub const BOOTSTRAP: u32 = u32::MAX - 5;
    /// Cases whose signs a permutation test flips.
    pub const FLIPS: u32 = u32::MAX - 6;
}

/// `width` standard normal numbers from Philox4x32-10 (Salmon et al. 2011) and Box and Muller's transform in f64.
/// A prefix of a wider row has the same numbers.
pub fn philox_row(key: NoiseKey, width: usize) -> Vec<f64> {
    let pairs = unit_pairs(key, width).flat_map(|(u, v)| {
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - u).ln()).sqrt();
        let (sin, cos) = (2.0 * PI * v).sin_cos();
        [radius * cos, radius * sin]
    });
    pairs.take(width).collect()
}

/// `width` numbers uniform in `[-1, 1)` from the same generator.
pub fn philox_uniform_row(key: NoiseKey, width: usize) -> Vec<f64> {
    unit_pairs(key, width).flat_map(|(u, v)| [2.0 * u - 1.0, 2.0 * v - 1.0]).take(width).collect()
}

/// One draw from the chi-square distribution: the sum of `df` squared standard normal numbers.
pub fn philox_chi_square(key: NoiseKey, df: u32) -> f64 {
    philox_row(key, df as usize).iter().map(|x| x * x).sum()
}

/// A number below `n`, drawn by a seed.
pub fn pick(seed: u64, n: usize) -> usize {
    let [word, ..] = philox4x32([0, 0, 0, stream::PICK], [seed as u32, (seed >> 32) as u32]);
    // The bias of a 32-bit product is below n / 2^32.
    ((u64::from(word) * n as u64) >> 32) as usize
}

/// `count` numbers below `n`, drawn with replacement. Each of `set` and `draw` gives others.
pub fn resample(seed: u64, set: u32, draw: u32, n: u32, count: usize) -> Vec<u32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let words = (0..count.div_ceil(4) as u32)
        .flat_map(|block| philox4x32([block, draw, set, stream::BOOTSTRAP], key));
    // The bias of a 32-bit product is below n / 2^32.
    words.take(count).map(|word| ((u64::from(word) * u64::from(n)) >> 32) as u32).collect()
}

/// Pairs of doubles in `[0, 1)`, enough for `width` numbers: one per block of the generator.
fn unit_pairs(key: NoiseKey, width: usize) -> impl Iterator<Item = (f64, f64)> {
    let seed = [key.seed as u32, (key.seed >> 32) as u32];
    (0..width.div_ceil(2) as u32).map(move |block| {
        let words = philox4x32([block, key.position, key.sample, key.stream], seed);
        (unit(words[0], words[1]), unit(words[2], words[3]))
    })
}

/// A double in `[0, 1)` with 53 random bits.
fn unit(high: u32, low: u32) -> f64 {
    (f64::from(high >> 5) * 67_108_864.0 + f64::from(low >> 6)) / 9_007_199_254_740_992.0
}

/// Ten rounds of Philox4x32.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}
