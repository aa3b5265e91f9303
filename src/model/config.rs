//! The shape of a Llama-family model, as read from `config.json` or a GGUF's metadata.

use serde::Serialize;
use utoipa::ToSchema;

use super::rope::Rope;
use crate::spec::site::{HeadKind, Site, Width};

/// Shape and constants of a Llama-family decoder. Built by [`crate::load`], never from defaults: a constant that
/// the checkpoint does not state is an error, because a silent default gives silently wrong numbers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelConfig {
    /// `model_type` of the checkpoint: `llama`, `mistral`, `qwen2`, `qwen3`.
    pub architecture: String,
    /// Rows of the embedding and the unembedding.
    pub vocab_size: usize,
    /// Width of the residual stream, `d`.
    pub hidden_size: usize,
    /// Width of the gated MLP activation.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads, `h`.
    pub num_heads: usize,
    /// Key/value heads, `k`; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Dimension of one head, `e`.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Longest sequence the checkpoint was made for, with the scaling of its rotary embedding.
    pub max_positions: usize,
    /// Keys further back than this are masked in the checkpoint's own code; longer prompts are refused.
    pub sliding_window: Option<usize>,
    /// Whether the unembedding is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v projections have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether q and k are RMS-normed per head before the rotary embedding (Qwen3).
    pub qk_norm: bool,
}

/// A number in a configuration that makes no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {got}: {why}")]
pub struct ConfigFault {
    /// As in `config.json`.
    pub key: &'static str,
    /// Its value.
    pub got: String,
    /// What is wrong.
    pub why: &'static str,
}

impl ModelConfig {
    /// Width of `q` and `z`: heads times head dimension.
    pub const fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of `k` and of `v`.
    pub const fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Heads that a site is divided into.
    pub const fn site_heads(&self, site: Site) -> Option<usize> {
        match site.heads() {
            Some(HeadKind::Query) => Some(self.num_heads),
            Some(HeadKind::KeyValue) => Some(self.num_kv_heads),
            None => None,
        }
    }

    /// Numbers per position at a site. `keys`: columns of a head of `scores` and `pattern`.
    pub const fn site_width(&self, site: Site, keys: usize) -> usize {
        match site.facts().width {
            Width::KeyValues => self.kv_width(),
            Width::Queries => self.q_width(),
            Width::Keys => self.num_heads * keys,
            Width::HeadOutputs => self.num_heads * self.hidden_size,
            Width::Neurons => self.intermediate_size,
            Width::Vocabulary => self.vocab_size,
            Width::Hidden => self.hidden_size,
        }
    }

    /// Weights of one block's linear layers.
    pub const fn layer_parameters(&self) -> usize {
        self.hidden_size * (2 * self.q_width() + 2 * self.kv_width() + 3 * self.intermediate_size)
    }

    /// All weights, norms and biases left out (they are under 0.1 %).
    pub const fn parameters(&self) -> usize {
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        self.num_layers * self.layer_parameters() + tables * self.vocab_size * self.hidden_size
    }

    /// Checks that the numbers make a model. The first fault found is returned.
    pub fn check(&self) -> Result<(), ConfigFault> {
        // More than this is a damaged file, and products of two stay far from overflow.
        const LIMIT: usize = 1 << 28;
        let fault =
            |key, got: &dyn std::fmt::Display, why| Err(ConfigFault { key, got: got.to_string(), why });
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        for (key, size) in sizes {
            if !(1..=LIMIT).contains(&size) {
                return fault(key, &size, "it must be at least 1 and no astronomic number");
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return fault(
                "num_key_value_heads",
                &self.num_kv_heads,
                "it does not divide num_attention_heads",
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return fault("head_dim", &self.head_dim, "RoPE turns pairs of dimensions, so it must be even");
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return fault("rms_norm_eps", &self.rms_norm_eps, "it must be a small positive number");
        }
        self.rope.check(self.head_dim)?;
        if self.sliding_window == Some(0) {
            return fault("sliding_window", &0, "it must be at least 1, or null");
        }
        Ok(())
    }
}
