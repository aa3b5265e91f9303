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

/// Every tensor of the model by Hugging Face's name with its shape, `[out, in]` for linear layers.
pub fn expected(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    config.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
}

/// Whether `transformers` too leaves this tensor unread.
pub(super) fn unread(config: &ModelConfig, name: &str) -> bool {
    config.family.unread.iter().any(|ending| name.ends_with(ending))
}

/// Whether it is left unread here, being the embedding or one that `transformers` too leaves.
fn ignored(config: &ModelConfig, name: &str) -> bool {
    unread(config, name) || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// Checks the headers of a checkpoint before any weight is read: all tensors there, of the right shape, and none that
/// would be silently left out. `expected`: names and shapes as files of this format have them; `shape_of` gives a tensor's
/// shape in the file.
pub(super) fn check(
    config: &ModelConfig,
    file: &str,
    expected: &[(String, Vec<usize>)],
    names: impl IntoIterator<Item = String>,
    shape_of: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<(), LoadError> {
    for (name, shape) in expected {
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
            architecture: config.family.name.to_owned(),
        }),
    }
}
