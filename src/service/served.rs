//! What is known of the served model, beside its weights.

use std::sync::Arc;

use crate::activations::{ActivationSet, LOCAL, Store, StoreError};
use crate::kernels::cpu::Matrix;
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

    fn vocab_sigma(&self) -> f64 {
        self.vocab_sigma
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// Standard deviation of all numbers (n - 1), in f64.
pub(super) fn sigma(numbers: &[f32]) -> f64 {
    let n = numbers.len() as f64;
    let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares = numbers.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0)).sqrt()
}
