//! Draws of noise for the embeddings of a corruption's tokens.

use std::sync::Arc;

use super::facts::Facts;
use super::noise::{
    NoiseKey, numpy_legacy, numpy_legacy_uniform, philox_chi_square, philox_row, philox_uniform_row, stream,
};
use crate::spec::corruption::{Draws, Method, Mode, Multivariate, Rng, StudentT};

/// Noise of every sample, `[positions, hidden]` each, `positions` ascending. `std` is the method's sigma, if it has one.
///
/// Everything is drawn in f64 and rounded once to f32. ROME adds in f64 and rounds the sum: with its own stream, sums
/// may differ by one unit in the last place.
pub(super) fn rows(
    method: &Method,
    draws: &Draws,
    positions: &[u32],
    std: f64,
    facts: &dyn Facts,
) -> Vec<Arc<[f32]>> {
    let width = facts.config().hidden_size;
    let rows = Rows { draws, positions, width };
    let unit: Vec<Vec<f64>> = match method {
        Method::Uniform(_) => rows.of(numpy_legacy_uniform, stream::UNIFORM, philox_uniform_row),
        Method::StudentT(StudentT { df, .. }) => rows.student_t(*df),
        Method::Multivariate(Multivariate { k, .. }) => rows.multivariate(*k, facts),
        Method::Gaussian(_) | Method::ReplaceTokens(_) | Method::Run { .. } => rows.gaussian(),
    };
    unit.iter().map(|sample| sample.iter().map(|x| (x * std) as f32).collect()).collect()
}

struct Rows<'r> {
    draws: &'r Draws,
    positions: &'r [u32],
    width: usize,
}

impl Rows<'_> {
    fn samples(&self) -> u32 {
        self.draws.samples as u32
    }

    fn key(&self, stream: u32, sample: u32, position: u32) -> NoiseKey {
        NoiseKey { seed: self.draws.seed, stream, sample, position }
    }

    fn gaussian(&self) -> Vec<Vec<f64>> {
        self.of(numpy_legacy, stream::GAUSSIAN, philox_row)
    }

    /// Independent numbers of one distribution, from either generator.
    fn of(
        &self,
        numpy: fn(u32, usize) -> Vec<f64>,
        stream: u32,
        philox: fn(NoiseKey, usize) -> Vec<f64>,
    ) -> Vec<Vec<f64>> {
        let sample = self.positions.len() * self.width;
        match self.draws.rng {
            Rng::NumpyLegacy => {
                let seed = u32::try_from(self.draws.seed).expect("BUG: checked when it was read");
                let all = numpy(seed, self.samples() as usize * sample);
                all.chunks(sample).map(<[f64]>::to_vec).collect()
            }
            Rng::Philox => {
                self.each(|sample, position| philox(self.key(stream, sample, position), self.width))
            }
        }
    }

    /// Rows of every sample made one by one.
    fn each(&self, row: impl Fn(u32, u32) -> Vec<f64>) -> Vec<Vec<f64>> {
        let sample = |sample| self.positions.iter().flat_map(|p| row(sample, *p)).collect();
        (0..self.samples()).map(sample).collect()
    }

    fn student_t(&self, df: u32) -> Vec<Vec<f64>> {
        self.each(|sample, position| {
            let u = philox_chi_square(self.key(stream::CHI_SQUARE, sample, position), df);
            // A row of the same variance as the gaussian's: E[(df - 2) / u] = 1.
            let stretch = ((f64::from(df) - 2.0) / u).sqrt();
            let gaussian = philox_row(self.key(stream::GAUSSIAN, sample, position), self.width);
            gaussian.into_iter().map(|x| x * stretch).collect()
        })
    }

    /// `k (E - mean)^T g / sqrt(V - 1)`: for independent standard normal g its covariance is that of E's rows.
    fn multivariate(&self, k: f64, facts: &dyn Facts) -> Vec<Vec<f64>> {
        let vocab = facts.config().vocab_size;
        let weights: Vec<f64> = self
            .each(|sample, position| philox_row(self.key(stream::MULTIVARIATE, sample, position), vocab))
            .concat();
        let mut mean = facts.embedding_product(&vec![1.0; vocab]);
        for x in &mut mean {
            *x /= vocab as f64;
        }
        let scale = k / (vocab as f64 - 1.0).sqrt();
        let shift = if self.draws.mode == Mode::Replace { 1.0 } else { 0.0 };
        let products = facts.embedding_product(&weights);
        let rows = products.chunks(self.width).zip(weights.chunks(vocab));
        let centred = rows.flat_map(|(product, weights)| {
            let sum: f64 = weights.iter().sum();
            product.iter().zip(&mean).map(move |(x, mean)| (x - sum * mean) * scale + shift * mean)
        });
        let all: Vec<f64> = centred.collect();
        all.chunks(self.positions.len() * self.width).map(<[f64]>::to_vec).collect()
    }
}
