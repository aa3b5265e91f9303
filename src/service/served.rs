//! What is known of the served model. Weights that requests are made of are read from the checkpoint when they are needed:
//! the model itself is with the engine.

use std::ops::Deref;
use std::sync::Arc;

use crate::activations::{ActivationSet, Store, StoreError};
use crate::load::{Fingerprint, Published};
use crate::lower::facts::{Facts, Limits, Unembedding, Words};
use crate::model::config::ModelConfig;
use crate::owner::Owner;
use crate::spec::dtype::Dtype;
use crate::tokens::Tokenizer;

use super::table::Table;

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
    /// What its files leave open or contradict themselves in.
    pub warnings: Vec<String>,
    /// What clients of a model hub read of its files.
    pub published: Published,
    /// Format of weights and activations.
    pub dtype: Dtype,
    /// What one request may ask for.
    pub limits: Limits,
    /// Activations kept between requests.
    pub activations: Arc<Store>,
    /// `[vocabulary, hidden]`
    pub(super) embedding: Table,
    /// `[vocabulary, hidden]`; the embedding itself when tied.
    pub(super) unembedding: Table,
    /// Weight of the final norm, `[hidden]`.
    pub(super) final_norm: Vec<f32>,
    /// Its bias, of a LayerNorm.
    pub(super) final_bias: Option<Vec<f32>>,
    /// Biases of attention's output projections, by layer, where they have any.
    pub(super) attention_biases: Option<Vec<Vec<f32>>>,
    /// Learned embeddings of positions, `[positions, hidden]`.
    pub(super) positions: Option<Table>,
    /// Standard deviation over all of `embedding`.
    pub(super) vocab_sigma: f64,
}

/// The served model as the requests of one owner see it: with the owner's activations.
#[derive(Debug, Clone)]
pub struct ServedTo {
    pub(super) served: Arc<Served>,
    pub(super) owner: Owner,
}

impl Deref for ServedTo {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Served {
    /// Name under which it is served.
    pub fn model(&self) -> &str {
        &self.name
    }

    /// Standard deviation of all embedding entries.
    pub fn vocab_sigma(&self) -> f64 {
        self.vocab_sigma
    }

    /// Shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether a request may name the model so.
    pub fn answers_to(&self, name: &str) -> bool {
        name == self.name || name == self.fingerprint.source
    }
}

impl Facts for ServedTo {
    fn model(&self) -> &str {
        &self.name
    }

    fn answers_to(&self, name: &str) -> bool {
        self.served.answers_to(name)
    }

    fn model_sha(&self) -> &str {
        &self.fingerprint.weights_sha256
    }

    fn activation(&self, id: &str) -> Result<Arc<ActivationSet>, StoreError> {
        self.activations.find(&self.owner, id)?.of_model(self.model_sha()).map(Arc::new)
    }

    fn config(&self) -> &ModelConfig {
        self.served.config()
    }

    fn words(&self) -> &dyn Words {
        &self.tokenizer
    }

    fn embedding(&self, ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|&id| self.served.embedding.row(id as usize)).collect()
    }

    fn embedding_product(&self, weights: &[f64]) -> Vec<f64> {
        self.served.embedding.product(weights)
    }

    fn unembedding(&self, id: u32) -> Unembedding {
        // As the engine holds it.
        let row: Vec<f32> =
            self.served.unembedding.row(id as usize).iter().map(|w| self.dtype.rounded(*w)).collect();
        let product = |(w, bias): (&f32, &f32)| f64::from(*w) * f64::from(*bias);
        Unembedding {
            direction: row.iter().zip(&self.final_norm).map(|(w, norm)| w * norm).collect(),
            constant: self.final_bias.as_ref().map_or(0.0, |bias| row.iter().zip(bias).map(product).sum()),
        }
    }

    fn position_embedding(&self, position: u32) -> Option<Vec<f32>> {
        let row = self.positions.as_ref()?.row(position as usize);
        Some(row.into_iter().map(|x| self.dtype.rounded(x)).collect())
    }

    fn attention_bias(&self, layer: u32) -> Option<Vec<f32>> {
        self.attention_biases.as_ref().map(|biases| biases[layer as usize].clone())
    }

    fn vocab_sigma(&self) -> f64 {
        self.served.vocab_sigma()
    }

    fn limits(&self) -> &Limits {
        &self.served.limits
    }
}
