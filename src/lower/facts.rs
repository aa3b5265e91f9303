//! What lowering has to know of the served model.

use std::ops::Range;
use std::sync::Arc;

use crate::activations::{ActivationSet, StoreError};
use crate::model::config::ModelConfig;
use crate::tokens::{ChatTemplates, Continuation, Encoded, SpanError, TokenizeError, Tokenizer};

/// The served model as lowering sees it: its shape, its words and its embeddings.
pub trait Facts {
    /// Name under which it is served.
    fn model(&self) -> &str;

    /// Whether a request's `model` means this one.
    fn answers_to(&self, name: &str) -> bool {
        name == self.model()
    }

    /// SHA-256 of its weights, in hex.
    fn model_sha(&self) -> &str;

    /// Stored activations of this model by their handle.
    fn activation(&self, id: &str) -> Result<Arc<ActivationSet>, StoreError>;

    /// Shape.
    fn config(&self) -> &ModelConfig;

    /// Tokenizer.
    fn words(&self) -> &dyn Words;

    /// Embeddings of tokens, `[ids, hidden]` in row-major order. All ids are inside the vocabulary.
    fn embedding(&self, ids: &[u32]) -> Vec<f32>;

    /// Products of rows of weights, `[n, vocabulary]`, with the embedding matrix, `[vocabulary, hidden]`:
    /// `[n, hidden]`, all row-major, summed in f64 in the order of the vocabulary.
    fn embedding_product(&self, weights: &[f64]) -> Vec<f64>;

    /// What a token's logit is made of behind the last residual stream.
    fn unembedding(&self, id: u32) -> Unembedding;

    /// The embedding of a position, `[hidden]`, of models that learn them.
    fn position_embedding(&self, position: u32) -> Option<Vec<f32>>;

    /// The bias of a layer's attention, `[hidden]`, of models that have one: a share of its output that is no head's.
    fn attention_bias(&self, layer: u32) -> Option<Vec<f32>>;

    /// Standard deviation over the whole embedding matrix.
    fn vocab_sigma(&self) -> f64;

    /// What one request may ask for.
    fn limits(&self) -> &Limits;
}

/// What a token's logit is made of behind the last residual stream: `direction` times the stream, which the final norm has scaled
/// (and centred, if it is a LayerNorm), plus `constant`.
#[derive(Debug, Clone, PartialEq)]
pub struct Unembedding {
    /// The token's row of the unembedding times the weight of the final norm, `[hidden]`.
    pub direction: Vec<f32>,
    /// Its row times the bias of the final norm; 0 where that has none.
    pub constant: f64,
}

/// What lowering asks of a tokenizer.
pub trait Words {
    /// Tokenises a prompt; `bos` overrides the tokenizer's own policy.
    fn encode(&self, text: &str, bos: Option<bool>) -> Result<Encoded, TokenizeError>;
    /// Describes given ids.
    fn describe(&self, ids: &[u32]) -> Result<Encoded, TokenizeError>;
    /// The tokens that a text adds to a prompt.
    fn continuation(&self, prompt: &str, text: &str) -> Result<Continuation, TokenizeError>;
    /// Whether words have tokens that begin with the space before them.
    fn joins_spaces(&self) -> bool;
    /// Text of one token.
    fn text(&self, id: u32) -> String;
    /// The chat templates, if the model has any.
    fn chat(&self) -> Option<&ChatTemplates> {
        None
    }
    /// Tokens at which a text ends.
    fn ends(&self) -> &[u32] {
        &[]
    }
    /// Size of the vocabulary.
    fn vocab_size(&self) -> usize;
    /// BOS token, if there is one.
    fn bos(&self) -> Option<u32>;
    /// Token span of the only occurrence of `text`.
    fn span(&self, encoded: &Encoded, prompt: &str, text: &str) -> Result<Range<usize>, SpanError>;
    /// Token spans of its occurrences, of which there is at least one.
    fn occurrences(
        &self,
        encoded: &Encoded,
        prompt: &str,
        text: &str,
    ) -> Result<Vec<Range<usize>>, SpanError>;
}

impl Words for Tokenizer {
    fn encode(&self, text: &str, bos: Option<bool>) -> Result<Encoded, TokenizeError> {
        Tokenizer::encode(self, text, bos)
    }

    fn describe(&self, ids: &[u32]) -> Result<Encoded, TokenizeError> {
        Tokenizer::describe(self, ids)
    }

    fn continuation(&self, prompt: &str, text: &str) -> Result<Continuation, TokenizeError> {
        Tokenizer::continuation(self, prompt, text)
    }

    fn joins_spaces(&self) -> bool {
        Tokenizer::joins_spaces(self)
    }

    fn text(&self, id: u32) -> String {
        Tokenizer::text(self, id)
    }

    fn chat(&self) -> Option<&ChatTemplates> {
        Tokenizer::chat(self)
    }

    fn ends(&self) -> &[u32] {
        Tokenizer::ends(self)
    }

    fn vocab_size(&self) -> usize {
        Tokenizer::vocab_size(self)
    }

    fn bos(&self) -> Option<u32> {
        Tokenizer::bos(self).0
    }

    fn span(&self, encoded: &Encoded, prompt: &str, text: &str) -> Result<Range<usize>, SpanError> {
        Tokenizer::span(self, encoded, prompt, text)
    }

    fn occurrences(
        &self,
        encoded: &Encoded,
        prompt: &str,
        text: &str,
    ) -> Result<Vec<Range<usize>>, SpanError> {
        Tokenizer::occurrences(self, encoded, prompt, text)
    }
}

/// What one request may ask for. Checked before anything of that size is allocated.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Limits {
    /// Bytes of all prompts together, checked before they are tokenised.
    pub prompt_bytes: u64,
    /// Tokens of one prompt; never more than the model's own longest sequence.
    pub prompt_tokens: u64,
    /// Prompts.
    pub runs: u64,
    /// Cases of a trace of many prompts, each with its own run.
    pub cases: u64,
    /// Numbers summed for confidence intervals over cases: drawn sets times cases times averages.
    pub resampled: u64,
    /// Corrupted runs of a trace: draws of noise, alternatives of replaced tokens, or runs.
    pub samples: u64,
    /// Edited runs: cells times samples, controls included.
    pub cells: u64,
    /// Edits of all runs together (a window of 10 layers is ten edits).
    pub edits: u64,
    /// Positions written by all edits together.
    pub edit_positions: u64,
    /// Numbers of generated noise: samples times positions times width (of method `multivariate`, times vocabulary).
    pub noise_elements: u64,
    /// Most probable tokens per readout.
    pub topk: u64,
    /// Target tokens.
    pub target_tokens: u64,
    /// Metrics.
    pub metrics: u64,
    /// Numbers returned as captures.
    pub capture_elements: u64,
    /// Bytes of activations, counted in f32, that one request may store.
    pub activation_bytes: u64,
    /// Most seconds that activations are kept.
    pub activation_ttl_s: u64,
    /// Numbers in all scores together: readouts times (targets + topk + references).
    pub score_elements: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prompt_bytes: 256 << 10,
            prompt_tokens: 8192,
            runs: 64,
            cases: 1000,
            resampled: 10_000_000_000,
            samples: 1000,
            cells: 250_000,
            edits: 1_000_000,
            edit_positions: 16 << 20,
            noise_elements: 16 << 20,
            topk: 1000,
            target_tokens: 256,
            metrics: 64,
            capture_elements: 4 << 20,
            activation_bytes: 512 << 20,
            activation_ttl_s: 30 * 86_400,
            score_elements: 16 << 20,
        }
    }
}
