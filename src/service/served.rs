//! What is known of the served model, beside its weights.

use std::sync::Arc;

use rayon::prelude::*;

use crate::activations::{ActivationSet, LOCAL, Store, StoreError};
use crate::kernels::cpu::{Matrix, PackedWeight};
use crate::load::Fingerprint;
use crate::lower::facts::{Facts, Limits, Words};
use crate::model::config::ModelConfig;
use crate::spec::dtype::Dtype;
use crate::tokens::Tokenizer;

/// The served model as everybody but the engine sees it.
#[derive(Debug)]
pub struct Served {
    /// Name under which it is served.
    pub name: String,
    /// Shape.
    pub config: ModelConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// What exactly was loaded.
    pub fingerprint: Fingerprint,
    /// Format of weights and activations.
    pub dtype: Dtype,
    /// Threads of the arithmetic.
    pub threads: usize,
    /// What one request may ask for.
    pub limits: Limits,
    /// Activations kept between requests.
    pub activations: Arc<Store>,
    /// `[vocabulary, hidden]`, shared with the engine.
    pub(super) embedding: Arc<Matrix>,
    /// `[vocabulary, hidden]`, shared with the engine.
    pub(super) unembedding: PackedWeight,
    /// `[hidden]`
    pub(super) final_norm: Vec<f32>,
    /// Standard deviation over all of `embedding`.
    pub(super) vocab_sigma: f64,
}

impl Facts for Served {
    fn model(&self) -> &str {
        &self.name
    }

    fn answers_to(&self, name: &str) -> bool {
        name == self.name || name == self.fingerprint.source
    }

    fn model_sha(&self) -> &str {
        &self.fingerprint.weights_sha256
    }

    fn activation(&self, id: &str) -> Result<Arc<ActivationSet>, StoreError> {
        self.activations.find(LOCAL, id)?.of_model(self.model_sha()).map(Arc::new)
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn words(&self) -> &dyn Words {
        &self.tokenizer
    }

    fn embedding(&self, ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|&id| self.embedding.row(id as usize)).copied().collect()
    }

    fn embedding_product(&self, weights: &[f64]) -> Vec<f64> {
        product(weights, &self.embedding)
    }

    fn unembedding(&self, id: u32) -> Vec<f32> {
        let row = self.unembedding.row(id as usize);
        row.iter().zip(&self.final_norm).map(|(w, norm)| w * norm).collect()
    }

    fn vocab_sigma(&self) -> f64 {
        self.vocab_sigma
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// `weights [n, rows] * matrix [rows, columns]`. Blocks of columns are computed side by side, each over all rows in
/// order, so that a number's bits depend on nothing but its row of weights; the matrix is read once for all of these.
fn product(weights: &[f64], matrix: &Matrix) -> Vec<f64> {
    const BLOCK: usize = 64;
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let n = weights.len() / rows;
    let block = |first: usize| {
        let width = BLOCK.min(columns - first);
        let mut sums = vec![0.0; n * width];
        for row in 0..rows {
            let values = &matrix.row(row)[first..first + width];
            for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                let weight = weights[i * rows + row];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * f64::from(*value);
                }
            }
        }
        sums
    };
    let firsts: Vec<usize> = (0..columns).step_by(BLOCK).collect();
    let blocks: Vec<Vec<f64>> = firsts.par_iter().map(|first| block(*first)).collect();
    let row = |i: usize| {
        blocks.iter().flat_map(move |sums| {
            let width = sums.len() / n;
            &sums[i * width..(i + 1) * width]
        })
    };
    (0..n).flat_map(row).copied().collect()
}

/// Standard deviation of all numbers (n - 1), in f64.
pub(super) fn sigma(numbers: &[f32]) -> f64 {
    let n = numbers.len() as f64;
    let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares = numbers.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_the_embedding_matrix_are_those_of_the_definition() {
        // 3 columns fill no block, 130 two and a part of a third.
        for (n, rows, columns) in [(1, 5, 3), (4, 7, 64), (3, 11, 130)] {
            let numbers = |len: usize, step: usize| (0..len).map(move |i| (i * step % 17) as f64 - 8.0);
            let weights: Vec<f64> = numbers(n * rows, 5).collect();
            let data: Vec<f32> = numbers(rows * columns, 3).map(|x| x as f32).collect();
            let expected: Vec<f64> = (0..n * columns)
                .map(|at| {
                    (0..rows)
                        .map(|r| {
                            weights[at / columns * rows + r] * f64::from(data[r * columns + at % columns])
                        })
                        .sum()
                })
                .collect();
            // Small integers: exact.
            assert_eq!(product(&weights, &Matrix::from_rows(columns, data)), expected);
        }
    }
}
