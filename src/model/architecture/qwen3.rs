//! Qwen 3: Llama with a norm of each head of q and k.

use serde_json::Value;

use super::Family;
use super::keys::{KeyFault, Keys};
use super::llama::{BASE, Own, PLAIN_NAMES, config, refuse_attention_bias};
use super::qwen2::window_if_used;
use crate::model::config::ModelConfig;

/// Qwen3.
pub static QWEN3: Family =
    Family { name: "qwen3", gguf: Some("qwen3"), read, head_norms: true, names: &PLAIN_NAMES, ..BASE };

fn read(keys: &Keys<'_>) -> Result<ModelConfig, KeyFault> {
    refuse_attention_bias(keys)?;
    let hint = " (Qwen3 does not derive it from hidden_size)";
    let own = Own {
        num_kv_heads: keys.size("num_key_value_heads")?,
        head_dim: Some(keys.required("head_dim", hint, Value::as_u64)? as usize),
        sliding_window: window_if_used(keys)?,
    };
    config(&QWEN3, keys, own)
}
