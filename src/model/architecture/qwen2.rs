//! Qwen 2 and 2.5: Llama with biases of q, k and v.

use serde_json::Value;

use super::Family;
use super::block::Biases;
use super::keys::{KeyFault, Keys};
use super::llama::{BASE, Own, PLAIN_NAMES, config};
use crate::model::config::ModelConfig;

/// Qwen2.
pub static QWEN2: Family = Family {
    name: "qwen2",
    gguf: Some("qwen2"),
    read,
    bias: Biases { qkv: true, ..Biases::NONE },
    names: &PLAIN_NAMES,
    ..BASE
};

fn read(keys: &Keys<'_>) -> Result<ModelConfig, KeyFault> {
    let own = Own {
        num_kv_heads: keys.size("num_key_value_heads")?,
        head_dim: keys.optional("head_dim", Value::as_u64)?.map(|n| n as usize),
        sliding_window: window_if_used(keys)?,
    };
    config(&QWEN2, keys, own)
}

/// `sliding_window` counts only where `use_sliding_window` says so.
pub(super) fn window_if_used(keys: &Keys<'_>) -> Result<Option<usize>, KeyFault> {
    if keys.optional("use_sliding_window", Value::as_bool)? != Some(true) {
        return Ok(None);
    }
    let window = keys.required("sliding_window", " although use_sliding_window is true", Value::as_u64)?;
    Ok(Some(window as usize))
}
