//! `config.json` to [`ModelConfig`].
//!
//! Where a key may be left out, the default is the one of the family's own configuration class in `transformers`, never a
//! guess; constants that differ between checkpoints of a family must be stated.

use serde_json::{Map, Value};

use super::LoadError;
use crate::model::config::ModelConfig;

mod rope;

const FILE: &str = "config.json";

/// Reads a Llama-family configuration: `model_type` llama, mistral, qwen2 or qwen3.
pub(super) fn parse(bytes: &[u8]) -> Result<ModelConfig, LoadError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| LoadError::Damaged { file: FILE.to_owned(), why: e.to_string() })?;
    let Value::Object(map) = value else {
        return Err(LoadError::Damaged { file: FILE.to_owned(), why: "it is no JSON object".to_owned() });
    };
    let keys = Keys { map: &map, prefix: "" };
    let architecture = keys.required("model_type", "", Value::as_str)?;
    if !["llama", "mistral", "qwen2", "qwen3"].contains(&architecture) {
        return Err(keys.not_understood("model_type", "understood are llama, mistral, qwen2 and qwen3"));
    }
    refuse_what_would_be_ignored(&keys, architecture)?;
    let num_heads = keys.size("num_attention_heads")?;
    let hidden_size = keys.size("hidden_size")?;
    // Left out, Llama takes as many as there are query heads; the other families have defaults of their own.
    let num_kv_heads = match keys.optional("num_key_value_heads", Value::as_u64)? {
        Some(n) => n as usize,
        None if architecture == "llama" => num_heads,
        None => return Err(keys.missing("num_key_value_heads", "")),
    };
    let head_dim = match keys.optional("head_dim", Value::as_u64)? {
        Some(n) => n as usize,
        None if architecture == "qwen3" => {
            return Err(keys.missing("head_dim", " (Qwen3 does not derive it from hidden_size)"));
        }
        None if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) => {
            return Err(keys.not_understood(
                "hidden_size",
                "head_dim is left out and num_attention_heads does not divide it",
            ));
        }
        None => hidden_size / num_heads,
    };
    let max_positions = keys.size("max_position_embeddings")?;
    let rope = rope::read(&keys, max_positions)?;
    let config = ModelConfig {
        architecture: architecture.to_owned(),
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_layers: keys.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: keys.required("rms_norm_eps", "", Value::as_f64)?,
        rope,
        max_positions: rope.longest(max_positions),
        sliding_window: sliding_window(&keys, architecture)?,
        // False if left out, in all four families; it is the base class that says true, and they override it.
        tie_word_embeddings: keys.optional("tie_word_embeddings", Value::as_bool)?.unwrap_or(false),
        qkv_bias: architecture == "qwen2",
        qk_norm: architecture == "qwen3",
    };
    config.check().map_err(|fault| LoadError::NotUnderstood {
        file: FILE.to_owned(),
        key: fault.key.to_owned(),
        got: fault.got,
        why: fault.why.to_owned(),
    })?;
    Ok(config)
}

/// Settings that `transformers` acts on and the forward pass does not.
fn refuse_what_would_be_ignored(keys: &Keys<'_>, architecture: &str) -> Result<(), LoadError> {
    // Mistral and Qwen2 read no such key, so it is without effect there.
    let biased = ["llama", "qwen3"].contains(&architecture);
    if biased && keys.optional("attention_bias", Value::as_bool)? == Some(true) {
        let why = "it puts a bias on o_proj too; only Qwen2's bias of q, k and v is supported";
        return Err(keys.not_understood("attention_bias", why));
    }
    if architecture == "llama" && keys.optional("mlp_bias", Value::as_bool)? == Some(true) {
        return Err(keys.not_understood("mlp_bias", "MLPs with a bias are not supported"));
    }
    // All four classes default to silu.
    if keys.optional("hidden_act", Value::as_str)?.is_some_and(|act| act != "silu") {
        return Err(keys.not_understood("hidden_act", "only silu is supported"));
    }
    if keys.present("quantization_config") {
        let why = "quantised safetensors are not read; use the original checkpoint or a GGUF";
        return Err(keys.not_understood("quantization_config", why));
    }
    whole_heads(keys)?;
    if let Some(classes) = keys.optional("architectures", Value::as_array)? {
        let causal = |c: &Value| c.as_str().is_some_and(|c| c.ends_with("ForCausalLM"));
        if !classes.is_empty() && !classes.iter().any(causal) {
            return Err(keys.not_understood(
                "architectures",
                "only causal language models (...ForCausalLM) are supported",
            ));
        }
    }
    Ok(())
}

fn whole_heads(keys: &Keys<'_>) -> Result<(), LoadError> {
    match keys.optional("partial_rotary_factor", Value::as_f64)? {
        Some(part) if part < 1.0 => {
            Err(keys.not_understood("partial_rotary_factor", "rotation of part of a head is not supported"))
        }
        _ => Ok(()),
    }
}

fn sliding_window(keys: &Keys<'_>, architecture: &str) -> Result<Option<usize>, LoadError> {
    let window = || Ok(keys.optional("sliding_window", Value::as_u64)?.map(|n| n as usize));
    match architecture {
        // Left out means 4096 in the class, but checkpoints that have no window write null.
        "mistral" if !keys.map.contains_key("sliding_window") => {
            Err(keys.missing("sliding_window", " (null if there is none, 4096 in Mistral 7B v0.1)"))
        }
        "mistral" => window(),
        "qwen2" | "qwen3" if keys.optional("use_sliding_window", Value::as_bool)? == Some(true) => window()?
            .map(Some)
            .ok_or_else(|| keys.missing("sliding_window", " although use_sliding_window is true")),
        _ => Ok(None),
    }
}

/// A JSON object whose faults become errors that name the key.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Keys<'a> {
    fn present(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    /// `None` if the key is absent or null.
    fn optional<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, LoadError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                read(value).map(Some).ok_or_else(|| self.not_understood(key, "it is of another type"))
            }
        }
    }

    fn required<T>(
        &self,
        key: &str,
        hint: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, LoadError> {
        self.optional(key, read)?.ok_or_else(|| self.missing(key, hint))
    }

    fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.required(key, "", Value::as_u64).map(|n| n as usize)
    }

    fn table(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, LoadError> {
        self.optional(key, Value::as_object)
    }

    fn missing(&self, key: &str, hint: &'static str) -> LoadError {
        LoadError::MissingKey { file: FILE.to_owned(), key: format!("{}{key}", self.prefix), hint }
    }

    fn not_understood(&self, key: &str, why: &str) -> LoadError {
        let got = self.map.get(key).map_or_else(|| "(absent)".to_owned(), Value::to_string);
        LoadError::NotUnderstood {
            file: FILE.to_owned(),
            key: format!("{}{key}", self.prefix),
            got,
            why: why.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
