//! A weight with rows to multiply it with: what its products are compared and timed on.

use super::device::{Buffer, Shape};
use super::gemm::{Algorithm, MANY};
use super::{Cuda, OutOfMemory, PAD, Weight};

/// Different rows among those compared.
const PERIOD: usize = 8;
/// Of the library's choices for many rows, how many are timed.
const OFFERS: usize = 4;
/// Rows that they are timed with.
const TIMED: usize = 2 * MANY;
/// Equal neighbours among those rows: the limit of what the rows of one position are in the branches of a trace.
const ALIKE: usize = 32;
/// Seconds for which each is timed: long enough for the clock to fall.
const LONG: f64 = 0.04;

pub(super) struct Trial<'a> {
    cuda: &'a Cuda,
    weight: &'a Weight,
    wide: bool,
    /// Most rows of a product.
    most: usize,
    /// Random rows.
    distinct: Buffer,
    /// Repetitions of them.
    x: Buffer,
    out: Buffer,
    /// The first rows of the product of `most` rows.
    expected: Buffer,
    count: Buffer,
}

impl<'a> Trial<'a> {
    /// `wide`: whether products are in f32.
    pub(super) fn new(
        cuda: &'a Cuda,
        weight: &'a Weight,
        wide: bool,
        most: usize,
    ) -> Result<Trial<'a>, OutOfMemory> {
        let (outputs, inputs) = weight.shape();
        let bytes = cuda.dtype.bytes() as usize;
        let out_bytes = if wide { 4 } else { bytes };
        let trial = Trial {
            cuda,
            weight,
            wide,
            most,
            distinct: cuda.random(most.div_ceil(ALIKE), inputs, 1)?,
            x: cuda.device.allocate((most + PAD) * inputs * bytes)?,
            out: cuda.device.allocate((most + PAD) * outputs * out_bytes)?,
            expected: cuda.device.allocate(PERIOD * outputs * out_bytes)?,
            count: cuda.device.allocate(4)?,
        };
        trial.fill(|row| row % PERIOD);
        trial.product(most);
        cuda.device.copy(trial.out.arg(), trial.expected.arg(), PERIOD * outputs * out_bytes);
        Ok(trial)
    }

    /// Queues a product of so many rows.
    pub(super) fn product(&self, rows: usize) {
        let (x, weight, out) = (self.x.arg(), self.weight.start(), self.out.arg());
        self.cuda.gemm.multiply(x, weight, self.weight.shape(), rows, out, self.wide);
    }

    /// Whether all rows of a product of so many have the bits that they have in the largest.
    pub(super) fn agrees(&self, rows: usize) -> bool {
        self.product(rows);
        let device = &self.cuda.device;
        device.clear(&self.count);
        // Bits are compared, so an f32 row is one of twice as many half-precision numbers.
        let halves = if self.wide && self.cuda.dtype.bytes() == 2 { 2 } else { 1 };
        let columns = self.weight.shape().0 * halves;
        let args = [
            self.out.arg(),
            self.expected.arg(),
            self.count.arg(),
            (rows as u32).into(),
            (columns as u32).into(),
            (PERIOD as u32).into(),
        ];
        device.launch("count_different", Shape::blocks(rows, 256), args);
        device.download::<u32>(&self.count, 1)[0] == 0
    }

    /// Has products of many rows take the algorithm that is fastest where neighbours are alike, of those that the library
    /// offers and that give the same bits.
    pub(super) fn prefer_fastest(&self) {
        let shape = self.weight.shape();
        if self.most < TIMED {
            return;
        }
        let Cuda { gemm, .. } = self.cuda;
        let mut offers = gemm.offers(shape, TIMED, OFFERS);
        offers.retain(|algorithm| {
            gemm.prefer(shape, Some(*algorithm));
            [TIMED, self.most].into_iter().all(|rows| self.agrees(rows))
        });
        self.fill(|row| row / ALIKE);
        let seconds = |algorithm: &Algorithm| {
            gemm.prefer(shape, Some(*algorithm));
            self.cuda.sustained(LONG, || self.product(TIMED))
        };
        let timed: Vec<(f64, Algorithm)> = offers.iter().map(|offer| (seconds(offer), *offer)).collect();
        let fastest = timed.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        gemm.prefer(shape, fastest.map(|(_, algorithm)| algorithm));
        self.fill(|row| row % PERIOD);
    }

    /// Makes every row a copy of one of the random ones.
    fn fill(&self, which: impl Fn(usize) -> usize) {
        let rows: Vec<u32> = (0..self.most).chain(0..PAD).map(|row| which(row) as u32).collect();
        let words = self.weight.shape().1 * self.cuda.dtype.bytes() as usize / 4;
        let device = &self.cuda.device;
        let args = [
            self.distinct.arg(),
            device.table(&rows),
            self.x.arg(),
            (rows.len() as u32).into(),
            (words as u32).into(),
        ];
        device.launch("gather", Shape::items(rows.len() * words / 4), args);
    }
}
