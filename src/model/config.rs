//! The shape of a model, as read from `config.json` or a GGUF's metadata.

use serde::Serialize;
use utoipa::ToSchema;

use super::architecture::{BlockShape, Family, PositionShape};
use super::rope::Rope;
use crate::spec::site::{HeadKind, Needs, Site, Width};

/// Shape and constants of a decoder. Built by [`crate::load`], never from defaults: a constant that
/// the checkpoint does not state is an error, because a silent default gives silently wrong numbers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelConfig {
    /// Its family, by the checkpoint's `model_type`: `llama`, `mistral`, `qwen2`, `qwen3`, `gpt2`.
    #[serde(rename = "architecture")]
    #[schema(value_type = String)]
    pub family: &'static Family,
    /// Rows of the embedding and the unembedding.
    pub vocab_size: usize,
    /// Width of the residual stream, `d`.
    pub hidden_size: usize,
    /// Neurons of an MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads, `h`.
    pub num_heads: usize,
    /// Key/value heads, `k`; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Dimension of one head, `e`.
    pub head_dim: usize,
    /// Longest sequence the checkpoint was made for, with the scaling of its rotary embedding.
    pub max_positions: usize,
    /// Keys further back than this are masked in the checkpoint's own code; longer prompts are refused.
    pub sliding_window: Option<usize>,
    /// Whether the unembedding is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// What its blocks are made of.
    pub block: BlockShape,
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
        let mlp = self.block.mlp.matrices() * self.intermediate_size;
        self.hidden_size * (2 * self.q_width() + 2 * self.kv_width() + mlp)
    }

    /// All weights, norms and biases left out (they are under 0.1 %).
    pub const fn parameters(&self) -> usize {
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        let rows = tables * self.vocab_size + self.learned_positions();
        self.num_layers * self.layer_parameters() + rows * self.hidden_size
    }

    /// Rows of the embedding of positions; none where positions are rotations.
    pub const fn learned_positions(&self) -> usize {
        match self.block.positions {
            PositionShape::Learned => self.max_positions,
            PositionShape::Rope(_) => 0,
        }
    }

    /// The rotary embedding, of models that have one.
    pub const fn rope(&self) -> Option<&Rope> {
        match &self.block.positions {
            PositionShape::Rope(rope) => Some(rope),
            PositionShape::Learned => None,
        }
    }

    /// What this model lacks for a site to be there.
    pub fn absent(&self, site: Site) -> Option<Needs> {
        site.facts().needs.filter(|needs| match needs {
            Needs::Rope => self.rope().is_none(),
            Needs::HeadNorms => !self.block.head_norms,
            Needs::Gate => !self.block.mlp.has_gate(),
            Needs::NoGate => self.block.mlp.has_gate(),
        })
    }

    /// Checks that the numbers make a model. The first fault found is returned.
    pub fn check(&self) -> Result<(), ConfigFault> {
        // More than this is a damaged file, and products of two stay far from overflow. Of layers and of the columns of a head lists
        // are made before it is known whether the file has their weights.
        const LIMIT: usize = 1 << 28;
        const LAYERS: usize = 1 << 12;
        const HEAD: usize = 1 << 16;
        let fault = |key, got: &dyn std::fmt::Display, why| {
            Err(ConfigFault { key: self.family.key(key), got: got.to_string(), why })
        };
        let sizes = [
            ("vocab_size", self.vocab_size, LIMIT),
            ("hidden_size", self.hidden_size, LIMIT),
            ("intermediate_size", self.intermediate_size, LIMIT),
            ("num_hidden_layers", self.num_layers, LAYERS),
            ("num_attention_heads", self.num_heads, LIMIT),
            ("num_key_value_heads", self.num_kv_heads, LIMIT),
            ("head_dim", self.head_dim, HEAD),
            ("max_position_embeddings", self.max_positions, LIMIT),
        ];
        for (key, size, most) in sizes {
            if !(1..=most).contains(&size) {
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
        if !(self.block.norm.eps.is_finite() && self.block.norm.eps >= 0.0) {
            return fault("rms_norm_eps", &self.block.norm.eps, "it must be a small positive number");
        }
        if let Some(rope) = self.rope() {
            if !self.head_dim.is_multiple_of(2) {
                let why = "RoPE turns pairs of dimensions, so it must be even";
                return fault("head_dim", &self.head_dim, why);
            }
            rope.check(self.head_dim)?;
        }
        if self.sliding_window == Some(0) {
            return fault("sliding_window", &0, "it must be at least 1, or null");
        }
        Ok(())
    }
}
