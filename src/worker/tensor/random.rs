//! torch's generator of the CPU: the same seeds give the same numbers.

use rand_mt::Mt;

/// Mersenne twister and what is left of the last pair of normal numbers.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    twister: Mt,
    seed: u64,
    /// The second normal number of a pair, as `normal_` of few numbers draws them.
    spare: Option<f64>,
}

impl Default for Generator {
    fn default() -> Generator {
        // torch's own default seed
        Generator::new(67_280_421_310_721)
    }
}

impl Generator {
    /// Seeds as torch does: with the lower half of the seed.
    pub(crate) fn new(seed: u64) -> Generator {
        Generator { twister: Mt::new(seed as u32), seed, spare: None }
    }

    /// The seed.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    fn random(&mut self) -> u32 {
        self.twister.next_u32()
    }

    fn random64(&mut self) -> u64 {
        let (high, low) = (self.random(), self.random());
        u64::from(high) << 32 | u64::from(low)
    }

    /// A number in `[0, 1)` with 53 bits.
    pub(crate) fn uniform_f64(&mut self) -> f64 {
        (self.random64() & ((1 << 53) - 1)) as f64 / 9_007_199_254_740_992.0
    }

    /// A number in `[0, 1)` with 24 bits, for float32 and what is shorter.
    pub(crate) fn uniform_f32(&mut self) -> f32 {
        (self.random() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// A whole number in `[low, high)`.
    pub(crate) fn below(&mut self, low: i64, high: i64) -> i64 {
        let range = high.wrapping_sub(low) as u64;
        let draw = if range >= 1 << 32 { self.random64() } else { u64::from(self.random()) };
        (draw % range).wrapping_add(low as u64) as i64
    }

    /// Normal numbers, as `normal_` fills a contiguous tensor of f32 or shorter floats: pairwise from uniform numbers if there are at least 16 and they stand in `rows`, else one by one.
    pub(crate) fn normal_f32(&mut self, n: usize, mean: f64, std: f64, rows: bool, short: bool) -> Vec<f32> {
        if n < 16 || !rows {
            return (0..n).map(|_| (self.normal() * std + mean) as f32).collect();
        }
        let (mean, std) = (mean as f32, std as f32);
        let pair = |numbers: &mut [f32]| {
            for at in 0..8 {
                let (first, second) = (1.0 - numbers[at], numbers[at + 8]);
                let radius = (-2.0 * first.ln()).sqrt();
                let angle = 2.0 * std::f32::consts::PI * second;
                numbers[at] = radius * angle.cos() * std + mean;
                numbers[at + 8] = radius * angle.sin() * std + mean;
            }
        };
        // of short floats, what the last 16 replace is not drawn first
        let first = if short { n - n % 16 } else { n };
        let mut numbers: Vec<f32> = (0..first).map(|_| self.uniform_f32()).collect();
        numbers.resize(n, 0.0);
        for at in (0..n - 15).step_by(16) {
            pair(&mut numbers[at..at + 16]);
        }
        if !n.is_multiple_of(16) {
            // the last 16 are drawn anew
            let tail = &mut numbers[n - 16..];
            for number in tail.iter_mut() {
                *number = self.uniform_f32();
            }
            pair(tail);
        }
        numbers
    }

    /// The same in f64.
    pub(crate) fn normal_f64(&mut self, n: usize, mean: f64, std: f64, rows: bool) -> Vec<f64> {
        if n < 16 || !rows {
            return (0..n).map(|_| self.normal() * std + mean).collect();
        }
        let mut numbers: Vec<f64> = (0..n).map(|_| self.uniform_f64()).collect();
        let pair = |numbers: &mut [f64]| {
            for at in 0..8 {
                let (first, second) = (1.0 - numbers[at], numbers[at + 8]);
                let radius = (-2.0 * first.ln()).sqrt();
                let angle = 2.0 * std::f64::consts::PI * second;
                numbers[at] = radius * angle.cos() * std + mean;
                numbers[at + 8] = radius * angle.sin() * std + mean;
            }
        };
        for at in (0..n - 15).step_by(16) {
            pair(&mut numbers[at..at + 16]);
        }
        if !n.is_multiple_of(16) {
            let tail = &mut numbers[n - 16..];
            for number in tail.iter_mut() {
                *number = self.uniform_f64();
            }
            pair(tail);
        }
        numbers
    }

    /// One standard normal number; every second one is the other half of a pair.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (first, second) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-second).ln_1p()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * first;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}
