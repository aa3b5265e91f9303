//! Llama 1 to 3: RMS norms, rotary positions, no biases, a gated MLP. Its relatives differ in a few lines each.

use serde_json::Value;

use super::Family;
use super::block::{Biases, MlpShape, NormKind, PositionShape};
use super::keys::{KeyFault, Keys};
use super::names::{Role, TensorName};
use super::rope;
use crate::model::config::ModelConfig;
use crate::spec::site::HeadKind;

/// Llama.
pub static LLAMA: Family = Family { name: "llama", gguf: Some("llama"), read, ..BASE };

/// What its relatives start from.
pub(super) const BASE: Family = Family {
    name: "",
    gguf: None,
    class: "ForCausalLM",
    base: "model.",
    renamed: &[],
    read,
    norm: NormKind::Rms,
    rotary: true,
    bias: Biases::NONE,
    head_norms: false,
    mlp: MlpShape::GatedSilu,
    names: &NAMES,
    unread: &["rotary_emb.inv_freq"],
    bos: None,
};

/// llama.cpp stores the rows of q and k of `llama` in the order of its own rotary embedding, but not those of its relatives.
static NAMES: [TensorName; 14] = names(true);
/// The same for relatives whose rows llama.cpp leaves in place.
pub(super) static PLAIN_NAMES: [TensorName; 14] = names(false);

const fn names(paired: bool) -> [TensorName; 14] {
    let query = TensorName::new(Role::Query, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q");
    let key = TensorName::new(Role::Key, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k");
    [
        TensorName::new(Role::Embedding, "model.embed_tokens", "token_embd"),
        TensorName::new(Role::AttentionNorm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
        if paired { query.in_pairs(HeadKind::Query) } else { query },
        if paired { key.in_pairs(HeadKind::KeyValue) } else { key },
        TensorName::new(Role::Value, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
        TensorName::new(Role::QueryNorm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
        TensorName::new(Role::KeyNorm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
        TensorName::new(Role::AttentionOutput, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
        TensorName::new(Role::MlpNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
        TensorName::new(Role::Gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
        TensorName::new(Role::Up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
        TensorName::new(Role::Down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
        TensorName::new(Role::FinalNorm, "model.norm", "output_norm"),
        TensorName::new(Role::Unembedding, "lm_head", "output"),
    ]
}

/// What relatives read in ways of their own.
pub(super) struct Own {
    pub(super) num_kv_heads: usize,
    /// `None`: the hidden size divided by the heads.
    pub(super) head_dim: Option<usize>,
    pub(super) sliding_window: Option<usize>,
}

fn read(keys: &Keys<'_>) -> Result<ModelConfig, KeyFault> {
    refuse_attention_bias(keys)?;
    keys.refuse_if_true("mlp_bias", "MLPs with a bias are not supported")?;
    // Left out, it takes as many as there are query heads; its relatives have defaults of their own.
    let num_kv_heads = match keys.optional("num_key_value_heads", Value::as_u64)? {
        Some(n) => n as usize,
        None => keys.size("num_attention_heads")?,
    };
    let head_dim = keys.optional("head_dim", Value::as_u64)?.map(|n| n as usize);
    config(&LLAMA, keys, Own { num_kv_heads, head_dim, sliding_window: None })
}

/// Mistral and Qwen2 read no such key, so it is without effect there.
pub(super) fn refuse_attention_bias(keys: &Keys<'_>) -> Result<(), KeyFault> {
    let why = "it puts a bias on o_proj too; only Qwen2's bias of q, k and v is supported";
    keys.refuse_if_true("attention_bias", why)
}

/// What the whole family reads alike.
#[expect(clippy::needless_pass_by_value, reason = "a few words, written where it is called")]
pub(super) fn config(family: &'static Family, keys: &Keys<'_>, own: Own) -> Result<ModelConfig, KeyFault> {
    // All four classes default to silu.
    if keys.optional("hidden_act", Value::as_str)?.is_some_and(|act| act != "silu") {
        return Err(keys.not_understood("hidden_act", "only silu is supported"));
    }
    let (num_heads, hidden_size) = (keys.size("num_attention_heads")?, keys.size("hidden_size")?);
    let head_dim = match own.head_dim {
        Some(n) => n,
        None if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) => {
            let why = "head_dim is left out and num_attention_heads does not divide it";
            return Err(keys.not_understood("hidden_size", why));
        }
        None => hidden_size / num_heads,
    };
    let eps = keys.required("rms_norm_eps", "", Value::as_f64)?;
    let max_positions = keys.size("max_position_embeddings")?;
    let rope = rope::read(keys, max_positions)?;
    Ok(ModelConfig {
        family,
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_layers: keys.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads: own.num_kv_heads,
        head_dim,
        max_positions: rope.longest(max_positions),
        sliding_window: own.sliding_window,
        // False if left out, in all four families; it is the base class that says true, and they override it.
        tie_word_embeddings: keys.optional("tie_word_embeddings", Value::as_bool)?.unwrap_or(false),
        block: family.block(eps, PositionShape::Rope(rope)),
    })
}
