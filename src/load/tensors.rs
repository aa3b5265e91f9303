//! Names and shapes of a model's tensors, and the check that a checkpoint has exactly these.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use super::LoadError;
use crate::kernels::upload::{Content, Numbers, Piece};
use crate::model::config::ModelConfig;

/// Lends a checkpoint's tensors by their Hugging Face names, such as `model.layers.3.self_attn.q_proj.weight`.
pub trait TensorSource: Send + Sync {
    /// The tensor, on the CPU, `[out, in]` for linear layers and `[width]` for norms and biases, in the checkpoint's own
    /// dtype (f32, f16 or bf16; f32 if it is stored quantised). Read anew at every call.
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError>;

    /// These rows and columns of a tensor, `[out, in]`; a vector has one column. Reads no more than is asked for where the
    /// format allows it.
    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        part_of(&self.tensor(name)?, name, rows, columns)
    }
}

/// A copy of a part of a tensor in host memory.
pub(super) fn part_of(
    tensor: &Tensor,
    name: &str,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Result<Piece<'static>, LoadError> {
    let numbers = || -> candle_core::Result<Numbers<'static>> {
        let matrix = if tensor.rank() == 1 { tensor.unsqueeze(1)? } else { tensor.clone() };
        let part = matrix.narrow(0, rows.start, rows.len())?.narrow(1, columns.start, columns.len())?;
        let flat = part.flatten_all()?;
        Ok(match flat.dtype() {
            DType::BF16 => Numbers::Bf16(Cow::Owned(flat.to_vec1::<bf16>()?)),
            DType::F16 => Numbers::F16(Cow::Owned(flat.to_vec1::<f16>()?)),
            _ => Numbers::F32(Cow::Owned(flat.to_dtype(DType::F32)?.to_vec1::<f32>()?)),
        })
    };
    let numbers = numbers().map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })?;
    Ok(Piece { rows: rows.len(), columns: columns.len(), content: Content::Numbers(numbers) })
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
