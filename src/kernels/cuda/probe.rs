//! What the device at hand really does: from how many rows on its products give a row the same bits, which of the library's
//! algorithms is fastest, and how fast it multiplies and copies.

use std::time::Instant;

use super::device::Buffer;
use super::trial::Trial;
use super::{Cuda, OutOfMemory, PAD, Weight};
use crate::kernels::facts::{Invariance, Rates};
use crate::kernels::upload::Made;

/// Row counts compared, largest first. Libraries change kernels at powers of two and tile heights.
const COUNTS: [usize; 41] = [
    8192, 5001, 4096, 3072, 2049, 2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 257, 256, 255, 192, 160,
    129, 128, 127, 96, 65, 64, 63, 48, 33, 32, 31, 24, 17, 16, 12, 8, 7, 5, 4, 3, 2, 1,
];
/// Row counts that small products may be padded to.
const PADDED: [usize; 9] = [16, 32, 64, 96, 128, 192, 256, 384, 512];

impl Cuda {
    /// Finds from how many rows on each product gives a row the same bits, which row counts are fastest, and by which
    /// algorithm many rows are: small products are padded to these counts from now on, large ones take that algorithm.
    /// `wide`: whether the product is unembedded in f32, 512 rows at most at a time.
    ///
    /// # Errors
    /// If the products to compare do not fit beside the weights.
    pub fn probe(&self, weights: &[(&Weight, bool)]) -> Result<Vec<Invariance>, OutOfMemory> {
        weights.iter().map(|&(weight, wide)| self.probe_one(weight, wide)).collect()
    }

    fn probe_one(&self, weight: &Weight, wide: bool) -> Result<Invariance, OutOfMemory> {
        let (outputs, inputs) = weight.shape();
        let most = if wide { PAD } else { COUNTS[0] };
        let trial = Trial::new(self, weight, wide, most)?;
        trial.prefer_fastest();
        let counts = COUNTS.into_iter().filter(|rows| *rows <= most);
        let floor = counts.take_while(|rows| trial.agrees(*rows)).last().filter(|floor| *floor <= PAD);
        let seconds = PADDED.map(|rows| self.at_once(|| trial.product(rows)));
        self.gemm.set_counts(outputs, inputs, fastest(&seconds, floor.unwrap_or(1)));
        Ok(Invariance { outputs, inputs, floor })
    }

    /// The ceilings: a large square product of random numbers, a few and for a while, and a copy of a few gigabytes.
    ///
    /// # Errors
    /// If the matrices do not fit beside the weights.
    pub fn rates(&self) -> Result<Rates, OutOfMemory> {
        const SIDE: usize = 8192;
        const LONG: f64 = 0.3;
        let square = |key| self.random(SIDE, SIDE, key);
        let (x, weight, out) = (square(3)?, square(4)?, square(5)?);
        let product = || self.gemm.multiply(x.arg(), weight.arg(), (SIDE, SIDE), SIDE, out.arg(), false);
        let (at_once, sustained) = (self.at_once(product), self.sustained(LONG, product));
        drop((x, weight, out));
        let bytes = 2usize << 30;
        let (from, to) = (self.device.allocate(bytes)?, self.device.allocate(bytes)?);
        let copy = self.at_once(|| self.device.copy(from.arg(), to.arg(), bytes));
        let operations = 2.0 * (SIDE as f64).powi(3);
        Ok(Rates {
            square_flops: operations / at_once,
            sustained_flops: operations / sustained,
            copy_bytes: 2.0 * bytes as f64 / copy,
        })
    }

    /// Random numbers, `[rows, columns]`, with room for padding.
    pub(super) fn random(&self, rows: usize, columns: usize, key: u64) -> Result<Buffer, OutOfMemory> {
        let numbers = self.device.allocate((rows + PAD) * columns * self.dtype.bytes() as usize)?;
        let made =
            Made { key, mean: 0.0, std: 1.0, bf16: false, first_row: 0, first_column: 0, width: columns };
        self.make(&made, rows, columns, numbers.arg());
        Ok(numbers)
    }

    /// Seconds of one of a few calls in a row, the best of five rounds.
    fn at_once(&self, f: impl Fn()) -> f64 {
        const CALLS: u32 = 8;
        (0..6).map(|_| self.seconds(CALLS, &f)).skip(1).fold(f64::INFINITY, f64::min)
    }

    /// Seconds of one of the calls that take `long` seconds, after as many others: a device that has taken all the power that it
    /// may for some tens of milliseconds lowers its clock.
    pub(super) fn sustained(&self, long: f64, f: impl Fn()) -> f64 {
        const MOST_CALLS: f64 = 1024.0;
        let calls = (long / self.seconds(1, &f)).ceil().clamp(1.0, MOST_CALLS) as u32;
        self.seconds(calls, &f);
        self.seconds(calls, &f)
    }

    /// Seconds of one of so many calls in a row.
    fn seconds(&self, calls: u32, f: &impl Fn()) -> f64 {
        self.synchronize();
        let started = Instant::now();
        (0..calls).for_each(|_| f());
        self.synchronize();
        started.elapsed().as_secs_f64() / f64::from(calls)
    }
}

/// Those of [`PADDED`], from `floor` on, that no larger one is faster than. `seconds`: of each.
fn fastest(seconds: &[f64; PADDED.len()], floor: usize) -> Vec<usize> {
    let mut best = f64::INFINITY;
    let mut counts: Vec<usize> = PADDED
        .into_iter()
        .zip(seconds)
        .rev()
        .filter(|(rows, seconds)| {
            let wins = *rows >= floor && **seconds <= best;
            best = if wins { **seconds } else { best };
            wins
        })
        .map(|(rows, _)| rows)
        .collect();
    counts.reverse();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_counts_that_a_larger_one_beats_are_left_out() {
        let seconds = [9.0, 8.0, 2.0, 7.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(fastest(&seconds, 1), [64, 128, 192, 256, 384, 512]);
        assert_eq!(fastest(&seconds, 200), [256, 384, 512]);
    }
}
