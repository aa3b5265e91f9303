//! A set as a safetensors file: a tensor `values`, everything else as JSON in the metadata, and a tensor of checksums
//! ([`super::sums`]).
//!
//! Files are written to a temporary name, synced and renamed, so a file of the final name is complete; length and checksums
//! are verified all the same, since disks fail.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::block::Activation;
use super::sums::{self, SUM, Summing, Verified, checksum_bytes, damaged};
use super::{Draft, StoreError};
use crate::spec::dtype::Dtype;

/// Value of the metadata key `format`.
const FORMAT: &str = "mediant.activation.2";
/// The same before there were checksums. Sets are kept for days: they are still read, unverified, and say so.
const UNVERIFIED: &str = "mediant.activation.1";
/// Longest header that is read: a prompt's tokens take some 50 bytes each.
const MOST_HEADER: u64 = 64 << 20;

/// The file's first bytes, padded so that the numbers are aligned.
pub(super) fn header(meta: &Activation) -> Vec<u8> {
    let described = serde_json::to_string(meta).expect("BUG: metadata have string keys and finite numbers");
    let sums = sums::count(meta.bytes);
    let header = json!({
        "__metadata__": {"format": FORMAT, "activation": described},
        "values": {"dtype": meta.dtype.name().to_uppercase(), "shape": meta.shape, "data_offsets": [0, meta.bytes]},
        "sha256": {"dtype": "U8", "shape": [sums, SUM], "data_offsets": [meta.bytes, meta.bytes + sums * SUM]},
    });
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    out
}

/// Length of the file with this header.
pub(super) fn length(header: &[u8], meta: &Activation) -> u64 {
    header.len() as u64 + meta.bytes + checksum_bytes(meta.bytes)
}

/// Writes header, numbers and checksums. The caller syncs.
pub(super) fn write(out: &mut impl Write, header: &[u8], draft: &Draft) -> io::Result<()> {
    // Converted piece by piece: the whole set is in memory once already.
    const PIECE: usize = 1 << 16;
    let mut sums = Summing::new(header);
    out.write_all(header)?;
    for piece in draft.values.chunks(PIECE) {
        let bytes = encode(piece, draft.dtype);
        sums.add(&bytes);
        out.write_all(&bytes)?;
    }
    out.write_all(&sums.finish())
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
    // Opening what is no file, such as a pipe, may take for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(damaged("it is not a file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > MOST_HEADER || size > length {
        return Err(damaged("the header is longer than the file"));
    }
    let mut bytes = vec![0; 8 + size as usize];
    file.rewind()?;
    file.read_exact(&mut bytes)?;
    let header: Value = serde_json::from_slice(&bytes[8..]).map_err(|_| damaged("the header is not JSON"))?;
    let metadata = &header["__metadata__"];
    let has_sums = metadata["format"] == FORMAT;
    if !has_sums && metadata["format"] != UNVERIFIED {
        return Err(damaged("it is not a set of activations of this version"));
    }
    let described = metadata["activation"].as_str().unwrap_or_default();
    let meta: Activation = serde_json::from_str(described).map_err(|e| damaged(e.to_string()))?;
    let data_at = 8 + size;
    let sums = if has_sums { checksum_bytes(meta.bytes) } else { 0 };
    let end = data_at.checked_add(meta.bytes).and_then(|end| end.checked_add(sums));
    if !meta.is_consistent() || meta.verified != has_sums || end != Some(length) {
        return Err(damaged("its length is not that of its numbers"));
    }
    if has_sums {
        let mut expected = sums::Sum::default();
        file.seek(SeekFrom::Start(data_at + meta.bytes))?;
        file.read_exact(&mut expected)?;
        if expected != sums::sum(&bytes) {
            return Err(damaged("the checksum of its header is another"));
        }
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
    /// Why reading failed; damage is the file's own, and is said in the log.
    fn failed(&self, error: io::Error) -> StoreError {
        if error.kind() != ErrorKind::InvalidData {
            return StoreError::io("read", &self.path, error);
        }
        tracing::error!(path = %self.path.display(), "stored activations are damaged: {error}");
        StoreError::Damaged { id: self.meta.id.to_string(), why: error.to_string() }
    }

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
            Ok(file) => {
                let (bytes, has_sums) = (self.meta.bytes, self.meta.verified);
                let numbers = Verified::new(file, self.data_at, bytes, has_sums);
                Ok(Reader { set: self.clone(), numbers })
            }
            // Deleted since it was looked up.
            Err(error) if error.kind() == ErrorKind::NotFound => {
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
    numbers: Verified,
}

impl Reader {
    /// What it is.
    pub fn meta(&self) -> &Activation {
        &self.set.meta
    }

    /// Numbers of the `slot`th layer, `[positions, width]`. Only they are read, and what shares their checksums.
    ///
    /// # Panics
    /// On a bug only: selections are made of the set's own layers.
    pub fn layer(&mut self, slot: usize) -> Result<Vec<f32>, StoreError> {
        let meta = &self.set.meta;
        let [layers, positions, width] = meta.shape;
        assert!(slot < layers, "BUG: slots are checked against the shape");
        let bytes = (positions * width) as u64 * meta.dtype.bytes();
        let read = self.numbers.read(slot as u64 * bytes, bytes).map_err(|error| self.set.failed(error))?;
        Ok(decode(&read, meta.dtype))
    }
}
