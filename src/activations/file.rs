//! A set as a safetensors file: one tensor `values`, everything else as JSON in the metadata.
//!
//! Files are written to a temporary name, synced and renamed, so a file of the final name is complete; the length is
//! checked all the same, since disks fail.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::block::Activation;
use super::{Draft, StoreError};
use crate::spec::dtype::Dtype;

/// Value of the metadata key `format`.
const FORMAT: &str = "mediant.activation.1";
/// Longest header that is read: a prompt's tokens take some 50 bytes each.
const MOST_HEADER: u64 = 64 << 20;

/// The file's first bytes, padded so that the numbers are aligned.
pub(super) fn header(meta: &Activation) -> Vec<u8> {
    let described = serde_json::to_string(meta).expect("BUG: metadata have string keys and finite numbers");
    let header = json!({
        "__metadata__": {"format": FORMAT, "activation": described},
        "values": {"dtype": meta.dtype.name().to_uppercase(), "shape": meta.shape, "data_offsets": [0, meta.bytes]},
    });
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    out
}

/// Writes header and numbers. The caller syncs.
pub(super) fn write(out: &mut impl Write, header: &[u8], draft: &Draft) -> io::Result<()> {
    // Converted piece by piece: the whole set is in memory once already.
    const PIECE: usize = 1 << 16;
    out.write_all(header)?;
    draft.values.chunks(PIECE).try_for_each(|piece| out.write_all(&encode(piece, draft.dtype)))
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::Bf16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

/// Reads and checks a file's metadata. Gives its length and where its numbers begin, too.
pub(super) fn read_header(path: &Path) -> io::Result<(Activation, u64, u64)> {
    let damaged = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > MOST_HEADER || size > length {
        return Err(damaged("the header is longer than the file"));
    }
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text)?;
    let header: Value = serde_json::from_slice(&text).map_err(|_| damaged("the header is not JSON"))?;
    let metadata = &header["__metadata__"];
    if metadata["format"] != FORMAT {
        return Err(damaged("it is not a set of activations of this version"));
    }
    let described = metadata["activation"].as_str().unwrap_or_default();
    let meta: Activation = serde_json::from_str(described).map_err(|e| damaged(&e.to_string()))?;
    let data_at = 8 + size;
    if !meta.is_consistent() || data_at.checked_add(meta.bytes) != Some(length) {
        return Err(damaged("its length is not that of its numbers"));
    }
    Ok((meta, length, data_at))
}

/// A stored set. Its numbers stay in the file until they are asked for.
#[derive(Debug, Clone)]
pub struct ActivationSet {
    /// What it is.
    pub meta: Arc<Activation>,
    pub(super) path: PathBuf,
    pub(super) data_at: u64,
}

impl ActivationSet {
    /// Refuses a set of other weights than these.
    pub fn of_model(self, model_sha: &str) -> Result<Self, StoreError> {
        if self.meta.model_sha == model_sha {
            return Ok(self);
        }
        Err(StoreError::Foreign { id: self.meta.id.to_string(), model: self.meta.model.clone() })
    }

    /// Opens the file. What is open is read to its end, also if the set is deleted meanwhile.
    pub fn open(&self) -> Result<Reader, StoreError> {
        match File::open(&self.path) {
            Ok(file) => Ok(Reader { set: self.clone(), file }),
            // Deleted since it was looked up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Unknown { id: self.meta.id.to_string() })
            }
            Err(error) => Err(StoreError::io("read", &self.path, error)),
        }
    }
}

/// An open set.
#[derive(Debug)]
pub struct Reader {
    set: ActivationSet,
    file: File,
}

impl Reader {
    /// What it is.
    pub fn meta(&self) -> &Activation {
        &self.set.meta
    }

    /// Numbers of the `slot`th layer, `[positions, width]`.
    ///
    /// # Panics
    /// On a bug only: selections are made of the set's own layers.
    pub fn layer(&mut self, slot: usize) -> Result<Vec<f32>, StoreError> {
        let meta = &self.set.meta;
        let [layers, positions, width] = meta.shape;
        assert!(slot < layers, "BUG: slots are checked against the shape");
        let bytes = (positions * width) as u64 * meta.dtype.bytes();
        let mut buffer = vec![0; bytes as usize];
        let at = SeekFrom::Start(self.set.data_at + slot as u64 * bytes);
        let read = self.file.seek(at).and_then(|_| self.file.read_exact(&mut buffer));
        read.map_err(|error| StoreError::io("read", &self.set.path, error))?;
        Ok(decode(&buffer, meta.dtype))
    }
}
