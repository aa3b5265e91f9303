//! Mistral: Llama with a window of keys in some checkpoints. llama.cpp writes it as `llama`.

use serde_json::Value;

use super::Family;
use super::keys::{KeyFault, Keys};
use super::llama::{BASE, Own, config};
use crate::model::config::ModelConfig;

/// Mistral.
pub static MISTRAL: Family = Family { name: "mistral", read, ..BASE };

fn read(keys: &Keys<'_>) -> Result<ModelConfig, KeyFault> {
    // Left out means 4096 in the class, but checkpoints that have no window write null.
    if keys.get("sliding_window").is_none() {
        return Err(keys.missing("sliding_window", " (null if there is none, 4096 in Mistral 7B v0.1)"));
    }
    let own = Own {
        num_kv_heads: keys.size("num_key_value_heads")?,
        head_dim: keys.optional("head_dim", Value::as_u64)?.map(|n| n as usize),
        sliding_window: keys.optional("sliding_window", Value::as_u64)?.map(|n| n as usize),
    };
    config(&MISTRAL, keys, own)
}
