//! GPT-2 (Radford et al. 2019): learned positions, LayerNorms, a bias on every linear layer, an MLP without a gate, q, k and v
//! from one product, and the embedding as unembedding.
//!
//! `transformers` stores its linear layers `[in, out]` (`Conv1D`), llama.cpp `[out, in]`.

use serde_json::Value;

use super::Family;
use super::block::{Biases, MlpShape, NormKind, PositionShape};
use super::keys::{KeyFault, Keys};
use super::names::{Role, TensorName};
use crate::model::config::ModelConfig;

/// GPT-2.
pub static GPT2: Family = Family {
    name: "gpt2",
    gguf: Some("gpt2"),
    class: "LMHeadModel",
    base: "transformer.",
    renamed: &[
        ("hidden_size", "n_embd"),
        ("intermediate_size", "n_inner"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    read,
    norm: NormKind::Layer,
    rotary: false,
    bias: Biases::ALL,
    head_norms: false,
    mlp: MlpShape::GeluTanh,
    names: &NAMES,
    // Causal masks that early versions saved with the weights.
    unread: &[".attn.bias", ".attn.masked_bias"],
    bos: Some("<|endoftext|>"),
};

static NAMES: [TensorName; 12] = [
    TensorName::new(Role::Embedding, "transformer.wte", "token_embd"),
    TensorName::new(Role::Positions, "transformer.wpe", "position_embd"),
    TensorName::new(Role::AttentionNorm, "transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    // One tensor, q over k over v.
    TensorName::new(Role::Query, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv").in_by_out(),
    TensorName::new(Role::Key, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv").in_by_out(),
    TensorName::new(Role::Value, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv").in_by_out(),
    TensorName::new(Role::AttentionOutput, "transformer.h.{}.attn.c_proj", "blk.{}.attn_output").in_by_out(),
    TensorName::new(Role::MlpNorm, "transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    TensorName::new(Role::Up, "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up").in_by_out(),
    TensorName::new(Role::Down, "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down").in_by_out(),
    TensorName::new(Role::FinalNorm, "transformer.ln_f", "output_norm"),
    TensorName::new(Role::Unembedding, "lm_head", "output"),
];

fn read(keys: &Keys<'_>) -> Result<ModelConfig, KeyFault> {
    // Two names of one function; it is also the class's default.
    let activation = keys.optional("activation_function", Value::as_str)?;
    if activation.is_some_and(|name| !["gelu_new", "gelu_pytorch_tanh"].contains(&name)) {
        let why = "only gelu_new, GELU's approximation with tanh, is supported";
        return Err(keys.not_understood("activation_function", why));
    }
    if keys.optional("scale_attn_weights", Value::as_bool)? == Some(false) {
        return Err(keys.not_understood("scale_attn_weights", "scores without a scale are not supported"));
    }
    let why = "scores scaled by the layer's index are not supported";
    keys.refuse_if_true("scale_attn_by_inverse_layer_idx", why)?;
    keys.refuse_if_true("add_cross_attention", "attention to an encoder is not supported")?;
    let (num_heads, hidden_size) = (keys.size("num_attention_heads")?, keys.size("hidden_size")?);
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        return Err(keys.not_understood("hidden_size", "n_head does not divide it"));
    }
    let inner = keys.optional("intermediate_size", Value::as_u64)?;
    Ok(ModelConfig {
        family: &GPT2,
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: inner.map_or(hidden_size.saturating_mul(4), |n| n as usize),
        num_layers: keys.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads: num_heads,
        head_dim: hidden_size / num_heads,
        max_positions: keys.size("max_position_embeddings")?,
        sliding_window: None,
        // True if left out, as in its class.
        tie_word_embeddings: keys.optional("tie_word_embeddings", Value::as_bool)?.unwrap_or(true),
        block: GPT2.block(keys.required("rms_norm_eps", "", Value::as_f64)?, PositionShape::Learned),
    })
}
