//! GGUF files: tensors dequantised to f32 under their Hugging Face names.
//!
//! llama.cpp stores the rows of Q and K of `llama` models in the order of its own rotary embedding, which turns neighbouring dimensions
//! where the checkpoint turns halves; [`unpermute`] puts them back.

mod blocks;
mod header;
mod metadata;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::{Device, Tensor};

use self::blocks::Blocks;
use super::file::OpenFile;
use super::tensors::part_of;
use super::{LoadError, TensorSource, tensors};
use crate::kernels::upload::Piece;
use crate::model::config::ModelConfig;
use crate::tokens::{GgufVocabulary, SpecialTokens, caught};

/// Bytes that a header may have: vocabularies of some hundred thousand tokens take ten million. What a file says of its lengths
/// is believed up to here, and numbers in memory are 32 times as large as in the file.
const MOST_HEADER: u64 = 64 << 20;

/// An open GGUF file.
pub(super) struct Gguf {
    file: OpenFile,
    header: Header,
}

/// What a file says of itself and its tensors.
struct Header {
    content: Content,
    /// Tensors of types that the library does not know.
    blocks: HashMap<String, Blocks>,
}

/// The weights of a GGUF file.
pub(super) struct GgufSource {
    file: OpenFile,
    header: Header,
    /// By Hugging Face's names.
    tensors: HashMap<String, Stored>,
}

/// Where a tensor lies in the file.
struct Stored {
    /// llama.cpp's name.
    name: String,
    /// Heads whose rows are in llama.cpp's order.
    pairs: Option<usize>,
}

impl Gguf {
    /// Reads the header: metadata and tensor places, no weights.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = OpenFile::open(path)?;
        let name = || path.display().to_string();
        let read = || header::read(file.reader(MOST_HEADER));
        // Some numbers that make no sense divide by zero in there.
        let content = caught(read).map_err(|why| LoadError::Damaged { file: name(), why })?;
        let (content, blocks) = content.map_err(|error| fault_of(name(), &error))?;
        metadata::whole(&content, path)?;
        Ok(Self { file, header: Header { content, blocks } })
    }

    /// The model's shape.
    pub(super) fn config(&self) -> Result<ModelConfig, LoadError> {
        let divisors = "rope_freqs.weight";
        let factors = self.header.content.tensor_infos.contains_key(divisors);
        let factors = factors.then(|| read(&self.file, &self.header, divisors)).transpose()?;
        metadata::config(&self.header.content, factors)
    }

    /// The tokenizer's parts.
    pub(super) fn vocabulary(&self) -> Result<GgufVocabulary, LoadError> {
        metadata::vocabulary(&self.header.content)
    }

    /// The special tokens that the file names, and the chat templates.
    pub(super) fn chat(&self, vocabulary: &GgufVocabulary) -> (SpecialTokens, Vec<(String, String)>) {
        metadata::chat(&self.header.content, vocabulary)
    }

    /// What is to be said about the file.
    pub(super) fn warnings(&self) -> Vec<String> {
        metadata::warnings(&self.header.content)
    }

    /// The weights, after checking names and shapes against the configuration.
    pub(super) fn tensors(mut self, config: &ModelConfig) -> Result<GgufSource, LoadError> {
        let file = self.file.path().display().to_string();
        let infos = &self.header.content.tensor_infos;
        let (mut tensors, mut expected) = (HashMap::new(), Vec::new());
        for tensor in config.tensors() {
            tensors.insert(tensor.name.clone(), Stored { name: tensor.gguf, pairs: tensor.pairs });
            expected.push((tensor.name, tensor.shape));
        }
        // A name that has no counterpart stays as it is, and is reported as unused.
        let whole = |name: &String| config.family.huggingface_name(name).unwrap_or_else(|| name.clone());
        let names = infos.keys().filter(|name| *name != "rope_freqs.weight").map(whole);
        tensors::check(config, &file, &expected, names, |name| {
            infos.get(&tensors.get(name)?.name).map(|info| info.shape.dims().to_vec())
        })?;
        // Vocabulary and merges are large and not needed for weights.
        self.header.content.metadata = HashMap::new();
        Ok(GgufSource { file: self.file, header: self.header, tensors })
    }
}

impl GgufSource {
    fn stored(&self, name: &str) -> Result<&Stored, LoadError> {
        self.tensors.get(name).ok_or_else(|| LoadError::MissingTensor {
            name: name.to_owned(),
            expected: Vec::new(),
            file: self.file.path().display().to_string(),
        })
    }
}

impl TensorSource for GgufSource {
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError> {
        let stored = self.stored(name)?;
        let tensor = read(&self.file, &self.header, &stored.name)?;
        let Some(heads) = stored.pairs else { return Ok(tensor) };
        unpermute(&tensor, heads).map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })
    }

    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        let stored = self.stored(name)?;
        // Rows of most tensors lie in the file one after the other, each a whole number of quantised blocks.
        match self.header.content.tensor_infos[&stored.name].shape.dims() {
            [_, width] if stored.pairs.is_none() => {
                let tensor = read_rows(&self.file, &self.header, &stored.name, &rows, *width)?;
                part_of(&tensor, name, 0..rows.len(), columns)
            }
            _ => part_of(&self.tensor(name)?, name, rows, columns),
        }
    }
}

fn read_rows(
    file: &OpenFile,
    header: &Header,
    stored: &str,
    rows: &Range<usize>,
    width: usize,
) -> Result<Tensor, LoadError> {
    let whole = &header.content.tensor_infos[stored];
    let kind = whole.ggml_dtype;
    let (numbers, bytes) = match header.blocks.get(stored) {
        Some(blocks) => (blocks.numbers(), blocks.bytes()),
        None => (kind.block_size(), kind.type_size()),
    };
    let offset = whole.offset.saturating_add((rows.start * (width / numbers * bytes)) as u64);
    let part = TensorInfo { ggml_dtype: kind, shape: (rows.len(), width).into(), offset };
    read_part(file, header, stored, &part)
}

fn read(file: &OpenFile, header: &Header, stored: &str) -> Result<Tensor, LoadError> {
    let Some(info) = header.content.tensor_infos.get(stored) else {
        return Err(LoadError::Tensor { name: stored.to_owned(), why: "it is not in the file".to_owned() });
    };
    read_part(file, header, stored, info)
}

/// A tensor, or rows of it at a place of their own.
fn read_part(file: &OpenFile, header: &Header, stored: &str, part: &TensorInfo) -> Result<Tensor, LoadError> {
    let fault = |why: String| LoadError::Tensor { name: stored.to_owned(), why };
    if part.shape.elem_count() == 0 {
        // An empty buffer has no address that a number could have.
        return Err(fault(format!("it has no numbers: its shape is {:?}", part.shape.dims())));
    }
    let start = header.content.tensor_data_offset;
    let read = || match header.blocks.get(stored) {
        Some(blocks) => read_blocks(file, *blocks, part, start.saturating_add(part.offset)),
        None => part.read(&mut file.reader(u64::MAX), start, &Device::Cpu)?.dequantize(&Device::Cpu),
    };
    caught(read).map_err(fault)?.map_err(|error| fault(words(&error)))
}

fn read_blocks(
    file: &OpenFile,
    blocks: Blocks,
    part: &TensorInfo,
    start: u64,
) -> candle_core::Result<Tensor> {
    let dims = part.shape.dims();
    let width = dims.last().copied().unwrap_or(1);
    if !width.is_multiple_of(blocks.numbers()) {
        let block = blocks.numbers();
        return Err(candle_core::Error::Msg(format!(
            "rows of {width} numbers are not whole blocks of {block}"
        )));
    }
    let bytes = dims.iter().product::<usize>() / blocks.numbers() * blocks.bytes();
    let remaining = file.bytes().saturating_sub(start);
    if bytes as u64 > remaining {
        let what =
            format!("tensor needs {bytes} bytes at offset {start}, only {remaining} remaining in file");
        return Err(candle_core::Error::Msg(what));
    }
    let mut raw = vec![0; bytes];
    file.read_at(start, &mut raw).map_err(|error| candle_core::Error::Msg(error.to_string()))?;
    Tensor::from_vec(blocks.dequantize(&raw), dims, &Device::Cpu)
}

/// What the library says, without the backtrace that it appends where one is asked for.
fn words(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => words(inner),
        other => other.to_string(),
    }
}

/// Why a header could not be read. The library stops at the first type that it has no name for.
fn fault_of(file: String, error: &candle_core::Error) -> LoadError {
    let why = words(error);
    let number = why.strip_prefix("unknown dtype for tensor ").and_then(|n| n.parse().ok());
    match number {
        Some(number) => LoadError::GgufType { file, kind: type_name(number) },
        None => LoadError::Damaged { file, why },
    }
}

/// llama.cpp's name of a type of tensors that is not read.
fn type_name(number: u32) -> String {
    const NAMES: [(u32, &str); 13] = [
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (40, "NVFP4"),
    ];
    let name = NAMES.iter().find(|(n, _)| *n == number);
    name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
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

#[cfg(test)]
mod tests;
