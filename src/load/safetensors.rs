//! Weights from safetensors, one file or sharded, memory-mapped.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{AnyBitPattern, NoUninit};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::{LoadError, TensorSource, tensors};
use crate::kernels::upload::{Content, Numbers, Piece};
use crate::model::config::ModelConfig;

const UNDERSTOOD: &str = "F32, F16, BF16 (quantised checkpoints are not; use the original one or a GGUF)";

/// A checkpoint's safetensors files.
pub(super) struct SafetensorsSource {
    files: MmapedSafetensors,
    /// For messages.
    place: String,
}

/// The weight files of a checkpoint folder, sorted: those of the index, or `model.safetensors`.
pub(super) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let bytes = std::fs::read(&index).map_err(LoadError::io("read", &index))?;
        return Ok(index_files(&bytes)?.into_iter().map(|name| folder.join(name)).collect());
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let why = "it has neither model.safetensors nor model.safetensors.index.json (other weight formats are not read)";
    Err(LoadError::NotACheckpoint { path: folder.to_owned(), why: why.to_owned() })
}

/// Names of the shards in `model.safetensors.index.json`, sorted.
pub(super) fn index_files(index: &[u8]) -> Result<BTreeSet<String>, LoadError> {
    let damaged = |why: String| LoadError::Damaged { file: "model.safetensors.index.json".to_owned(), why };
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
    /// Maps the files and checks their headers against the configuration.
    pub(super) fn open(files: &[PathBuf], place: String, config: &ModelConfig) -> Result<Self, LoadError> {
        if let Some(missing) = files.iter().find(|f| !f.is_file()) {
            let not_found = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(LoadError::io("read", missing)(not_found));
        }
        #[expect(
            unsafe_code,
            reason = "a memory map is undefined if another process truncates the file while it is read; \
                                        copying a 140 GB checkpoint into memory first is the alternative"
        )]
        // SAFETY: files of a checkpoint are written once (hub downloads by rename) and only read here.
        let mapped = unsafe { MmapedSafetensors::multi(files) };
        let mapped = mapped.map_err(|e| LoadError::Damaged { file: place.clone(), why: e.to_string() })?;
        let source = Self { files: mapped, place };
        let views = source.files.tensors();
        for (name, view) in &views {
            if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let got = format!("{:?}", view.dtype());
                return Err(LoadError::Dtype { name: name.clone(), got, understood: UNDERSTOOD });
            }
        }
        tensors::check(config, &source.place, views.into_iter().map(|(name, _)| name), |name| {
            source.files.get(name).ok().map(|view| view.shape().to_vec())
        })?;
        Ok(source)
    }
}

impl SafetensorsSource {
    fn view(&self, name: &str) -> Result<TensorView<'_>, LoadError> {
        let missing = |_| LoadError::MissingTensor {
            name: name.to_owned(),
            expected: Vec::new(),
            file: self.place.clone(),
        };
        self.files.get(name).map_err(missing)
    }
}

impl TensorSource for SafetensorsSource {
    fn tensor(&self, name: &str) -> Result<Tensor, LoadError> {
        self.view(name)?;
        self.files
            .load(name, &Device::Cpu)
            .map_err(|e| LoadError::Tensor { name: name.to_owned(), why: e.to_string() })
    }

    fn part(&self, name: &str, rows: Range<usize>, columns: Range<usize>) -> Result<Piece<'_>, LoadError> {
        let view = self.view(name)?;
        let width = view.shape().get(1).copied().unwrap_or(1);
        let bytes = view.data();
        let slice = Slice { bytes, width, rows: rows.clone(), columns: columns.clone() };
        let numbers = match view.dtype() {
            Dtype::BF16 => Numbers::Bf16(slice.numbers()),
            Dtype::F16 => Numbers::F16(slice.numbers()),
            _ => Numbers::F32(slice.numbers()),
        };
        Ok(Piece { rows: rows.len(), columns: columns.len(), content: Content::Numbers(numbers) })
    }
}

/// Rows and columns of a tensor `[.., width]` in its file.
struct Slice<'a> {
    bytes: &'a [u8],
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<'a> Slice<'a> {
    /// The numbers, as they lie in the file if they lie there one after the other and where such numbers may.
    fn numbers<T: AnyBitPattern + NoUninit>(&self) -> Cow<'a, [T]> {
        let size = size_of::<T>();
        let Slice { bytes, width, rows, columns } = self;
        let at = |row: usize, column: usize| (row * width + column) * size;
        let whole: &'a [u8] = &bytes[at(rows.start, 0)..at(rows.end, 0)];
        if columns.len() == *width
            && let Ok(numbers) = bytemuck::try_cast_slice(whole)
        {
            return Cow::Borrowed(numbers);
        }
        let mut numbers = vec![T::zeroed(); rows.len() * columns.len()];
        let parts = bytemuck::cast_slice_mut::<T, u8>(&mut numbers).chunks_exact_mut(columns.len() * size);
        for (row, part) in rows.clone().zip(parts) {
            part.copy_from_slice(&bytes[at(row, columns.start)..at(row, columns.end)]);
        }
        Cow::Owned(numbers)
    }
}
