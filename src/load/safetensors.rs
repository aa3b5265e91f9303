//! Weights from safetensors, one file or sharded, read where they lie.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{AnyBitPattern, NoUninit};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::file::{OpenFile, is_there, read_whole};
use super::{LoadError, TensorSource, tensors};
use crate::kernels::upload::{Content, Numbers, Piece};
use crate::model::architecture::{Role, StoredTensor, TensorKind};
use crate::model::config::ModelConfig;

const UNDERSTOOD: &str = "F32, F16, BF16 (quantised checkpoints are not; use the original one or a GGUF)";
/// Weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// Names the files of weights in several.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Bytes of an index at most; that of a model of a thousand shards has some.
const MOST_INDEX: u64 = 64 << 20;
/// Bytes of a header at most: the format's own limit.
const MOST_HEADER: u64 = 100_000_000;

const HEAD: &str = "lm_head.weight";

/// A checkpoint's safetensors files.
pub(super) struct SafetensorsSource {
    files: Vec<OpenFile>,
    /// By the names of the whole model.
    tensors: HashMap<String, Place>,
    /// For messages.
    place: String,
}

/// Where a tensor lies.
#[derive(Clone)]
struct Place {
    file: usize,
    offset: u64,
    dtype: Dtype,
    /// As the file has it.
    shape: Vec<usize>,
    /// Whether that is `[in, out]`.
    transposed: bool,
}

/// Where a checkpoint's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In [`SINGLE`].
    Single {
        /// Whether there is an [`INDEX`] as well, which is not read then, as in `transformers`.
        beside_index: bool,
    },
    /// In the files that [`INDEX`] names.
    Sharded,
}

impl Layout {
    /// By the names that a folder or a repository has.
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Option<Layout> {
        match (has(SINGLE), has(INDEX)) {
            (true, beside_index) => Some(Self::Single { beside_index }),
            (false, true) => Some(Self::Sharded),
            (false, false) => None,
        }
    }
}

/// The weight files of a checkpoint folder, sorted, and what is to be said about the choice.
pub(super) fn weight_files(folder: &Path) -> Result<(Vec<PathBuf>, Option<String>), LoadError> {
    match Layout::of(|name| is_there(&folder.join(name))) {
        Some(Layout::Single { beside_index }) => {
            let named = beside_index.then(|| read_index(folder)).and_then(Result::ok).unwrap_or_default();
            let contradicts = beside_index && !named.iter().eq([SINGLE]);
            let warning = contradicts.then(|| {
                format!("{SINGLE} is read, as transformers does; {INDEX}, which names other files, is not")
            });
            Ok((vec![folder.join(SINGLE)], warning))
        }
        Some(Layout::Sharded) => {
            let names = read_index(folder)?;
            Ok((names.into_iter().map(|name| folder.join(name)).collect(), None))
        }
        None => {
            let why = format!("it has neither {SINGLE} nor {INDEX} (other weight formats are not read)");
            Err(LoadError::NotACheckpoint { path: folder.to_owned(), why })
        }
    }
}

/// Names of the shards in a folder's index, sorted.
pub(super) fn read_index(folder: &Path) -> Result<BTreeSet<String>, LoadError> {
    index_files(&read_whole(&folder.join(INDEX), MOST_INDEX)?)
}

/// Names of the shards in `model.safetensors.index.json`, sorted.
fn index_files(index: &[u8]) -> Result<BTreeSet<String>, LoadError> {
    let damaged = |why: String| LoadError::Damaged { file: INDEX.to_owned(), why };
    let index: Value = serde_json::from_slice(index).map_err(|e| damaged(e.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("it has no weight_map".to_owned()))?;
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(name) if name.ends_with(".safetensors") && !name.contains(['/', '\\']) => {
                Ok(name.to_owned())
            }
            _ => Err(damaged(format!("{tensor} is said to be in {file}, which is no file name"))),
        })
        .collect()
}

impl SafetensorsSource {
    /// Opens the files and reads their headers. The names are those of the whole model of this configuration.
    pub(super) fn open(files: &[PathBuf], place: String, config: &ModelConfig) -> Result<Self, LoadError> {
        let mut opened = Vec::with_capacity(files.len());
        for path in files {
            let file = OpenFile::open(path)?;
            let (start, header) = header(&file)?;
            opened.push((file, start, header));
        }
        let base = config.family.base;
        let whole =
            opened.iter().any(|(.., header)| header.tensors().keys().any(|name| name.starts_with(base)));
        let model = config.tensors();
        let known: HashSet<&str> = model.iter().map(|tensor| tensor.name.as_str()).chain([HEAD]).collect();
        let in_by_out: HashSet<&str> =
            model.iter().filter(|tensor| tensor.in_by_out).map(|tensor| tensor.name.as_str()).collect();
        let mut source = Self { files: Vec::with_capacity(files.len()), tensors: HashMap::new(), place };
        for (file, start, header) in opened {
            for (stored, info) in header.tensors() {
                // Checkpoints of the model without its unembedding leave what names begin with out.
                let name =
                    if whole || known.contains(stored.as_str()) { stored } else { format!("{base}{stored}") };
                if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    if tensors::unread(config, &name) {
                        continue;
                    }
                    let got = format!("{:?}", info.dtype);
                    return Err(LoadError::Dtype { name, got, understood: UNDERSTOOD });
                }
                if let Some(other) = source.tensors.get(&name) {
                    let why = format!("{name} is also in {}", source.files[other.file].path().display());
                    return Err(LoadError::Damaged { file: file.path().display().to_string(), why });
                }
                let place = Place {
                    file: source.files.len(),
                    offset: start + info.data_offsets.0 as u64,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    transposed: in_by_out.contains(name.as_str()),
                };
                source.tensors.insert(name, place);
            }
            source.files.push(file);
        }
        Ok(source)
    }

    /// What `tie_word_embeddings: true` means for these weights, as in `transformers`: where only one of embedding and head
    /// is there it is both, and where both are, and differ, each is what it is. Returns whether they are one, with a warning
    /// if the configuration says so and is wrong.
    pub(super) fn tie(&mut self, config: &ModelConfig) -> Result<(bool, Option<String>), LoadError> {
        let embedding = config.place(Role::Embedding, TensorKind::Weight, 0);
        let embedding = embedding.expect("BUG: every model has an embedding").name;
        match (self.tensors.get(&embedding), self.tensors.get(HEAD)) {
            (Some(embedding), Some(head)) => {
                if self.same(embedding, head)? {
                    return Ok((true, None));
                }
                let warning = format!(
                    "config.json says tie_word_embeddings, but {HEAD} is there and differs from the embedding: it is \
                     used, as transformers does"
                );
                Ok((false, Some(warning)))
            }
            (None, Some(head)) => {
                let head = head.clone();
                self.tensors.insert(embedding, head);
                Ok((true, None))
            }
            _ => Ok((true, None)),
        }
    }

    /// A warning if frequencies of the rotary embedding are stored that are not those of the configuration. `transformers` leaves
    /// them unread since it derives them; a checkpoint from before may have been made with others.
    pub(super) fn stored_frequencies(&self, config: &ModelConfig) -> Result<Option<String>, LoadError> {
        let Some(rope) = config.rope() else { return Ok(None) };
        let name = self.tensors.keys().filter(|name| name.ends_with("rotary_emb.inv_freq")).min();
        let Some(name) = name else { return Ok(None) };
        let expected = rope.inverse_frequencies(config.head_dim, 1);
        let stored =
            self.part(name, 0..self.place(name)?.shape.first().copied().unwrap_or(0), 0..1)?.to_f32();
        // 16-bit numbers are off by up to a half of a hundredth.
        let close = |(stored, expected): (&f32, &f64)| (f64::from(*stored) / expected - 1.0).abs() < 0.01;
        let same = stored.len() == expected.len() && stored.iter().zip(&expected).all(close);
        Ok((!same).then(|| {
            format!("{name} is not what config.json says of the rotary embedding; it is left unread, as by transformers")
        }))
    }

    /// Checks that the tensors are those of the configuration.
    pub(super) fn check(&self, config: &ModelConfig) -> Result<(), LoadError> {
        let as_stored = |mut tensor: StoredTensor| {
            if tensor.in_by_out {
                tensor.shape.reverse();
            }
            (tensor.name, tensor.shape)
        };
        let expected: Vec<_> = config.tensors().into_iter().map(as_stored).collect();
        let shape_of = |name: &str| self.tensors.get(name).map(|place| place.shape.clone());
        tensors::check(config, &self.place, &expected, self.tensors.keys().cloned(), shape_of)
    }

    /// Whether two tensors are the same bytes.
    fn same(&self, a: &Place, b: &Place) -> Result<bool, LoadError> {
        const BLOCK: usize = 16 << 20;
        if a.dtype != b.dtype || a.shape != b.shape {
            return Ok(false);
        }
        let bytes = size_of_dtype(a.dtype) * a.shape.iter().product::<usize>();
        let mut blocks = [vec![0; BLOCK.min(bytes)], vec![0; BLOCK.min(bytes)]];
        for at in (0..bytes).step_by(BLOCK) {
            let length = BLOCK.min(bytes - at);
            for (place, block) in [a, b].into_iter().zip(&mut blocks) {
                self.files[place.file].read_at(place.offset + at as u64, &mut block[..length])?;
            }
            if blocks[0][..length] != blocks[1][..length] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn place(&self, name: &str) -> Result<&Place, LoadError> {
        self.tensors.get(name).ok_or_else(|| LoadError::MissingTensor {
            name: name.to_owned(),
            expected: Vec::new(),
            file: self.place.clone(),
        })
    }
}

/// A file's header, and where its numbers start.
fn header(file: &OpenFile) -> Result<(u64, Metadata), LoadError> {
    let damaged = |why: String| LoadError::Damaged { file: file.path().display().to_string(), why };
    if file.bytes() < 8 {
        return Err(damaged(format!("it has {} bytes, too few for a header", file.bytes())));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER || length > file.bytes() - 8 {
        let bytes = file.bytes();
        return Err(damaged(format!("it says that its header has {length} bytes, and has {bytes} in all")));
    }
    let mut header = vec![0; length as usize];
    file.read_at(8, &mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    let (expected, got) = (8 + length + header.data_len() as u64, file.bytes());
    if expected != got {
        return Err(damaged(format!("its header describes {expected} bytes, and it has {got}")));
    }
    Ok((8 + length, header))
}

const fn size_of_dtype(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        _ => 2,
    }
}

impl TensorSource for SafetensorsSource {
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError> {
        let place = self.place(name)?;
        let mut bytes = vec![0; size_of_dtype(place.dtype) * place.shape.iter().product::<usize>()];
        self.files[place.file].read_at(place.offset, &mut bytes)?;
        let dtype = match place.dtype {
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        let stored = Tensor::from_raw_buffer(&bytes, dtype, &place.shape, &Device::Cpu);
        let tensor = if place.transposed { stored.and_then(|t| t.t()?.contiguous()) } else { stored };
        tensor.map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })
    }

    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        let place = self.place(name)?;
        let (n, m) = (rows.len(), columns.len());
        let numbers = match place.dtype {
            Dtype::BF16 => Numbers::Bf16(self.numbers::<bf16>(place, &rows, &columns)?),
            Dtype::F16 => Numbers::F16(self.numbers::<f16>(place, &rows, &columns)?),
            _ => Numbers::F32(self.numbers::<f32>(place, &rows, &columns)?),
        };
        Ok(Piece { rows: n, columns: m, content: Content::Numbers(numbers) })
    }
}

impl SafetensorsSource {
    /// Rows and columns of a tensor. Nothing beside them is read.
    fn numbers<T: AnyBitPattern + NoUninit + Send>(
        &self,
        place: &Place,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<Cow<'static, [T]>, LoadError> {
        let (rows, columns) = if place.transposed { (columns, rows) } else { (rows, columns) };
        let (file, size) = (&self.files[place.file], size_of::<T>());
        let width = place.shape.get(1).copied().unwrap_or(1);
        let at = |row: usize, column: usize| place.offset + ((row * width + column) * size) as u64;
        let mut numbers = vec![T::zeroed(); rows.len() * columns.len()];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut numbers);
        if columns.len() == width {
            file.read_at(at(rows.start, 0), bytes)?;
        } else {
            let parts = bytes.chunks_exact_mut((columns.len() * size).max(1));
            rows.clone().zip(parts).try_for_each(|(row, part)| file.read_at(at(row, columns.start), part))?;
        }
        Ok(Cow::Owned(if place.transposed { turned(&numbers, columns.len()) } else { numbers }))
    }
}

/// `[rows, columns]` to `[columns, rows]`, in squares that stay in the cache.
fn turned<T: AnyBitPattern>(numbers: &[T], columns: usize) -> Vec<T> {
    const SIDE: usize = 32;
    let rows = numbers.len() / columns.max(1);
    let mut out = vec![T::zeroed(); numbers.len()];
    for first_row in (0..rows).step_by(SIDE) {
        for first_column in (0..columns).step_by(SIDE) {
            for row in first_row..rows.min(first_row + SIDE) {
                for column in first_column..columns.min(first_column + SIDE) {
                    out[column * rows + row] = numbers[row * columns + column];
                }
            }
        }
    }
    out
}
