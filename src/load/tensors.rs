//! Names and shapes of a model's tensors, and the check that a checkpoint has exactly these.

use super::LoadError;
use crate::model::config::ModelConfig;

/// Lends a checkpoint's tensors by their Hugging Face names, such as `model.layers.3.self_attn.q_proj.weight`.
pub trait TensorSource: Send + Sync {
    /// The tensor, on the CPU, `[out, in]` for linear layers and `[width]` for norms and biases, in the checkpoint's own
    /// dtype (f32, f16 or bf16; f32 if it is stored quantised). Read anew at every call.
    fn tensor(&self, name: &str) -> Result<candle_core::Tensor, LoadError>;
}

/// Every tensor of the model with its shape, `[out, in]` for linear layers.
pub fn expected(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (d, f, q, kv) = (config.hidden_size, config.intermediate_size, config.q_width(), config.kv_width());
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, d])];
    for layer in 0..config.num_layers {
        let mut push =
            |name: &str, shape: &[usize]| all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        push("input_layernorm.weight", &[d]);
        push("self_attn.q_proj.weight", &[q, d]);
        push("self_attn.k_proj.weight", &[kv, d]);
        push("self_attn.v_proj.weight", &[kv, d]);
        push("self_attn.o_proj.weight", &[d, q]);
        if config.qkv_bias {
            push("self_attn.q_proj.bias", &[q]);
            push("self_attn.k_proj.bias", &[kv]);
            push("self_attn.v_proj.bias", &[kv]);
        }
        if config.qk_norm {
            push("self_attn.q_norm.weight", &[config.head_dim]);
            push("self_attn.k_norm.weight", &[config.head_dim]);
        }
        push("post_attention_layernorm.weight", &[d]);
        push("mlp.gate_proj.weight", &[f, d]);
        push("mlp.up_proj.weight", &[f, d]);
        push("mlp.down_proj.weight", &[d, f]);
    }
    all.push(("model.norm.weight".to_owned(), vec![d]));
    if !config.tie_word_embeddings {
        all.push(("lm_head.weight".to_owned(), vec![config.vocab_size, d]));
    }
    all
}

/// Whether `transformers` too leaves this tensor unread.
fn ignored(config: &ModelConfig, name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// Checks the headers of a checkpoint before any weight is read: all tensors there, of the right shape, and none that
/// would be silently left out. `shape_of` gives a tensor's shape in the file.
pub(super) fn check(
    config: &ModelConfig,
    file: &str,
    names: impl IntoIterator<Item = String>,
    shape_of: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<(), LoadError> {
    let expected = expected(config);
    for (name, shape) in &expected {
        match shape_of(name) {
            None => {
                return Err(LoadError::MissingTensor {
                    name: name.clone(),
                    expected: shape.clone(),
                    file: file.to_owned(),
                });
            }
            Some(got) if got != *shape => {
                return Err(LoadError::Shape { name: name.clone(), expected: shape.clone(), got });
            }
            Some(_) => {}
        }
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    match names.into_iter().find(|name| !known.contains(name.as_str()) && !ignored(config, name)) {
        None => Ok(()),
        Some(name) => Err(LoadError::UnusedTensor {
            name,
            file: file.to_owned(),
            architecture: config.architecture.clone(),
        }),
    }
}
