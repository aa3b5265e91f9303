//! GGUF files: tensors dequantised to f32 under their Hugging Face names.
//!
//! llama.cpp stores the rows of Q and K of `llama` models in the order of its own rotary embedding, which turns neighbouring dimensions
//! where the checkpoint turns halves; [`unpermute`] puts them back.

mod metadata;

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::{Device, Tensor};

use super::tensors::part_of;
use super::{LoadError, TensorSource, tensors};
use crate::kernels::upload::Piece;
use crate::model::config::ModelConfig;
use crate::tokens::GgufVocabulary;

/// An open GGUF file.
pub(super) struct Gguf {
    path: PathBuf,
    content: Content,
}

/// The weights of a GGUF file.
pub(super) struct GgufSource {
    path: PathBuf,
    content: Content,
    /// Heads of Q and of K whose rows are in llama.cpp's order.
    permuted: Option<(usize, usize)>,
}

impl Gguf {
    /// Reads the header: metadata and tensor places, no weights.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(LoadError::io("open", path))?;
        let content = Content::read(&mut BufReader::new(file))
            .map_err(|e| LoadError::Damaged { file: path.display().to_string(), why: e.to_string() })?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// The model's shape.
    pub(super) fn config(&self) -> Result<ModelConfig, LoadError> {
        let divisors = "rope_freqs.weight";
        let factors = self.content.tensor_infos.contains_key(divisors);
        let factors = factors.then(|| read(&self.path, &self.content, divisors)).transpose()?;
        metadata::config(&self.content, factors)
    }

    /// The tokenizer's parts.
    pub(super) fn vocabulary(&self) -> Result<GgufVocabulary, LoadError> {
        metadata::vocabulary(&self.content)
    }

    /// The weights, after checking names and shapes against the configuration.
    pub(super) fn tensors(mut self, config: &ModelConfig) -> Result<GgufSource, LoadError> {
        let file = self.path.display().to_string();
        let infos = &self.content.tensor_infos;
        let names =
            infos.keys().filter(|name| *name != "rope_freqs.weight").map(|name| huggingface_name(name));
        tensors::check(config, &file, names, |name| {
            infos.get(&gguf_name(name)?).map(|info| info.shape.dims().to_vec())
        })?;
        let permuted = (config.architecture == "llama").then_some((config.num_heads, config.num_kv_heads));
        // Vocabulary and merges are large and not needed for weights.
        self.content.metadata = std::collections::HashMap::new();
        Ok(GgufSource { path: self.path, content: self.content, permuted })
    }
}

impl GgufSource {
    /// llama.cpp's name of a tensor.
    fn stored(&self, name: &str) -> Result<String, LoadError> {
        let stored = gguf_name(name).filter(|n| self.content.tensor_infos.contains_key(n));
        stored.ok_or_else(|| LoadError::MissingTensor {
            name: name.to_owned(),
            expected: Vec::new(),
            file: self.path.display().to_string(),
        })
    }
}

impl TensorSource for GgufSource {
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError> {
        let stored = self.stored(name)?;
        let tensor = read(&self.path, &self.content, &stored)?;
        let heads = match (self.permuted, stored.rsplit('.').nth(1)) {
            (Some((q, _)), Some("attn_q")) => q,
            (Some((_, k)), Some("attn_k")) => k,
            _ => return Ok(tensor),
        };
        unpermute(&tensor, heads).map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })
    }

    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        let stored = self.stored(name)?;
        // Rows of most tensors lie in the file one after the other, each a whole number of quantised blocks.
        match self.content.tensor_infos[&stored].shape.dims() {
            [_, width] if !stored.ends_with("attn_q.weight") && !stored.ends_with("attn_k.weight") => {
                let tensor = read_rows(&self.path, &self.content, &stored, &rows, *width)?;
                part_of(&tensor, name, 0..rows.len(), columns)
            }
            _ => part_of(&self.tensor(name)?, name, rows, columns),
        }
    }
}

fn read_rows(
    path: &Path,
    content: &Content,
    stored: &str,
    rows: &Range<usize>,
    width: usize,
) -> Result<Tensor, LoadError> {
    let mut file = File::open(path).map_err(LoadError::io("open", path))?;
    let whole = &content.tensor_infos[stored];
    let kind = whole.ggml_dtype;
    let row_bytes = width / kind.block_size() * kind.type_size();
    let offset = whole.offset + (rows.start * row_bytes) as u64;
    let part = TensorInfo { ggml_dtype: kind, shape: (rows.len(), width).into(), offset };
    part.read(&mut file, content.tensor_data_offset, &Device::Cpu)
        .and_then(|t| t.dequantize(&Device::Cpu))
        .map_err(|e| LoadError::Tensor { name: stored.to_owned(), why: e.to_string() })
}

fn read(path: &Path, content: &Content, stored: &str) -> Result<Tensor, LoadError> {
    let mut file = File::open(path).map_err(LoadError::io("open", path))?;
    content
        .tensor(&mut file, stored, &Device::Cpu)
        .and_then(|t| t.dequantize(&Device::Cpu))
        .map_err(|e| LoadError::Tensor { name: stored.to_owned(), why: e.to_string() })
}

/// Undoes llama.cpp's row order: within each head, rows `2i` and `2i + 1` go back to `i` and `i + e/2`.
/// In and out: `[heads * e, in]`.
fn unpermute(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = tensor.dims2()?;
    tensor
        .reshape((heads, rows / heads / 2, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

/// Hugging Face's and llama.cpp's names of a block's parts.
const BLOCK: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The same outside the blocks.
const OUTSIDE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

fn gguf_name(huggingface: &str) -> Option<String> {
    if let Some((_, gguf)) = OUTSIDE.iter().find(|(hf, _)| *hf == huggingface) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = huggingface.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, gguf) = BLOCK.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// A name that has no counterpart stays as it is, so it is reported as unused.
fn huggingface_name(gguf: &str) -> String {
    if let Some((hf, _)) = OUTSIDE.iter().find(|(_, name)| *name == gguf) {
        return (*hf).to_owned();
    }
    let parts = || {
        let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (hf, _) = BLOCK.iter().find(|(_, name)| *name == part)?;
        Some(format!("model.layers.{layer}.{hf}.{kind}"))
    };
    parts().unwrap_or_else(|| gguf.to_owned())
}

#[cfg(test)]
mod tests;
