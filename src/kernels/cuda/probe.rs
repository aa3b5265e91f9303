//! What the device at hand really does: from how many rows on its products give a row the same bits, and how fast it
//! multiplies and copies.

use std::time::Instant;

use super::device::Shape;
use super::{Cuda, OutOfMemory, PAD, Weight};
use crate::kernels::facts::{Invariance, Rates};
use crate::kernels::upload::Made;

/// Row counts compared, largest first. Libraries change kernels at powers of two and tile heights.
const COUNTS: [usize; 39] = [
    8192, 4096, 3072, 2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 257, 256, 255, 192, 160, 129, 128, 127,
    96, 65, 64, 63, 48, 33, 32, 31, 24, 17, 16, 12, 8, 7, 5, 4, 3, 2, 1,
];
/// Row counts that small products may be padded to.
const PADDED: [usize; 9] = [16, 32, 64, 96, 128, 192, 256, 384, 512];
/// Different rows among those compared.
const PERIOD: usize = 8;

impl Cuda {
    /// Finds from how many rows on each product gives a row the same bits, and which row counts are fastest; small products
    /// are padded to these from now on.
    /// `wide`: whether the product is unembedded in f32, 512 rows at most at a time.
    ///
    /// # Errors
    /// If the products to compare do not fit beside the weights.
    pub fn probe(&self, weights: &[(&Weight, bool)]) -> Result<Vec<Invariance>, OutOfMemory> {
        weights.iter().map(|&(weight, wide)| self.probe_one(weight, wide)).collect()
    }

    fn probe_one(&self, weight: &Weight, wide: bool) -> Result<Invariance, OutOfMemory> {
        let (outputs, inputs) = weight.shape();
        let element = self.dtype.bytes() as usize;
        let out_element = if wide { 4 } else { element };
        let most = if wide { PAD } else { COUNTS[0] };
        let distinct = self.device.allocate(PERIOD * inputs * element)?;
        let x = self.device.allocate((most + PAD) * inputs * element)?;
        let expected = self.device.allocate(PERIOD * outputs * out_element)?;
        let out = self.device.allocate((most + PAD) * outputs * out_element)?;
        let count = self.device.allocate(4)?;
        let made =
            Made { key: 1, mean: 0.0, std: 1.0, bf16: false, first_row: 0, first_column: 0, width: inputs };
        self.make(&made, PERIOD, inputs, distinct.arg());
        let rows: Vec<u32> = (0..(most + PAD) as u32).map(|i| i % PERIOD as u32).collect();
        let words = inputs * element / 4;
        let args = [
            distinct.arg(),
            self.device.table(&rows),
            x.arg(),
            (rows.len() as u32).into(),
            (words as u32).into(),
        ];
        self.device.launch("gather", Shape::items(rows.len() * words / 4), args);
        self.gemm.multiply(x.arg(), weight.start(), (outputs, inputs), most, out.arg(), wide);
        self.device.copy(out.arg(), expected.arg(), PERIOD * outputs * out_element);
        let mut floor = None;
        for rows in COUNTS.into_iter().filter(|rows| *rows <= most) {
            self.gemm.multiply(x.arg(), weight.start(), (outputs, inputs), rows, out.arg(), wide);
            self.device.clear(&count);
            // Bits are compared, so an f32 row is one of twice as many half-precision numbers.
            let columns = (outputs * out_element / element) as u32;
            let args = [
                out.arg(),
                expected.arg(),
                count.arg(),
                (rows as u32).into(),
                columns.into(),
                (PERIOD as u32).into(),
            ];
            self.device.launch("count_different", Shape::blocks(rows, 256), args);
            if self.device.download::<u32>(&count, 1)[0] > 0 {
                break;
            }
            floor = Some(rows);
        }
        let floor = floor.filter(|floor| *floor <= PAD);
        let seconds = PADDED.map(|rows| {
            self.best_of(|| {
                self.gemm.multiply(x.arg(), weight.start(), (outputs, inputs), rows, out.arg(), wide);
            })
        });
        self.gemm.set_counts(outputs, inputs, fastest(&seconds, floor.unwrap_or(1)));
        Ok(Invariance { outputs, inputs, floor })
    }

    /// The ceilings: a large square product of random numbers, and a copy of a few gigabytes.
    ///
    /// # Errors
    /// If the matrices do not fit beside the weights.
    pub fn rates(&self) -> Result<Rates, OutOfMemory> {
        const SIDE: usize = 8192;
        let element = self.dtype.bytes() as usize;
        let square = || self.device.allocate((SIDE + PAD) * SIDE * element);
        let (x, weight, out) = (square()?, square()?, square()?);
        for (key, matrix) in [(3, &x), (4, &weight)] {
            let made =
                Made { key, mean: 0.0, std: 1.0, bf16: false, first_row: 0, first_column: 0, width: SIDE };
            self.make(&made, SIDE, SIDE, matrix.arg());
        }
        let product =
            self.best_of(|| self.gemm.multiply(x.arg(), weight.arg(), (SIDE, SIDE), SIDE, out.arg(), false));
        drop((x, weight, out));
        let bytes = 2usize << 30;
        let (from, to) = (self.device.allocate(bytes)?, self.device.allocate(bytes)?);
        let copy = self.best_of(|| self.device.copy(from.arg(), to.arg(), bytes));
        let cube = (SIDE as f64).powi(3);
        Ok(Rates { square_flops: 2.0 * cube / product, copy_bytes: 2.0 * bytes as f64 / copy })
    }

    /// Seconds of one of several calls in a row, the best of five rounds.
    fn best_of(&self, f: impl Fn()) -> f64 {
        const CALLS: u32 = 8;
        (0..6)
            .map(|_| {
                self.synchronize();
                let started = Instant::now();
                (0..CALLS).for_each(|_| f());
                self.synchronize();
                started.elapsed().as_secs_f64() / f64::from(CALLS)
            })
            .skip(1)
            .fold(f64::INFINITY, f64::min)
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
